"""Graph of touching outlines: shared corners, and walls between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

# Corners that turn by a smaller sine are removed as straight.
_STRAIGHT = 1e-6


@dataclass(frozen=True)
class OutlineGraph:
    """Polygons as rings of shared corners.

    Attributes:
        points: float64 (corners, 2), coordinates.
        rings: Corners of each ring in order; the first one is not repeated at the end.
        owners: int64 (rings,), polygon of each ring; the outer ring of a polygon comes first.
        walls: int64 (walls, 2), two corners each; a wall of two polygons is stored once.
        sides: int64 (walls, 2), polygons on both sides of a wall; twice the same if only one.
        middles: float64 (walls, 2), mean position of the traced outline along each wall. Simplified
            outlines keep the vertices that stick out most, so the corners alone are a poor guide.
    """

    points: np.ndarray
    rings: tuple[np.ndarray, ...]
    owners: np.ndarray
    walls: np.ndarray
    sides: np.ndarray
    middles: np.ndarray

    @property
    def vectors(self) -> np.ndarray:
        """Vector from the first to the second corner of each wall, (walls, 2)."""
        vectors: np.ndarray = self.points[self.walls[:, 1]] - self.points[self.walls[:, 0]]
        return vectors

    def touch(self, corners: np.ndarray) -> np.ndarray:
        """Return the polygons, bool (n,), of which at least one of some corners is a corner.

        Args:
            corners: bool (corners,), which corners.
        """
        touched = np.array([corners[ring].any() for ring in self.rings], dtype=bool)
        polygons: np.ndarray = np.bincount(self.owners, touched) > 0
        return polygons

    def draw(self, points: np.ndarray, kept: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Return polygons (n,) of the same rings with other coordinates.

        Straight corners are removed, unless they are to be kept or other walls end there.

        Args:
            points: float64 (corners, 2), coordinates.
            kept: bool (corners,), corners that are never removed.
            chosen: bool (polygons,), polygons to return.
        """
        ends = np.bincount(self.walls.ravel(), minlength=len(points))
        kept = kept | (ends > 2)
        indices = np.flatnonzero(chosen[self.owners])
        if not len(indices):
            return np.empty(0, dtype=object)
        rings = [self.rings[index] for index in indices.tolist()]
        corners = np.concatenate(rings)
        ring = np.repeat(np.arange(len(rings)), [len(one) for one in rings])
        paths, ring = _without_straight(points[corners], kept[corners], ring)
        return _polygons(paths, ring, self.owners[indices])


def build_graph(polygons: np.ndarray, traced: np.ndarray) -> OutlineGraph:
    """Build the graph of simplified polygons.

    Args:
        polygons: Polygons (n,) that share the vertices of their common walls.
        traced: The same polygons with all vertices, (n,).
    """
    parts = shapely.get_parts(shapely.get_rings(polygons))
    owners = np.repeat(np.arange(len(polygons)), 1 + shapely.get_num_interior_rings(polygons))
    coordinates = shapely.get_coordinates(parts)
    points, corners = np.unique(coordinates, axis=0, return_inverse=True)
    sizes = shapely.get_num_coordinates(parts)
    rings = np.split(corners.ravel(), np.cumsum(sizes)[:-1])
    rings = [ring[:-1] for ring in rings]
    pairs = np.concatenate([np.column_stack([ring, np.roll(ring, -1)]) for ring in rings])
    owner = np.repeat(owners, sizes - 1)
    walls, which = np.unique(np.sort(pairs, axis=1), axis=0, return_inverse=True)
    sides = np.zeros((len(walls), 2), dtype=np.int64)
    sides[which.ravel(), 0] = owner
    sides[which.ravel()[::-1], 1] = owner[::-1]
    middles = _mean_positions(points, walls, traced)
    return OutlineGraph(points, tuple(rings), owners, walls, sides, middles)


