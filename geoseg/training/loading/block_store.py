"""Sparse arrays of square blocks, from which windows across several blocks are read.

Pixels are kept in stores, one array (blocks, bands, side, side) per name. Only blocks that tiles
cover are allocated: a window is read from few positions of a file, and tiles that are spread over a
wide extent take little more room than they cover. The last block of each store is empty and stands
for every block that no tile covers.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self, cast

import numpy as np

from geoseg.errors import EmptyDatasetError

# By name: (blocks, bands, side, side).
Stores = Mapping[str, np.ndarray]

# First row, first column, height and width in the pixels of a group.
Rect = tuple[int, int, int, int]

# Index of pixels in a store: block, bands, rows and columns of the block.
_BlockIndex = tuple[int, slice, slice, slice]

# Index of pixels in a window: bands, rows and columns.
_WindowIndex = tuple[slice, slice, slice]

_EMPTY = -1
# Blocks of a group, each with a number of 4 bytes.
_MOST_BLOCKS = 100_000_000
_ALL = slice(None)


@dataclass(frozen=True)
class Group:
    """Tiles that touch each other: their bounding rectangle, divided into blocks.

    Attributes:
        height: Height of the rectangle.
        width: Width of the rectangle.
        side: Side of a block.
        table: (rows, columns), the number in the stores of each block of the rectangle, counted
            from its top left; the last row and column may extend beyond it. -1, the empty block,
            where there is no tile.
    """

    height: int
    width: int
    side: int
    table: np.ndarray

    @classmethod
    def from_rects(cls, rects: np.ndarray, side: int, first: int = 0) -> Self:
        """Build the group of some tiles.

        Args:
            rects: (n, 4), each a `Rect`; the smallest row and column are 0.
            side: Side of a block.
            first: Number of the group's first block in the stores; the others follow.

        Raises:
            EmptyDatasetError: If the rectangle is too large for any scene.
        """
        begins, ends = rects[:, :2], rects[:, :2] + rects[:, 2:]
        height, width = ends.max(axis=0).tolist()
        if height * width > _MOST_BLOCKS * side**2:
            raise EmptyDatasetError(
                f"tiles that touch each other spread over {height} x {width} pixels, more than fit "
                "into memory; tile the scenes again"
            )
        table = np.full((-(-height // side), -(-width // side)), _EMPTY, np.int32)
        for (top, left), (below, after) in zip(begins // side, -(-ends // side), strict=True):
            table[top:below, left:after] = first
        covered = table != _EMPTY
        table[covered] += np.arange(covered.sum(), dtype=np.int32)
        return cls(height, width, side, table)

    @property
    def blocks(self) -> int:
        """Number of blocks that the group has in the stores."""
        return int((self.table != _EMPTY).sum())

    def iter_parts(self, rect: Rect) -> Iterator[tuple[_BlockIndex, _WindowIndex]]:
        """Yield the parts of a rectangle by block: their index in a store, and in the rectangle."""
        top, left, height, width = rect
        columns = list(_split_range(left, width, self.side))
        for row, block_rows, rows in _split_range(top, height, self.side):
            numbers = self.table[row].tolist()
            for column, block_columns, cols in columns:
                yield (numbers[column], _ALL, block_rows, block_columns), (_ALL, rows, cols)


def _split_range(begin: int, length: int, side: int) -> Iterator[tuple[int, slice, slice]]:
    """Split a range at block borders: block number, slice of the block, slice of the range."""
    end = begin + length
    for number in range(begin // side, -(-end // side)):
        start = number * side
        first, last = max(begin, start), min(end, start + side)
        yield number, slice(first - start, last - start), slice(first - begin, last - begin)


def write_rect(group: Group, rect: Rect, stores: Stores, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into the blocks of a rectangle.

    Args:
        group: The group that the rectangle belongs to.
        rect: Part of the group that blocks cover completely.
        stores: Stores to write to.
        arrays: By name (bands, height, width) or larger; pixels beyond the rectangle are ignored.
    """
    for stored, part in group.iter_parts(rect):
        for name, array in arrays.items():
            stores[name][stored] = array[part]


def read_window(
    group: Group, stores: Stores, top: int, left: int, out: Mapping[str, np.ndarray]
) -> None:
    """Read a window; beyond the group's rectangle, pixels are mirrored: 2 1 | 0 1 2.

    Args:
        group: The group that the window belongs to.
        stores: Stores to read from.
        top: First row of the window in the group, may be negative.
        left: First column of the window in the group, may be negative.
        out: By name (bands, height, width), all of one size, written to; more than half of each
            side is inside the group.
    """
    height, width = next(iter(out.values())).shape[-2:]
    above, before = max(0, -top), max(0, -left)
    below, after = min(height, group.height - top), min(width, group.width - left)
    parts = list(group.iter_parts((top + above, left + before, below - above, after - before)))
    for name, array in out.items():
        store, inside = stores[name], array[:, above:below, before:after]
        if isinstance(store, np.memmap):
            _prefetch(store, {stored[0] for stored, _ in parts})
        for stored, part in parts:
            inside[part] = store[stored]
        _mirror(np.moveaxis(array, 1, 0), above, below)
        _mirror(np.moveaxis(array, 2, 0), before, after)


def _prefetch(store: np.memmap, numbers: Iterable[int]) -> None:
    """Ask the system to read the given blocks of a mapped file now.

    Without this, page faults read one page at a time, or megabytes around each page.
    """
    if not hasattr(mmap, "MADV_WILLNEED"):  # Windows
        return
    mapped = cast(mmap.mmap, store.base)
    head, size = len(mapped) - store.nbytes, store.nbytes // len(store)
    for number in numbers:
        begin = head + number % len(store) * size
        over = begin % mmap.PAGESIZE  # advice must begin at a page
        mapped.madvise(mmap.MADV_WILLNEED, begin - over, over + size)


def _mirror(lines: np.ndarray, begin: int, end: int) -> None:
    """Fill the lines before `begin` and from `end` on with mirror images of the others."""
    most = end - begin - 1
    if not most:
        lines[...] = lines[begin:end]
    # Mirror repeatedly: the known lines may be fewer than the missing ones.
    while most and begin > 0:
        count = min(begin, most)
        lines[begin - count : begin] = lines[begin + 1 : begin + 1 + count][::-1]
        begin -= count
    while most and end < len(lines):
        count = min(len(lines) - end, most)
        lines[end : end + count] = lines[end - 1 - count : end - 1][::-1]
        end += count
