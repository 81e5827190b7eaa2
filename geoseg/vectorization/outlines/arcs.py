"""Arcs of touching outlines: the lines between the junctions at which more than two edges meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.vectorization.components.runs import expand_ranges
from geoseg.vectorization.outlines.distances import dot


@dataclass(frozen=True)
class Arcs:
    """Arcs of polygons, each stored once, and the rings that are made of them.

    Attributes:
        points: float64 (n, 2), vertices of the arcs, one arc after the other.
        offsets: int64 (arcs + 1,), index of the first vertex of each arc.
        groups: int64 (arcs,), group of each arc, sorted.
        inner_sides: int64 (arcs,), 1 if the only polygon of an arc is on its left side, -1 on its
            right side; 0 for an arc between two polygons.
        uses: int64 (uses,), arcs along each ring, one ring after the other.
        backwards: bool (uses,), whether the ring runs along the arc from its end to its beginning.
        rings: int64 (rings + 1,), index of the first use of each ring.
        owners: int64 (rings,), polygon of each ring; its outer ring comes first.
    """

    points: np.ndarray
    offsets: np.ndarray
    groups: np.ndarray
    inner_sides: np.ndarray
    uses: np.ndarray
    backwards: np.ndarray
    rings: np.ndarray
    owners: np.ndarray

    def belong_to(self, polygons: np.ndarray) -> np.ndarray:
        """Return which arcs are part of the chosen polygons, bool (n,), as bool (arcs,)."""
        owners = np.repeat(self.owners, np.diff(self.rings))
        found = np.zeros(len(self.groups), dtype=bool)
        found[self.uses[polygons[owners]]] = True
        return found

    def draw(self, kept: np.ndarray) -> np.ndarray:
        """Return the polygons (n,) with some vertices only, bool (n,), and all ends of arcs."""
        points = self.points[kept]
        offsets = np.concatenate([[0], np.cumsum(kept)])[self.offsets]
        begins, sizes = offsets[self.uses], np.diff(offsets)[self.uses]
        index = expand_ranges(begins, sizes)
        turned = np.repeat(self.backwards, sizes)
        index[turned] = (np.repeat(2 * begins + sizes - 1, sizes) - index)[turned]
        # The last vertex of an arc is the first one of the next; only the last one of a ring stays.
        inner = np.ones(len(sizes), dtype=bool)
        inner[self.rings[1:] - 1] = False
        index = np.delete(index, np.cumsum(sizes)[inner] - 1)
        lengths = np.add.reduceat(sizes - inner, self.rings[:-1])
        ring_offsets = np.concatenate([[0], np.cumsum(lengths)])
        outer = np.append(np.flatnonzero(np.diff(self.owners, prepend=-1)), len(self.owners))
        kind = shapely.GeometryType.POLYGON
        drawn: np.ndarray = shapely.from_ragged_array(kind, points[index], (ring_offsets, outer))
        return drawn


@dataclass(frozen=True)
class _Vertices:
    """Vertices of rings, one ring after the other, without the last one, which repeats the first.

    Attributes:
        points: float64 (n, 2), coordinates.
        numbers: int64 (n,), equal for vertices of one group at the same position.
        rings: int64 (n,), ring of each vertex.
        begins: int64 (rings,), index of the first vertex of each ring.
        sizes: int64 (rings,), vertices of each ring.
        following: int64 (n,), index of the vertex after each vertex.
    """

    points: np.ndarray
    numbers: np.ndarray
    rings: np.ndarray
    begins: np.ndarray
    sizes: np.ndarray
    following: np.ndarray

    def walk(self, starts: np.ndarray, counts: np.ndarray, backwards: np.ndarray) -> np.ndarray:
        """Return the indices of some vertices in turn from each start, or backwards to it."""
        steps = expand_ranges(np.zeros(len(starts), dtype=np.int64), counts)
        turned = np.repeat(backwards, counts)
        steps[turned] = (np.repeat(counts - 1, counts) - steps)[turned]
        ring = np.repeat(self.rings[starts], counts)
        begins = self.begins[ring]
        walked: np.ndarray = (
            begins + (np.repeat(starts, counts) - begins + steps) % self.sizes[ring]
        )
        return walked


def split_into_arcs(polygons: np.ndarray, groups: np.ndarray) -> Arcs:
    """Split the rings of polygons at their junctions; a ring without any is split at a corner.

    The arcs of a group, and their order and directions, do not depend on other groups, on the
    order of the polygons, or on where their rings start.

    Args:
        polygons: Polygons (n,), at least one; those of a group share the vertices of shared walls.
        groups: int64 (n,), group of each polygon, sorted.
    """
    rings, owners = shapely.get_rings(polygons, return_index=True)
    vertices = _find_vertices(rings, groups[owners])
    edges, split = _find_junctions(vertices)
    whole = ~np.logical_or.reduceat(split, vertices.begins)
    split[_find_corners(vertices)[whole]] = True

    starts = np.flatnonzero(split)
    ring = vertices.rings[starts]
    uses = np.concatenate([[0], np.cumsum(np.bincount(ring, minlength=len(rings)))])
    stops = np.empty_like(starts)
    stops[:-1], stops[uses[1:] - 1] = starts[1:], starts[uses[:-1]]
    # An arc is named by the smaller number of its two outer edges, and begins there.
    before = np.empty_like(edges)
    before[vertices.following] = edges
    first, last = edges[starts], before[stops]
    higher = vertices.numbers[starts] > vertices.numbers[stops]
    backwards = (first > last) | ((first == last) & higher)
    _, chosen, arcs = np.unique(np.minimum(first, last), return_index=True, return_inverse=True)

    counts = ((stops - starts - 1) % vertices.sizes[ring])[chosen] + 2
    index = vertices.walk(starts[chosen], counts, backwards[chosen])
    is_outer = np.diff(owners, prepend=-1) > 0
    on_left = (shapely.is_ccw(rings) == is_outer)[ring] != backwards
    single = np.bincount(arcs.ravel()) == 1
    return Arcs(
        points=vertices.points[index],
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        groups=groups[owners[ring[chosen]]],
        inner_sides=np.where(single, np.where(on_left[chosen], 1, -1), 0),
        uses=arcs.ravel(),
        backwards=backwards,
        rings=uses,
        owners=owners,
    )


def _find_vertices(rings: np.ndarray, groups: np.ndarray) -> _Vertices:
    sizes = shapely.get_num_coordinates(rings) - 1
    begins = np.cumsum(sizes) - sizes
    repeated = begins + sizes + np.arange(len(rings))
    points = np.delete(shapely.get_coordinates(rings), repeated, axis=0)
    following = np.arange(1, len(points) + 1)
    following[begins + sizes - 1] = begins
    ring = np.repeat(np.arange(len(rings)), sizes)
    return _Vertices(points, number_points(points, groups[ring]), ring, begins, sizes, following)


def number_points(points: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Number points (n, 2) by group, x and y; equal ones have the same number."""
    order = np.lexsort([points[:, 1], points[:, 0], groups])
    changes = np.zeros(len(points), dtype=bool)
    for key in (*points.T, groups):
        changes[1:] |= key[order[1:]] != key[order[:-1]]
    numbers = np.empty(len(points), dtype=np.int64)
    numbers[order] = np.cumsum(changes)
    return numbers


