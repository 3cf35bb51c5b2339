"""Make a backbone from open overhead imagery: corpus, pack, run, models, and how good they are.

python benchmarks/overhead_backbone.py DATA OUT [--recipe dino-vitt16-overhead] [--processes 2]
    [--set key=value ...]

DATA is as overhead_corpus.py takes it. Stopped at any moment, the same command goes on where it was;
one to three hours on two cores. Written are OUT/corpus, OUT/pack, OUT/run, and a model directory for
each size it may be fed at and each pooling. They are judged within the training side alone, mines in
four folds by sheets and climate in four by blocks of 30 degrees of longitude (OUT/judged/*.json):
choices are made by those, and the test parts are looked at once, by overhead_compare.py.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from tilezoo.cli import compare
from tilezoo.compare.demo import BLOCK_DEG, PX_PER_DEGREE

_HERE = Path(__file__).parent
_BIN = Path(sys.executable).parent
_SIDE_PX = 128  # of packed tiles; chips of the Amazon are enlarged to it
_FED_PX = (96, 128)
_POOLINGS = ("cls+mean", "last4")
_FOLDS = 4
_BLOCK_PX = BLOCK_DEG * PX_PER_DEGREE


def main() -> None:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="dino-vitt16-overhead")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    args = parser.parse_args()
    corpus = lay_out(args.data, args.out / "corpus")
    packed = pack_up(corpus, args.out / "pack")
    run = train(packed, args.out / "run", args.recipe, args.processes, args.settings)
    models = [export(run, args.out, *choice) for choice in product(_FED_PX, _POOLINGS)]
    for task, model in product(("mines", "climate"), models):
        judge(corpus, task, model, args.out / "judged")


def lay_out(data: Path, corpus: Path) -> Path:
    """Write the corpus and the probes' tiles; corpus.json is written last."""
    if not (corpus / "corpus.json").exists():
        subprocess.run([sys.executable, _HERE / "overhead_corpus.py", data, corpus], check=True)
    return corpus


def pack_up(corpus: Path, packed: Path) -> Path:
    """Pack both parts that training may see; goes on or tells that all is there."""
    tilezoo(
        "pack", corpus / "tiles", "-o", packed, "--labels", corpus / "tiles.csv",
        "--split", "train,validation", "--size-px", _SIDE_PX,
    )  # fmt: skip
    return packed


def train(packed: Path, run: Path, recipe: str, processes: int, settings: list[str]) -> Path:
    """Train with one thread a process, which on few cores is faster than threads that wait."""
    told = [part for setting in settings for part in ("--set", setting)]
    command = [_BIN / "tilezoo", "pretrain", packed, "-o", run, "--recipe", recipe, *told]
    if processes > 1:
        together = ["--standalone", "--nproc-per-node", str(processes), "--no-python"]
        command = [_BIN / "torchrun", *together, *command]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return run


def export(run: Path, out: Path, side_px: int, pooling: str) -> Path:
    """Write a model in 16 bits, fed at a size and pooled in a way."""
    model = out / f"fed-{side_px}-{pooling.replace('+', '-')}"
    if not model.exists():
        tilezoo("export", run, "-o", model, "--half", "--size-px", side_px, "--pooling", pooling)
    return model


def judge(corpus: Path, task: str, model: Path, out: Path) -> dict[str, Any]:
    """Compare with random weights and colours within the training side, a fold at a time.

    Returns:
        What `averaged` makes of it, also in OUT/TASK-MODEL.json; the folder of that name holds the
        last fold's report.
    """
    out.mkdir(parents=True, exist_ok=True)
    print(f"\n{task}, {model.name}: average precision, mean over classes and folds; each fold")
    found = []
    for fold in range(_FOLDS):
        compared = compare(
            corpus / task,
            labels=folded(corpus / f"{task}.csv", out / f"{task}-{fold}.csv", fold),
            models=[model],
            out=out / f"{task}-{model.name}",
            metric="ap_macro",
            rare="drop",  # a fold of two blocks may hold no temperate tile
            block_deg=10.0 if task == "climate" else None,
            dataset=f"{task}, training side, fold {fold + 1} of {_FOLDS}",
            note="For choosing: nothing of the test part is in here.",
            show_progress=True,
        )
        found.append(compared.results)
    summary = averaged(found)
    (out / f"{task}-{model.name}.json").write_text(json.dumps(summary, indent=1))
    return summary


def folded(labels: Path, out: Path, fold: int) -> Path:
    """Write labels without the test part: a fold in its place, the next one for validation.

    Whole sheets, or blocks of 30 degrees, are dealt out in the order of their labels and hashes, so
    that each fold has its share of either.
    """
    with labels.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] in ("train", "validation")]
    for row in rows:
        row["group"] = row["group"] or f"block-{upper_left(row['id'])[1] // _BLOCK_PX}"
    kind = {row["group"]: row["label"] if row["id"].endswith(".png") else "" for row in rows}
    groups = sorted(kind, key=lambda group: (kind[group], sha256(group.encode()).digest()))
    place = {group: (number - fold) % _FOLDS for number, group in enumerate(groups)}
    for row in rows:
        row["split"] = {0: "test", 1: "validation"}.get(place[row["group"]], "train")
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return out


def averaged(results: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Average precision (mean over classes) of each model and control by method, mean over folds."""
    found: dict[str, Any] = {}
    for name, methods in {**results[0]["results"], **results[0]["controls"]}.items():
        for method in methods:
            each = [{**r["results"], **r["controls"]}[name][method] for r in results]
            values = [one["ap_macro"]["value"] for one in each]
            found.setdefault(name, {})[method] = {
                "mean": sum(values) / len(values),
                "folds": values,
            }
            told = " ".join(f"{value:.3f}" for value in values)
            print(f"{name:24} {method:9} {sum(values) / len(values):.3f}  {told}")
    return found


def upper_left(name: str) -> tuple[int, int]:
    """Row and column of a window of Blue Marble, pixels."""
    row, column = Path(name).stem.split("_")
    return int(row), int(column)


def tilezoo(*arguments: object) -> None:
    """Run a command of tilezoo."""
    subprocess.run([_BIN / "tilezoo", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
