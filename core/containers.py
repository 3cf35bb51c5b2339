"""Files that hold several images by name (NetCDF, GeoPackage, HDF5), and how one of them is meant."""

from collections.abc import Sequence

from tilezoo.errors import TileError

CONTAINERS = frozenset({"netCDF", "GPKG", "HDF5"})  # GDAL's drivers of them
_NAMES_SHOWN = 8


def find_inside(path: str, driver: str, part: str | None) -> tuple[str, str]:
    """GDAL's driver, and its name for the image that is meant in a container.

    Raises:
        TileError: It holds several and none is named, or none of that name; or it is HDF5, whose
            images may lie in any other file.
    """
    names = _list_images(path, driver)
    if driver == "HDF5":
        raise TileError("contract", _tell_hdf5(path, names))
    if part is None and len(names) > 1:
        fix = f"name one: {path}:{names[0]}"
        raise TileError("contract", f"holds several images: {_tell_names(names)}; {fix}")
    if part is None:
        return driver, path
    wanted = next((name for name in names if name.lower() == part.strip("/").lower()), None)
    if wanted is None:
        there = f"there are {_tell_names(names)}" if names else "it is one image"
        raise TileError("missing", f"has no image {part!r}; {there}")
    return driver, _write_name(path, driver, wanted)


def _list_images(path: str, driver: str) -> list[str]:
    """Names of the images in a container; none where it is one image itself."""
    from rasterio.io import DatasetReader

    with DatasetReader(path, driver=driver) as dataset:
        found = dataset.subdatasets
    return [name.replace('"', "").rpartition(f"{path}:")[2].lstrip("/") for name in found]


def _write_name(path: str, driver: str, name: str) -> str:
    return f'NETCDF:"{path}":{name}' if driver == "netCDF" else f"GPKG:{path}:{name}"


def _tell_hdf5(path: str, names: Sequence[str]) -> str:
    one = f'HDF5:"{path}"://{names[0]}' if names else path
    held = f"; it holds {_tell_names(names)}" if names else ""
    fix = f"write what you need as GeoTIFF first (gdal_translate '{one}' OUT.tif)"
    return f"HDF5, which may lead to other files, is not read: {fix}{held}"


def _tell_names(names: Sequence[str]) -> str:
    left = len(names) - _NAMES_SHOWN
    return ", ".join([*names[:_NAMES_SHOWN], *([f"{left} more"] if left > 0 else [])])
