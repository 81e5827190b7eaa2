"""Mosaics of a split's tiles, decoded once, and the dataset of windows cut from them.

Tiles overlap, and a window may extend from one into the next. Tiles that touch each other therefore
form one group; the blocks of all groups are kept in common stores. Pixels that no tile of the split
covers are invalid, so training never uses pixels of another split.
"""

from __future__ import annotations

import json
import math
import os
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

from geoseg.data.tiles import FOOTPRINTS_NAME, TilesInfo
from geoseg.errors import DiskFullError
from geoseg.geo.raster import without_georeferencing_warnings
from geoseg.jobs.files import (
    LEAST_FREE,
    free_space,
    read_text,
    remove_temporary_files,
    replace_file,
)
from geoseg.jobs.journal import describe_job
from geoseg.training.dataset import Sample, TileDataset, tile_boxes
from geoseg.training.loading.block_store import Group, Rect, Stores, read_window, write_rect
from geoseg.training.loading.sampling import Draw

# Share of the machine's memory; a mosaic that needs more is stored in files.
_MEMORY_SHARE = 0.25

# Assumed memory of a machine that does not report it.
_DEFAULT_BYTES = 8e9

# GDAL releases the interpreter lock, so that threads decode in parallel.
_THREADS = min(4, os.cpu_count() or 1)

# Tiles that are decoded before they are written.
_DECODED = 8 * _THREADS

# Data types that torch supports fully; others are converted to float32.
_TORCH_TYPES = ("uint8", "int8", "int16", "float32")

_INDEX_NAME = "mosaic.json"

# Names of the stores; each is a file.
_STORES = ("image", "target", "valid", "separation")

# Files of a mosaic that is stored on disk.
MOSAIC_FILES = (_INDEX_NAME, *(f"{name}.npy" for name in _STORES))

# Largest side of a block; it is at most a tile's. Windows are copied faster from larger blocks, as
# there are fewer rows to copy; smaller blocks waste less room on pixels that no tile covers. Tiles
# of 256 pixels that overlap by half fill blocks of this size completely.
_SIDE = 128


@dataclass(frozen=True)
class Mosaic:
    """The tiles of a split, assembled.

    Attributes:
        info: Description of the tiles.
        groups: Groups of tiles that touch each other, with their blocks.
        places: (tiles, 3), the group of each tile and its first row and column there.
        stores: Blocks of all groups, in the tiles' data type: `image` (blocks, C, side, side),
            `target` (blocks, K, side, side) uint8, `valid` (blocks, 1, side, side) bool, and
            `separation` (blocks, 1, side, side) uint8 where the tiles have it.
        folder: Folder of the files; None where everything is in memory.
    """

    info: TilesInfo
    groups: list[Group]
    places: np.ndarray
    stores: Stores
    folder: Path | None = None

    def locate(self, draw: Draw) -> tuple[Group, int, int]:
        """Return the group of a draw's tile, and the first row and column of the shifted tile.

        The shifted tile stays inside the group; in a group smaller than a tile it begins at 0.
        """
        number, row, column = self.places[draw.tile].tolist()
        group, size = self.groups[number], self.info.size
        top = min(max(0, row + draw.dy), max(0, group.height - size))
        left = min(max(0, column + draw.dx), max(0, group.width - size))
        return group, top, left


