"""Opening of rasters, from files and from VRT descriptions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import Interleaving
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import MemoryFile
from rasterio.shutil import copy as gdal_copy

from geoseg.credentials import get_logger, name_servers
from geoseg.errors import SceneReadError, one_line
from geoseg.geo.paths import is_a_folder, is_missing, is_remote, no_such_file
from geoseg.geo.plain_names import readable_name

# GDAL's warnings, which rasterio logs, quote addresses.
get_logger("rasterio._env")

# Largest block of a raster in memory, bytes. Blocks of usual files have less than a megabyte.
_MAX_BLOCK = 1_000_000_000

# GDAL's drivers of services that compute or send tiles.
_SERVICE_DRIVERS = ("WMS", "WMTS")

# The answer of a server in a message of these drivers, which also contains the page that it sent:
# its status, and without an answer the reason.
_HTTP_STATUS = re.compile(r"HTTP status code: ([1-9]\d\d)\b")
_NO_ANSWER = re.compile(r"HTTP status code: 0, error: (.*)")

# Data types that numpy does not have under the name that rasterio gives them.
_REAL = {"complex_int16": "complex64"}


def open_raster(path: str | Path, overview: int | None = None) -> Any:
    """Open a file, or another name that GDAL knows, as a rasterio dataset.

    Args:
        path: The file or name.
        overview: Number of the overview, from 0, whose pixels to read; None for the raster itself.

    Raises:
        SceneReadError: If it does not exist or is not a raster.
    """
    name = str(path)
    try:
        return _open(name, overview)
    except RasterioIOError as error:
        if is_missing(name):
            raise SceneReadError(no_such_file(name)) from error
        if is_remote(name):
            raise SceneReadError(
                f"{name}: cannot be opened as a raster ({one_line(error)}); check the address, and "
                "that you may read it"
            ) from error
        if Path(name).is_dir():
            raise SceneReadError(is_a_folder(name, "raster")) from error
        if lacks_file(error):
            raise SceneReadError(
                f"{name}: refers to a file that does not exist ({one_line(error)}); "
                "copy that file, too"
            ) from error
        raise SceneReadError(
            f"{name}: GDAL cannot read this as a raster ({one_line(error)}); give a GeoTIFF, COG, "
            "VRT or another raster format"
        ) from error


@contextmanager
def as_read_errors(
    path: str | Path,
    *,
    action: str = "read",
    remedy: str = "the file looks damaged, copy or download it again",
) -> Iterator[None]:
    """Raise errors of GDAL in a block, some of which rasterio does not convert, as ours.

    Args:
        path: File that is read.
        action: What is done to it.
        remedy: What to do, for the message.
    """
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        raise SceneReadError(f"{path}: cannot be {action} ({one_line(error)}); {remedy}") from error


def check_blocks(source: Any, path: str | Path) -> None:
    """Check that a block of a raster, which GDAL reads as a whole, fits into memory.

    A file of some bytes can describe blocks of gigabytes.

    Raises:
        SceneReadError: If it does not.
    """
    together = source.count if source.interleaving == Interleaving.pixel else 1
    for (height, width), dtype in zip(source.block_shapes, source.dtypes, strict=True):
        size = height * width * np.dtype(_REAL.get(dtype, dtype)).itemsize * together
        if size > _MAX_BLOCK:
            raise SceneReadError(
                f"{path}: is stored in blocks of {height} x {width} pixels, {size / 1e9:.1f} GB "
                "each, that can only be read as a whole; convert it with gdal_translate -co "
                "TILED=YES"
            )


def is_service(source: Any) -> bool:
    """Return whether the pixels of an open raster come from a tile service."""
    return source.driver in _SERVICE_DRIVERS


def explain_service_error(error: BaseException) -> str:
    """Return why pixels of a tile service could not be read, and what to do, without its URL."""
    message = str(error.__cause__ or error)
    status = _HTTP_STATUS.search(message)
    if status is None:
        silent = _NO_ANSWER.search(message)
        reason = name_servers(silent[1].rstrip(".") if silent else one_line(error))
        return (
            f"the service does not send a tile ({reason}); check its URL and the connection, and "
            "run the same command again"
        )
    return (
        f"the service refuses a tile (HTTP status {status[1]}); if it means that there is no "
        f"image, <ZeroBlockHttpCodes>204,{status[1]}</ZeroBlockHttpCodes> in the service "
        "description makes such tiles nodata; otherwise check its URL and key"
    )


def list_files(path: str | Path) -> list[str]:
    """List the files of a raster: itself, its sidecar files and the sources of a VRT.

    Raises:
        SceneReadError: If it does not exist or is not a raster.
    """
    with open_raster(path) as raster:
        return files_of(raster, path)


def files_of(source: Any, path: str | Path) -> list[str]:
    """Return the files of an open raster, see `list_files`."""
    return sorted({str(path), *source.files})


def lacks_file(error: RasterioError) -> bool:
    """Return whether an error is about a missing file that the raster refers to."""
    return "no such file" in one_line(error).lower()


def missing_source(path: str | Path) -> str | None:
    """Return a local source of a VRT file that does not exist, or None.

    GDAL reports it only at the first attempt to read it in a process, and then reads zeros.
    """
    if Path(path).suffix.lower() != ".vrt":
        return None
    try:
        document = ElementTree.parse(path)
    except (OSError, ElementTree.ParseError, ValueError):
        return None
    for element in document.iter("SourceFilename"):
        name = element.text or ""
        if name.startswith("<"):  # the text of another VRT
            continue
        if element.get("relativeToVRT") == "1":
            name = str(Path(path).parent / name)
        if is_missing(name):
            return name
    return None


@contextmanager
def without_georeferencing_warnings() -> Iterator[None]:
    """Ignore rasterio's warning that a raster has no georeferencing.

    Threads that open rasters need this around all of them: rasterio ignores the warning of its own
    temporary rasters by filters that belong to the whole process, and of two threads the first that
    is done restores the filters of both.
    """
    with warnings.catch_warnings():
        # With a message, this filter is not rasterio's own, which its threads remove and add again.
        warnings.filterwarnings("ignore", "Dataset has no geotransform", NotGeoreferencedWarning)
        yield


def _open(name: str, overview: int | None = None) -> Any:
    options = {} if overview is None else {"OVERVIEW_LEVEL": overview}
    # A raster without georeferencing is refused with a clearer message.
    with without_georeferencing_warnings():
        try:
            return rasterio.open(readable_name(name), **options)
        except UnicodeDecodeError as error:  # GDAL quotes bytes of a damaged file in its message
            raise RasterioIOError(f"{name}: is damaged") from error


def is_raster(path: str | Path) -> bool:
    """Return whether GDAL opens a file as a raster with bands."""
    try:
        with _open(str(path)) as source:
            return bool(source.count)
    except RasterioError:
        return False


def describe(source: Any) -> str:
    """Return a dataset as the text of a GDAL VRT, with absolute file names."""
    with MemoryFile(ext=".vrt") as vrt:
        gdal_copy(source, vrt.name, driver="VRT")
        vrt.seek(0)
        document = ElementTree.fromstring(vrt.read())
    # GDAL leaves the sources of a mask band relative.
    for name in document.iter("SourceFilename"):
        if name.get("relativeToVRT") == "1":
            name.text = str(Path(source.name).parent / str(name.text))
            name.set("relativeToVRT", "0")
    return ElementTree.tostring(document, encoding="unicode")


def open_description(document: str) -> Any:
    """Open the text of a GDAL VRT."""
    return rasterio.open(document)
