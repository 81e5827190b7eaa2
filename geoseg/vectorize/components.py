"""Connected components of a raster that is only ever seen in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

EIGHT = np.ones((3, 3), dtype=bool)
FOUR = ndimage.generate_binary_structure(2, 1)

# Columns of a table of components: extent in rows and columns (ends excluded), pixel count,
# the first pixel in scan order as row · width + column, and the value.
_TOP, _LEFT, _BOTTOM, _RIGHT, _AREA, _FIRST, _VALUE = range(7)


@dataclass(frozen=True)
class Component:
    """An 8-connected set of pixels of one value.

    Attributes:
        window: Smallest window that holds it.
        first: (row, column) of its first pixel in scan order, which names it.
        area: Pixels.
        value: Of its pixels.
    """

    window: Window
    first: tuple[int, int]
    area: int
    value: int

    @property
    def centre(self) -> tuple[float, float]:
        """(row, column) of the middle of its window."""
        window = self.window
        return window.row_off + window.height / 2, window.col_off + window.width / 2


def find_components(
    read: Callable[[Window], np.ndarray], shape: tuple[int, int], block_rows: int
) -> list[Component]:
    """Finds the 8-connected components of each value; the result does not depend on the blocks.

    Args:
        read: Gives a window (H, W) of a mask, or of small numbers; nothing is where it is 0.
        shape: (height, width) of the whole raster.
        block_rows: Rows that are in memory at a time.

    Returns:
        Components sorted by their first pixel.

    Raises:
        ValueError: If `block_rows` is below 1.
    """
    if block_rows < 1:
        raise ValueError(f"block_rows must be at least 1, got {block_rows}")
    height, width = shape
    tables, pairs, count = [], [], 0
    above = np.zeros(width, dtype=np.int64)
    for top in range(0, height, block_rows):
        window = Window(0, top, width, min(block_rows, height - top))
        labels, values = _label(read(window).astype(np.uint8, copy=False))
        tables.append(_describe(labels, values, top))
        pairs.append(_touching(above, np.where(labels[0] > 0, labels[0] + count, 0)))
        above = np.where(labels[-1] > 0, labels[-1].astype(np.int64) + count, 0)
        count += len(values)
    table = np.concatenate(tables)
    return _merge(table, _of_one_value(np.concatenate(pairs), table), width)


def _label(raster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the components of a block from 1, value by value; the value of each."""
    there = np.flatnonzero(np.bincount(raster.ravel()))
    labels, values = np.zeros(raster.shape, dtype=np.int32), [np.zeros(0, dtype=np.int64)]
    count = 0
    for value in there[there > 0]:
        part, found = ndimage.label(raster == value, structure=EIGHT)
        np.add(part, count, out=labels, where=part > 0)
        values.append(np.full(found, value, dtype=np.int64))
        count += found
    return labels, np.concatenate(values)


def _of_one_value(pairs: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Pairs of ids, counted from 1, whose components are of one value."""
    values = table[:, _VALUE]
    same: np.ndarray = pairs[values[pairs[:, 0] - 1] == values[pairs[:, 1] - 1]]
    return same


def _describe(labels: np.ndarray, values: np.ndarray, top: int) -> np.ndarray:
    """One row of numbers (count, 7) for each component of a block."""
    width, count = labels.shape[1], len(values)
    pixels = np.flatnonzero(labels)
    owners = labels.ravel()[pixels] - 1
    table = np.zeros((count, 7), dtype=np.int64)
    table[:, _VALUE] = values
    table[:, _AREA] = np.bincount(owners, minlength=count)
    table[owners[::-1], _FIRST] = pixels[::-1] + top * width  # the last to write is the first
    for row, (rows, columns) in zip(table, ndimage.find_objects(labels), strict=True):
        row[:_AREA] = rows.start + top, columns.start, rows.stop + top, columns.stop
    return table


def _touching(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Pairs (n, 2) of ids that meet over the cut between two rows, corners included."""
    pairs = [(above, below), (above[1:], below[:-1]), (above[:-1], below[1:])]
    joined = np.concatenate([np.column_stack(pair) for pair in pairs])
    return np.unique(joined[(joined > 0).all(axis=1)], axis=0)


def _merge(table: np.ndarray, pairs: np.ndarray, width: int) -> list[Component]:
    """Joins what meets over cuts; ids in `pairs` count the rows of `table` from 1."""
    size = len(table)
    if not size:
        return []
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0] - 1, pairs[:, 1] - 1)), (size, size))
    count, owner = connected_components(links, directed=False)
    merged = np.full((count, 7), np.iinfo(np.int64).max)
    for column in (_TOP, _LEFT, _FIRST, _VALUE):
        np.minimum.at(merged[:, column], owner, table[:, column])
    for column, combine in ((_BOTTOM, np.maximum), (_RIGHT, np.maximum), (_AREA, np.add)):
        merged[:, column] = 0
        combine.at(merged[:, column], owner, table[:, column])
    ordered = merged[np.argsort(merged[:, _FIRST])].tolist()
    return [
        Component(Window(left, top, right - left, bottom - top), divmod(first, width), area, value)
        for top, left, bottom, right, area, first, value in ordered
    ]
