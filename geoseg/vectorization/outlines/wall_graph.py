"""Graph of touching outlines: shared corners, and walls between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.vectorization.outlines.arcs import number_points

# Corners that turn by a smaller sine are removed as straight.
_STRAIGHT = 1e-6


@dataclass(frozen=True)
class OutlineGraph:
    """Polygons of many groups as rings of corners, which are shared within a group.

    Corners, rings and walls are sorted by group.

    Attributes:
        points: float64 (corners, 2), coordinates.
        corners: int64 (vertices,), corners of each ring in order, one ring after the other; the
            first one is not repeated at the end.
        sizes: int64 (rings,), vertices of each ring.
        owners: int64 (rings,), polygon of each ring; the outer ring of a polygon comes first.
        walls: int64 (walls, 2), two corners each; a wall of two polygons is stored once.
        sides: int64 (walls, 2), polygons on both sides of a wall; twice the same if only one.
        middles: float64 (walls, 2), mean position of the traced outline along each wall. Simplified
            outlines keep the vertices that stick out most, so the corners alone are a poor guide.
    """

    points: np.ndarray
    corners: np.ndarray
    sizes: np.ndarray
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
        owner = np.repeat(self.owners, self.sizes)
        polygons: np.ndarray = np.bincount(owner, corners[self.corners]) > 0
        return polygons

    def find_corners(self, polygons: np.ndarray) -> np.ndarray:
        """Return the corners, bool (corners,), of some polygons, bool (n,)."""
        corners = np.zeros(len(self.points), dtype=bool)
        corners[self.corners[np.repeat(polygons[self.owners], self.sizes)]] = True
        return corners

    def pick(self, polygons: np.ndarray) -> OutlineGraph:
        """Return the graph of some polygons, bool (n,), which are whole groups."""
        corners, walls, rings = (
            self.find_corners(polygons), polygons[self.sides[:, 0]], polygons[self.owners]
        )  # fmt: skip
        corner, polygon = np.cumsum(corners) - 1, np.cumsum(polygons) - 1
        return OutlineGraph(
            points=self.points[corners],
            corners=corner[self.corners[np.repeat(rings, self.sizes)]],
            sizes=self.sizes[rings],
            owners=polygon[self.owners[rings]],
            walls=corner[self.walls[walls]],
            sides=polygon[self.sides[walls]],
            middles=self.middles[walls],
        )

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
        rings = chosen[self.owners]
        if not rings.any():
            return np.empty(0, dtype=object)
        corners, sizes = self.corners[np.repeat(rings, self.sizes)], self.sizes[rings]
        ring = np.repeat(np.arange(len(sizes)), sizes)
        paths, ring = _without_straight(points[corners], kept[corners], ring)
        return _polygons(paths, ring, self.owners[rings])


def build_graph(polygons: np.ndarray, traced: np.ndarray, groups: np.ndarray) -> OutlineGraph:
    """Build the graph of simplified polygons.

    Args:
        polygons: Polygons (n,); those of a group share the vertices of their common walls.
        traced: The same polygons with all vertices, (n,).
        groups: int64 (n,), group of each polygon, sorted.
    """
    rings, owners = shapely.get_rings(polygons, return_index=True)
    sizes = shapely.get_num_coordinates(rings) - 1
    first = np.cumsum(sizes) - sizes
    repeated = np.cumsum(sizes + 1) - 1
    vertices = np.delete(shapely.get_coordinates(rings), repeated, axis=0)
    owner = np.repeat(owners, sizes)
    corners = number_points(vertices, groups[owner])
    points = np.empty((int(corners.max()) + 1, 2))
    points[corners] = vertices
    following = np.arange(1, len(vertices) + 1)
    following[first + sizes - 1] = first
    pairs = np.sort(np.column_stack([corners, corners[following]]), axis=1)
    count = len(points)
    keys, which = np.unique(pairs @ [count, 1], return_inverse=True)
    walls, which = np.column_stack(np.divmod(keys, count)), which.ravel()
    sides = np.zeros((len(walls), 2), dtype=np.int64)
    sides[which, 0] = owner
    sides[which[::-1], 1] = owner[::-1]
    group = np.empty(count, dtype=np.int64)
    group[corners] = groups[owner]
    middles = _mean_positions(points, group, walls, traced, groups)
    return OutlineGraph(points, corners, sizes, owners, walls, sides, middles)


def _mean_positions(
    points: np.ndarray, group: np.ndarray, walls: np.ndarray, traced: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Return the mean position of the traced outlines along each wall, (walls, 2).

    Args:
        points: float64 (corners, 2), coordinates of the corners, sorted by group, x and y.
        group: int64 (corners,), group of each corner.
        walls: int64 (walls, 2), the two corners of each wall, sorted.
        traced: Polygons (n,), whose vertices include the corners.
        groups: int64 (n,), group of each polygon.
    """
    rings, owners = shapely.get_rings(traced, return_index=True)
    vertices, ring = shapely.get_coordinates(rings, return_index=True)
    numbers = number_points(
        np.concatenate([points, vertices]), np.concatenate([group, groups[owners[ring]]])
    )
    corner = np.full(int(numbers.max()) + 1, -1)
    corner[numbers[: len(points)]] = np.arange(len(points))
    begins, ends = _surrounding(corner[numbers[len(points) :]], ring)
    inside = np.flatnonzero(ring[1:] == ring[:-1])
    pairs = np.sort(np.column_stack([begins[inside], ends[inside + 1]]), axis=1)
    wall = np.searchsorted(walls @ [len(points), 1], pairs @ [len(points), 1])
    lengths = np.hypot(*(vertices[inside + 1] - vertices[inside]).T)
    middles = (vertices[inside + 1] + vertices[inside]) / 2
    sums = [np.bincount(wall, lengths * middles[:, axis], len(walls)) for axis in (0, 1)]
    mean: np.ndarray = np.column_stack(sums) / np.bincount(wall, lengths, len(walls))[:, None]
    return mean


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
