"""The tiles of a block in batches of one shape, read ahead of who needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from rasterio.windows import Window

from geoseg.geo.aoi import AOI
from geoseg.geo.raster import Scene
from geoseg.geo.tiling import Tile
from geoseg.prediction.stitching import TileBlock

# So many neighbours in a row are read at once: what they share is decoded once, and memory does
# not grow with the width of the scene.
STRIP = 8

Item = TypeVar("Item")


@dataclass(frozen=True)
class TileBatch:
    """Tiles that are predicted together, and those between them that need not be.

    Attributes:
        tiles: In the block's order, each with its place in the batch; None where it shows
            nothing of interest.
        data: (N, C, S, S) in the scene's units; a batch that is not full repeats its last tile.
            None where no tile of the batch is to be predicted.
        valid: (N, S, S).
        known: Which pixels of a band have data and are of interest, by the row of tiles that
            settles it, for the rows that end with this batch: bool (h, w).
    """

    tiles: list[tuple[Tile, int | None]]
    data: np.ndarray | None
    valid: np.ndarray | None
    known: dict[int, np.ndarray]


def iter_batches(
    scene: Scene, block: TileBlock, *, batch_size: int, margin: int = 0, aoi: AOI | None = None
) -> Iterator[TileBatch]:
    """Reads the tiles of a block, each mirrored at the scene's edges up to its full size.

    Args:
        scene: The scene on the plan's grid.
        block: The tiles.
        batch_size: Tiles per batch.
        margin: Pixels around each tile that are read besides (the overlap-tile strategy of
            U-Net, arXiv 1505.04597).
        aoi: Area of interest in the CRS of the scene's grid; the whole scene when None.
    """
    filling = _Filling(batch_size)
    for row in block.tile_rows:
        band = block.band(row)
        known = np.zeros((band.height, band.width), dtype=bool)
        for strip in _strips(block, row):
            yield from filling.add(_read_strip(scene, block, strip, margin, aoi, band, known))
        if row >= block.rows[0]:
            filling.known[row] = known
    yield from filling.finish()


def _strips(block: TileBlock, row: int) -> Iterator[list[Tile]]:
    """The tiles of a row by groups, which are the same whatever the block."""
    columns = block.tile_columns
    for first in range(columns.start - columns.start % STRIP, columns.stop, STRIP):
        some = range(max(first, columns.start), min(first + STRIP, columns.stop))
        yield [block.plan.tile(row, column) for column in some]


def _read_strip(
    scene: Scene,
    block: TileBlock,
    strip: Sequence[Tile],
    margin: int,
    aoi: AOI | None,
    band: Window,
    known: np.ndarray,
) -> Iterator[tuple[Tile, tuple[np.ndarray, np.ndarray] | None]]:
    """Reads neighbours together, and notes what they know of a band.

    Yields:
        Each tile with its data (C, S, S) and valid (S, S), or with None if it shows nothing.
    """
    ground = _union([tile.window for tile in strip])
    if aoi is not None and not aoi.meets(scene.grid, ground):
        yield from ((tile, None) for tile in strip)
        return
    seen = scene.grid.widen(ground, margin)
    data, valid = scene.read(seen)
    wanted = valid[within(seen, ground)]
    if aoi is not None:
        wanted = wanted & aoi.covers(scene.grid, ground)
    _note(known, band, wanted, ground)
    for tile in strip:
        if not wanted[within(ground, tile.window)].any():
            yield tile, None
            continue
        near = scene.grid.widen(tile.window, margin)
        part = within(seen, near)
        pads = _pads(tile.window, near, block.plan.size, margin)
        yield tile, (_mirror(data[(..., *part)], pads), _mirror(valid[part], pads))


def _mirror(array: np.ndarray, pads: list[tuple[int, int]]) -> np.ndarray:
    if not any(before or after for before, after in pads):
        return array
    rest = [(0, 0)] * (array.ndim - 2)
    return np.pad(array, [*rest, *pads], mode="symmetric")


def _pads(window: Window, near: Window, size: int, margin: int) -> list[tuple[int, int]]:
    """Pixels that what was read near a window lacks before and after it, on both axes."""
    pads = []
    for start, begin, length in (
        (window.row_off, near.row_off, near.height),
        (window.col_off, near.col_off, near.width),
    ):
        before = margin - (start - begin)
        pads.append((before, size + 2 * margin - before - length))
    return pads


def _union(windows: Sequence[Window]) -> Window:
    """The window that neighbours in a row cover together."""
    first, last = windows[0], windows[-1]
    return Window(
        first.col_off, first.row_off, last.col_off + last.width - first.col_off, first.height
    )  # fmt: skip


def within(outer: Window, inner: Window) -> tuple[slice, slice]:
    """Where a window lies in an array of another that holds it."""
    top, left = inner.row_off - outer.row_off, inner.col_off - outer.col_off
    return slice(top, top + inner.height), slice(left, left + inner.width)


def _note(known: np.ndarray, band: Window, wanted: np.ndarray, ground: Window) -> None:
    """Copies what lies in a band from the ground that was read."""
    left = max(band.col_off, ground.col_off)
    right = min(band.col_off + band.width, ground.col_off + ground.width)
    if left < right:
        shared = Window(left, band.row_off, right - left, band.height)
        known[within(band, shared)] = wanted[within(ground, shared)]


class _Filling:
    """Gathers tiles until a batch is full."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.known: dict[int, np.ndarray] = {}
        self._begin()

    def _begin(self) -> None:
        self._tiles: list[tuple[Tile, int | None]] = []
        self._data: np.ndarray | None = None
        self._valid: np.ndarray | None = None
        self._count = 0

    def add(
        self, read: Iterable[tuple[Tile, tuple[np.ndarray, np.ndarray] | None]]
    ) -> Iterator[TileBatch]:
        """Adds tiles, and yields the batches that they fill."""
        for tile, found in read:
            if found is None:
                self._tiles.append((tile, None))
                continue
            if self._count == self._batch_size:
                yield self._take()
            self._put(*found)
            self._tiles.append((tile, self._count - 1))

    def finish(self) -> Iterator[TileBatch]:
        """Yields what is left."""
        if self._tiles or self.known:
            yield self._take()

    def _put(self, data: np.ndarray, valid: np.ndarray) -> None:
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
        batch = TileBatch(self._tiles, self._data, self._valid, self.known)
        self.known = {}
        self._begin()
        return batch


def read_ahead(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    """Yields items while a thread of its own already makes the next ones.

    Args:
        items: What to go through; none of it is None.
        ahead: So many wait at the most.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, remaining, None) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, remaining, None))
            yield item
