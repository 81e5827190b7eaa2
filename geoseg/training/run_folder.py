"""The folder of a training run: its lock, and the record of the files in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geoseg.jobs.lock import lock_output
from geoseg.jobs.manifest import (
    MANIFEST_NAME,
    add_names_to_manifest,
    add_to_manifest,
    remove_recorded_files,
)
from geoseg.training.checkpoints import RUN_NAMES, mosaic_folder
from geoseg.training.distributed import is_first
from geoseg.training.loading.mosaic import MOSAIC_FILES, remove_mosaic
from geoseg.training.loggers import LOGGED_NAMES


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, so that no other run writes into it.

    Of several processes that train together, only the first does. Log files are recorded in the
    end, because their names are chosen by the loggers.

    Raises:
        OutputLockedError: If another run writes into the folder now.
    """
    if not is_first():
        yield
        return
    with lock_output(folder):
        try:
            yield
        finally:
            if (folder / MANIFEST_NAME).is_file():
                add_to_manifest(folder, (folder / name for name in LOGGED_NAMES))


def start_run(folder: Path, processes: int) -> None:
    """Remove the files of an earlier run, and record those that this one will write.

    Args:
        folder: Folder of the run; created if it is missing.
        processes: Number of processes that train together; each has its own mosaic files.
    """
    if (folder / MANIFEST_NAME).is_file():
        _remove_earlier(folder, processes)
    else:  # made by version 0.1.0, if there is anything
        for name in RUN_NAMES:
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    mosaics = [
        f"{mosaic_folder(folder, rank).name}/{name}"
        for rank in range(processes)
        for name in MOSAIC_FILES
    ]
    add_names_to_manifest(folder, (*RUN_NAMES, *mosaics))


def _remove_earlier(folder: Path, processes: int) -> None:
    """Remove recorded files, except for mosaics that other processes may have begun already."""
    others = {mosaic_folder(folder, rank) for rank in range(1, processes)}
    # The state goes first: without it the remaining files cannot be resumed.
    for name in RUN_NAMES:
        (folder / name).unlink(missing_ok=True)
    remove_recorded_files(folder, keep=others)
    remove_mosaic(mosaic_folder(folder, 0))
