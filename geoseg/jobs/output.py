"""Outputs that get their final name only when they are complete.

Every verb writes through one of two context managers: `folder_output` and `file_output` (one file,
or the several of a Shapefile). Each holds the lock of the output, gives the job a working folder
beside it, `.NAME.partial`, and moves the result to its final name when the block succeeds:

    .NAME.partial/
        journal.jsonl    finished tasks; removed last
        result/          what takes the final name
        ...              intermediate files of the job

A job that is killed anywhere continues from there when the same command is run again.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from geoseg.credentials import get_logger
from geoseg.errors import (
    DiskFullError,
    GeosegError,
    MemoryLimitError,
    OutputExistsError,
    OutputLockedError,
    SceneReadError,
    VectorReadError,
    WorkerLostError,
)
from geoseg.jobs.files import (
    disk_full_error,
    is_disk_full,
    list_companions,
    move_files,
    remove_temporary_files,
    resolve_output,
    working_path,
)
from geoseg.jobs.journal import Journal, describe_job
from geoseg.jobs.lock import is_locked, lock_output
from geoseg.jobs.manifest import (
    MANIFEST_NAME,
    find_foreign_file,
    is_recorded,
    list_lock_files,
    remove_recorded_files,
    write_manifest,
)

logger = get_logger(__name__)

# Errors that leave finished tasks of use when the same command is run again.
_CONTINUABLE = (
    DiskFullError,
    MemoryLimitError,
    WorkerLostError,
    OutputExistsError,
)
# The same, if there is finished work at all.
_READ_ERRORS = (SceneReadError, VectorReadError)

# Layers that geoseg writes into GeoPackages.
_OWN_LAYERS = {"footprints", "review", "scenes", "layer_styles", "TP", "FP", "FN"}

_RESULT = "result"
_COMPLETE = "complete"


@dataclass(frozen=True)
class Work:
    """A job that is being done.

    Attributes:
        folder: Working folder, for intermediate files.
        result: Where the output is written: an existing folder, or the name of a file in one.
        journal: Finished tasks.
        is_complete: Whether an earlier process had finished the result and was killed before it got
            its final name; then there is nothing left to do.
    """

    folder: Path
    result: Path
    journal: Journal
    is_complete: bool

    def discard_results(self) -> None:
        """Remove all that was made so far, except for the journal."""
        parent = self.result if self.result.is_dir() else self.result.parent
        for path in [*self.folder.iterdir(), *parent.iterdir()]:
            if path.is_file() and path.name != Journal.NAME:
                path.unlink()
            elif path.is_dir() and path.name != _RESULT:
                shutil.rmtree(path)


def check_output(
    path: str | Path, *, overwrite: bool, inputs: Iterable[str | Path] = (), is_file: bool = False
) -> Path:
    """Check that an output may be written, before any work is done.

    Args:
        path: The output.
        overwrite: Whether an existing output may be replaced.
        inputs: Files that the job reads.
        is_file: Whether the output is a file; a file never replaces a folder, nor the reverse.

    Raises:
        OutputExistsError: If it exists (a folder: with a file in it) and may not be replaced, if it
            holds an input or a file that geoseg did not write, if it is the current folder or a
            mount point, or if one of its parents is a file.
    """
    check_is_local(path)
    path = Path(path)
    _check_kind(path, is_file)
    if path.is_dir():
        _check_movable(resolve_output(path))
    companions = list_companions(path) if is_file else []
    if not (path.is_file() or _has_files(path) or companions):
        return path
    if not overwrite and not Journal.has(working_path(resolve_output(path)), _COMPLETE):
        existing = path if path.exists() else companions[0]
        raise OutputExistsError(
            f"{existing}: already exists; choose another output, or replace it with --overwrite"
        )
    for source in inputs:
        if Path(source).resolve().is_relative_to(resolve_output(path)):
            raise OutputExistsError(
                f"{path}: cannot be overwritten, it contains the input {source}; choose another "
                "output"
            )
    if path.is_dir():
        _check_replaceable(resolve_output(path))
    elif path.suffix.lower() == ".gpkg":
        _check_layers(path)
    return path


def check_is_local(path: str | Path) -> None:
    """Check that an output is not on a server.

    A rename there is a copy, so that an output could be half of an old and half of a new one.

    Raises:
        OutputExistsError: If it is.
    """
    # `Path` has made one slash of two.
    name = str(path)
    is_gdal = re.match(r"/vsi[a-z0-9]+(_streaming)?/", name) and not Path(name).parents[-2].exists()
    if is_gdal or re.match(r"[a-z][a-z0-9+.-]+:/", name, re.IGNORECASE):
        raise OutputExistsError(
            f"{path}: outputs are written to local disks, since they get their name only when they "
            "are complete; write it to a folder, and copy it to the server afterwards"
        )


@contextmanager
def folder_output(
    path: str | Path,
    *,
    job: str | None = None,
    overwrite: bool = False,
    inputs: Iterable[str | Path] = (),
) -> Iterator[Work]:
    """Write a folder and its manifest; `Work.result` is that folder, empty at first.

    Args:
        path: The output.
        job: Text of `describe_job`, if an interrupted job can continue from its working folder.
        overwrite: Replace an existing output; only files that geoseg wrote are removed.
        inputs: Files that the job reads; an output that contains one of them is not replaced.

    Raises:
        OutputExistsError: See `check_output`.
        OutputLockedError: If another job is writing the same output.
        DiskFullError: If there is no room for the output.
    """
    check_output(path, overwrite=overwrite, inputs=inputs)
    with _open_work(Path(path), job, overwrite, "", _swap_folder) as work:
        yield work


@contextmanager
def file_output(
    path: str | Path,
    *,
    job: str | None = None,
    overwrite: bool = False,
    inputs: Iterable[str | Path] = (),
) -> Iterator[Work]:
    """Write a file, or the several files of a Shapefile; arguments as of `folder_output`."""
    check_output(path, overwrite=overwrite, inputs=inputs, is_file=True)
    name = Path(path).name
    with _open_work(Path(path), job, overwrite, name, move_files) as work:
        yield work


@contextmanager
def _open_work(
    given: Path,
    job: str | None,
    overwrite: bool,
    name: str,
    move: Callable[[Path, Path], None],
) -> Iterator[Work]:
    """Hold the lock, open the working folder, and move the result in the end.

    Args:
        given: The output as the user named it.
        job: See `folder_output`.
        overwrite: See `folder_output`.
        name: Name of the file inside the result folder; empty where that folder is the output.
        move: Moves the result folder, or its files, to the output.
    """
    named, path, given = given, resolve_output(given), given.absolute()
    with lock_output(path):
        folder = working_path(path)
        _restore_old(path)
        journal, is_complete = _open_journal(path, folder, job, overwrite)
        result = folder / _RESULT
        try:
            if not is_complete:
                result.mkdir(exist_ok=True)
            yield Work(folder, result / name if name else result, journal, is_complete)
            if not is_complete:
                remove_temporary_files(result)
                if not name:
                    write_manifest(result)
                journal.add(_COMPLETE, True)
            if _has_files(result):
                _check_again(given, path, overwrite=overwrite, is_file=bool(name))
                move(result, path)
            _check_written(given)
        except BaseException as error:
            _clean_up(folder, job, error)
            _name_output(error, result / name if name else result, named)
            if isinstance(error, OSError) and _is_full(error, folder):
                raise disk_full_error(given, resumable=job is not None) from error
            raise
        finally:
            journal.close()
        _remove_work(folder)


def _name_output(error: BaseException, result: Path, named: Path) -> None:
    """Replace the name under which an output is made by the user's, in the message of an error."""
    if isinstance(error, GeosegError) and error.args:
        error.args = (str(error).replace(str(result), str(named)), *error.args[1:])


