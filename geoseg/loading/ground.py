"""The ground of a split: its tiles decoded once, put together, and cut into windows.

Tiles overlap, and a window may reach from one into the next; so what touches is laid out as one
group. What no tile of the split covers is invalid, so nobody ever sees another split's ground.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
import torch
from numpy.lib.format import open_memmap
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch.utils.data import Dataset

from geoseg.dataset import Sample, TileDataset
from geoseg.errors import DiskFullError
from geoseg.journal import LEAST_FREE, describe_job, replace_file
from geoseg.loading.sampling import Draw
from geoseg.tiles import FOOTPRINTS_NAME, TilesInfo

# Of the machine's memory; ground that needs more lies in files.
_MEMORY_SHARE = 0.25

# Of a machine that does not say what it has.
_USUAL_BYTES = 8e9

# Decoding is GDAL's, which several threads do at a time.
_THREADS = min(4, os.cpu_count() or 1)

# Tiles that are decoded before they are laid down.
_AHEAD = 8 * _THREADS

# What torch computes with as it is; anything else is handed out as float32.
_KEPT_TYPES = ("uint8", "int8", "int16", "float32")

_INDEX_NAME = "ground.json"

# What a pixel may have; each lies in a file of its own.
_BANDS = ("image", "target", "valid", "separation")

# A group of tiles: by name (bands, H, W).
Group = dict[str, np.ndarray]


@dataclass(frozen=True)
class Ground:
    """The tiles of a split, put together.

    Attributes:
        info: What the tiles are.
        groups: Tiles that touch each other, laid out in the tiles' data type: `image` (C, H, W),
            `target` (K, H, W) uint8, `valid` (1, H, W) bool, and `separation` (1, H, W) uint8
            where the tiles have it.
        places: (tiles, 3): the group of each tile, and where it begins there, row and column.
        folder: Where the files are; None where all is in memory.
    """

    info: TilesInfo
    groups: list[Group]
    places: np.ndarray
    folder: Path | None = None

    def find(self, draw: Draw) -> tuple[Group, int, int]:
        """The group of a draw's tile, and the first row and column of the moved tile there.

        It stays inside the group; in a group that is smaller than a tile it begins at 0.
        """
        number, row, column = self.places[draw.tile].tolist()
        group, size = self.groups[number], self.info.size
        height, width = group["valid"].shape[-2:]
        top = min(max(0, row + draw.dy), max(0, height - size))
        left = min(max(0, column + draw.dx), max(0, width - size))
        return group, top, left


class GroundDataset(Dataset[Sample]):
    """Windows around the tiles of a split, whole batches at a time.

    A batch holds `image` (N, C, window, window) in the tiles' data type, or in float32 where torch
    hardly knows that; `target` (N, K, window, window) uint8; `valid` (N, 1, window, window) bool;
    `separation` where the tiles have it; and `tile` (N,), which tile each is a window around.
    Beyond the group of a tile the window mirrors it.

    Args:
        ground: From `gather_ground`.
        window: Side of a window, at least the tile's and by an even number of pixels more.
    """

    def __init__(self, ground: Ground, window: int) -> None:
        self.ground, self.window = ground, window
        self.margin = (window - ground.info.size) // 2

    def __len__(self) -> int:
        return len(self.ground.places)

    def __getitem__(self, draw: Draw) -> Sample:
        return {name: tensor[0] for name, tensor in self.__getitems__([draw]).items()}

    def __getitems__(self, draws: list[Draw]) -> Sample:
        """A batch of draws, as torch's loaders ask for it; it needs no collation."""
        batch = {
            name: np.empty((len(draws), len(array), self.window, self.window), _dealt(array))
            for name, array in self.ground.groups[0].items()
        }
        for number, draw in enumerate(draws):
            group, top, left = self.ground.find(draw)
            for name, windows in batch.items():
                cut_window(group[name], top - self.margin, left - self.margin, windows[number])
        found = {name: torch.from_numpy(windows) for name, windows in batch.items()}
        return found | {"tile": torch.tensor([draw.tile for draw in draws])}


