"""Outputs that appear under their final name only when complete, and jobs that go on."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from geoseg import __version__
from geoseg.errors import DiskFullError, GeosegError, MemoryLimitError, OutputExistsError

logger = logging.getLogger(__name__)

# What geoseg writes into folders that it replaces as a whole. A folder that holds anything
# else is somebody's, and is not replaced.
OURS = frozenset(
    (
        *("images", "targets", "tiles.parquet", "footprints.parquet", "tiles.json"),
        *("train.geojson", "val.geojson", "test.geojson", "labels.json", "labels.html"),
        *("prob.tif", "mask.tif", "footprints.gpkg", "prob.tif.aux.xml", "mask.tif.aux.xml"),
        *("scene.tif", "scene.tif.aux.xml", "tiles", "run", "out", "report", "demo.png"),
    )
)

# Bytes; a disk with less free is full.
LEAST_FREE = 1_000_000


def check_output(
    path: str | Path, *, overwrite: bool, inputs: Iterable[str | Path] = (), is_file: bool = False
) -> Path:
    """Refuses an output that is there already, before any work is done.

    Args:
        path: The output.
        overwrite: Whether it may be replaced.
        inputs: What the work reads.
        is_file: Whether it will be a file; neither replaces the other.

    Raises:
        OutputExistsError: If it exists (a folder: with something in it) and may not be
            overwritten, if an input would go with it, or if its parent is a file.
    """
    path = Path(path)
    if is_file and path.is_dir():
        raise OutputExistsError(f"{path}: is a folder; name a file in it, or another")
    if path.is_file() and not is_file:
        raise OutputExistsError(f"{path}: is a file, where a folder is to be; choose another name")
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


def working_name(path: Path) -> Path:
    """The name beside an output under which it is made; what is left there may be removed."""
    return path.with_name(f".{path.name}.partial")


def _check_made_here(path: Path) -> None:
    strange = sorted(p.name for p in path.iterdir() if p.name not in OURS) if path.is_dir() else []
    if strange:
        raise OutputExistsError(
            f"{path}: holds {strange[0]}, which geoseg did not write and would delete; choose "
            "another output"
        )


@contextmanager
def claim_output(
    path: str | Path,
    *,
    overwrite: bool = False,
    inputs: Iterable[str | Path] = (),
    job: str | None = None,
    file: str | None = "",
) -> Iterator[Path]:
    """A working folder beside `path` that takes its name when the block ends well.

    What an earlier, interrupted run left there is removed, unless its `Journal` says that it
    is the same job. If the block fails, so is the working folder, unless a job that can go on
    was interrupted or lacks disk or memory; `path` is as it was.

    Args:
        path: The output folder.
        overwrite: Replace it if it is there.
        inputs: What the work reads; a folder that holds one of them is not replaced.
        job: What the work is, from `describe_job`, where it keeps a `Journal`.
        file: Name of a file in the working folder that takes the name of `path` alone; None
            where the block writes the output itself.

    Yields:
        The working folder, which exists only if an interrupted job goes on.

    Raises:
        OutputExistsError: If the output is there and may not be overwritten, if it is the
            current folder or holds it, a mount point, or holds files that are not geoseg's.
    """
    is_file = file != ""
    path = check_output(path, overwrite=overwrite, inputs=inputs, is_file=is_file).resolve()
    if path.is_mount():
        raise OutputExistsError(f"{path}: is a mount point; name a folder inside it")
    if Path.cwd().is_relative_to(path):
        raise OutputExistsError(f"{path}: is the current folder or holds it; name one inside it")
    _check_made_here(path)
    partial = working_name(path)
    if job is not None and Journal.continues(partial, job):
        logger.warning("%s: going on where an interrupted run stopped", path)
    elif partial.exists():
        if job is not None:
            logger.warning(
                "%s: what an interrupted run left is of other settings or inputs; starting anew",
                path,
            )
        shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if file is not None:
            _swap(partial / file, path)
        shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        full = isinstance(error, DiskFullError) or (
            not isinstance(error, GeosegError) and is_full(error, partial)
        )
        _clear(partial, job, error)
        if full:
            raise disk_full(path, goes_on=job is not None) from error
        raise
    except BaseException as error:
        _clear(partial, job, error)
        raise


def _clear(partial: Path, job: str | None, error: BaseException) -> None:
    """Removes what a failed run leaves, unless it can go on."""
    lacking = isinstance(error, DiskFullError | MemoryLimitError)
    if job is None or (isinstance(error, GeosegError) and not lacking):
        shutil.rmtree(partial, ignore_errors=True)


def is_full(error: Exception, folder: Path) -> bool:
    """Whether it is lack of space that ended something; GDAL does not say so reliably."""
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    return getattr(error, "errno", None) == errno.ENOSPC or free < LEAST_FREE


def disk_full(path: Path, *, goes_on: bool = False) -> DiskFullError:
    """The error of an output that found no room."""
    later = ", it goes on where it stopped" if goes_on else ""
    return DiskFullError(
        f"{path}: the disk is full; free some space and run the same command again{later}"
    )


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
    partial = working_name(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def describe_job(*parts: Any, files: Iterable[str | Path] = ()) -> str:
    """A short text that differs for any two jobs whose results could.

    Args:
        *parts: Settings and plans, as JSON takes them; anything else counts by its text.
        files: What is read; local files count by size and time of change, too.
    """
    stats = [(str(file), *_size_and_time(Path(file))) for file in files]
    text = json.dumps([__version__, parts, stats], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:  # not a local file
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


class Journal:
    """What of a job is finished: a line of JSON per task, in the job's working folder.

    It is removed when the block ends well, and read again when the job goes on.

    Args:
        folder: The working folder.
        job: From `describe_job`.

    Attributes:
        done: The result of each finished task, by its key.
    """

    NAME = "journal.jsonl"

    def __init__(self, folder: Path, job: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._path = folder, folder / self.NAME
        self.done: dict[str, Any] = {}
        lines = _whole_lines(self._path)
        for line in lines[1:]:
            key, result = json.loads(line)
            self.done[key] = result
        # A line that was cut short is written again.
        text = "".join(lines) or json.dumps(job) + "\n"
        self._path.write_text(text)
        self._file = self._path.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None:
            self._path.unlink()
            for key in self.done:
                self._array_path(key).unlink(missing_ok=True)

    @classmethod
    def continues(cls, folder: Path, job: str) -> bool:
        """Whether a working folder was left by this very job."""
        lines = _whole_lines(folder / cls.NAME)
        return bool(lines) and json.loads(lines[0]) == job

    def add(self, key: str, result: Any) -> None:
        """Says that a task is finished.

        Args:
            key: Of the task.
            result: What JSON takes; numbers come back to the last digit.
        """
        self.done[key] = result
        self._file.write(json.dumps([key, result]) + "\n")
        self._file.flush()

    def keep(self, key: str, array: np.ndarray) -> None:
        """Says that a task is finished whose result is an array, which is kept beside."""
        with replace_file(self._array_path(key)) as partial, partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        self.add(key, True)

    def kept(self, key: str) -> np.ndarray:
        """The array of a finished task."""
        array: np.ndarray = np.load(self._array_path(key), allow_pickle=False)
        return array

    def _array_path(self, key: str) -> Path:
        return self._folder / f"{key}.npy"


def _whole_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return []
    return list(takewhile(_is_whole, lines))


def _is_whole(line: str) -> bool:
    """Whether a line was written to its end, and not damaged since."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith("\n")
