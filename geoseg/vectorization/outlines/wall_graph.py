"""Outlines that touch as one graph: corners that they share, and walls between these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

# Of the product of two walls' lengths; by less of a turn their corner is none.
_STRAIGHT = 1e-6


@dataclass(frozen=True)
class OutlineGraph:
    """Polygons by the corners that their rings pass.

    Attributes:
        points: float64 (corners, 2).
        rings: Corners of each ring in turn, the first one not again at the end.
        owners: int64 (rings,), the polygon of each ring; its outer ring is the first of its own.
        walls: int64 (walls, 2), two corners each; a wall that two polygons share is there once.
        sides: int64 (walls, 2), the polygons at a wall, twice the same if there is only one.
    """

    points: np.ndarray
    rings: tuple[np.ndarray, ...]
    owners: np.ndarray
    walls: np.ndarray
    sides: np.ndarray

    @property
    def vectors(self) -> np.ndarray:
        """(walls, 2), from the first corner of each to its second one."""
        vectors: np.ndarray = self.points[self.walls[:, 1]] - self.points[self.walls[:, 0]]
        return vectors

    def draw(self, points: np.ndarray, kept: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Some polygons (n,) of the same rings through other points.

        Corners at which nothing turns are left out, unless they are kept or others turn there.

        Args:
            points: float64 (corners, 2).
            kept: bool (corners,).
            chosen: bool (polygons,), which are drawn.
        """
        ends = np.bincount(self.walls.ravel(), minlength=len(points))
        kept = kept | (ends > 2)
        shells: list[np.ndarray] = []
        holes: list[list[np.ndarray]] = []
        outer = np.diff(self.owners, prepend=-1) > 0
        for index in np.flatnonzero(chosen[self.owners]).tolist():
            ring = self.rings[index]
            path = _without_straight(points[ring], kept[ring])
            if outer[index]:
                shells.append(path)
                holes.append([])
            else:
                holes[-1].append(path)
        return np.array([_polygon(*one) for one in zip(shells, holes, strict=True)], dtype=object)


def build_graph(polygons: np.ndarray) -> OutlineGraph:
    """The graph of polygons (n,) that share the vertices of their common walls."""
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
    return OutlineGraph(points, tuple(rings), owners, walls, sides)


def _without_straight(path: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """A closed path without points where it does not turn, or turns back on itself."""
    while len(path) > 2:
        arriving, leaving = path - np.roll(path, 1, axis=0), np.roll(path, -1, axis=0) - path
        turn = np.abs(arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0])
        lengths = np.hypot(*arriving.T) * np.hypot(*leaving.T)
        needed = kept & (np.hypot(*arriving.T) > 0) | (turn > _STRAIGHT * lengths)
        if needed.all():
            break
        # Of neighbours only one at a time: without it the other one may turn.
        drop = ~needed
        drop[1:] &= ~drop[:-1]
        path, kept = path[~drop], kept[~drop]
    return path


def _polygon(shell: np.ndarray, holes: list[np.ndarray]) -> shapely.Polygon:
    """A polygon, empty if nothing is left of its shell; holes of which nothing is left go."""
    if len(shell) < 3:
        return shapely.Polygon()
    return shapely.Polygon(shell, [hole for hole in holes if len(hole) > 2])
