"""The ground of a split: its tiles decoded once, put together, and cut into windows.

Tiles overlap, and a window may reach from one into the next; so what touches is laid out as one
group, in blocks that all groups share stores of. What no tile of the split covers is invalid, so
nobody ever sees another split's ground.
"""

from __future__ import annotations

import json
import math
import os
import shutil
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

from geoseg.data.tiles import FOOTPRINTS_NAME, TilesInfo
from geoseg.errors import DiskFullError
from geoseg.jobs.files import LEAST_FREE, replace_file
from geoseg.jobs.journal import describe_job
from geoseg.training.dataset import Sample, TileDataset, tile_corners
from geoseg.training.loading.block_store import Box, Group, Stores, cut_window, lay_down
from geoseg.training.loading.sampling import Draw

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

# Of a block, at the most a tile's. Windows are copied faster from larger blocks, whose rows are
# fewer; smaller ones hold less that no tile covers. Tiles of 256 that overlap by half fill these.
_SIDE = 128


@dataclass(frozen=True)
class Mosaic:
    """The tiles of a split, put together.

    Attributes:
        info: What the tiles are.
        groups: Tiles that touch each other, and the blocks that hold them.
        places: (tiles, 3): the group of each tile, and where it begins there, row and column.
        stores: Blocks of all groups, in the tiles' data type: `image` (blocks, C, side, side),
            `target` (blocks, K, side, side) uint8, `valid` (blocks, 1, side, side) bool, and
            `separation` (blocks, 1, side, side) uint8 where the tiles have it.
        folder: Where the files are; None where all is in memory.
    """

    info: TilesInfo
    groups: list[Group]
    places: np.ndarray
    stores: Stores
    folder: Path | None = None

    def find(self, draw: Draw) -> tuple[Group, int, int]:
        """The group of a draw's tile, and the first row and column of the moved tile there.

        It stays inside the group; in a group that is smaller than a tile it begins at 0.
        """
        number, row, column = self.places[draw.tile].tolist()
        group, size = self.groups[number], self.info.size
        top = min(max(0, row + draw.dy), max(0, group.height - size))
        left = min(max(0, column + draw.dx), max(0, group.width - size))
        return group, top, left


class MosaicDataset(Dataset[Sample]):
    """Windows around the tiles of a split, whole batches at a time.

    A batch holds `image` (N, C, window, window) in the tiles' data type, or in float32 where torch
    hardly knows that; `target` (N, K, window, window) uint8; `valid` (N, 1, window, window) bool;
    `separation` where the tiles have it; and `tile` (N,), which tile each is a window around.
    Beyond the group of a tile the window mirrors it.

    Args:
        ground: From `build_mosaic`.
        window: Side of a window, at least the tile's and by an even number of pixels more.
    """

    def __init__(self, ground: Mosaic, window: int) -> None:
        self.ground, self.window = ground, window
        self.margin = (window - ground.info.size) // 2

    def __len__(self) -> int:
        return len(self.ground.places)

    def __getitem__(self, draw: Draw) -> Sample:
        return {name: tensor[0] for name, tensor in self.__getitems__([draw]).items()}

    def __getitems__(self, draws: list[Draw]) -> Sample:
        """A batch of draws, as torch's loaders ask for it; it needs no collation."""
        batch = {
            name: np.empty((len(draws), store.shape[1], self.window, self.window), _dealt(store))
            for name, store in self.ground.stores.items()
        }
        for number, draw in enumerate(draws):
            group, top, left = self.ground.find(draw)
            out = {name: windows[number] for name, windows in batch.items()}
            cut_window(group, self.ground.stores, top - self.margin, left - self.margin, out)
        found = {name: torch.from_numpy(windows) for name, windows in batch.items()}
        return found | {"tile": torch.tensor([draw.tile for draw in draws])}


