"""Reading pixels: one source, whole or by windows, never more of it than asked."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tilezoo.bands import BandRequest, FileBand, canonical
from tilezoo.errors import TileError
from tilezoo.geo import (
    Footprint,
    PixelsToLonlat,
    approximate_footprint,
    fit_control_points,
    footprint,
    solve_rpcs,
)
from tilezoo.meaning import (
    describe_bands,
    find_facts,
    find_nodata,
    find_scaling,
    find_stack,
    rescale,
)
from tilezoo.nodata import fill, refuse_unexplained
from tilezoo.opening import count_stored, crs_name, crs_wkt, gdal, open_dataset
from tilezoo.raster import Raster
from tilezoo.sets import name_set, refuse_other_ground
from tilezoo.sources import Source
from tilezoo.space import Contract
from tilezoo.tiles import Tile, TileRef, Window
from tilezoo.times import acquisition_time

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.transform import Affine

MIN_SIDE_PX = 4
MAX_TILE_BYTES = 128 << 20  # a few read-ahead threads may hold one each
# The best codecs reach some thousands to one; a header beyond this claims what is not there.
_MAX_BYTES_PER_STORED_BYTE = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One band to read.

    Attributes:
        dataset: The open file.
        index: The band's position in it, from 1.
        scale: Scale and offset of its values; None where they stay as stored.
    """

    dataset: "DatasetReader"
    index: int
    scale: tuple[float, float] | None = None

    @property
    def stored_dtype(self) -> str:
        """Of its values as stored; a palette's three bands are one in the file."""
        return str(self.dataset.dtypes[min(self.index, self.dataset.count) - 1])

    @property
    def dtype(self) -> str:
        """Of its values as fed."""
        return self.stored_dtype if self.scale is None else "uint16"