def cut_window(source: np.ndarray, top: int, left: int, out: np.ndarray) -> None:
    """Copies a window, which mirrors the source where it reaches beyond: 2 1 | 0 1 2.

    Args:
        source: (bands, H, W).
        top: First row of the window, may be negative.
        left: First column of the window, may be negative.
        out: (bands, height, width), filled; it holds more of the source than of mirror images.
    """
    (height, width), (rows, columns) = out.shape[-2:], source.shape[-2:]
    above, before = max(0, -top), max(0, -left)
    below, after = min(height, rows - top), min(width, columns - left)
    inside = out[:, above:below, before:after]
    inside[...] = source[:, top + above : top + below, left + before : left + after]
    _mirror(np.moveaxis(out, 1, 0), above, below)
    _mirror(np.moveaxis(out, 2, 0), before, after)


def _mirror(lines: np.ndarray, begin: int, end: int) -> None:
    """Fills the lines before `begin` and from `end` on with mirror images of those between."""
    beyond = np.r_[:begin, end : len(lines)]
    if len(beyond):
        count = end - begin
        turns = np.abs(beyond - begin) % max(1, 2 * (count - 1))  # there and back again
        lines[beyond] = lines[begin + np.where(turns < count, turns, 2 * (count - 1) - turns)]


def gather_ground(
    tiles: TileDataset,
    folder: str | Path,
    *,
    memory_bytes: float | None = None,
    processes: int = 1,
) -> Ground:
    """Decodes the tiles of a split and puts them together, in memory or else in files.

    Args:
        tiles: The tiles.
        folder: For the files, where they are needed; those of an earlier, interrupted run are
            used if they are complete and of the same tiles.
        memory_bytes: What may lie in memory; a quarter of the machine's when None, shared among
            the processes.
        processes: How many of this machine gather ground.

    Raises:
        SceneReadError: If a tile cannot be read.
        DiskFullError: If there is not enough room for the files.
    """
    folder = Path(folder)
    layout = _lay_out(tiles)
    bands = _list_bands(tiles)
    pixels = int(layout.areas.sum())
    needed = pixels * sum(dtype.itemsize * count for dtype, count in bands.values())
    usual = _machine_bytes() * _MEMORY_SHARE / processes
    if needed <= (usual if memory_bytes is None else memory_bytes):
        remove_ground(folder)
        stores = {name: np.zeros(pixels * count, kind) for name, (kind, count) in bands.items()}
        _fill(tiles, layout, _split(stores, layout))
        return Ground(tiles.info, _split(stores, layout), layout.places)
    job = describe_job(
        tiles.info.model_dump(mode="json"), tiles.tiles.id.tolist(), tiles.sigma_px,
        files=[tiles.folder / name for name in ("tiles.parquet", "tiles.json", FOOTPRINTS_NAME)],
    )  # fmt: skip
    if not _is_complete(folder, job):
        remove_ground(folder)
        _check_room(folder, needed)
        _write(
            tiles, layout, {name: (kind, pixels * n) for name, (kind, n) in bands.items()}, folder
        )
        with replace_file(folder / _INDEX_NAME) as partial:
            partial.write_text(json.dumps({"job": job}))
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in bands}
    return Ground(tiles.info, _split(mapped, layout), layout.places, folder)


def remove_ground(folder: str | Path) -> None:
    """Removes the files of `gather_ground`, and the folder if nothing else is in it."""
    folder = Path(folder)
    for name in (_INDEX_NAME, *(f"{band}.npy" for band in _BANDS)):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


@dataclass(frozen=True)
class _Layout:
    """Where groups lie: (groups, 2) their sides, and the `places` of `Ground`."""

    shapes: np.ndarray
    places: np.ndarray

    @property
    def areas(self) -> np.ndarray:
        area: np.ndarray = self.shapes.prod(axis=1)
        return area


def _lay_out(tiles: TileDataset) -> _Layout:
    places = np.zeros((len(tiles), 3), dtype=np.int64)
    shapes: list[tuple[int, int]] = []
    for _, rows in tiles.tiles.groupby("scene", sort=False):
        for _, part in rows.groupby(_label_groups(rows)):
            top, left = part.row_off.min(), part.col_off.min()
            own = np.column_stack([part.row_off - top, part.col_off - left])
            places[part.index.to_numpy()] = np.insert(own, 0, len(shapes), axis=1)
            bottom, right = (part.row_off + part.height).max(), (part.col_off + part.width).max()
            shapes.append((int(bottom - top), int(right - left)))
    return _Layout(np.array(shapes, dtype=np.int64), places)


