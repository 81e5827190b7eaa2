"""Locks: one job at a time per output."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from geoseg.credentials import get_logger
from geoseg.errors import (
    GeosegError,
    OutputExistsError,
    OutputLockedError,
    OutputWriteError,
)
from geoseg.jobs.files import disk_full_error, resolve_output

logger = get_logger(__name__)

# What a file system answers that cannot lock files.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def lock_output(path: str | Path) -> Iterator[None]:
    """Hold the lock of an output; a second job on the same output is refused.

    The lock is a lock of the operating system on the file `.NAME.lock` beside the output, which is
    removed in the end. A process that dies loses the lock at once, so nothing is left to clean up.
    On network file systems it holds between machines where the server supports `flock` (NFS since
    Linux 2.6.12, most SMB servers). A file system without locks is reported by a warning.

    Args:
        path: The output, existing or not.

    Raises:
        OutputLockedError: If another job writes the output now.
        OutputExistsError: If a file of somebody else has the name of the lock.
        OutputWriteError: If nothing can be written there.
    """
    output = resolve_output(path)
    file = output.with_name(f".{output.name}.lock")
    if file.exists() and (not file.is_file() or file.stat().st_size):
        raise OutputExistsError(
            f"{file}: is in the way and is not a lock of geoseg; move it away, or choose another "
            "output"
        )
    try:
        made = _make_folder(file.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    lock = FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        held = _acquire(lock, file, path)
        try:
            yield
        finally:
            if held:
                with suppress(OSError):  # Windows removes no open file
                    file.unlink()
                lock.release()
    finally:
        for folder in made:
            with suppress(OSError):  # holds the output now
                folder.rmdir()


def _acquire(lock: FileLock, file: Path, path: str | Path) -> bool:
    """Acquire a lock on the file that has the name now; return whether locks are supported."""
    while True:
        try:
            lock.acquire()
        except Timeout as error:
            if not file.exists() and _create(file, path):  # of a job that has just ended
                continue
            raise OutputLockedError(
                f"{path}: another job is writing this output; wait until it has finished, or "
                "choose another output"
            ) from error
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise _cannot_write(path, error) from error
            logger.warning("%s: its file system has no locks; run one job on it at a time", path)
            return False
        # Another job may have removed the file between our opening and locking it.
        if file.exists():
            return True
        lock.release()


def _create(file: Path, path: str | Path) -> bool:
    """Create a lock file, since a lock does not tell why it could not be created."""
    try:
        file.touch()
    except OSError as error:
        raise _cannot_write(path, error) from error
    return True


def is_locked(file: Path) -> bool:
    """Whether a job holds a lock file."""
    lock = FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    except (NotImplementedError, OSError):
        return False
    lock.release()
    return False


def _cannot_write(path: str | Path, error: OSError) -> GeosegError:
    if error.errno == errno.ENOSPC:
        return disk_full_error(Path(path))
    reason = error.strerror.lower() if error.strerror else str(error)
    return OutputWriteError(
        f"{path}: cannot be written ({reason}); check the path, its permissions and the disk"
    )


def _make_folder(folder: Path) -> list[Path]:
    """Create a folder with its parents; return those that were missing, the deepest first."""
    missing = []
    parent = folder
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    os.makedirs(folder, exist_ok=True)
    return missing
