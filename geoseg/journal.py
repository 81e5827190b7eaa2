"""Outputs that appear under their final name only when they are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from geoseg.errors import OutputExistsError

# What geoseg writes into folders that it replaces as a whole. A folder that holds anything
# else is somebody's, and is not replaced.
OURS = frozenset(
    (
        *("images", "targets", "tiles.parquet", "footprints.parquet", "tiles.json"),
        *("train.geojson", "val.geojson", "test.geojson"),
        *("prob.tif", "mask.tif", "footprints.gpkg", "prob.tif.aux.xml", "mask.tif.aux.xml"),
        *("scene.tif", "scene.tif.aux.xml", "tiles", "run", "out", "report", "demo.png"),
    )
)


def check_output(path: str | Path, *, overwrite: bool, inputs: Iterable[str | Path] = ()) -> Path:
    """Refuses an output that is there already, before any work is done.

    Args:
        path: The output.
        overwrite: Whether it may be replaced.
        inputs: What the work reads.

    Raises:
        OutputExistsError: If it exists (a folder: with something in it) and may not be
            overwritten, if an input would go with it, or if its parent is a file.
    """
    path = Path(path)
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise OutputExistsError(f"{path}: cannot be written, {parent} is a file")
    there = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if there and not overwrite:
        raise OutputExistsError(
            f"{path}: is there already; choose another output or pass --overwrite"
        )
    for source in inputs:
        if there and Path(source).resolve().is_relative_to(path.resolve()):
            raise OutputExistsError(
                f"{path}: cannot be overwritten, the input {source} would be lost; choose "
                "another output"
            )
    return path


def _check_made_here(path: Path) -> None:
    strange = sorted(p.name for p in path.iterdir() if p.name not in OURS) if path.is_dir() else []
    if strange:
        raise OutputExistsError(
            f"{path}: holds {strange[0]}, which geoseg did not write and would delete; choose "
            "another output"
        )


@contextmanager
def claim_output(
    path: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path] = ()
) -> Iterator[Path]:
    """A working folder beside `path` that takes its name when the block ends well.

    What an earlier, interrupted run left there is removed; if the block fails, so is the
    working folder, and `path` is as it was.

    Args:
        path: The output folder.
        overwrite: Replace it if it is there.
        inputs: What the work reads; a folder that holds one of them is not replaced.

    Yields:
        The working folder, which does not exist yet.

    Raises:
        OutputExistsError: If the output is there and may not be overwritten, if it is the
            current folder or holds it, a mount point, or holds files that are not geoseg's.
    """
    path = check_output(path, overwrite=overwrite, inputs=inputs).resolve()
    if path.is_mount():
        raise OutputExistsError(f"{path}: is a mount point; name a folder inside it")
    if Path.cwd().is_relative_to(path):
        raise OutputExistsError(f"{path}: is the current folder or holds it; name one inside it")
    _check_made_here(path)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        _swap(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, path: Path) -> None:
    """Puts the new in the place of the old, which is removed only once the new is there."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(partial, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """A name beside `path` whose file takes its place when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
