"""Connected components of a raster that is read in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

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
# the first pixel in scan order as row · width + column, and the pixel value.
_TOP, _LEFT, _BOTTOM, _RIGHT, _AREA, _FIRST, _VALUE = range(7)
# Columns of which merged components keep the minimum or the maximum.
_MIN_COLUMNS, _MAX_COLUMNS = (_TOP, _LEFT, _FIRST, _VALUE), (_BOTTOM, _RIGHT)


@dataclass(frozen=True)
class Component:
    """An 8-connected set of pixels of one value.

    Attributes:
        window: Bounding window.
        first: (row, column) of the first pixel in scan order, which identifies the component.
        area: Number of pixels.
        value: Value of the pixels.
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
        width: Columns of the raster.
    """

    COLUMNS: ClassVar[int] = _VALUE + 1

    table: np.ndarray
    width: int

    @classmethod
    def fits(cls, table: np.ndarray, shape: tuple[int, int]) -> bool:
        """Return whether a table can be that of a raster of a shape (height, width)."""
        found, (height, width) = cls(table, shape[1]), shape
        inside = (found.tops >= 0) & (found.lefts >= 0) & (found.firsts >= 0)
        inside &= (found.bottoms <= height) & (found.rights <= width)
        inside &= (found.heights > 0) & (found.widths > 0) & (found.firsts < height * width)
        inside &= (found.areas > 0) & (found.areas <= found.heights * found.widths)
        return bool(inside.all() and (np.diff(found.firsts) > 0).all())

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Component]:
        for top, left, bottom, right, area, first, value in self.table.tolist():
            window = Window(left, top, right - left, bottom - top)
            yield Component(window, divmod(first, self.width), area, value)

    def pick(self, chosen: np.ndarray | slice) -> Components:
        """Return the components at a mask, indices or a slice."""
        return Components(self.table[chosen], self.width)

    def match_runs(self, runs: Runs, window: Window) -> np.ndarray:
        """Find the component of each run of a window.

        Only components whose first pixel is in the window are found.

        Args:
            runs: In scan order; values are numbers of components in the window, from 1.
            window: The window.

        Returns:
            int64 (runs,), row of the component in the table; -1 where it is not found.
        """
        owners = runs.values - 1
        begins = np.zeros(int(owners.max(initial=-1)) + 1, dtype=np.int64)
        pixels = (runs.rows + window.row_off) * self.width + runs.starts + window.col_off
        begins[owners[::-1]] = pixels[::-1]  # reversed, so that the first pixel is written last
        indices = np.searchsorted(self.firsts, begins)
        matches = np.append(self.firsts, -1)[indices] == begins
        matched: np.ndarray = np.where(matches, indices, -1)[owners]
        return matched

    @property
    def tops(self) -> np.ndarray:
        """First row of each component."""
        return self.table[:, _TOP]

    @property
    def lefts(self) -> np.ndarray:
        """First column of each component."""
        return self.table[:, _LEFT]

    @property
    def rights(self) -> np.ndarray:
        """Column after the last one of each component."""
        return self.table[:, _RIGHT]

    @property
    def bottoms(self) -> np.ndarray:
        """Row after the last one of each component."""
        return self.table[:, _BOTTOM]

    @property
    def areas(self) -> np.ndarray:
        """Number of pixels of each component."""
        return self.table[:, _AREA]

    @property
    def firsts(self) -> np.ndarray:
        """First pixel of each component in scan order, as row · width + column."""
        return self.table[:, _FIRST]

    @property
    def values(self) -> np.ndarray:
        """Pixel value of each component."""
        return self.table[:, _VALUE]

    @property
    def heights(self) -> np.ndarray:
        """Number of rows of each component."""
        heights: np.ndarray = self.bottoms - self.tops
        return heights

    @property
    def widths(self) -> np.ndarray:
        """Number of columns of each component."""
        widths: np.ndarray = self.rights - self.lefts
        return widths

    @property
    def centres(self) -> np.ndarray:
        """Column and row of the centre of each bounding window, (n, 2)."""
        columns, rows = (self.lefts + self.rights) / 2, (self.tops + self.bottoms) / 2
        return np.column_stack([columns, rows])


@dataclass(frozen=True)
class BlockComponents:
    """Components of a block of rows, which may continue in the blocks above and below.

    Attributes:
        table: One row per component, as in `Components`.
        first_row: Runs of the first row; values are rows of `table`.
        last_row: Runs of the last row, likewise.
    """

    table: np.ndarray
    first_row: Runs
    last_row: Runs


def label_block(raster: np.ndarray, top: int) -> BlockComponents:
    """Find the components of a block.

    Args:
        raster: (H, W), all columns of some rows; 0 is background.
        top: First row of the block in the raster.
    """
    height, width = raster.shape
    runs = find_runs(raster)
    owners, count = label_runs(runs, diagonal=True)
    table = np.zeros((count, 7), dtype=np.int64)
    # Runs are in scan order. Written in reverse, the first run of a component comes last.
    table[owners[::-1], _FIRST] = ((runs.rows + top) * width + runs.starts)[::-1]
    table[owners[::-1], _TOP] = runs.rows[::-1] + top
    table[owners, _BOTTOM] = runs.rows + top + 1
    table[owners, _VALUE] = runs.values
    table[:, _LEFT] = width
    np.minimum.at(table[:, _LEFT], owners, runs.starts)
    np.maximum.at(table[:, _RIGHT], owners, runs.stops)
    table[:, _AREA] = np.bincount(owners, runs.lengths, count)
    first_row, last_row = (
        runs.with_values(owners).pick(chosen)
        for chosen in (runs.rows == 0, runs.rows == height - 1)
    )
    return BlockComponents(table, first_row, last_row)


def merge_blocks(blocks: Sequence[BlockComponents], width: int) -> Components:
    """Merge the components of blocks, from top to bottom, across the block borders."""
    if not blocks:
        return Components(np.zeros((0, 7), dtype=np.int64), width)
    table = np.concatenate([block.table for block in blocks])
    counts = np.cumsum([0, *(len(block.table) for block in blocks)])
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for above, below, first, second in zip(blocks, blocks[1:], counts, counts[1:], strict=False):
        pairs.append(_pairs_across(above.last_row, below.first_row, int(first), int(second)))
    one, other = np.concatenate(pairs, axis=1)
    same = table[one, _VALUE] == table[other, _VALUE]
    return Components(_merge(table, one[same], other[same]), width)


def _pairs_across(above: Runs, below: Runs, first: int, second: int) -> np.ndarray:
    """Return pairs of rows (2, n) of the joint table whose components touch across a border.

    Pixels that touch at a corner count.
    """
    joined = concatenate_runs(
        Runs(np.zeros(len(above), np.int64), above.starts, above.stops, above.values + first),
        Runs(np.ones(len(below), np.int64), below.starts, below.stops, below.values + second),
    )
    one, other = touching_pairs(joined, diagonal=True)
    return np.stack([joined.values[one], joined.values[other]])


def _merge(table: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Merge the rows of a table that are linked in pairs; sort by the first pixel."""
    size = len(table)
    links = coo_array((np.ones(len(one), dtype=bool), (one, other)), (size, size))
    count, owners = connected_components(links, directed=False) if size else (0, one)
    merged = np.zeros((count, 7), dtype=np.int64)
    for column in _MIN_COLUMNS:
        merged[:, column] = np.iinfo(np.int64).max
        np.minimum.at(merged[:, column], owners, table[:, column])
    for column in _MAX_COLUMNS:
        np.maximum.at(merged[:, column], owners, table[:, column])
    np.add.at(merged[:, _AREA], owners, table[:, _AREA])
    ordered: np.ndarray = merged[np.argsort(merged[:, _FIRST])]
    return ordered
