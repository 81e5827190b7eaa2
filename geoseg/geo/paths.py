"""Paths of inputs: local files, and names that only GDAL can open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from geoseg.errors import counted

# Suffixes by which files are counted in a folder that was given instead of a file.
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "raster": (".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".jpeg", ".img", ".ecw"),
    "layer": (
        *(".gpkg", ".geojson", ".geojsonl", ".shp", ".fgb", ".parquet", ".geoparquet"),
        ".csv",
    ),
}

_REMOTE = ("/vsi", "http://", "https://", "ftp://", "s3://", "gs://", "az://", "oss://")

# Names of STAC documents; addresses of APIs have no suffix. GDAL has a format of its own in JSON.
_STAC = re.compile(r".*(?<!\.gdalg)\.(json|geojson)", re.IGNORECASE | re.DOTALL)
_STAC_API = re.compile(r".*/(search|collections/[^/]+|items(/[^/]+)?)/?")


def is_remote(path: str | Path) -> bool:
    """Return whether a name is that of a file that only GDAL opens."""
    return str(path).startswith(_REMOTE)


def is_address(path: str | Path) -> bool:
    """Return whether a name is an address of a web server."""
    return str(path).startswith(("http://", "https://"))


def may_be_stac(name: str) -> bool:
    """Return whether a name may be that of a STAC document, local or on a web server."""
    if not is_address(name):
        return not is_remote(name) and _STAC.fullmatch(name) is not None
    path = urlsplit(name).path
    is_api = _STAC_API.fullmatch(path) is not None and not has_raster_suffix(path)
    return is_api or _STAC.fullmatch(path) is not None


def is_missing(path: str | Path) -> bool:
    """Return whether a path is local and the file does not exist."""
    return not is_remote(path) and not Path(path).exists()


def no_such_file(path: str | Path) -> str:
    """Return the error message for a missing file."""
    return f"{path}: no such file; check the path (and quotes around spaces)"


def is_a_folder(path: str | Path, kind: Literal["raster", "layer"]) -> str:
    """Return the error message for a folder where a file is expected.

    Args:
        path: The folder.
        kind: What is expected; files are recognised by their suffix.
    """
    found = {name: _list_files(Path(path), suffixes) for name, suffixes in _SUFFIXES.items()}
    files = found.pop(kind)
    if not files:
        ((other, others),) = found.items()
        beside = f", only {counted(len(others), other)}" if others else ""
        return f"{path}: is a folder without a {kind} directly in it{beside}; give a file"
    # The mask is what an output folder of predict is least likely given for.
    first = next((file for file in files if file.name != "mask.tif"), files[0])
    return f"{path}: is a folder with {counted(len(files), kind)}; give a file, such as {first}"


def has_raster_suffix(path: str | Path) -> bool:
    """Return whether the suffix of a file is one of the usual suffixes of rasters."""
    return Path(path).suffix.lower() in _SUFFIXES["raster"]


def list_rasters(folder: Path) -> list[Path]:
    """List the rasters directly in a folder, by their suffix."""
    return _list_files(folder, _SUFFIXES["raster"])


def _list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    files = (file for file in folder.iterdir() if not file.name.startswith("."))
    return sorted(f for f in files if f.suffix.lower() in suffixes and f.is_file())


def absolute_path(path: str | Path) -> str:
    """Return an absolute path, for workers in other folders; names of remote files unchanged."""
    # Signed addresses are too long for names of files, for which systems raise errors.
    if is_remote(path) or not Path(path).exists():
        return str(path)
    return str(Path(path).resolve())
