"""Atomic replacement of single files, and detection of full disks."""

from __future__ import annotations

import atexit
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from geoseg.credentials import get_logger
from geoseg.errors import DiskFullError, OutputWriteError

logger = get_logger(__name__)

# GDAL does not always report that its last bytes did not fit on the disk, so a disk with less free
# space than this counts as full. Bytes.
LEAST_FREE = 1_000_000

# Small objects in JSON take 30 times as much memory as their text. Bytes.
_MOST_TEXT = 50_000_000

# Files that would be read with the new file although they describe the old one: indexes of a
# Shapefile, its CRS as old versions of QGIS stored it, and pending changes of a SQLite database.
_STALE_SHAPEFILE = (".qix", ".sbn", ".sbx", ".idm", ".ind", ".qpj")
_STALE_GEOPACKAGE = ("-wal", "-shm", "-journal")

# Names of `replace_file`, and of the files that GDAL makes beside one while it writes a COG.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.partial(\..+)?")

# Styles that QGIS loads with a raster. QGIS drops the mark when a user saves a style.
_STYLE_SUFFIX = ".qml"
STYLE_MARK = "written by geoseg"


@cache
def process_folder() -> Path:
    """Return a folder for temporary files of this process, which is removed when it ends."""
    folder = tempfile.mkdtemp(prefix="geoseg_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def resolve_output(path: str | Path) -> Path:
    """Return the absolute path of an output, without symbolic links.

    Raises:
        OutputWriteError: If its symbolic links form a loop.
    """
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError) as error:  # Python 3.13 raises OSError
        raise OutputWriteError(
            f"{path}: its symbolic links form a loop; choose another output"
        ) from error


def working_path(path: Path) -> Path:
    """Return the hidden name beside an output under which it is made."""
    return path.with_name(f".{path.name}.partial")


def read_text(path: Path, most: int = _MOST_TEXT) -> str:
    """Read a small text file.

    Args:
        path: The file.
        most: The largest size that is read, bytes.

    Raises:
        ValueError: If it is larger, or not text.
    """
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"it has {size / 1e6:.0f} MB, but at most {most / 1e6:.0f} MB are read")
    return path.read_text(encoding="utf-8")


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; its file replaces `path` when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: Dask may repeat a task while the lost worker is still writing.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed processes left of `replace_file` in a folder that only geoseg fills."""
    for path in list(folder.rglob(".*.partial*")):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def move_files(folder: Path, path: Path) -> None:
    """Move the files of a layer out of a folder to their final place.

    One file replaces another atomically. Several files (a Shapefile) cannot be replaced in one
    step: the main file of the old layer is removed first, and the main file of the new layer comes
    last. After an interruption there may be no layer, but never a mixture of two. A style beside a
    raster is not part of it: it comes first, and a style of somebody else is kept.

    Args:
        folder: Holds only the files of the layer, among them one named like `path`.
        path: Final name of the main file.
    """
    files = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
    styles = [file for file in files if file.suffix == _STYLE_SUFFIX]
    files = [file for file in files if file not in styles]
    for file in styles:
        target = path.with_name(file.name)
        if not target.exists() or is_own_style(target):
            os.replace(file, target)
        else:
            logger.warning("%s: is a style that geoseg did not write, and is kept", target)
            file.unlink()
    stale = [file for file in _stale_files(path) if file.exists()]
    if stale or len(files) > 1:
        path.unlink(missing_ok=True)
    for file in stale:
        file.unlink()
    for file in files:
        os.replace(file, path.with_name(file.name))


def is_own_style(path: Path) -> bool:
    """Whether a file is a QGIS style with geoseg's mark, which QGIS drops when it saves one."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return path.suffix == _STYLE_SUFFIX and f"<!-- {STYLE_MARK} -->" in text


def is_foreign_style(path: Path) -> bool:
    """Whether a file is a QGIS style that somebody else has made or changed."""
    return path.suffix == _STYLE_SUFFIX and not is_own_style(path)


def list_companions(path: Path) -> list[Path]:
    """Return the existing files that would be replaced or removed together with a layer."""
    parts = (".shx", ".dbf", ".prj", ".cpg") if path.suffix.lower() == ".shp" else ()
    files = [*(path.with_suffix(part) for part in parts), *_stale_files(path)]
    return [file for file in files if file.exists()]


def _stale_files(path: Path) -> list[Path]:
    suffix = path.suffix.lower()
    if suffix == ".shp":
        return [path.with_suffix(index) for index in _STALE_SHAPEFILE]
    if suffix == ".gpkg":
        return [path.with_name(path.name + log) for log in _STALE_GEOPACKAGE]
    return []


def free_space(folder: Path) -> int | None:
    """Return the free bytes of the disk of a folder, or of its parent if it does not exist.

    Returns:
        None where the file system does not report its size (as /proc and some network shares), or
        cannot be written, so that a full disk is not the cause of an error.
    """
    existing = folder if folder.exists() else folder.parent
    try:
        usage = shutil.disk_usage(existing)
    except OSError:
        return None
    return usage.free if usage.total and not _is_read_only(existing) else None


def _is_read_only(folder: Path) -> bool:
    if not hasattr(os, "statvfs"):  # Windows
        return False
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def is_disk_full(error: Exception, folder: Path) -> bool:
    """Whether an error was caused by a full disk, which GDAL does not report reliably."""
    number = getattr(error, "errno", None)
    if number is not None:  # the system names the cause
        return number in (errno.ENOSPC, errno.EDQUOT)
    free = free_space(folder)
    return free is not None and free < LEAST_FREE


def disk_full_error(path: Path, *, resumable: bool = False) -> DiskFullError:
    """Return the error for an output that did not fit on the disk."""
    later = ", it continues where it stopped" if resumable else ""
    return DiskFullError(
        f"{path}: the disk is full; free some space and run the same command again{later}"
    )