def _check_again(given: Path, path: Path, *, overwrite: bool, is_file: bool) -> None:
    """Check what may have changed while the job ran."""
    _check_kind(path, is_file)
    if not is_file:
        return  # `_swap_folder` checks the files of a folder
    if not overwrite and (path.exists() or list_companions(path)):
        existing = given if path.exists() else list_companions(path)[0]
        raise OutputExistsError(
            f"{existing}: was created while the job ran; move it away, and run the same command "
            "again"
        )
    if path.suffix.lower() == ".gpkg":
        _check_layers(path)


def _check_written(given: Path) -> None:
    """Check that the output is there under the very name that the user gave."""
    if not given.exists():
        raise OutputExistsError(
            f"{given}: was written but is not there under this name; use a plainer name"
        )


def _open_journal(
    path: Path, folder: Path, job: str | None, overwrite: bool
) -> tuple[Journal, bool]:
    """Return the journal of an interrupted job or a new one, and whether its result is complete."""
    if job is not None and Journal.continues(folder, job):
        is_complete = Journal.has(folder, _COMPLETE)
        was_removed = is_complete and not _has_files(folder / _RESULT) and not path.exists()
        if not was_removed:
            if not is_complete:
                logger.warning("%s: continuing an interrupted job", path)
            return Journal(folder, job), is_complete
    if not overwrite and (path.is_file() or _has_files(path)):
        raise OutputExistsError(
            f"{path}: already exists; choose another output, or replace it with --overwrite"
        )
    _discard(path, folder, job)
    return Journal(folder, job or describe_job("not resumable")), False


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _discard(path: Path, folder: Path, job: str | None) -> None:
    """Remove the working folder of an interrupted job that cannot be continued."""
    if not _has_files(folder):
        return
    if not (folder / Journal.NAME).is_file():
        raise OutputExistsError(
            f"{folder}: is in the way and was not made by this version of geoseg; remove it, or "
            "choose another output"
        )
    if job is not None:
        logger.warning("%s: an interrupted job had other settings or inputs; starting anew", path)
    Journal.discard(folder)
    _remove_work(folder)