class MosaicDataset(Dataset[Sample]):
    """Windows around the tiles of a split, in complete batches.

    A batch holds `image` (N, C, window, window) in the tiles' data type, or float32 where torch
    does not fully support that; `target` (N, K, window, window) uint8; `valid` (N, 1, window,
    window) bool; `separation` where the tiles have it; and `tile` (N,), the tile in the centre of
    each window. Beyond a tile's group, pixels are mirrored.

    Args:
        mosaic: From `build_mosaic`.
        window: Side of a window; the tile's side plus an even number of pixels, or 0.
    """

    def __init__(self, mosaic: Mosaic, window: int) -> None:
        self.mosaic, self.window = mosaic, window
        self.margin = (window - mosaic.info.size) // 2

    def __len__(self) -> int:
        return len(self.mosaic.places)

    def __getitem__(self, draw: Draw) -> Sample:
        return {name: tensor[0] for name, tensor in self.__getitems__([draw]).items()}

    def __getitems__(self, draws: list[Draw]) -> Sample:
        """Return the batch of some draws, collated; torch's loaders call this."""
        batch = {
            name: np.empty(
                (len(draws), store.shape[1], self.window, self.window), _torch_type(store)
            )
            for name, store in self.mosaic.stores.items()
        }
        for number, draw in enumerate(draws):
            group, top, left = self.mosaic.locate(draw)
            out = {name: windows[number] for name, windows in batch.items()}
            read_window(group, self.mosaic.stores, top - self.margin, left - self.margin, out)
        tensors = {name: torch.from_numpy(windows) for name, windows in batch.items()}
        return tensors | {"tile": torch.tensor([draw.tile for draw in draws])}


def build_mosaic(
    tiles: TileDataset,
    folder: str | Path,
    *,
    memory_bytes: float | None = None,
    processes: int = 1,
) -> Mosaic:
    """Decode the tiles of a split and assemble them, in memory or, if too large, in files.

    Args:
        tiles: The tiles.
        folder: Folder for files, if they are needed; files of an interrupted run are reused if
            they are complete and of the same tiles.
        memory_bytes: Memory limit; a quarter of the machine's memory, divided by the number of
            processes, when None.
        processes: Number of processes on this machine that build mosaics.

    Raises:
        SceneReadError: If a tile cannot be read.
        DiskFullError: If there is not enough room for the files.
    """
    folder = Path(folder)
    groups, places = _group_tiles(tiles)
    plan = _plan_stores(tiles, groups)
    needed = sum(dtype.itemsize * math.prod(shape) for dtype, shape in plan.values())
    if memory_bytes is None:
        memory_bytes = _machine_bytes() * _MEMORY_SHARE / processes
    if needed <= memory_bytes:
        remove_mosaic(folder)
        stores = {name: np.zeros(shape, dtype) for name, (dtype, shape) in plan.items()}
        mosaic = Mosaic(tiles.info, groups, places, stores)
        _fill(tiles, mosaic)
        return mosaic
    job = describe_job(
        tiles.info.model_dump(mode="json"), tiles.tiles.id.tolist(), tiles.sigma_px, _SIDE,
        files=[tiles.folder / name for name in ("tiles.parquet", "tiles.json", FOOTPRINTS_NAME)],
    )  # fmt: skip
    if not _is_complete(folder, job, plan):
        remove_mosaic(folder)
        _check_room(folder, needed)
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            name: open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
            for name, (dtype, shape) in plan.items()
        }
        _fill(tiles, Mosaic(tiles.info, groups, places, files))
        for file in files.values():
            file.flush()
        with replace_file(folder / _INDEX_NAME) as partial:
            partial.write_text(json.dumps({"job": job}))
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in plan}
    return Mosaic(tiles.info, groups, places, mapped, folder)


def remove_mosaic(folder: str | Path) -> None:
    """Remove the files of `build_mosaic`, and the folder if it is empty then."""
    folder = Path(folder)
    for name in MOSAIC_FILES:
        (folder / name).unlink(missing_ok=True)
    remove_temporary_files(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _group_tiles(tiles: TileDataset) -> tuple[list[Group], np.ndarray]:
    """Return the groups, with consecutive block numbers, and the `places` of `Mosaic`."""
    places = np.zeros((len(tiles), 3), dtype=np.int64)
    groups: list[Group] = []
    blocks = 0
    for _, rows in tiles.tiles.groupby("scene", sort=False):
        for _, part in rows.groupby(_label_groups(rows)):
            rects = part[["row_off", "col_off", "height", "width"]].to_numpy(np.int64, copy=True)
            rects[:, :2] -= rects[:, :2].min(axis=0)
            places[part.index.to_numpy()] = np.insert(rects[:, :2], 0, len(groups), axis=1)
            groups.append(Group.from_rects(rects, min(_SIDE, tiles.info.size), blocks))
            blocks += groups[-1].blocks
    return groups, places


def _label_groups(rows: pd.DataFrame) -> np.ndarray:
    """Return a group number for each tile of a scene, the same for tiles that touch."""
    frames = tile_boxes(rows)
    pairs = shapely.STRtree(frames).query(frames, predicate="intersects")
    links = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(len(rows), len(rows)))
    labels: np.ndarray = connected_components(links, directed=False)[1]
    return labels


