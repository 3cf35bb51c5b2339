"""A pack of training tiles and how it is read: the hot path, so NumPy and pyarrow alone."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from tilezoo.errors import PackError
from tilezoo.io import from_builtins, sha256_file
from tilezoo.pretrain.options import PackDtype
from tilezoo.space import Unit
from tilezoo.training_ids import ids_sha256

PACK_VERSION = 1
MANIFEST = "pack.json"
TILES = "tiles.parquet"
UNFINISHED = ".packing"  # the folder in which `tilezoo pack` keeps what it has done so far

_SHARD_NAME = re.compile(r"shard-\d{5,}\.npy")
_HASHING_THREADS = 8
# What NumPy raises for a .npy file whose head is damaged, or that is too short for it.
_NO_NPY = (OSError, ValueError, TypeError, OverflowError, SyntaxError, TokenError)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of pixels.

    Attributes:
        file: Its name in the pack's folder.
        tiles: How many it holds.
        sha256: Of the file.
    """

    file: str
    tiles: int
    sha256: str

    def __post_init__(self) -> None:
        """Refuse names elsewhere, and shards of no tiles."""
        if not _SHARD_NAME.fullmatch(self.file) or self.tiles < 1:
            raise ValueError(f"no shard: {self.file!r} of {self.tiles} tiles")


@dataclass(frozen=True, kw_only=True)
class PackManifest:
    """What pack.json says of a finished pack; packs of others may lack what has a default.

    Attributes:
        tilezoo_pack: Version of the format.
        complete: True, or there is no manifest.
        bands: Their names, in the order of axis C.
        dtype: Of the stored pixels.
        size_px: Side of every tile, pixels.
        unit: Of the sources' pixels: `uint8`, `dn` or `reflectance`; `stated` of no tiles.
        value_range: Values of the sources' pixels that become 0 and 1; 8-bit tiles hold 0..1 as
            0..255.
        values: `stored` where products' own scales and offsets were not applied to them.
        quantized: Whether values were scaled to 8 bits.
        tiles: In all shards.
        failed: Tiles left out, each a row of errors.parquet.
        nodata: Of those, left out for too little data.
        ids_sha256: Of the tiles' ids.
        splits: How many tiles each split has.
        gsd_m: Smallest and largest ground sampling distance, metres; None without places.
        mean: Of each band over all tiles, on the 0..1 scale.
        std: Standard deviation of each band over all tiles' pixels, on the 0..1 scale.
        shards: In the order of rows.
        request: The options that decide the pack.
        tiles_sha256: Of what the sources were.
        versions: Of the packages it was made with.
    """

    tilezoo_pack: int
    complete: Literal[True]
    bands: tuple[str, ...]
    dtype: PackDtype
    size_px: int
    unit: Unit
    value_range: tuple[float, float]
    values: Literal["stored"] | UnsetType = UNSET
    quantized: bool
    tiles: int
    failed: int = 0
    nodata: int = 0
    ids_sha256: str
    splits: dict[str, int]
    gsd_m: tuple[float, float] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shards: tuple[Shard, ...]
    request: dict[str, object] = field(default_factory=dict)
    tiles_sha256: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse fields that contradict each other."""
        low, high = self.value_range
        if not low < high:
            raise ValueError(f"value_range {low},{high} is empty")
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ValueError("bands, mean and std are of different lengths")
        if sum(shard.tiles for shard in self.shards) != self.tiles or self.size_px < 0:
            raise ValueError(f"shards do not hold {self.tiles} tiles")


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
    manifest: PackManifest

    def __len__(self) -> int:
        return self.manifest.tiles

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path, PackManifest]]:
        return Pack, (self.path, self.manifest)  # a pickled memory map would be all its pixels

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in the order of axis C."""
        return self.manifest.bands

    @property
    def dtype(self) -> PackDtype:
        """Of the stored pixels."""
        return self.manifest.dtype

    @property
    def size_px(self) -> int:
        """Side of every tile, pixels."""
        return self.manifest.size_px

    @property
    def value_range(self) -> tuple[float, float]:
        """Values of the sources' pixels that become 0 and 1; 8-bit tiles hold 0..1 as 0..255."""
        return self.manifest.value_range

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each band over all tiles, on the 0..1 scale."""
        return self.manifest.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each band over all tiles' pixels, on the 0..1 scale."""
        return self.manifest.std

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
        if split == "all" or not self.manifest.splits:
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
        wanted = self._check_rows(np.asarray(rows, np.int64))
        made = self._check_out(out, len(wanted))
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
        shards = self.manifest.shards
        with ThreadPoolExecutor(min(_HASHING_THREADS, os.cpu_count() or 1)) as pool:
            found = pool.map(lambda shard: _hash_file(self.path / shard.file), shards)
            for shard, digest in zip(shards, found, strict=True):
                if digest != shard.sha256:
                    file = self.path / shard.file
                    raise PackError(f"{file}: not the bytes that were packed; {_fix(self.path)}")
        if ids_sha256(self.column("id").to_pylist()) != self.manifest.ids_sha256:
            file = self.path / TILES
            raise PackError(f"{file}: not the ids that were packed; {_fix(self.path)}")

    @cached_property
    def _maps(self) -> tuple[NDArray[np.generic], ...]:
        """The shards, each (N, C, H, W), without np.memmap's slow indexing."""
        return tuple(np.asarray(_map_shard(self, shard)) for shard in self.manifest.shards)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """First row of each shard."""
        counts = [shard.tiles for shard in self.manifest.shards]
        return np.cumsum([0, *counts[:-1]], dtype=np.int64)

    def _check_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if rows.ndim != 1:
            raise ValueError(f"rows have shape {rows.shape}, not (n,)")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            wrong = rows[(rows < 0) | (rows >= len(self))][0]
            raise IndexError(f"{self.path}: no row {wrong}; there are {len(self)}")
        return rows

    def _check_out(self, out: NDArray[np.generic] | None, count: int) -> NDArray[np.generic]:
        shape = (count, len(self.bands), self.size_px, self.size_px)
        if out is None:
            return np.empty(shape, self.dtype)
        if out.shape != shape or out.dtype != self.dtype:
            given = f"out is {out.dtype} of shape {out.shape}"
            raise ValueError(f"{given}, the tiles are {self.dtype} of shape {shape}")
        return out


