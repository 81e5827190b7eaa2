"""Manifests: which files of an output folder were written by geoseg."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from pydantic import BaseModel, ConfigDict

from geoseg.jobs.files import is_foreign_style, read_text, replace_file
from geoseg.version import __version__

MANIFEST_NAME = ".geoseg-manifest.json"

# Files that GDAL, QGIS and SQLite put beside a file that they open. They belong to that file.
_SIDECAR_SUFFIXES = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal")

# Temporary files and locks beside an output, which a killed process may have left.
_LEFTOVER = re.compile(r"\.(?P<name>.+?)(\.[0-9a-f]{8})?\.(partial|lock)")
_JOURNAL_NAME = "journal.jsonl"

# A folder of some millions of tiles.
_MOST_BYTES = 500_000_000


def write_manifest(folder: Path) -> None:
    """Record every file in a folder as written by geoseg.

    Args:
        folder: A folder that geoseg made and filled alone.
    """
    _save(folder, (path.relative_to(folder).as_posix() for path in _walk(folder)))


def add_to_manifest(folder: Path, files: Iterable[Path]) -> None:
    """Record further files of a folder that geoseg writes into step by step.

    Args:
        folder: The output folder.
        files: Existing files in it; a folder stands for all files below it.
    """
    added = (
        path.relative_to(folder).as_posix()
        for file in files
        for path in (_walk(file) if file.is_dir() else [file])
        if path.exists()
    )
    _save(folder, {*read_manifest(folder), *added})


def add_names_to_manifest(folder: Path, names: Iterable[str]) -> None:
    """Record files that will be written into a folder, by their names relative to it.

    Recorded in advance, they are known as geoseg's also after the process was killed. A name that
    ends in `/` is a folder with a manifest of its own, whose files belong to this output, too.
    """
    _save(folder, {*read_manifest(folder), *names})


class _Manifest(BaseModel):
    """Contents of a manifest."""

    model_config = ConfigDict(extra="ignore")

    files: list[str]


def read_manifest(folder: Path) -> frozenset[str]:
    """Return the recorded files of a folder, relative to it; none where there is no manifest.

    Names that lead out of the folder are left out.
    """
    try:
        found = _Manifest.model_validate_json(read_text(folder / MANIFEST_NAME, _MOST_BYTES))
    except (OSError, ValueError):
        return frozenset()
    return frozenset(filter(_is_inside, found.files))


def _is_inside(name: str) -> bool:
    """Whether a name can only be that of a file or folder below the folder of the manifest."""
    path = PurePath(name)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
    )


def find_foreign_file(folder: Path) -> Path | None:
    """Return a file, at any depth, that is not part of the output; None if there is none.

    Files of another output inside the folder are foreign, unless the manifest of the folder records
    that output. Without a manifest, all files are foreign. Empty folders are ignored. A symbolic
    link is a file: what it points to is never touched.
    """
    ours = _list_ours(folder)
    return next((path for path in _walk(folder) if path not in ours), None)


def is_recorded(folder: Path, file: Path) -> bool:
    """Whether a manifest records a file; if it is foreign all the same, somebody has changed it."""
    return file in _list_recorded(folder)[0]


def remove_recorded_files(folder: Path, *, keep: Iterable[Path] = ()) -> None:
    """Remove the files that geoseg wrote, and the folders that are empty afterwards.

    All other files stay where they are. Manifests are removed last, the outermost at the end, so
    that the rest of a folder is still known after a kill.

    Args:
        folder: The output folder.
        keep: Folders in it whose files stay.
    """
    kept = set(keep)
    ours = _list_ours(folder)
    for path in sorted(ours, key=lambda path: (path.name == MANIFEST_NAME, -len(path.parts), path)):
        if kept.isdisjoint(path.parents):
            path.unlink(missing_ok=True)
    for root, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(root)
        except OSError:  # not empty: it holds somebody else's files
            continue


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of recorded files that a killed process has left in a folder."""
    recorded = {folder / name for name in read_manifest(folder)}
    for path in folder.glob(".*.partial"):
        if path.is_file() and _is_leftover(path, recorded):
            path.unlink(missing_ok=True)


def list_lock_files(folder: Path) -> list[Path]:
    """List the lock files of the outputs inside a folder that its manifest records."""
    return sorted(path for path in _list_ours(folder) if path.name.endswith(".lock"))


def _list_ours(folder: Path) -> set[Path]:
    """Return the files below a folder that are known to be geoseg's."""
    paths = set(_walk(folder))
    named, folders = _list_recorded(folder)
    leftovers = {path for path in paths if _is_leftover(path, named | folders)}
    ours = {path for path in named & paths if not is_foreign_style(path)}
    return ours | leftovers | {path for path in paths if _is_sidecar(path, named)}


def _list_recorded(folder: Path) -> tuple[set[Path], set[Path]]:
    """Return the recorded files of an output and of those inside it, and the folders of these."""
    files, folders = {folder / MANIFEST_NAME}, set()
    for name in read_manifest(folder):
        if name.endswith("/"):
            inner_files, inner_folders = _list_recorded(folder / name)
            files |= inner_files
            folders |= inner_folders | {folder / name}
        else:
            files.add(folder / name)
    return files, folders


def _is_leftover(path: Path, outputs: set[Path]) -> bool:
    """Whether a file is a lock, a temporary file, or in the working folder of a killed job."""
    for part in (path, *path.parents):
        found = _LEFTOVER.fullmatch(part.name)
        if found and part == path and path.with_name(found["name"]) in outputs:
            return True
        if found and part != path and part.with_name(found["name"]) in outputs:
            return (part / _JOURNAL_NAME).is_file()
    return False


def _is_sidecar(path: Path, ours: set[Path]) -> bool:
    suffix = next((end for end in _SIDECAR_SUFFIXES if path.name.endswith(end)), None)
    return suffix is not None and path.with_name(path.name.removesuffix(suffix)) in ours


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in order; links are files, folders behind them not entered."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in sorted((*files, *links)):
            yield Path(root, name)


def _save(folder: Path, names: Iterable[str]) -> None:
    files = sorted(set(names) - {MANIFEST_NAME})
    text = json.dumps({"geoseg": __version__, "files": files}, indent=0) + "\n"
    with replace_file(folder / MANIFEST_NAME) as partial:
        partial.write_text(text, encoding="utf-8")
