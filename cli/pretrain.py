"""`tilezoo pretrain`."""

import json
from dataclasses import asdict

from tilezoo.cli.options import Json, command
from tilezoo.pretrain.options import PretrainOptions


@command(PretrainOptions, Json)
def run(options: PretrainOptions, own: Json) -> None:
    """Pretrain a backbone on unlabelled tiles by self-distillation (DINO).

    Stopped at any moment, the same command goes on where it was. Under torchrun or mpirun the
    processes train together. `tilezoo export RUN -o MODEL` makes a model of the result.

    Example: tilezoo pretrain shards -o run --recipe dino-vits16-bigearthnet-smoke
    """
    from tilezoo.pretrain import pretrain

    result = pretrain.with_options(options)
    if own.as_json:
        print(json.dumps({**asdict(result), "run": str(result.run), "complete": result.complete}))
        return
    loss = "" if result.loss is None else f", loss {result.loss:.4f}"
    knn = "" if result.knn_accuracy is None else f", kNN accuracy {result.knn_accuracy:.3f}"
    print(f"{options.out}: {result.steps} of {result.of_steps} steps{loss}{knn}")
