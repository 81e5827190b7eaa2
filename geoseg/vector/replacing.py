"""Layers take the place of older ones only when they are complete, with all of their files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from geoseg.errors import VectorReadError, one_line
from geoseg.journal import working_name

# Folder inside the working folder, which may be that of a job.
_FOLDER = "layer"

_SHAPEFILE_INDEXES = (".qix", ".sbn", ".sbx")


@contextmanager
def replace_layer(path: Path) -> Iterator[Path]:
    """A name of the same suffix; what is beside it when the block ends well takes its place.

    What an interrupted run left under that name is removed.

    Args:
        path: The layer.

    Raises:
        VectorReadError: If it cannot be written.
    """
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
    except (DataSourceError, DataLayerError, FeatureError, pa.ArrowInvalid) as error:
        raise VectorReadError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a job has more in it
            working.rmdir()


def _take_place(folder: Path, path: Path) -> None:
    if path.suffix.lower() == ".shp":
        for suffix in _SHAPEFILE_INDEXES:  # of a layer that is overwritten
            path.with_suffix(suffix).unlink(missing_ok=True)
    for written in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
        os.replace(written, path.with_name(written.name))