def _clean_up(folder: Path, job: str | None, error: BaseException) -> None:
    """Remove the working folder of a failed job, unless the job can be continued."""
    can_continue = not isinstance(error, GeosegError) or isinstance(error, _CONTINUABLE)
    if isinstance(error, _READ_ERRORS):  # a file share that is gone, or the first file is bad
        can_continue = any(
            path.is_file() and path.name != Journal.NAME for path in folder.rglob("*")
        )
    if job is not None and (can_continue or Journal.has(folder, _COMPLETE)):
        return
    Journal.discard(folder)
    _remove_work(folder)


def _remove_work(folder: Path) -> None:
    """Remove a working folder, its journal last, so that a kill leaves a folder that is known."""
    for path in folder.iterdir():
        if path.name == Journal.NAME:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    (folder / Journal.NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _is_full(error: OSError, folder: Path) -> bool:
    if isinstance(error, GeosegError):
        return isinstance(error, DiskFullError)
    return is_disk_full(error, folder)


def _check_kind(path: Path, is_file: bool) -> None:
    if is_file and path.is_dir():
        raise OutputExistsError(f"{path}: is a folder; name a file in it, or another file")
    if path.is_file() and not is_file:
        raise OutputExistsError(f"{path}: is a file, but a folder is written; choose another name")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputExistsError(f"{path}: is neither a file nor a folder; choose another name")
    if is_file and path.suffix.lower() == ".shp" != path.suffix:
        raise OutputExistsError(f"{path}: write the suffix in lower case, as .shp")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise OutputExistsError(f"{path}: cannot be written, {parent} is a file")


def _check_layers(path: Path) -> None:
    """Check that replacing a GeoPackage removes nothing but geoseg's own layers."""
    if not path.is_file():
        return
    name = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(name, uri=True, timeout=1)) as database:
            rows = database.execute("SELECT table_name FROM gpkg_contents").fetchall()
    except sqlite3.Error as error:
        if "locked" in str(error) or "busy" in str(error):
            raise OutputExistsError(
                f"{path}: is open for writing in another program; close it there, and run the same "
                "command again"
            ) from error
        return  # not a GeoPackage, or a damaged one
    foreign = sorted({str(name) for (name,) in rows} - _OWN_LAYERS)
    if foreign:
        raise OutputExistsError(
            f"{path}: contains the layer {foreign[0]}, which geoseg did not write; choose another "
            "output"
        )


def _check_movable(path: Path) -> None:
    """Check that a folder can be replaced by another one of the same name."""
    if path.is_mount():
        raise OutputExistsError(f"{path}: is a mount point; name a folder inside it")
    if Path.cwd().is_relative_to(path):
        raise OutputExistsError(
            f"{path}: contains the current folder; change to another folder, or name one inside it"
        )


def _check_replaceable(path: Path) -> None:
    """Check that replacing a folder removes nothing but geoseg's own files."""
    foreign = find_foreign_file(path)
    if foreign and is_recorded(path, foreign):
        raise OutputExistsError(
            f"{path}: the style {foreign.relative_to(path)} was changed by another program and is "
            "kept from being overwritten; move it away or delete it, and run the same command again"
        )
    if foreign:
        raise OutputExistsError(
            f"{path}: contains {foreign.relative_to(path)}, which is not part of this output; move "
            "it away, or choose another output"
        )
    for file in path.rglob("*.gpkg"):
        _check_layers(file)
    for file in list_lock_files(path):
        if is_locked(file):
            raise OutputLockedError(
                f"{path}: another job is writing into it ({file.relative_to(path)}); wait until it "
                "has finished, or choose another output"
            )


def _old_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _restore_old(path: Path) -> None:
    """Undo or finish the replacement of a folder during which an earlier process was killed."""
    old = _old_path(path)
    if not old.is_dir():
        return
    if _has_files(old) and not (old / MANIFEST_NAME).is_file():
        raise OutputExistsError(
            f"{old}: is in the way and is not an output of geoseg; move it away, and run the same "
            "command again"
        )
    if not path.exists():
        os.replace(old, path)
        return
    remove_recorded_files(old)
    if old.exists():
        raise OutputExistsError(
            f"{old}: contains files that geoseg did not write; move them away, and run the same "
            "command again"
        )


def _swap_folder(result: Path, path: Path) -> None:
    """Replace a folder; the old one is removed only after the new one has its name."""
    old = _old_path(path)
    if path.exists():
        _check_replaceable(path)
        os.replace(path, old)
    try:
        os.replace(result, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    if old.exists():
        remove_recorded_files(old)
    if old.exists():
        logger.warning("%s: files that geoseg did not write were kept in %s", path, old)
