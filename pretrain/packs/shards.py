"""A pack of training tiles and how it is read: the hot path, so NumPy and pyarrow alone."""

import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tilezoo.errors import PackError
from tilezoo.io import sha256_file
from tilezoo.training_ids import ids_sha256

PACK_VERSION = 1
MANIFEST = "pack.json"
TILES = "tiles.parquet"
UNFINISHED = ".packing"  # the folder in which `tilezoo pack` keeps what it has done so far
DTYPES = ("uint8", "uint16")

_SHARD_NAME = re.compile(r"shard-\d{5,}\.npy")
_COUNTED = ("tiles", "size_px")
_PER_BAND = ("mean", "std")
_HASHING_THREADS = 8
# What NumPy raises for a .npy file whose head is damaged, or that is too short for it.
_NO_NPY = (OSError, ValueError, TypeError, OverflowError, SyntaxError, TokenError)


@dataclass(frozen=True)
class Pack:
    """A finished pack on disk; tiles stay there until they are asked for.

    It may be shared between threads, and handed to other processes (the memory maps are opened
    anew there).

    Attributes:
        path: Its folder.
        manifest: What pack.json says.
    """

    path: Path
    manifest: Mapping[str, Any]

    def __len__(self) -> int:
        return int(self.manifest["tiles"])

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path, Mapping[str, Any]]]:
        return Pack, (self.path, self.manifest)  # a pickled memory map would be all its pixels

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in the order of axis C."""
        return tuple(self.manifest["bands"])

    @property
    def dtype(self) -> str:
        """Of the stored pixels: `uint8` or `uint16`."""
        return str(self.manifest["dtype"])

    @property
    def size_px(self) -> int:
        """Side of every tile, pixels."""
        return int(self.manifest["size_px"])

    @property
    def value_range(self) -> tuple[float, float]:
        """Values of the sources' pixels that become 0 and 1; 8-bit tiles hold 0..1 as 0..255."""
        low, high = self.manifest["value_range"]
        return float(low), float(high)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each band over all tiles, on the 0..1 scale."""
        return tuple(map(float, self.manifest["mean"]))

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each band over all tiles' pixels, on the 0..1 scale."""
        return tuple(map(float, self.manifest["std"]))

    def column(self, name: str) -> pa.ChunkedArray:
        """Read one column of tiles.parquet whole, in the order of rows.

        Raises:
            PackError: There is no such column, or the file is damaged.
        """
        path = self.path / TILES
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                if name in names:
                    return file.read([name])[name]
        except (OSError, pa.ArrowException) as error:
            raise PackError(f"{path}: missing or damaged; {_fix(self.path)}") from error
        raise PackError(f"{path}: no column {name!r}; there are {', '.join(names)}")

    def where_split(self, split: str) -> NDArray[np.int64]:
        """Find the rows of one split, in order; every row for `all`, or in a pack without splits."""
        if split == "all" or not self.manifest["splits"]:
            return np.arange(len(self), dtype=np.int64)
        return np.flatnonzero(self.column("split").to_numpy() == split)

    def read(
        self, rows: NDArray[np.int64], out: NDArray[np.generic] | None = None
    ) -> NDArray[np.generic]:
        """Copy tiles out of the shards, in the order asked; a row may come more than once.

        Copies let other threads run, so a thread that reads ahead costs the others little.

        Args:
            rows: Row numbers, shape (n,).
            out: Where to put them, shape (n, C, H, W), of the pack's dtype; a new array unless
                given.

        Returns:
            Pixels as they are stored, shape (n, C, H, W); `out` where it is given.

        Raises:
            IndexError: A row number is not of this pack.
            ValueError: `out` has another shape or dtype.
        """
        wanted = self._checked(np.asarray(rows, np.int64))
        made = self._checked_out(out, len(wanted))
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        inside = wanted - self._starts[shards]
        # By their places on disk: neighbours are fetched together.
        order = np.argsort(wanted)
        places = zip(order.tolist(), shards[order].tolist(), inside[order].tolist(), strict=True)
        maps = self._maps
        for place, shard, row in places:
            made[place] = maps[shard][row]
        return made

    def check(self) -> None:
        """Hash every shard, and the ids, against the manifest.

        Raises:
            PackError: Naming the first that is damaged.
        """
        shards = self.manifest["shards"]
        with ThreadPoolExecutor(min(_HASHING_THREADS, os.cpu_count() or 1)) as pool:
            found = pool.map(lambda shard: _hash(self.path / shard["file"]), shards)
            for shard, digest in zip(shards, found, strict=True):
                if digest != shard["sha256"]:
                    file = self.path / shard["file"]
                    raise PackError(f"{file}: not the bytes that were packed; {_fix(self.path)}")
        if ids_sha256(self.column("id").to_pylist()) != self.manifest["ids_sha256"]:
            file = self.path / TILES
            raise PackError(f"{file}: not the ids that were packed; {_fix(self.path)}")

    @cached_property
    def _maps(self) -> tuple[NDArray[np.generic], ...]:
        """The shards, each (N, C, H, W), without np.memmap's slow indexing."""
        return tuple(np.asarray(_mapped(self, shard)) for shard in self.manifest["shards"])

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """First row of each shard."""
        counts = [int(shard["tiles"]) for shard in self.manifest["shards"]]
        return np.cumsum([0, *counts[:-1]], dtype=np.int64)

    def _checked(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if rows.ndim != 1:
            raise ValueError(f"rows have shape {rows.shape}, not (n,)")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            wrong = rows[(rows < 0) | (rows >= len(self))][0]
            raise IndexError(f"{self.path}: no row {wrong}; there are {len(self)}")
        return rows

    def _checked_out(self, out: NDArray[np.generic] | None, count: int) -> NDArray[np.generic]:
        shape = (count, len(self.bands), self.size_px, self.size_px)
        if out is None:
            return np.empty(shape, self.dtype)
        if out.shape != shape or out.dtype != self.dtype:
            given = f"out is {out.dtype} of shape {out.shape}"
            raise ValueError(f"{given}, the tiles are {self.dtype} of shape {shape}")
        return out


def is_pack(path: str | Path) -> bool:
    """Tell whether a folder is a pack, be it an unfinished or a damaged one."""
    return (Path(path) / MANIFEST).is_file() or (Path(path) / UNFINISHED).is_dir()


def open_pack(path: str | Path) -> Pack:
    """Open a finished pack: read its manifest, see that every file is there and of its size.

    Raises:
        PackError: There is none, or it is unfinished, empty, damaged, or of another version.
    """
    folder = Path(path)
    pack = Pack(folder, read_manifest(folder))
    if not len(pack):
        raise PackError(f"{folder}: an empty pack; why is in {folder / 'errors.parquet'}")
    for shard in pack.manifest["shards"]:
        _mapped(pack, shard)
    tiles = folder / TILES
    try:
        found = pq.read_metadata(tiles).num_rows
    except (OSError, pa.ArrowException) as error:
        raise PackError(f"{tiles}: missing or damaged; {_fix(folder)}") from error
    if found != len(pack):
        raise PackError(f"{tiles}: {found} rows for {len(pack)} tiles; {_fix(folder)}")
    return pack


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check a finished pack's manifest, and none of its other files.

    Raises:
        PackError: There is none, or it is damaged or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if is_pack(folder):
            raise PackError(f"{folder}: an unfinished pack; run its `tilezoo pack` again")
        raise PackError(f"{folder}: no pack here; make one with `tilezoo pack … -o {folder}`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["tilezoo_pack"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackError(f"{path}: not a pack's manifest; {_fix(folder)}") from error
    if version != PACK_VERSION:
        known = f"version {version} of the format, this program knows {PACK_VERSION}"
        raise PackError(f"{path}: {known}; update tilezoo, or pack again")
    try:
        _check_manifest(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PackError(f"{path}: fields are missing or wrong; {_fix(folder)}") from error
    return dict(manifest)


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Refuse fields that contradict each other, or that name files elsewhere."""
    bands, shards = manifest["bands"], manifest["shards"]
    low, high = map(float, manifest["value_range"])
    right = (
        manifest["complete"] is True
        and manifest["dtype"] in DTYPES
        and low < high
        and isinstance(bands, list)
        and all(isinstance(manifest[name], int) and manifest[name] >= 0 for name in _COUNTED)
        and all(isinstance(band, str) for band in bands)
        and all(len(list(map(float, manifest[name]))) == len(bands) for name in _PER_BAND)
        and all(_SHARD_NAME.fullmatch(shard["file"]) for shard in shards)
        and all(isinstance(shard["tiles"], int) and shard["tiles"] > 0 for shard in shards)
        and sum(shard["tiles"] for shard in shards) == manifest["tiles"]
        and all(isinstance(shard["sha256"], str) for shard in shards)
        and isinstance(manifest["splits"], dict)
        and isinstance(manifest["ids_sha256"], str)
        and {"unit", "gsd_m", "quantized"} <= set(manifest)
    )
    if not right:
        raise ValueError("fields contradict each other")


def _mapped(pack: Pack, shard: Mapping[str, Any]) -> NDArray[np.generic]:
    """Map a shard into memory, if it is whole and holds what the manifest says."""
    path = pack.path / shard["file"]
    if not path.is_file():
        raise PackError(f"{path}: the shard is missing; {_fix(pack.path)}")
    try:
        pixels = np.lib.format.open_memmap(path, mode="r")
        size = path.stat().st_size
    except _NO_NPY as error:
        raise PackError(f"{path}: the shard is damaged or cut short; {_fix(pack.path)}") from error
    shape = (shard["tiles"], len(pack.bands), pack.size_px, pack.size_px)
    if pixels.shape != shape or pixels.dtype != pack.dtype or not pixels.flags.c_contiguous:
        found = f"{pixels.dtype} of shape {pixels.shape}, not {pack.dtype} of {shape}"
        raise PackError(f"{path}: {found}; {_fix(pack.path)}")
    if size != pixels.offset + pixels.nbytes:
        raise PackError(f"{path}: {size} bytes are not the shard's; {_fix(pack.path)}")
    return pixels


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise PackError(f"{path}: {error.strerror or error}; {_fix(path.parent)}") from error


def _fix(folder: Path) -> str:
    return f"copy it anew, or pack again with `tilezoo pack … -o {folder} --overwrite`"
