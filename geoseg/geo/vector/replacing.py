"""Replacement of vector layers, with all of their files, once the new layer is complete."""

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

# Subfolder of the working folder, which may contain files of a job.
_FOLDER = "layer"

# Files of an old layer that would be read with the new one: indexes of a Shapefile and its CRS
# as old versions of QGIS wrote it, and SQLite's logs of a GeoPackage.
_INDEXES = (".qix", ".sbn", ".sbx", ".idm", ".ind", ".qpj")
_LOGS = ("-wal", "-shm", "-journal")


@contextmanager
def replace_layer(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name; on success its files replace the layer.

    Files that an interrupted run left in the temporary folder are removed.

    Args:
        path: Path of the layer.

    Raises:
        VectorReadError: If it cannot be written.
        DiskFullError: If the disk is full.
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
        _replace_files(folder, path)
    except (DataSourceError, DataLayerError, FeatureError, pa.ArrowInvalid, OSError) as error:
        if not isinstance(error, GeosegError) and is_full(error, folder):
            raise disk_full(path) from error
        if isinstance(error, OSError):
            raise
        raise VectorReadError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # it contains files of a job
            working.rmdir()


def _replace_files(folder: Path, path: Path) -> None:
    """Move all files of a layer to their final place.

    A single file is replaced in one step. Several files cannot be: the main file of the old layer
    is removed first and that of the new one is moved last, so that after an interruption there is
    no layer, but never a mixture of old and new files.
    """
    files = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
    stale = [file for file in _stale_files(path) if file.exists()]
    if stale or len(files) > 1:
        path.unlink(missing_ok=True)
    for file in stale:
        file.unlink()
    for file in files:
        os.replace(file, path.with_name(file.name))


def _stale_files(path: Path) -> list[Path]:
    suffix = path.suffix.lower()
    if suffix == ".shp":
        return [path.with_suffix(index) for index in _INDEXES]
    # A program that has the old GeoPackage open keeps its open files even if they are deleted.
    return [path.with_name(path.name + log) for log in _LOGS] if suffix == ".gpkg" else []
