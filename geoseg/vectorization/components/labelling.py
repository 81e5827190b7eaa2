"""Connected components of a raster that is only ever seen in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.vectorization.components.runs import (
    Runs,
    concatenate_runs,
    find_runs,
    label_runs,
    touching_pairs,
)

# Columns of a table of components: extent in rows and columns (ends excluded), pixel count,
# the first pixel in scan order as row · width + column, and the value.
_TOP, _LEFT, _BOTTOM, _RIGHT, _AREA, _FIRST, _VALUE = range(7)
_LEAST, _MOST = (_TOP, _LEFT, _FIRST, _VALUE), (_BOTTOM, _RIGHT)


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


@dataclass(frozen=True)
class Components:
    """Components of a raster, sorted by their first pixel.

    Attributes:
        table: int64 (n, 7).
        width: Of the raster.
    """

    table: np.ndarray
    width: int

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Component]:
        for top, left, bottom, right, area, first, value in self.table.tolist():
            window = Window(left, top, right - left, bottom - top)
            yield Component(window, divmod(first, self.width), area, value)

    def pick(self, chosen: np.ndarray | slice) -> Components:
        """Those that a mask, indices or a slice choose."""
        return Components(self.table[chosen], self.width)

    def match_runs(self, runs: Runs, window: Window) -> np.ndarray:
        """Which of these the runs of a window are of, if they begin there.

        Args:
            runs: In scan order; values are numbers of components in the window, from 1.
            window: The window.

        Returns:
            int64 (runs,), places in the table; -1 of others.
        """
        owners = runs.values - 1
        begins = np.zeros(int(owners.max(initial=-1)) + 1, dtype=np.int64)
        pixels = (runs.rows + window.row_off) * self.width + runs.starts + window.col_off
        begins[owners[::-1]] = pixels[::-1]  # in scan order, so the first is written last
        places = np.searchsorted(self.firsts, begins)
        found = np.append(self.firsts, -1)[places] == begins
        numbers: np.ndarray = np.where(found, places, -1)[owners]
        return numbers

    @property
    def tops(self) -> np.ndarray:
        """First row of each."""
        return self.table[:, _TOP]

    @property
    def lefts(self) -> np.ndarray:
        """First column of each."""
        return self.table[:, _LEFT]

    @property
    def rights(self) -> np.ndarray:
        """The column behind the last one of each."""
        return self.table[:, _RIGHT]

    @property
    def bottoms(self) -> np.ndarray:
        """The row behind the last one of each."""
        return self.table[:, _BOTTOM]

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each."""
        return self.table[:, _AREA]

    @property
    def firsts(self) -> np.ndarray:
        """First pixel of each in scan order, as row · width + column."""
        return self.table[:, _FIRST]

    @property
    def values(self) -> np.ndarray:
        """What the pixels of each hold."""
        return self.table[:, _VALUE]

    @property
    def heights(self) -> np.ndarray:
        """Rows of each."""
        heights: np.ndarray = self.bottoms - self.tops
        return heights

    @property
    def widths(self) -> np.ndarray:
        """Columns of each."""
        widths: np.ndarray = self.rights - self.lefts
        return widths

    @property
    def centres(self) -> np.ndarray:
        """(n, 2): column and row of the middle of each one's window."""
        columns, rows = (self.lefts + self.rights) / 2, (self.tops + self.bottoms) / 2
        return np.column_stack([columns, rows])


@dataclass(frozen=True)
class BlockComponents:
    """The components of a block of rows, which may go on in the blocks above and below.

    Attributes:
        table: As of `Components`, one row for each.
        upper: Runs of its first row, with the place of their component in the table as values.
        lower: Runs of its last row, likewise.
    """

    table: np.ndarray
    upper: Runs
    lower: Runs


def label_block(raster: np.ndarray, top: int) -> BlockComponents:
    """The components of a block.

    Args:
        raster: (H, W), all columns; nothing is where it is 0.
        top: Its first row in the whole raster.
    """
    height, width = raster.shape
    runs = find_runs(raster)
    owners, count = label_runs(runs, diagonal=True)
    table = np.zeros((count, 7), dtype=np.int64)
    # Runs are in scan order: the first of a component is the last one written from behind.
    table[owners[::-1], _FIRST] = ((runs.rows + top) * width + runs.starts)[::-1]
    table[owners[::-1], _TOP] = runs.rows[::-1] + top
    table[owners, _BOTTOM] = runs.rows + top + 1
    table[owners, _VALUE] = runs.values
    table[:, _LEFT] = width
    np.minimum.at(table[:, _LEFT], owners, runs.starts)
    np.maximum.at(table[:, _RIGHT], owners, runs.stops)
    table[:, _AREA] = np.bincount(owners, runs.lengths, count)
    upper, lower = (
        runs.with_values(owners).pick(chosen)
        for chosen in (runs.rows == 0, runs.rows == height - 1)
    )
    return BlockComponents(table, upper, lower)


def merge_blocks(parts: Sequence[BlockComponents], width: int) -> Components:
    """Joins what meets over the cuts between the parts of a raster, from above to below."""
    if not parts:
        return Components(np.zeros((0, 7), dtype=np.int64), width)
    table = np.concatenate([part.table for part in parts])
    counts = np.cumsum([0, *(len(part.table) for part in parts)])
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for above, below, first, second in zip(parts, parts[1:], counts, counts[1:], strict=False):
        pairs.append(_meeting(above.lower, below.upper, int(first), int(second)))
    one, other = np.concatenate(pairs, axis=1)
    same = table[one, _VALUE] == table[other, _VALUE]
    return Components(_merge(table, one[same], other[same]), width)


def _meeting(above: Runs, below: Runs, first: int, second: int) -> np.ndarray:
    """Rows of the joint table (2, n) whose components meet over a cut, corners included."""
    joined = concatenate_runs(
        Runs(np.zeros(len(above), np.int64), above.starts, above.stops, above.values + first),
        Runs(np.ones(len(below), np.int64), below.starts, below.stops, below.values + second),
    )
    one, other = touching_pairs(joined, reach=1)
    return np.stack([joined.values[one], joined.values[other]])


def _merge(table: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    size = len(table)
    links = coo_array((np.ones(len(one), dtype=bool), (one, other)), (size, size))
    count, owners = connected_components(links, directed=False) if size else (0, one)
    merged = np.zeros((count, 7), dtype=np.int64)
    for column in _LEAST:
        merged[:, column] = np.iinfo(np.int64).max
        np.minimum.at(merged[:, column], owners, table[:, column])
    for column in _MOST:
        np.maximum.at(merged[:, column], owners, table[:, column])
    np.add.at(merged[:, _AREA], owners, table[:, _AREA])
    ordered: np.ndarray = merged[np.argsort(merged[:, _FIRST])]
    return ordered
