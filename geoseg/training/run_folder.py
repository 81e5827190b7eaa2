"""The folder of a training run: its lock, and the record of the files in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from geoseg.jobs.lock import lock_output
from geoseg.jobs.manifest import (
    MANIFEST_NAME,
    add_names_to_manifest,
    add_to_manifest,
    read_manifest,
    remove_leftovers,
    remove_recorded_files,
)
from geoseg.training.checkpoints import LAST_NAME, RUN_NAMES, mosaic_folder
from geoseg.training.distributed import is_first
from geoseg.training.loading.mosaic import MOSAIC_FILES
from geoseg.training.loggers import LOGGED_NAMES


class RunFolder:
    """The folder of a run whose lock is held.

    Args:
        path: The folder.
        loggers: Names of the loggers of the run.
    """

    def __init__(self, path: Path, loggers: Iterable[str]) -> None:
        self._path = path
        self._logs = [path / name for logger in loggers for name in LOGGED_NAMES[logger]]
        self._foreign: set[Path] | None = None

    @property
    def holds_run(self) -> bool:
        """Whether it has the record of an earlier run, or nothing at all."""
        empty = not self._path.exists() or not any(self._path.iterdir())
        return empty or LAST_NAME in read_manifest(self._path)

    def start(self, processes: int) -> None:
        """Remove the files of an earlier run, and record those that this one will write.

        Args:
            processes: Number of processes that train together; each has its own mosaic files.
        """
        if (self._path / MANIFEST_NAME).is_file():
            self._remove_earlier(processes)
        self._path.mkdir(parents=True, exist_ok=True)
        mosaics = [
            f"{mosaic_folder(self._path, rank).name}/{name}"
            for rank in range(processes)
            for name in MOSAIC_FILES
        ]
        add_names_to_manifest(self._path, (*RUN_NAMES, *mosaics))
        self.watch_logs()

    def watch_logs(self) -> None:
        """Remember the log files that exist, so that only new ones are recorded.

        Temporary files of a killed process are removed.
        """
        remove_leftovers(self._path)
        ours = {self._path / name for name in read_manifest(self._path)}
        self._foreign = set(self._list_logs()) - ours

    def record_logs(self) -> None:
        """Record log files of this run; their names are chosen by the loggers."""
        if self._foreign is not None and self._path.is_dir():
            new = [file for file in self._list_logs() if file not in self._foreign]
            add_to_manifest(self._path, new)

    def _list_logs(self) -> Iterator[Path]:
        for log in self._logs:
            files = log.rglob("*") if log.is_dir() else [log]
            yield from (file for file in files if file.is_file())

    def _remove_earlier(self, processes: int) -> None:
        """Remove recorded files, except for mosaics that other processes may have begun."""
        others = {mosaic_folder(self._path, rank) for rank in range(1, processes)}
        # The state goes first: without it the remaining files cannot be resumed.
        (self._path / LAST_NAME).unlink(missing_ok=True)
        remove_recorded_files(self._path, keep=others)


@contextmanager
def lock_run(folder: Path, loggers: Iterable[str] = ()) -> Iterator[RunFolder]:
    """Hold the lock of a run's folder, so that no other run writes into it.

    Of several processes that train together, only the first holds it.

    Args:
        folder: The folder.
        loggers: Names of the loggers of the run.

    Raises:
        OutputLockedError: If another run writes into the folder now.
    """
    run = RunFolder(folder, loggers)
    if not is_first():
        yield run
        return
    with lock_output(folder):
        try:
            yield run
        finally:
            run.record_logs()
