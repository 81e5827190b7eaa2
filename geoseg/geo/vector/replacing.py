"""Replacement of vector layers, with all of their files, once the new layer is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from geoseg.errors import GeosegError, VectorReadError, one_line
from geoseg.geo.plain_names import writable_name
from geoseg.jobs.files import disk_full_error, is_disk_full, move_files, working_path

# Subfolder of the working folder, which may contain files of a job.
_FOLDER = "layer"


@contextmanager
def replace_layer(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success its files replace the layer.

    Files that an interrupted run left in the temporary folder are removed.

    Args:
        path: Path of the layer.

    Raises:
        VectorReadError: If it cannot be written.
        DiskFullError: If the disk is full.
    """
    if path.is_dir():
        raise VectorReadError(f"{path}: is a folder; name a file in it")
    working = working_path(path)
    folder = working / _FOLDER
    partial = folder / path.name
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise VectorReadError(f"{path}: cannot be written ({one_line(error)})") from error
    try:
        with writable_name(partial) as name:
            yield name
        move_files(folder, path)
    except (DataSourceError, DataLayerError, FeatureError, pa.ArrowInvalid, OSError) as error:
        if not isinstance(error, GeosegError) and is_disk_full(error, folder):
            raise disk_full_error(path) from error
        if isinstance(error, OSError):
            raise
        reason = one_line(error).replace(str(partial), str(path))
        raise VectorReadError(f"{path}: cannot be written ({reason})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # it contains files of a job
            working.rmdir()
