"""Measure `tilezoo embed` against the loop a user writes, in turn, on one machine in one run.

python benchmarks/embed.py [--rounds 5] [--sizes 224 128] [--json FILE]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import timm
import torch
from making import busy_s, machine, make_model, make_tiles, peak_gflops, wait_for_quiet
from torch.utils.flop_counter import FlopCounterMode

from tilezoo.image import read_tile
from tilezoo.sources import discover
from tilezoo.space import Precision
from tilezoo.tiles import Tile, TileRef
from tilezoo.zoo import load
from tilezoo.zoo.backbone import DTYPES, Backbone
from tilezoo.zoo.network import fit

_BATCH = 64
_MEMORY_S = 4.0  # how long the network alone is measured, about


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round's measurements at one size; rates are tiles per second.

    Attributes:
        device: `cpu` or `cuda`.
        size_px: Of the network's input.
        user: The user's loop (loop.py), from its first tile to its last.
        embed: `tilezoo embed`, from the manifest's first writing to its last.
        startup_s: Seconds it took besides: imports, model, plan, precision, and to end.
        network: The network alone, on tiles in memory that have its size.
        precision: What `tilezoo embed` chose.
        peak_gflops: The best matrix product in that precision.
        gflop: Of one tile, 2 x multiply-accumulates.
        others: Cores that other processes kept busy meanwhile, on average.
    """

    device: str
    size_px: int
    user: float
    embed: float
    startup_s: float
    network: float
    precision: Precision
    peak_gflops: float
    gflop: float
    others: float

    @property
    def ratio(self) -> float:
        """How many times the user's rate."""
        return self.embed / self.user

    def share(self, rate: float) -> float:
        """Share of the machine's peak that a rate makes use of."""
        return rate * self.gflop / self.peak_gflops


