"""Manifests: which files of an output folder were written by geoseg."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from geoseg.version import __version__

MANIFEST_NAME = ".geoseg-manifest.json"

# Files that GDAL, QGIS and SQLite put beside a file that they open. They belong to that file.
_SIDECAR_SUFFIXES = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal")

# Version 0.1.0 wrote no manifest. A folder without one is recognised by these names alone, file by
# file; every other file in it counts as somebody else's.
_TILE_ID = r"\d{3}_\d{6}_\d{6}"
_UNRECORDED = re.compile(
    rf"(images|targets)/{_TILE_ID}\.tif"
    r"|tiles\.json|tiles\.parquet|footprints\.parquet|(train|val|test)\.geojson"
    r"|labels\.(json|html)"
    r"|prob\.tif|mask\.tif|footprints\.gpkg"
    r"|report\.(json|gpkg)"
    r"|model\.safetensors|(last|best)\.ckpt|metrics\.csv|(curves|validation|reliability)\.png"
)
# Folders that version 0.1.0 made inside another output, each of which is judged by itself.
_UNRECORDED_FOLDERS = ("tiles", "run", "out", "report")
# What only the demo wrote, so that these names count only beside such folders.
_UNRECORDED_DEMO = ("scene.tif", "footprints.gpkg", "demo.png")


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

    Recorded in advance, they are known as geoseg's also after the process was killed.
    """
    _save(folder, {*read_manifest(folder), *names})


def read_manifest(folder: Path) -> frozenset[str]:
    """Return the recorded files of a folder, relative to it; none where there is no manifest."""
    try:
        recorded = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))["files"]
        return frozenset(str(name) for name in recorded)
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def find_foreign_file(folder: Path) -> Path | None:
    """Return a file, at any depth, that geoseg did not write; None if there is none.

    A folder inside the output may have a manifest of its own, which then counts for it. Empty
    folders are nobody's. A symbolic link is a file: what it points to is never touched.
    """
    ours = _list_ours(folder)
    return next((path for path in _walk(folder) if path not in ours), None)


def remove_recorded_files(folder: Path, *, keep: Iterable[Path] = ()) -> None:
    """Remove the files that geoseg wrote, and the folders that are empty afterwards.

    All other files stay where they are.

    Args:
        folder: The output folder.
        keep: Folders in it whose files stay.
    """
    kept = set(keep)
    for path in _list_ours(folder):
        if kept.isdisjoint(path.parents):
            path.unlink(missing_ok=True)
    for root, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(root)
        except OSError:  # not empty: it holds somebody else's files
            continue


def _list_ours(folder: Path) -> set[Path]:
    """Return the files below a folder that are known to be geoseg's."""
    paths = set(_walk(folder))
    manifests = {path.parent for path in paths if path.name == MANIFEST_NAME}
    ours = {parent / MANIFEST_NAME for parent in manifests}
    for parent in manifests:
        ours |= {parent / name for name in read_manifest(parent)} & paths
    if folder not in manifests:
        ours |= {path for path in paths if _is_known(folder, path)}
    return ours | {path for path in paths if _is_sidecar(path, ours)}


def _is_known(folder: Path, path: Path) -> bool:
    """Whether a file of a folder without manifest has the name of an output of version 0.1.0."""
    name = path.relative_to(folder).as_posix()
    first, _, rest = name.partition("/")
    if first in _UNRECORDED_FOLDERS and rest:
        return bool(_UNRECORDED.fullmatch(rest))
    is_demo = name in _UNRECORDED_DEMO and (folder / "tiles" / "tiles.json").is_file()
    return is_demo or bool(_UNRECORDED.fullmatch(name))


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
    partial = folder / f"{MANIFEST_NAME}.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / MANIFEST_NAME)
