"""Closed rings along the pixel edges of runs, traced all at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from geoseg.vectorization.components.runs import Runs, expand_ranges


@dataclass(frozen=True)
class Rings:
    """Closed rings in pixel coordinates; they run downwards on the left side of their piece.

    Attributes:
        points: (n, 2), x and y of the vertices of all rings; the first vertex of a ring is not
            repeated at its end.
        offsets: int64 (rings + 1,), index of the first vertex of each ring.
        pieces: int64 (rings,), piece of each ring.
        holes: bool (rings,), whether the ring bounds a hole.
    """

    points: np.ndarray
    offsets: np.ndarray
    pieces: np.ndarray
    holes: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Number of vertices of each ring."""
        return np.diff(self.offsets)

    @property
    def following(self) -> np.ndarray:
        """Index of the vertex after each vertex."""
        after = np.arange(1, len(self.points) + 1)
        after[self.offsets[1:] - 1] = self.offsets[:-1]
        return after

    def polygons(self) -> np.ndarray:
        """Return the polygons of the pieces, in the order of the rings."""
        closed = expand_ranges(self.offsets[:-1], self.sizes + 1)
        ends = self.offsets[1:] + np.arange(len(self.holes))
        closed[ends] = self.offsets[:-1]
        rings = self.offsets + np.arange(len(self.offsets))
        outer = np.append(np.flatnonzero(~self.holes), len(self.holes))
        points = np.asarray(self.points, dtype=np.float64)[closed]
        kind = shapely.GeometryType.POLYGON
        polygons: np.ndarray = shapely.from_ragged_array(kind, points, (rings, outer))
        return polygons


def trace_rings(runs: Runs, pieces: np.ndarray) -> Rings:
    """Trace the outlines of pieces along pixel edges; a piece is a 4-connected set of runs.

    Where two pixels of a piece touch at a corner only, the ring turns around the outer pixels, so
    that every ring is simple. This is possible since the piece is connected elsewhere, so one of
    the two outer pixels is in a hole.

    Args:
        runs: Runs in any order.
        pieces: int64 (n,), piece of each run.

    Returns:
        Rings sorted by piece, the outer ring before its holes. A ring starts at its first edge in
        order of column and row.
    """
    edges = _vertical_edges(runs, pieces)
    successors = _follow(edges)
    order, offsets = _order_cycles(successors)
    down = edges.down[order]
    begin = np.where(down, edges.tops[order], edges.bottoms[order])
    end = np.where(down, edges.bottoms[order], edges.tops[order])
    x = edges.columns[order]
    corners = np.empty((2 * len(order), 2), dtype=np.int64)
    corners[0::2, 0] = corners[1::2, 0] = x
    corners[0::2, 1], corners[1::2, 1] = begin, end
    # Signed areas (doubled): positive for outer rings, which run downwards on their left side.
    heads = offsets[:-1]
    areas = np.add.reduceat(x * (begin - end), heads) if len(heads) else heads
    return _outer_first(Rings(corners, 2 * offsets, edges.pieces[order[heads]], areas < 0))


@dataclass(frozen=True)
class _Edges:
    """Vertical edges of outlines, sorted by piece, column, direction and row."""

    pieces: np.ndarray
    columns: np.ndarray
    down: np.ndarray  # whether the edge is on the left side of its piece
    tops: np.ndarray
    bottoms: np.ndarray


def _vertical_edges(runs: Runs, pieces: np.ndarray) -> _Edges:
    """Find the vertical edges; consecutive rows with the same column form one edge."""
    piece = np.concatenate([pieces, pieces])
    column = np.concatenate([runs.starts, runs.stops])
    right = np.repeat([0, 1], len(runs))
    row = np.concatenate([runs.rows, runs.rows])
    order = argsort(piece, column, right, row)
    piece, column, right, row = piece[order], column[order], right[order], row[order]
    first = np.ones(len(order) + 1, dtype=bool)
    first[1:-1] = (
        (row[1:] != row[:-1] + 1) | (column[1:] != column[:-1])
        | (right[1:] != right[:-1]) | (piece[1:] != piece[:-1])
    )  # fmt: skip
    begins = np.flatnonzero(first)
    head, tail = begins[:-1], begins[1:] - 1
    return _Edges(piece[head], column[head], right[head] == 0, row[head], row[tail] + 1)


def _follow(edges: _Edges) -> np.ndarray:
    """Return the successor of each edge: its partner along the row where it ends."""
    count = len(edges.pieces)
    piece = np.concatenate([edges.pieces, edges.pieces])
    column = np.concatenate([edges.columns, edges.columns])
    row = np.concatenate([edges.tops, edges.bottoms])
    up = np.concatenate([~edges.down, ~edges.down])
    order = argsort(piece, row, column, up)
    partner = np.empty(2 * count, dtype=np.int64)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    ends = np.arange(count) + np.where(edges.down, count, 0)
    followers: np.ndarray = partner[ends] % max(count, 1)
    return followers


def _order_cycles(successors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the members of all cycles in order, and the offset of each cycle."""
    count = len(successors)
    links = csr_array(
        (np.ones(count, dtype=bool), successors, np.arange(count + 1)), (count, count)
    )
    cycles, owners = connected_components(links, directed=False)
    heads = np.full(cycles, count)
    np.minimum.at(heads, owners, np.arange(count))
    sizes = np.bincount(owners, minlength=cycles)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    to_tail = _distances(successors, successors == heads[owners])
    order = np.empty(count, dtype=np.int64)
    order[offsets[owners + 1] - 1 - to_tail] = np.arange(count)
    return order, offsets


def _distances(successors: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """Return the number of steps from each member to the tail of its cycle, by pointer jumping."""
    jump = np.where(tails, np.arange(len(successors)), successors)
    distance = (~tails).astype(np.int64)
    while (further := distance[jump]).any():
        distance += further
        jump = jump[jump]
    return distance


def _outer_first(rings: Rings) -> Rings:
    """Sort rings by piece, outer rings before holes."""
    order = argsort(rings.pieces, rings.holes)
    sizes = np.diff(rings.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    points = rings.points[expand_ranges(rings.offsets[:-1][order], sizes)]
    return Rings(points, offsets, rings.pieces[order], rings.holes[order])


def argsort(*keys: np.ndarray) -> np.ndarray:
    """Return the stable order by several keys of non-negative integers, the first key first."""
    spans = [int(key.max()) + 1 if len(key) else 1 for key in keys]
    if np.prod([float(span) for span in spans]) < 2.0**62:
        # One combined key sorts faster than `lexsort`.
        joined = np.zeros(len(keys[0]), dtype=np.int64)
        for key, span in zip(keys, spans, strict=True):
            joined = joined * span + key
        return np.argsort(joined, kind="stable")
    return np.lexsort(keys[::-1])
