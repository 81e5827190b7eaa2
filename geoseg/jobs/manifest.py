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

# Version 0.1.0 wrote no manifest. A folder without one is recognised by a file that only geoseg
# writes, and then by the names of all its files; every other file counts as somebody else's.
_TILE_ID = r"\d{3}_\d{6}_\d{6}"
_TILES = re.compile(
    rf"(images|targets)/{_TILE_ID}\.tif|tiles\.(json|parquet)|footprints\.parquet"
    r"|(train|val|test)\.geojson|labels\.(json|html)"
)
_PREDICTION = re.compile(r"prob\.tif|mask\.tif|footprints\.gpkg")
_REPORT = re.compile(r"report\.(json|gpkg)")
_RUN = re.compile(
    r"model\.safetensors|(last|best)\.ckpt|metrics\.csv|(curves|validation|reliability)\.png"
)
# What the demo wrote beside the folders of the other verbs.
_DEMO = re.compile(r"scene\.tif|footprints\.gpkg|demo\.png")
_DEMO_FOLDERS = ("tiles", "run", "out", "report")

# Temporary files and locks beside an output, which a killed process may have left.
_LEFTOVER = re.compile(r"\.(?P<name>.+?)(\.[0-9a-f]{8})?\.(partial|lock)")
_JOURNAL_NAME = "journal.jsonl"


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


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of recorded files that a killed process has left in a folder."""
    recorded = {folder / name for name in read_manifest(folder)}
    for path in folder.glob(".*.partial"):
        if path.is_file() and _is_leftover(path, recorded):
            path.unlink(missing_ok=True)


def _list_ours(folder: Path) -> set[Path]:
    """Return the files below a folder that are known to be geoseg's."""
    paths = set(_walk(folder))
    manifests = {path.parent for path in paths if path.name == MANIFEST_NAME}
    named = {parent / MANIFEST_NAME for parent in manifests}
    for parent in manifests:
        named |= {parent / name for name in read_manifest(parent)}
    if folder not in manifests:
        named |= _list_unrecorded(folder, paths)
    outputs = named | manifests
    leftovers = {path for path in paths if _is_leftover(path, outputs)}
    return (named & paths) | leftovers | {path for path in paths if _is_sidecar(path, named)}


def _list_unrecorded(folder: Path, paths: set[Path]) -> set[Path]:
    """Return the files of a folder without manifest, if it is an output of version 0.1.0."""
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    for is_output, pattern in (
        (_is_tiles, _TILES),
        (_is_prediction, _PREDICTION),
        (_is_report, _REPORT),
        (_is_run, _RUN),
    ):
        if is_output(folder):
            return {path for path, name in names.items() if pattern.fullmatch(name)}
    if not _is_tiles(folder / "tiles"):
        return set()
    ours = {path for path, name in names.items() if _DEMO.fullmatch(name)}
    for name in _DEMO_FOLDERS:
        inner = folder / name
        ours |= _list_unrecorded(inner, {path for path in paths if inner in path.parents})
    return ours


def _is_tiles(folder: Path) -> bool:
    return {"bands", "targets", "tiles", "mean"} <= _read_keys(folder / "tiles.json")


def _is_report(folder: Path) -> bool:
    keys = _read_keys(folder / "report.json")
    return {"tp", "fp", "fn", "iou_pixel"} <= keys or {"confusion", "mean_iou", "mask"} <= keys


def _is_prediction(folder: Path) -> bool:
    # A Cloud Optimized GeoTIFF has its tags at the beginning.
    return b"GEOSEG_THRESHOLDS" in _read_start(folder / "prob.tif", 1 << 20)


def _is_run(folder: Path) -> bool:
    # The header of a safetensors file is JSON at the beginning.
    return b'"geoseg"' in _read_start(folder / "model.safetensors", 1 << 20)


def _read_keys(file: Path) -> set[str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return set(content) if isinstance(content, dict) else set()


def _read_start(file: Path, size: int) -> bytes:
    try:
        with file.open("rb") as source:
            return source.read(size)
    except OSError:
        return b""


def _is_leftover(path: Path, outputs: set[Path]) -> bool:
    """Whether a file is a lock, a temporary file, or in the working folder of a killed job."""
    for part in (path, *path.parents):
        found = _LEFTOVER.fullmatch(part.name)
        if found and part == path and path.with_name(found["name"]) in outputs:
            return True
        if found and part != path and (part / _JOURNAL_NAME).is_file():
            return True
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
    partial = folder / f"{MANIFEST_NAME}.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / MANIFEST_NAME)
