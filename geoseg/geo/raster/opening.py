"""Opens rasters, from files and from descriptions of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import MemoryFile
from rasterio.shutil import copy as gdal_copy

from geoseg.errors import SceneReadError, one_line
from geoseg.geo.paths import is_missing, no_such_file


def open_raster(path: str | Path) -> Any:
    """Opens a file, or another name that GDAL knows, as a rasterio dataset.

    Raises:
        SceneReadError: If it is absent, or no raster.
    """
    name = str(path)
    try:
        return _open(name)
    except RasterioIOError as error:
        if is_missing(name):
            raise SceneReadError(no_such_file(name)) from error
        if Path(name).is_dir():
            raise SceneReadError(
                f"{name}: is a folder; name the raster in it, such as {Path(name) / 'prob.tif'}"
            ) from error
        if lacks_file(error):
            raise SceneReadError(
                f"{name}: lacks a file that it refers to ({one_line(error)}); put that beside it"
            ) from error
        raise SceneReadError(
            f"{name}: GDAL cannot read this as a raster ({one_line(error)}); give a GeoTIFF, COG, "
            "VRT or another raster format"
        ) from error


def list_files(path: str | Path) -> list[str]:
    """The files that a raster consists of: itself, those beside it, and the sources of a VRT.

    Raises:
        SceneReadError: If it is absent, or no raster.
    """
    with open_raster(path) as raster:
        return files_of(raster, path)


def files_of(source: Any, path: str | Path) -> list[str]:
    """Return the files of an open raster, see `list_files`."""
    return sorted({str(path), *source.files})


def lacks_file(error: RasterioError) -> bool:
    """Whether what could not be read is another file, which is not there."""
    return "no such file" in one_line(error).lower()


def _open(name: str) -> Any:
    with warnings.catch_warnings():
        # A raster without a place is refused with a line of ours, or laid where the user says.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(name)


def is_raster(path: str | Path) -> bool:
    """Whether GDAL opens a file as a raster with bands."""
    try:
        with _open(str(path)) as source:
            return bool(source.count)
    except RasterioError:
        return False


def describe(source: Any) -> str:
    """A dataset as the text of a GDAL VRT, in which its files have names that GDAL finds."""
    with MemoryFile(ext=".vrt") as vrt:
        gdal_copy(source, vrt.name, driver="VRT")
        vrt.seek(0)
        document = ElementTree.fromstring(vrt.read())
    # GDAL forgets to do so for the sources of a mask band.
    for name in document.iter("SourceFilename"):
        if name.get("relativeToVRT") == "1":
            name.text = str(Path(source.name).parent / str(name.text))
            name.set("relativeToVRT", "0")
    return ElementTree.tostring(document, encoding="unicode")


def open_description(document: str) -> Any:
    """Opens the text of a GDAL VRT."""
    return rasterio.open(document)
