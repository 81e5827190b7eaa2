"""Layers take the place of older ones only when they are complete, with all of their files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from geoseg.errors import GeosegError, VectorReadError, one_line
from geoseg.jobs.journal import disk_full, is_full, working_name

# Folder inside the working folder, which may be that of a job.
_FOLDER = "layer"

# Files of an older layer that would be taken for the new one's: of a Shapefile its indexes, and
# the CRS as old versions of QGIS wrote it; of a GeoPackage what SQLite has yet to write into it.
_INDEXES = (".qix", ".sbn", ".sbx", ".idm", ".ind", ".qpj")
_LOGS = ("-wal", "-shm", "-journal")


@contextmanager
def replace_layer(path: Path) -> Iterator[Path]:
    """A name of the same suffix; what is beside it when the block ends well takes its place.

    What an interrupted run left under that name is removed.

    Args:
        path: The layer.

    Raises:
        VectorReadError: If it cannot be written.
        DiskFullError: If there is no room for it.
    """
    if path.is_dir():
        raise VectorReadError(f"{path}: is a folder; name a file in it")
    working = working_name(path)
    folder = working / _FOLDER
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise VectorReadError(f"{path}: cannot be written ({one_line(error)})") from error
    try:
        yield folder / path.name
        _take_place(folder, path)
    except (DataSourceError, DataLayerError, FeatureError, pa.ArrowInvalid, OSError) as error:
        if not isinstance(error, GeosegError) and is_full(error, folder):
            raise disk_full(path) from error
        if isinstance(error, OSError):
            raise
        raise VectorReadError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a job has more in it
            working.rmdir()


def _take_place(folder: Path, path: Path) -> None:
    """Moves all files of a layer to where it belongs.

    One file takes the place of another in one step. Several cannot: the old layer goes first
    then, and the file that it is opened by comes last, so that whoever is interrupted in between
    finds no layer, but never one that is mixed of old and new.
    """
    files = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
    stale = [file for file in _beside(path) if file.exists()]
    if stale or len(files) > 1:
        path.unlink(missing_ok=True)
    for file in stale:
        file.unlink()
    for file in files:
        os.replace(file, path.with_name(file.name))


def _beside(path: Path) -> list[Path]:
    suffix = path.suffix.lower()
    if suffix == ".shp":
        return [path.with_suffix(index) for index in _INDEXES]
    # A program that has the old GeoPackage open keeps the files it opened, whatever their names.
    return [path.with_name(path.name + log) for log in _LOGS] if suffix == ".gpkg" else []