def _plan_stores(
    tiles: TileDataset, groups: list[Group]
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return data type and shape of each store, with one more block, the empty one."""
    bands = {"image": len(tiles.info.bands), "target": len(tiles.info.targets), "valid": 1}
    if tiles.sigma_px:
        bands["separation"] = 1
    dtypes = {"image": np.dtype(tiles.info.dtype), "valid": np.dtype(bool)}
    blocks, side = sum(group.blocks for group in groups) + 1, groups[0].side
    return {
        name: (dtypes.get(name, np.dtype(np.uint8)), (blocks, count, side, side))
        for name, count in bands.items()
    }


def _fill(tiles: TileDataset, mosaic: Mosaic) -> None:
    """Write the tiles into the stores; tiles whose pixels are complete already are skipped."""
    mosaic.stores["target"].fill(tiles.info.ignore)
    with without_georeferencing_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        order = _order_tiles(mosaic.places, tiles.info.size)
        for start in range(0, len(order), _DECODED):
            part = order[start : start + _DECODED]
            missing = [index for index in part if _is_missing(tiles, mosaic, index)]
            # Only this thread writes, since several tiles share a block.
            for index, arrays in zip(missing, pool.map(tiles.read, missing), strict=True):
                write_rect(*_locate_tile(tiles, mosaic, index), mosaic.stores, arrays)


def _order_tiles(places: np.ndarray, size: int) -> list[int]:
    """Return tiles side by side first: together they usually cover what the others contain."""
    overlapping = (places[:, 1:] % size).any(axis=1)
    order: list[int] = np.argsort(overlapping, kind="stable").tolist()
    return order


def _is_missing(tiles: TileDataset, mosaic: Mosaic, index: int) -> bool:
    """Whether pixels of a tile may still be missing: those whose target is `ignore`."""
    group, rect = _locate_tile(tiles, mosaic, index)
    target, ignore = mosaic.stores["target"], tiles.info.ignore
    return any((target[stored][0] == ignore).any() for stored, _ in group.iter_parts(rect))


def _locate_tile(tiles: TileDataset, mosaic: Mosaic, index: int) -> tuple[Group, Rect]:
    """Return the group of a tile, and its rectangle there."""
    number, row, column = mosaic.places[index].tolist()
    size = int(tiles.tiles.height[index]), int(tiles.tiles.width[index])
    return mosaic.groups[number], (row, column, *size)


def _torch_type(array: np.ndarray) -> np.dtype[Any]:
    supported = array.dtype == bool or array.dtype.name in _TORCH_TYPES
    return array.dtype if supported else np.dtype(np.float32)


def _is_complete(
    folder: Path, job: str, plan: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
) -> bool:
    """Whether the files of an interrupted run are there, and have the planned shapes."""
    try:
        if json.loads(read_text(folder / _INDEX_NAME))["job"] != job:
            return False
        stored = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in plan}
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, SyntaxError):
        return False
    return all((stored[name].dtype, stored[name].shape) == plan[name] for name in plan)


def _check_room(folder: Path, needed: int) -> None:
    """Refuse a disk that is too full: writing to a mapped file would crash the process instead."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = free_space(existing)
    if free is not None and free < needed + LEAST_FREE:
        raise DiskFullError(
            f"{folder}: the training mosaic needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB "
            "are free; free some space, or keep it in memory with a higher train.max_memory_gb"
        )


def _machine_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not on Windows
        return _DEFAULT_BYTES
