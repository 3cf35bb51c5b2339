"""`tilezoo pretrain`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from tilezoo.cli.embed import Json

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SHARDS|SOURCE...",
        help="A folder made by `tilezoo pack`; or files and folders, which are packed first.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="Name of a recipe.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value: change one thing of the recipe; may be repeated."),
]
Bands = Annotated[str | None, typer.Option(help="For packing SOURCE: as of `tilezoo pack`.")]
ValueRange = Annotated[str | None, typer.Option(help="For packing SOURCE: as of `tilezoo pack`.")]
Labels = Annotated[str | None, typer.Option(help="For packing SOURCE: as of `tilezoo pack`.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(help="auto: bf16 where the hardware is fast at it."),
]
BackendOption = Annotated[
    Literal["auto", "smddp", "nccl", "gloo"],
    typer.Option(help="How several processes talk."),
]
Compiled = Annotated[
    bool, typer.Option("--compile/--no-compile", help="Compile the networks first (GPUs).")
]
Minutes = Annotated[
    float, typer.Option("--checkpoint-minutes", min=0, help="Between checkpoints of a run.")
]


def pretrain_backbone(
    sources: Sources,
    *,
    out: Out,
    recipe: RecipeName = "dino-vits16-bigearthnet",
    settings: Settings = None,
    bands: Bands = None,
    value_range: ValueRange = None,
    labels: Labels = None,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    backend: BackendOption = "auto",
    compiled: Compiled = False,
    checkpoint_minutes: Minutes = 10.0,
    as_json: Json = False,
) -> None:
    """Pretrain a backbone on unlabelled tiles by self-distillation (DINO).

    Stopped at any moment, the same command goes on where it was. Under torchrun or mpirun the
    processes train together. `tilezoo export RUN -o MODEL` makes a model of the result.

    Example: tilezoo pretrain shards -o run --recipe dino-vits16-bigearthnet-smoke
    """
    from tilezoo.pretrain import pretrain

    result = pretrain(
        sources,
        out=out,
        recipe=recipe,
        settings=settings or (),
        bands=bands,
        value_range=value_range,
        labels=labels,
        device=device,
        precision=precision,
        backend=backend,
        compiled=compiled,
        checkpoint_minutes=checkpoint_minutes,
        show_progress=True,
    )
    if as_json:
        print(json.dumps({**asdict(result), "run": str(result.run), "complete": result.complete}))
        return
    loss = "" if result.loss is None else f", loss {result.loss:.4f}"
    knn = "" if result.knn_accuracy is None else f", kNN accuracy {result.knn_accuracy:.3f}"
    print(f"{out}: {result.steps} of {result.of_steps} steps{loss}{knn}")