def _mean_positions(points: np.ndarray, walls: np.ndarray, traced: np.ndarray) -> np.ndarray:
    """Return the mean position of the traced outlines along each wall, (walls, 2).

    Args:
        points: float64 (corners, 2), coordinates of the corners, sorted by x and y.
        walls: int64 (walls, 2), the two corners of each wall, sorted.
        traced: Polygons (n,), whose vertices include the corners.
    """
    vertices, ring = shapely.get_coordinates(shapely.get_rings(traced), return_index=True)
    keys, found = _as_complex(points), _as_complex(vertices)
    corners = np.searchsorted(keys, found) % len(points)
    corners[keys[corners] != found] = -1
    begins, ends = _surrounding(corners, ring)
    inside = np.flatnonzero(ring[1:] == ring[:-1])
    pairs = np.sort(np.column_stack([begins[inside], ends[inside + 1]]), axis=1)
    wall = np.searchsorted(walls @ [len(points), 1], pairs @ [len(points), 1])
    lengths = np.hypot(*(vertices[inside + 1] - vertices[inside]).T)
    middles = (vertices[inside + 1] + vertices[inside]) / 2
    sums = [np.bincount(wall, lengths * middles[:, axis], len(walls)) for axis in (0, 1)]
    mean: np.ndarray = np.column_stack(sums) / np.bincount(wall, lengths, len(walls))[:, None]
    return mean


def _as_complex(points: np.ndarray) -> np.ndarray:
    """Return points (n, 2) as complex numbers, which are compared by x first, then by y."""
    numbers: np.ndarray = points[:, 0] + 1j * points[:, 1]
    return numbers


def _surrounding(corners: np.ndarray, ring: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the last corner at or before each vertex of closed rings, and the next at or after it.

    Args:
        corners: int64 (n,), corner at each vertex, or -1.
        ring: int64 (n,), ring of each vertex; its last vertex repeats the first.
    """
    places = np.flatnonzero(corners >= 0)
    vertices = np.arange(len(corners))
    first = np.searchsorted(ring[places], ring, side="left")
    beyond = np.searchsorted(ring[places], ring, side="right")
    before = np.searchsorted(places, vertices, side="right") - 1
    after = np.searchsorted(places, vertices, side="left")
    before = np.where(before < first, beyond - 1, before)
    after = np.where(after >= beyond, first, after)
    return corners[places[before]], corners[places[after]]


def _without_straight(
    points: np.ndarray, kept: np.ndarray, ring: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Remove the points of closed paths where they are straight or turn back on themselves.

    Args:
        points: float64 (n, 2), the paths one after the other.
        kept: bool (n,), points that stay unless they repeat the point before them.
        ring: int64 (n,), number of each point's path, ascending.

    Returns:
        The remaining points, and their paths; of a path without area, two points or fewer.
    """
    done: list[tuple[np.ndarray, np.ndarray]] = []
    while len(points):
        first = np.flatnonzero(np.diff(ring, prepend=-1))
        sizes = np.diff(np.append(first, len(ring)))
        before, after = np.arange(len(ring)) - 1, np.arange(len(ring)) + 1
        before[first], after[first + sizes - 1] = first + sizes - 1, first
        arriving = points - points[before]
        leaving = arriving[after]
        turn = np.abs(arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0])
        steps = np.hypot(*arriving.T)
        needed = kept & (steps > 0) | (turn > _STRAIGHT * (steps * steps[after]))
        active = np.logical_or.reduceat(~needed, first) & (sizes > 2)
        going = np.repeat(active, sizes)
        done.append((points[~going], ring[~going]))
        # Of two neighbours only one at a time: without it the other one may become a corner.
        drop = ~needed
        follows = np.ones(len(ring), dtype=bool)
        follows[first] = False
        drop[1:] &= ~(drop[:-1] & follows[1:])
        stays = going & ~drop
        points, kept, ring = points[stays], kept[stays], ring[stays]
    numbers = np.concatenate([part for _, part in done])
    order = np.argsort(numbers, kind="stable")
    return np.concatenate([part for part, _ in done])[order], numbers[order]


def _polygons(points: np.ndarray, ring: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Build polygons (n,) without degenerate holes; empty ones where the shell is degenerate.

    Args:
        points: float64 (n, 2), the rings one after the other.
        ring: int64 (n,), number of each point's ring, ascending.
        owners: int64 (rings,), polygon of each ring, ascending; its outer ring comes first.
    """
    outer = np.diff(owners, prepend=-1) > 0
    number = np.cumsum(outer) - 1
    proper = np.bincount(ring, minlength=len(owners)) > 2
    drawn = proper & proper[np.flatnonzero(outer)][number]
    polygons = np.full(int(outer.sum()), shapely.Polygon(), dtype=object)
    if drawn.any():
        kept = drawn[ring]
        _, own = np.unique(ring[kept], return_inverse=True)
        rings = shapely.linearrings(points[kept], indices=own)
        _, place = np.unique(number[drawn], return_inverse=True)
        polygons[np.unique(number[drawn])] = shapely.polygons(rings, indices=place)
    return polygons