def main() -> None:
    """Measure, print a Markdown table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 128])
    parser.add_argument("--tiles", type=int, default=768, help="of the user's loop; x3 of ours")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make_tiles(work / "tiles", 3 * args.tiles)
        for size in args.sizes:
            make_model(work / f"model{size}", size)
        rounds = list(measure(work, devices, args.sizes, args.rounds, args.tiles))
    where = machine()
    print(table(rounds))
    print(where["machine"], where["torch"], where["commit"], where["command"], sep=" · ")
    if args.json:
        record = {**where, "rounds": [asdict(each) for each in rounds]}
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def measure(
    work: Path, devices: list[str], sizes: list[int], rounds: int, tiles: int
) -> Iterator[Round]:
    """Take turns: in each round each size on each device is measured in all ways."""
    for number in range(rounds):
        for device in devices:
            for size in sizes:
                yield (found := one_round(work, device, size, tiles))
                shares = f"{found.share(found.embed):.0%} of peak, others {found.others:.2f} cores"
                rates = f"user {found.user:.1f}/s, embed {found.embed:.1f}/s, {shares}"
                print(f"round {number + 1}, {device}, {size} px: {rates}", file=sys.stderr)


def one_round(work: Path, device: str, size_px: int, tiles: int) -> Round:
    """Measure the loop, the command, the network and the peak, one after another."""
    wait_for_quiet()
    start, (all_before, ours_before) = time.perf_counter(), busy_s()
    user = user_loop(work / "tiles", size_px, device, tiles)
    startup_s, rate, precision = command(work, device, size_px)
    backbone = load(work / f"model{size_px}", device=device)
    gflop = gflop_of(size_px)
    backbone.use(precision)
    before = peak_gflops(device, DTYPES[precision])
    network = network_rate(backbone, work / "tiles")
    all_after, ours_after = busy_s()
    foreign_s = all_after - all_before - (ours_after - ours_before)
    return Round(
        device=device,
        size_px=size_px,
        user=user,
        embed=rate,
        startup_s=startup_s,
        network=network,
        precision=precision,
        peak_gflops=max(before, peak_gflops(device, DTYPES[precision])),
        gflop=gflop,
        others=foreign_s / (time.perf_counter() - start),
    )


def user_loop(folder: Path, size_px: int, device: str, tiles: int) -> float:
    """Run loop.py in a process of its own; tiles per second."""
    loop = [sys.executable, Path(__file__).with_name("loop.py"), folder]
    options = [str(size_px), device, str(tiles)]
    done = subprocess.run([*loop, *options], check=True, capture_output=True, text=True)
    return float(done.stdout)


def command(work: Path, device: str, size_px: int) -> tuple[float, float, Precision]:
    """Run `tilezoo embed`; seconds of start-up and end, tiles per second between, precision."""
    out = work / "table"
    program = Path(sys.executable).with_name("tilezoo")
    options = ["-m", work / f"model{size_px}", "-o", out, "--device", device]
    shutil.rmtree(out, ignore_errors=True)
    manifest = out / "manifest.json"  # written when the first segment begins, and at the end
    start = time.time()
    with subprocess.Popen(
        [program, "embed", work / "tiles", *options, "--batch-size", str(_BATCH)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        while run.poll() is None and not manifest.exists():
            time.sleep(0.005)
        begun = time.time()
        if run.wait() != 0:
            raise SystemExit("tilezoo embed failed; run it by hand to see why")
    steady_s = manifest.stat().st_mtime - begun
    found = json.loads(manifest.read_text(encoding="utf-8"))
    return time.time() - start - steady_s, found["rows"] / steady_s, found["precision"]


def network_rate(backbone: Backbone, folder: Path) -> float:
    """Tiles per second of the network on tiles in memory, best of three goes."""
    sources = discover([folder])[:_BATCH]
    contract, request = backbone.space.contract, backbone.request
    tiles = [read_tile(TileRef(source=source), contract, request) for source in sources]
    images = [fit(torch.from_numpy(tile.pixels)[None], contract)[0].numpy() for tile in tiles]
    ready = [replace(t, pixels=p, fitted=True) for t, p in zip(tiles, images, strict=True)]
    return max(_rate(backbone, ready) for _ in range(3))


def _rate(backbone: Backbone, tiles: list[Tile]) -> float:
    backbone.encode(tiles)
    start, done = time.perf_counter(), 0
    for batch, _ in backbone.encode_all(_again(tiles, _MEMORY_S / 3)):
        done += len(batch)
    return done / (time.perf_counter() - start)


def _again(tiles: list[Tile], seconds: float) -> Iterator[list[Tile]]:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        yield tiles


def gflop_of(size_px: int) -> float:
    """Count a tile's floating-point operations: 2 x multiply-accumulates, attention's too."""
    network = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=size_px)
    for block in network.blocks:
        block.attn.fused_attn = False  # plain products, which the counter sees
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size_px, size_px))
    return float(counter.get_total_flops()) / 1e9


def table(rounds: list[Round]) -> str:
    """Write medians over the rounds as a Markdown table, one row per device and size."""
    lines = [
        "| device, px | user's loop, /s | embed, /s | ratio: median (rounds) | start-up and end "
        + "| network alone, /s | precision | peak, GFLOP/s | share end to end | network's | others, cores |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for device, size in dict.fromkeys((r.device, r.size_px) for r in rounds):
        some = [r for r in rounds if (r.device, r.size_px) == (device, size)]
        ratios = ", ".join(f"{r.ratio:.2f}" for r in some)
        cells = [
            f"{device}, {size}",
            f"{median(r.user for r in some):.1f}",
            f"{median(r.embed for r in some):.1f}",
            f"**{median(r.ratio for r in some):.2f}** ({ratios})",
            f"{median(r.startup_s for r in some):.1f} s",
            f"{median(r.network for r in some):.1f}",
            some[0].precision,
            f"{median(r.peak_gflops for r in some):.0f}",
            f"{median(r.share(r.embed) for r in some):.0%}",
            f"{median(r.share(r.network) for r in some):.0%}",
            f"{median(r.others for r in some):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
