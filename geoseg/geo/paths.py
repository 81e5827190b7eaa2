"""Paths of inputs: local files, and names that only GDAL can open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from geoseg.errors import counted

# Suffixes by which files are counted in a folder that was given instead of a file.
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "raster": (".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".jpeg", ".img", ".ecw"),
    "layer": (
        *(".gpkg", ".geojson", ".geojsonl", ".shp", ".fgb", ".parquet", ".geoparquet"),
        ".csv",
    ),
}

_REMOTE = ("/vsi", "http://", "https://", "s3://", "gs://")


def is_remote(path: str | Path) -> bool:
    """Return whether a name is that of a file that only GDAL opens."""
    return str(path).startswith(_REMOTE)


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
    return str(Path(path).resolve()) if Path(path).exists() else str(path)
