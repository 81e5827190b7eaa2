"""Reads the tiles of a block in batches of equal shape, ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from rasterio.windows import Window

from geoseg.geo.aoi import AOI
from geoseg.geo.raster import Scene
from geoseg.geo.tiling import Tile
from geoseg.prediction.stitching import TileBlock

# Number of neighbours in a row that are read together: the pixels they share are decoded once,
# and memory does not grow with the width of the scene.
GROUP = 8

Item = TypeVar("Item")


@dataclass(frozen=True)
class TileBatch:
    """Tiles that are predicted together, and the empty tiles between them.

    Attributes:
        tiles: Tiles in the order of the block, each with its index in the batch; None for a tile
            without valid pixels in the area of interest, which is not predicted.
        data: (N, C, S, S) in the units of the scene. A batch that is not full repeats its last
            tile, so that all batches have one shape. None if no tile needs prediction.
        valid: (N, S, S) bool.
        strip_valid: For each tile row whose last tile is in this batch, which pixels of its strip
            are valid and inside the area of interest: bool (h, w).
    """

    tiles: list[tuple[Tile, int | None]]
    data: np.ndarray | None
    valid: np.ndarray | None
    strip_valid: dict[int, np.ndarray]


def iter_batches(
    scene: Scene, block: TileBlock, *, batch_size: int, margin: int = 0, aoi: AOI | None = None
) -> Iterator[TileBatch]:
    """Read the tiles of a block; tiles that cross the edge of the scene are mirrored there.

    Args:
        scene: The scene, opened on the grid of the tiles.
        block: The tiles.
        batch_size: Tiles per batch.
        margin: Context pixels to read around each tile (overlap-tile strategy of U-Net,
            arXiv 1505.04597).
        aoi: Area of interest in the CRS of the scene's grid; the whole scene when None.
    """
    builder = _BatchBuilder(batch_size)
    for row in block.tile_rows:
        strip = block.strip(row)
        strip_valid = np.zeros((strip.height, strip.width), dtype=bool)
        for group in _groups(block, row):
            yield from builder.add(
                _read_group(scene, block, group, margin, aoi, strip, strip_valid)
            )
        if row >= block.rows[0]:
            builder.strip_valid[row] = strip_valid
    yield from builder.finish()


def _groups(block: TileBlock, row: int) -> Iterator[list[Tile]]:
    """Yield the tiles of a row in groups, which do not depend on where the block begins."""
    columns = block.tile_columns
    for first in range(columns.start - columns.start % GROUP, columns.stop, GROUP):
        members = range(max(first, columns.start), min(first + GROUP, columns.stop))
        yield [block.tiles.tile(row, column) for column in members]


def _read_group(
    scene: Scene,
    block: TileBlock,
    group: Sequence[Tile],
    margin: int,
    aoi: AOI | None,
    strip: Window,
    strip_valid: np.ndarray,
) -> Iterator[tuple[Tile, tuple[np.ndarray, np.ndarray] | None]]:
    """Read neighbouring tiles together, and fill in their part of the strip's validity.

    Yields:
        Each tile with its data (C, S, S) and valid (S, S), or with None if it has no valid pixel.
    """
    union = _union([tile.window for tile in group])
    if aoi is not None and not aoi.meets(scene.grid, union):
        yield from ((tile, None) for tile in group)
        return
    with_margin = scene.grid.widen(union, margin)
    data, valid = scene.read(with_margin)
    wanted = valid[within(with_margin, union)]
    if aoi is not None:
        wanted = wanted & aoi.covers(scene.grid, union)
    _copy_shared(strip_valid, strip, wanted, union)
    for tile in group:
        if not wanted[within(union, tile.window)].any():
            yield tile, None
            continue
        context = scene.grid.widen(tile.window, margin)
        part = within(with_margin, context)
        pads = _pads(tile.window, context, block.tiles.size, margin)
        yield tile, (_mirror(data[(..., *part)], pads), _mirror(valid[part], pads))


def _mirror(array: np.ndarray, pads: list[tuple[int, int]]) -> np.ndarray:
    if not any(before or after for before, after in pads):
        return array
    leading = [(0, 0)] * (array.ndim - 2)
    return np.pad(array, [*leading, *pads], mode="symmetric")


def _pads(window: Window, context: Window, size: int, margin: int) -> list[tuple[int, int]]:
    """Return the pixels missing before and after a tile's context, on both axes.

    Args:
        window: The tile.
        context: The tile with its margin, cut at the edge of the scene.
        size: Side of a full tile.
        margin: Context pixels on every side.
    """
    pads = []
    for start, begin, length in (
        (window.row_off, context.row_off, context.height),
        (window.col_off, context.col_off, context.width),
    ):
        before = margin - (start - begin)
        pads.append((before, size + 2 * margin - before - length))
    return pads


def _union(windows: Sequence[Window]) -> Window:
    """Return the window that neighbours in a row cover together."""
    first, last = windows[0], windows[-1]
    return Window(
        first.col_off, first.row_off, last.col_off + last.width - first.col_off, first.height
    )  # fmt: skip


def within(outer: Window, inner: Window) -> tuple[slice, slice]:
    """Return the slices of a window inside the array of a larger window."""
    top, left = inner.row_off - outer.row_off, inner.col_off - outer.col_off
    return slice(top, top + inner.height), slice(left, left + inner.width)


def _copy_shared(target: np.ndarray, strip: Window, source: np.ndarray, window: Window) -> None:
    """Copy the pixels that a strip shares with the window that was read."""
    left = max(strip.col_off, window.col_off)
    right = min(strip.col_off + strip.width, window.col_off + window.width)
    if left < right:
        shared = Window(left, strip.row_off, right - left, strip.height)
        target[within(strip, shared)] = source[within(window, shared)]


class _BatchBuilder:
    """Collects tiles until a batch is full."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.strip_valid: dict[int, np.ndarray] = {}
        self._begin()

    def _begin(self) -> None:
        self._tiles: list[tuple[Tile, int | None]] = []
        self._data: np.ndarray | None = None
        self._valid: np.ndarray | None = None
        self._count = 0

    def add(
        self, group: Iterable[tuple[Tile, tuple[np.ndarray, np.ndarray] | None]]
    ) -> Iterator[TileBatch]:
        """Add tiles, and yield each batch that they fill."""
        for tile, pixels in group:
            if pixels is None:
                self._tiles.append((tile, None))
                continue
            if self._count == self._batch_size:
                yield self._take()
            self._append(*pixels)
            self._tiles.append((tile, self._count - 1))

    def finish(self) -> Iterator[TileBatch]:
        """Yield the last batch, if any tile or strip is left."""
        if self._tiles or self.strip_valid:
            yield self._take()

    def _append(self, data: np.ndarray, valid: np.ndarray) -> None:
        if self._data is None or self._valid is None:
            self._data = np.empty((self._batch_size, *data.shape), data.dtype)
            self._valid = np.empty((self._batch_size, *valid.shape), bool)
        self._data[self._count], self._valid[self._count] = data, valid
        self._count += 1

    def _take(self) -> TileBatch:
        if self._data is not None and self._valid is not None:
            last = self._count - 1
            self._data[self._count :] = self._data[last]
            self._valid[self._count :] = self._valid[last]
        batch = TileBatch(self._tiles, self._data, self._valid, self.strip_valid)
        self.strip_valid = {}
        self._begin()
        return batch


def read_ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield items while a background thread makes the next ones.

    Close the generator (`contextlib.closing`) to end the thread when not all items are used.

    Args:
        items: Items to iterate over; none of them is None.
        depth: Maximum number of items that wait.
    """
    remaining = iter(items)
    pool = ThreadPoolExecutor(1)
    try:
        waiting = deque(pool.submit(next, remaining, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, remaining, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
