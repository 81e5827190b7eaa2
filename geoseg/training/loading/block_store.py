"""Ground in square blocks: stored only where there is any, and cut into windows that span them.

What a pixel has lies in stores, one per name, each (blocks, bands, side, side): a window is read
from few places of a file, and ground that winds through a wide area takes little more room than it
covers. The last block of each store is bare, and stands wherever there is none.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self, cast

import numpy as np

# By name: (blocks, bands, side, side).
Stores = Mapping[str, np.ndarray]

# First row and column in a group, height and width.
Box = tuple[int, int, int, int]

# Indices of some pixels of a block, in all bands.
_Place = tuple[int, slice, slice, slice]

_BARE = -1
_ALL = slice(None)


@dataclass(frozen=True)
class Group:
    """Ground that hangs together, in its bounding rectangle.

    Attributes:
        height: Of the rectangle.
        width: Of the rectangle.
        side: Of a block.
        table: (rows, columns): which block of the stores is where, from the rectangle's top left;
            the last ones may reach beyond it. -1, the bare block, is where no ground is.
    """

    height: int
    width: int
    side: int
    table: np.ndarray

    @classmethod
    def around(cls, boxes: np.ndarray, side: int, first: int = 0) -> Self:
        """The group that some boxes make.

        Args:
            boxes: (n, 4), each a `Box`; the least row and column are 0.
            side: Of a block.
            first: Number of its first block in the stores; the others follow.
        """
        begins, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        height, width = ends.max(axis=0).tolist()
        table = np.full((-(-height // side), -(-width // side)), _BARE, np.int32)
        for (top, left), (below, after) in zip(begins // side, -(-ends // side), strict=True):
            table[top:below, left:after] = first
        there = table != _BARE
        table[there] += np.arange(there.sum(), dtype=np.int32)
        return cls(height, width, side, table)

    @property
    def blocks(self) -> int:
        """How many blocks of the stores are this group's."""
        return int((self.table != _BARE).sum())

    def pieces(self, box: Box) -> Iterator[tuple[_Place, tuple[slice, slice, slice]]]:
        """What a box inside the rectangle is made of: each piece's place in a store, and in it."""
        top, left, height, width = box
        columns = list(_split(left, width, self.side))
        for row, lines, down in _split(top, height, self.side):
            numbers = self.table[row].tolist()
            for column, across, along in columns:
                yield (numbers[column], _ALL, lines, across), (_ALL, down, along)


def _split(begin: int, length: int, side: int) -> Iterator[tuple[int, slice, slice]]:
    """Cuts a line where blocks end: number of the block, the part's place there, and here."""
    end = begin + length
    for number in range(begin // side, -(-end // side)):
        start = number * side
        first, last = max(begin, start), min(end, start + side)
        yield number, slice(first - start, last - start), slice(first - begin, last - begin)


def lay_down(group: Group, box: Box, stores: Stores, found: Mapping[str, np.ndarray]) -> None:
    """Stores what was found.

    Args:
        group: Where it lies.
        box: Which part of the group; all of it has blocks.
        stores: What is written to.
        found: By name (bands, height, width) or larger; what does not fit into the box is left out.
    """
    for there, here in group.pieces(box):
        for name, array in found.items():
            stores[name][there] = array[here]


def cut_window(
    group: Group, stores: Stores, top: int, left: int, out: Mapping[str, np.ndarray]
) -> None:
    """Copies a window, which mirrors the group where it reaches beyond: 2 1 | 0 1 2.

    Args:
        group: Where it lies.
        stores: What is read from.
        top: First row of the window in the group, may be negative.
        left: First column of the window in the group, may be negative.
        out: By name (bands, height, width), all of one size, filled; they hold more of the group
            than of mirror images.
    """
    height, width = next(iter(out.values())).shape[-2:]
    above, before = max(0, -top), max(0, -left)
    below, after = min(height, group.height - top), min(width, group.width - left)
    pieces = list(group.pieces((top + above, left + before, below - above, after - before)))
    for name, array in out.items():
        store, inside = stores[name], array[:, above:below, before:after]
        if isinstance(store, np.memmap):
            _call_up(store, {there[0] for there, _ in pieces})
        for there, here in pieces:
            inside[here] = store[there]
        _mirror(np.moveaxis(array, 1, 0), above, below)
        _mirror(np.moveaxis(array, 2, 0), before, after)


def _call_up(store: np.memmap, numbers: Iterable[int]) -> None:
    """Has blocks of a file read at once and nothing else.

    A page that is asked for by touching it comes alone, or with megabytes that lie around it.
    """
    if not hasattr(mmap, "MADV_WILLNEED"):  # Windows
        return
    mapped = cast(mmap.mmap, store.base)
    head, size = len(mapped) - store.nbytes, store.nbytes // len(store)
    for number in numbers:
        begin = head + number % len(store) * size
        over = begin % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, begin - over, over + size)


def _mirror(lines: np.ndarray, begin: int, end: int) -> None:
    """Fills the lines before `begin` and from `end` on with mirror images of those between."""
    most = end - begin - 1
    if not most:
        lines[...] = lines[begin:end]
    while most and begin > 0:  # there and back again, where one image is too little
        count = min(begin, most)
        lines[begin - count : begin] = lines[begin + 1 : begin + 1 + count][::-1]
        begin -= count
    while most and end < len(lines):
        count = min(len(lines) - end, most)
        lines[end : end + count] = lines[end - 1 - count : end - 1][::-1]
        end += count