def build_mosaic(
    tiles: TileDataset,
    folder: str | Path,
    *,
    memory_bytes: float | None = None,
    processes: int = 1,
) -> Mosaic:
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
    groups, places = _lay_out(tiles)
    plan = _plan_stores(tiles, groups)
    needed = sum(kind.itemsize * math.prod(shape) for kind, shape in plan.values())
    usual = _machine_bytes() * _MEMORY_SHARE / processes
    if needed <= (usual if memory_bytes is None else memory_bytes):
        remove_mosaic(folder)
        stores = {name: np.zeros(shape, kind) for name, (kind, shape) in plan.items()}
        ground = Mosaic(tiles.info, groups, places, stores)
        _fill(tiles, ground)
        return ground
    job = describe_job(
        tiles.info.model_dump(mode="json"), tiles.tiles.id.tolist(), tiles.sigma_px, _SIDE,
        files=[tiles.folder / name for name in ("tiles.parquet", "tiles.json", FOOTPRINTS_NAME)],
    )  # fmt: skip
    if not _is_complete(folder, job):
        remove_mosaic(folder)
        _check_room(folder, needed)
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            name: open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
            for name, (kind, shape) in plan.items()
        }
        _fill(tiles, Mosaic(tiles.info, groups, places, files))
        for file in files.values():
            file.flush()
        with replace_file(folder / _INDEX_NAME) as partial:
            partial.write_text(json.dumps({"job": job}))
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in plan}
    return Mosaic(tiles.info, groups, places, mapped, folder)


def remove_mosaic(folder: str | Path) -> None:
    """Removes the files of `build_mosaic`, and the folder if nothing else is in it."""
    folder = Path(folder)
    for name in (_INDEX_NAME, *(f"{band}.npy" for band in _BANDS)):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _lay_out(tiles: TileDataset) -> tuple[list[Group], np.ndarray]:
    """The groups, whose blocks follow one another, and the `places` of `Ground`."""
    places = np.zeros((len(tiles), 3), dtype=np.int64)
    groups: list[Group] = []
    blocks = 0
    for _, rows in tiles.tiles.groupby("scene", sort=False):
        for _, part in rows.groupby(_label_groups(rows)):
            boxes = part[["row_off", "col_off", "height", "width"]].to_numpy(np.int64, copy=True)
            boxes[:, :2] -= boxes[:, :2].min(axis=0)
            places[part.index.to_numpy()] = np.insert(boxes[:, :2], 0, len(groups), axis=1)
            groups.append(Group.around(boxes, min(_SIDE, tiles.info.size), blocks))
            blocks += groups[-1].blocks
    return groups, places


def _label_groups(rows: pd.DataFrame) -> np.ndarray:
    """Numbers tiles of one scene so that those that touch have the same."""
    boxes = shapely.box(*tile_corners(rows).T)
    pairs = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    links = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(len(rows), len(rows)))
    labels: np.ndarray = connected_components(links, directed=False)[1]
    return labels


def _plan_stores(
    tiles: TileDataset, groups: list[Group]
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Data type and shape of each store; one block more is the bare one."""
    bands = {"image": len(tiles.info.bands), "target": len(tiles.info.targets), "valid": 1}
    if tiles.sigma_px:
        bands["separation"] = 1
    kinds = {"image": np.dtype(tiles.info.dtype), "valid": np.dtype(bool)}
    blocks, side = sum(group.blocks for group in groups) + 1, groups[0].side
    return {
        name: (kinds.get(name, np.dtype(np.uint8)), (blocks, count, side, side))
        for name, count in bands.items()
    }


def _fill(tiles: TileDataset, ground: Mosaic) -> None:
    """Lays down the tiles; those whose pixels are all there already need not be decoded."""
    ground.stores["target"].fill(tiles.info.ignore)
    with ThreadPoolExecutor(_THREADS) as pool:
        order = _order(ground.places, tiles.info.size)
        for start in range(0, len(order), _AHEAD):
            some = order[start : start + _AHEAD]
            missing = [index for index in some if _lacks(tiles, ground, index)]
            # Blocks are of several tiles: only this thread writes.
            for index, found in zip(missing, pool.map(tiles.read, missing), strict=True):
                lay_down(*_locate(tiles, ground, index), ground.stores, found)


def _order(places: np.ndarray, size: int) -> list[int]:
    """First the tiles that lie side by side; they are likely to cover what the others would."""
    between = (places[:, 1:] % size).any(axis=1)
    order: list[int] = np.argsort(between, kind="stable").tolist()
    return order


def _lacks(tiles: TileDataset, ground: Mosaic, index: int) -> bool:
    """Whether anything of a tile may still be missing: where its target is not known."""
    group, box = _locate(tiles, ground, index)
    target = ground.stores["target"]
    return any((target[there][0] == tiles.info.ignore).any() for there, _ in group.pieces(box))


def _locate(tiles: TileDataset, ground: Mosaic, index: int) -> tuple[Group, Box]:
    """Where a tile lies: its group, and the part of it."""
    number, row, column = ground.places[index].tolist()
    size = int(tiles.tiles.height[index]), int(tiles.tiles.width[index])
    return ground.groups[number], (row, column, *size)


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