def is_pack(path: str | Path) -> bool:
    """Whether a folder is a pack, be it an unfinished or a damaged one."""
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
    for shard in pack.manifest.shards:
        _map_shard(pack, shard)
    tiles = folder / TILES
    try:
        found = pq.read_metadata(tiles).num_rows
    except (OSError, pa.ArrowException) as error:
        raise PackError(f"{tiles}: missing or damaged; {_fix(folder)}") from error
    if found != len(pack):
        raise PackError(f"{tiles}: {found} rows for {len(pack)} tiles; {_fix(folder)}")
    return pack


def read_manifest(folder: Path) -> PackManifest:
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
        stored = json.loads(path.read_text(encoding="utf-8"))
        version = stored["tilezoo_pack"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackError(f"{path}: not a pack's manifest; {_fix(folder)}") from error
    if version != PACK_VERSION:
        known = f"version {version} of the format, this program knows {PACK_VERSION}"
        raise PackError(f"{path}: {known}; update tilezoo, or pack again")
    try:
        return from_builtins(stored, PackManifest)
    except ValueError as error:
        raise PackError(f"{path}: fields are missing or wrong; {_fix(folder)} ({error})") from error


def _map_shard(pack: Pack, shard: Shard) -> NDArray[np.generic]:
    """Map a shard into memory, if it is whole and holds what the manifest says."""
    path = pack.path / shard.file
    if not path.is_file():
        raise PackError(f"{path}: the shard is missing; {_fix(pack.path)}")
    try:
        pixels = np.lib.format.open_memmap(path, mode="r")
        size = path.stat().st_size
    except _NO_NPY as error:
        raise PackError(f"{path}: the shard is damaged or cut short; {_fix(pack.path)}") from error
    shape = (shard.tiles, len(pack.bands), pack.size_px, pack.size_px)
    if pixels.shape != shape or pixels.dtype != pack.dtype or not pixels.flags.c_contiguous:
        found = f"{pixels.dtype} of shape {pixels.shape}, not {pack.dtype} of {shape}"
        raise PackError(f"{path}: {found}; {_fix(pack.path)}")
    if size != pixels.offset + pixels.nbytes:
        raise PackError(f"{path}: {size} bytes are not the shard's; {_fix(pack.path)}")
    return pixels


def _hash_file(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise PackError(f"{path}: {error.strerror or error}; {_fix(path.parent)}") from error


def _fix(folder: Path) -> str:
    return f"copy it anew, or pack again with `tilezoo pack … -o {folder} --overwrite`"
