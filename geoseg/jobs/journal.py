"""Journals: which tasks of a job are finished, so that an interrupted job can continue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter

from geoseg.jobs.files import replace_file
from geoseg.version import __version__

Result = TypeVar("Result")


def describe_job(*parts: Any, files: Iterable[str | Path] = ()) -> str:
    """Return a short text that differs for any two jobs whose results could differ.

    Args:
        *parts: Settings and plans, as JSON takes them; anything else counts by its text.
        files: Inputs; local files count by size and modification time, too.
    """
    stats = [(_absolute(file), *_size_and_time(Path(file))) for file in files]
    text = json.dumps([__version__, parts, stats], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _absolute(file: str | Path) -> str:
    """Return one name for all spellings of a local file; other names as they are."""
    try:
        return str(Path(file).resolve()) if Path(file).exists() else str(file)
    except OSError:  # a signed address is too long for the name of a file
        return str(file)


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:  # not a local file
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


class Journal:
    """The finished tasks of a job: a file with one line of JSON per task.

    The file stays until the output has its final name (see `geoseg.jobs.output`), so that a job
    that is killed at any moment before that continues where it stopped.

    Args:
        folder: Working folder of the job; created if it is missing.
        job: Text of `describe_job`.

    Attributes:
        done: Result of each finished task by its key.
    """

    NAME = "journal.jsonl"

    def __init__(self, folder: Path, job: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._path = folder, folder / self.NAME
        self.done: dict[str, Any] = {}
        lines = _whole_lines(self._path)
        for line in lines[1:]:
            key, result = _parse(line)
            self.done[key] = result
        # The last line may have been cut short; it is dropped, and its task done again.
        text = "".join(lines) or json.dumps(job) + "\n"
        if not self._path.is_file() or self._path.stat().st_size != len(text.encode()):
            with replace_file(self._path) as partial:
                partial.write_text(text)
        self._file = self._path.open("a")

    def close(self) -> None:
        """Close the file; it stays on disk."""
        self._file.close()

    @staticmethod
    def discard(folder: Path) -> None:
        """Make the journal in a working folder worthless, before its files are removed."""
        with replace_file(folder / Journal.NAME) as partial:
            partial.write_text(json.dumps("discarded") + "\n")

    @classmethod
    def continues(cls, folder: Path, job: str) -> bool:
        """Whether a working folder was left by this very job."""
        lines = _whole_lines(folder / cls.NAME)
        return bool(lines) and _parse(lines[0]) == job

    @classmethod
    def has(cls, folder: Path, key: str) -> bool:
        """Whether the journal in a working folder, of any job, has a finished task of this key."""
        return any(_parse(line)[0] == key for line in _whole_lines(folder / cls.NAME)[1:])

    def add(self, key: str, result: Any) -> None:
        """Record a finished task.

        Args:
            key: Key of the task; a later record of the same key replaces an earlier one.
            result: Any JSON value; floats are restored to the last digit.
        """
        self.done[key] = result
        self._file.write(json.dumps([key, result]) + "\n")
        self._file.flush()

    def add_array(self, key: str, array: np.ndarray) -> None:
        """Record a finished task whose result is an array, stored in a file beside the journal."""
        with replace_file(self._array_path(key)) as partial, partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        self.add(key, True)

    def find(self, key: str, kind: type[Result] | Any) -> Result | None:
        """Return the result of a task; None if it is not finished, or its record is damaged.

        Args:
            key: Key of the task.
            kind: Type of the result with its range, as pydantic takes it.
        """
        try:
            found: Result = TypeAdapter(kind).validate_python(self.done[key])
        except (KeyError, ValueError):
            return None
        return found

    def find_array(self, key: str, dtype: str, columns: int) -> np.ndarray | None:
        """Return the array (n, columns) of a task; None if it is not finished or is damaged."""
        if key not in self.done:
            return None
        try:
            # Mapped, so that no more memory is allocated than the file has bytes.
            mapped = np.load(self._array_path(key), allow_pickle=False, mmap_mode="r")
        except (OSError, ValueError, EOFError, TypeError, OverflowError, SyntaxError):
            return None
        fits = mapped.dtype == dtype and mapped.ndim == 2 and mapped.shape[1] == columns
        return np.array(mapped) if fits else None

    def _array_path(self, key: str) -> Path:
        return self._folder / f"{key}.npy"


def _whole_lines(path: Path) -> list[str]:
    """Return the lines up to the first that is not whole: the job, then keys with results."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return []
    if not lines or not isinstance(_parse(lines[0]), str):
        return []
    return [lines[0], *takewhile(_is_record, lines[1:])]


def _is_record(line: str) -> bool:
    """Whether a line was written to its end and is a key with a result."""
    match _parse(line):
        case [str(), _]:
            return True
    return False


def _parse(line: str) -> Any:
    """Return the value of a line; None if it was not written to its end or is not valid JSON."""
    try:
        return json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