class Image:
    """One source, opened for the bands that are asked for; a context manager.

    A set of band files is read on the grid of the finest of those bands; coarser ones
    (Sentinel-2's 20 m and 60 m) are resampled to it, bilinear.

    Attributes:
        bands: All that the source has, whether they are asked for or not.

    Raises:
        TileError: On opening or reading, for anything wrong with this one source.
    """

    def __init__(self, source: Source, request: BandRequest) -> None:
        self._source, self._request = source, request
        self._stack = ExitStack()
        self._rasters: dict[DatasetReader, Raster] = {}
        try:
            self.bands = self._find_bands()
            self._layers = self._open_layers()
        except BaseException:
            self._stack.close()
            raise
        self._grid = max((layer.dataset for layer in self._layers), key=lambda d: d.width)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def source(self) -> Source:
        """The source; a plain image where a file that is called one band's holds several."""
        return self._source

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The bands that are asked for, in that order."""
        return self._layers

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the grid, pixels."""
        return self._grid.width, self._grid.height

    @cached_property
    def dtype(self) -> str:
        """The pixels' common dtype."""
        dtypes = {layer.dtype for layer in self._layers}
        if any(dtype.startswith("complex") for dtype in dtypes):
            raise TileError("contract", "pixels are complex numbers; write their magnitude first")
        return _join_dtypes(dtypes)

    def read(self, ref: TileRef, contract: Contract) -> Tile:
        """Read one tile: its pixels without holes, and what is known of it."""
        width, height = self.size
        window = ref.window or (0, 0, width, height)
        self.check(contract)
        self.check_size(window, contract)
        pixels, valid = self.read_values(window)
        refuse_unexplained(pixels, valid)
        nodata_fraction = 0.0 if valid.all() else 1.0 - float(valid.any(axis=0).mean())
        if nodata_fraction == 1:
            raise TileError("nodata", "no pixel holds data")
        return Tile(
            id=ref.id,
            pixels=fill(pixels, valid, contract.value_range[0]),
            source_uri=self._source.uri,
            pixel_bbox=window,
            nodata_fraction=nodata_fraction,
            crs=self.crs_wkt and crs_name(self.crs_wkt),
            footprint=self.find_footprint(window),
            datetime=self.acquired,
        )

    def _find_bands(self) -> tuple[FileBand, ...]:
        if self._source.problem is not None:
            raise TileError(*self._source.problem)
        self._source = self._find_out_alone()
        if self._source.endings:
            return name_set(self._source.product, self._source.files)
        raster = self._raster(self._open_checked(self._source.path))
        return describe_bands(raster, self._source)

    def _open_layers(self) -> tuple[Layer, ...]:
        chosen = self._request.choose(self.bands)
        if self._source.endings:
            return self._open_set(chosen)
        (dataset,) = self._rasters
        scales = self._find_scales([self.bands[place].name for place in chosen])
        return tuple(
            Layer(dataset=dataset, index=place + 1, scale=scale)
            for place, scale in zip(chosen, scales, strict=True)
        )

    def _find_out_alone(self) -> Source:
        """The source, as a plain image if it is called a single band's file but holds several."""
        source = self._source
        if len(source.endings) != 1:
            return source
        path = source.path + source.endings[0]
        alone = self._open_checked(path).count == 1
        return source if alone else replace(source, path=path, endings=(), product="")

    def _open_set(self, chosen: Sequence[int]) -> tuple[Layer, ...]:
        """Open the files of the bands that are asked for, and see that they lie on each other."""
        files = self._source.files
        names, paths = list(files), list(files.values())
        opened = {place: self._open_band(paths[place]) for place in dict.fromkeys(chosen)}
        refuse_other_ground(list(opened.values()))
        scales = self._find_scales([names[place] for place in chosen])
        return tuple(
            Layer(dataset=opened[place], index=1, scale=scale)
            for place, scale in zip(chosen, scales, strict=True)
        )

    def _find_scales(self, names: Sequence[str]) -> list[tuple[float, float] | None]:
        """Scale and offset of bands by their product's names."""
        found = find_scaling(self._source, self._request).scales
        if not found:
            return [None] * len(names)
        scales = {canonical(name): scale for name, scale in found.items()}
        return [scales.get(canonical(name)) for name in names]

    def _open_band(self, path: str) -> "DatasetReader":
        dataset = self._open_checked(path)
        if dataset.count != 1:
            name = os.path.basename(path)
            raise TileError("contract", f"{name} is called a single band but has {dataset.count}")
        return dataset

    def read_values(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window as it is fed, and what of it holds data, both (C, h, w); unchecked."""
        stored, valid = self._read_window(window)
        return rescale(stored, [layer.scale for layer in self._layers]), valid

    def _open_checked(self, path: str) -> "DatasetReader":
        dataset = self._stack.enter_context(open_dataset(path))
        if min(dataset.width, dataset.height) < MIN_SIDE_PX:
            size = f"{dataset.width}x{dataset.height}"
            raise TileError("too_small", f"{size} px; a tile needs {MIN_SIDE_PX} px a side")
        claimed = dataset.width * dataset.height * dataset.count
        stored = count_stored(dataset, path)
        if claimed > stored * _MAX_BYTES_PER_STORED_BYTE:
            size = f"{dataset.width}x{dataset.height} px in a file of {stored} bytes"
            raise TileError("too_large", f"the header claims {size}; it is damaged")
        return dataset

    def check(self, contract: Contract) -> None:
        """Refuse pixels that do not fit the contract, before any is read."""
        contract.check_dtype(self.dtype, stated=self._request.values_stated)

    def check_size(self, window: Window, contract: Contract) -> None:
        """Refuse a window that is too large to be one tile, or of a size that the model does not take."""
        width, height, fix = window[2], window[3], f"--tile-px {contract.size_px}"
        size = width * height * len(self._layers) * np.dtype(self.dtype).itemsize
        if max(size, self._count_resized_bytes(width, height, contract)) > MAX_TILE_BYTES:
            shape = f"{width}x{height} px, {size >> 20} MiB as one tile"
            raise TileError("too_large", f"{shape} or once resized; cut it with {fix}")
        if contract.resize == "none" and (width, height) != (contract.size_px,) * 2:
            side = contract.size_px
            raise TileError(
                "contract", f"{width}x{height} px, the model takes {side}x{side}; {fix}"
            )

    def _count_resized_bytes(self, width: int, height: int, contract: Contract) -> int:
        """Bytes of a tile between resizing and cropping: much, for a long and narrow one."""
        if contract.resize != "shorter_side_then_center_crop":
            return 0
        longer = contract.resize_px * max(width, height) // min(width, height)
        return contract.resize_px * longer * len(self._layers) * 4

    def _read_window(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window and what of it holds data (none beyond the grid), both (C, h, w)."""
        x, y, width, height = window
        inside = (x, y, min(width, self.size[0] - x), min(height, self.size[1] - y))
        grouped = _group_by_dataset(self._layers)
        if len(grouped) == 1 and inside == window:
            indexes = [layer.index for layer in self._layers]
            return self._raster(self._grid).read(indexes, inside, self.size)
        core = (slice(0, inside[3]), slice(0, inside[2]))
        dtype = _join_dtypes({layer.stored_dtype for layer in self._layers})
        pixels = np.zeros((len(self._layers), height, width), np.dtype(dtype))
        valid = np.zeros(pixels.shape, np.bool_)
        for dataset, places in grouped.items():
            raster = self._raster(dataset)
            values, mask = raster.read(list(places.values()), inside, self.size)
            pixels[(list(places), *core)] = values
            valid[(list(places), *core)] = mask
        return pixels, valid

    def _raster(self, dataset: "DatasetReader") -> Raster:
        """What reads a file that is open; the same each time it is asked for."""
        if dataset not in self._rasters:
            nodata = self._request.nodata
            if nodata is None and dataset.nodata is None:
                nodata = find_nodata(self._source)
            whole = find_stack(dataset.count, self._source) is not None
            self._rasters[dataset] = Raster(dataset, nodata, self._stack, whole=whole)
        return self._rasters[dataset]

    @cached_property
    def crs_wkt(self) -> str | None:
        """The CRS of the grid; None without one."""
        return crs_wkt(self._grid)

    def find_footprint(self, window: Window) -> Footprint | None:
        """Find where a window lies; None where nothing says it."""
        transform = self._grid.transform
        if self.crs_wkt is not None and not transform.is_identity:
            return footprint(self.crs_wkt, _shift(transform, window), window[2], window[3])
        to_lonlat = self._pixels_to_lonlat
        return to_lonlat and approximate_footprint(to_lonlat, window)

    @cached_property
    def _pixels_to_lonlat(self) -> PixelsToLonlat | None:
        """By control points or rational polynomials, for images without a grid on the map."""
        points, crs = self._grid.gcps
        if points and crs is not None:
            return fit_control_points(points, crs.to_wkt())
        try:
            rpcs = self._grid.rpcs
        except (ValueError, KeyError, TypeError):  # RPCs that are no numbers, or too few
            return None
        return solve_rpcs(rpcs) if rpcs is not None else None

    @cached_property
    def acquired(self) -> datetime | None:
        """When the image was taken; None where nothing says it."""
        if said := find_facts(self._source).datetime:
            return said
        spaces = (None, "IMAGERY", *(["ENVI"] if self._grid.driver == "ENVI" else []))
        tags = {key: text for space in spaces for key, text in self._grid.tags(ns=space).items()}
        path = self._source.path + next(iter(self._source.endings), "")
        *folders, folder, name = ("", "", *path.split("/"))
        return acquisition_time(tags, [name, f"{folders[-1]}/{folder}"], reversed(folders[-4:]))


def read_tile(ref: TileRef, contract: Contract, request: BandRequest) -> Tile:
    """Open a source, read one tile of it, and close it again."""
    with gdal(), Image(ref.source, request) as image:
        return image.read(ref, contract)


def read_bounds(path: str) -> tuple[str, tuple[float, float, float, float]]:
    """Read where a file lies from its header: the CRS as WKT; left, bottom, right, top in it.

    Raises:
        TileError: The file cannot be opened, or is not georeferenced.
    """
    with open_dataset(path) as dataset:
        wkt = crs_wkt(dataset)
        if wkt is None or dataset.transform.is_identity:
            raise TileError("unreadable", f"{os.path.basename(path)} is not georeferenced")
        return wkt, tuple(dataset.bounds)


def _join_dtypes(dtypes: set[str]) -> str:
    return dtypes.pop() if len(dtypes) == 1 else np.result_type(*dtypes).name


def _group_by_dataset(layers: tuple[Layer, ...]) -> Mapping["DatasetReader", dict[int, int]]:
    """Group layers so that one read serves each dataset: dataset → {place in C: band index}."""
    grouped: dict[DatasetReader, dict[int, int]] = {}
    for place, layer in enumerate(layers):
        grouped.setdefault(layer.dataset, {})[place] = layer.index
    return grouped


def _shift(transform: "Affine", window: Window) -> "Affine":
    x, y, *_ = window
    return transform @ type(transform).translation(x, y) if x or y else transform