def _find_corners(vertices: _Vertices) -> np.ndarray:
    """Return the vertex of each ring that is farthest from the centre of the ring's extent."""
    points, begins = vertices.points, vertices.begins
    centres = (np.minimum.reduceat(points, begins) + np.maximum.reduceat(points, begins)) / 2
    offsets = points - centres[vertices.rings]
    squares = dot(offsets, offsets)
    farthest = np.flatnonzero(squares == np.maximum.reduceat(squares, begins)[vertices.rings])
    # Of several, the one with the lowest number, wherever the ring begins.
    ring, number = vertices.rings[farthest], vertices.numbers[farthest]
    firsts = np.flatnonzero(np.diff(ring, prepend=-1))
    lowest = farthest[number == np.minimum.reduceat(number, firsts)[ring]]
    corners: np.ndarray = lowest[np.flatnonzero(np.diff(vertices.rings[lowest], prepend=-1))]
    return corners


def _find_junctions(vertices: _Vertices) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of the edge from each vertex to the next, and which are junctions."""
    one, other = vertices.numbers, vertices.numbers[vertices.following]
    count = int(one.max()) + 1
    keys, edges = np.unique(
        np.minimum(one, other) * count + np.maximum(one, other), return_inverse=True
    )
    meeting = np.bincount(np.concatenate(np.divmod(keys, count)), minlength=count)
    return edges.ravel(), meeting[one] > 2
