"""Names of inputs: local paths, and what only GDAL can open."""

from __future__ import annotations

from pathlib import Path

_REMOTE = ("/vsi", "http://", "https://", "s3://", "gs://")


def is_missing(path: str | Path) -> bool:
    """Whether a name can only mean a local file, and there is none."""
    return not str(path).startswith(_REMOTE) and not Path(path).exists()


def no_such_file(path: str | Path) -> str:
    """What to say of a name that is missing."""
    return f"{path}: no such file; check the path (and quotes around spaces)"


def absolute_path(path: str | Path) -> str:
    """A local path that workers in other folders find too; other names as they are."""
    return str(Path(path).resolve()) if Path(path).exists() else str(path)
