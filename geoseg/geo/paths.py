"""Paths of inputs: local files, and names that only GDAL can open."""

from __future__ import annotations

from pathlib import Path

_REMOTE = ("/vsi", "http://", "https://", "s3://", "gs://")


def is_remote(path: str | Path) -> bool:
    """Return whether a name is that of a file that only GDAL opens."""
    return str(path).startswith(_REMOTE)


def is_missing(path: str | Path) -> bool:
    """Return whether a path is local and the file does not exist."""
    return not is_remote(path) and not Path(path).exists()


def no_such_file(path: str | Path) -> str:
    """Return the error message for a missing file."""
    return f"{path}: no such file; check the path (and quotes around spaces)"


def absolute_path(path: str | Path) -> str:
    """Return an absolute path, for workers in other folders; names of remote files unchanged."""
    return str(Path(path).resolve()) if Path(path).exists() else str(path)