def _label_groups(rows: pd.DataFrame) -> np.ndarray:
    """Numbers tiles of one scene so that those that touch have the same."""
    left, top = rows.col_off.to_numpy(), rows.row_off.to_numpy()
    boxes = shapely.box(left, top, left + rows.width, top + rows.height)
    pairs = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    links = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(len(rows), len(rows)))
    labels: np.ndarray = connected_components(links, directed=False)[1]
    return labels


def _list_bands(tiles: TileDataset) -> dict[str, tuple[np.dtype[Any], int]]:
    """Data type and number of bands of what a pixel has."""
    info = tiles.info
    counts = {"image": len(info.bands), "target": len(info.targets), "valid": 1}
    if tiles.sigma_px:
        counts["separation"] = 1
    types = {"image": np.dtype(info.dtype), "valid": np.dtype(bool)}
    return {name: (types.get(name, np.dtype(np.uint8)), n) for name, n in counts.items()}


def _split(stores: Mapping[str, np.ndarray], layout: _Layout) -> list[Group]:
    """The groups as views of arrays that hold one after the other."""
    ends = np.cumsum(layout.areas)
    groups: list[Group] = []
    for end, (height, width) in zip(ends.tolist(), layout.shapes.tolist(), strict=True):
        group = {}
        for name, store in stores.items():
            bands = len(store) // int(ends[-1])
            own = store[(end - height * width) * bands : end * bands]
            group[name] = own.reshape(bands, height, width)
        groups.append(group)
    return groups


def _write(
    tiles: TileDataset,
    layout: _Layout,
    bands: dict[str, tuple[np.dtype[Any], int]],
    folder: Path,
) -> None:
    """Fills files, one per band; `bands` are data type and length of each."""
    folder.mkdir(parents=True, exist_ok=True)
    stores = {
        name: open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=(length,))
        for name, (kind, length) in bands.items()
    }
    _fill(tiles, layout, _split(stores, layout))
    for store in stores.values():
        store.flush()


def _fill(tiles: TileDataset, layout: _Layout, groups: list[Group]) -> None:
    """Lays down the tiles; those whose pixels are all there already need not be decoded."""
    for group in groups:
        group["target"].fill(tiles.info.ignore)
    with ThreadPoolExecutor(_THREADS) as pool:
        order = _order(layout.places, tiles.info.size)
        for start in range(0, len(order), _AHEAD):
            some = order[start : start + _AHEAD]
            missing = [i for i in some if _lacks(tiles, groups, layout.places, i)]
            for index, found in zip(missing, pool.map(tiles.read, missing), strict=True):
                place = _place(tiles, layout.places, index)
                group = groups[layout.places[index, 0]]
                for name, array in found.items():
                    laid = group[name][place]
                    laid[...] = array[:, : laid.shape[1], : laid.shape[2]]


def _order(places: np.ndarray, size: int) -> list[int]:
    """First the tiles that lie side by side; they are likely to cover what the others would."""
    between = (places[:, 1:] % size).any(axis=1)
    order: list[int] = np.argsort(between, kind="stable").tolist()
    return order


def _lacks(tiles: TileDataset, groups: list[Group], places: np.ndarray, index: int) -> bool:
    """Whether anything of a tile may still be missing: where its target is not known."""
    target = groups[places[index, 0]]["target"][_place(tiles, places, index)]
    return bool((target[0] == tiles.info.ignore).any())


def _place(tiles: TileDataset, places: np.ndarray, index: int) -> tuple[slice, slice, slice]:
    """Where a tile lies in its group."""
    _, row, column = places[index].tolist()
    height, width = tiles.tiles.height[index], tiles.tiles.width[index]
    return slice(None), slice(row, row + height), slice(column, column + width)


def _dealt(array: np.ndarray) -> np.dtype[Any]:
    kept = array.dtype == bool or array.dtype.name in _KEPT_TYPES
    return array.dtype if kept else np.dtype(np.float32)


def _is_complete(folder: Path, job: str) -> bool:
    try:
        return bool(json.loads((folder / _INDEX_NAME).read_text())["job"] == job)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_room(folder: Path, needed: int) -> None:
    """Refuses a disk that is too full, as a file that is mapped into memory cannot."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed + LEAST_FREE:
        raise DiskFullError(
            f"{folder}: the training ground takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free; free some space, or let it lie in memory with train.max_memory_gb"
        )


def _machine_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not on Windows
        return _USUAL_BYTES
