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
    """

    points: np.ndarray
    rings: tuple[np.ndarray, ...]
    owners: np.ndarray
    walls: np.ndarray
    sides: np.ndarray

    @property
    def vectors(self) -> np.ndarray:
        """Vector from the first to the second corner of each wall, (walls, 2)."""
        vectors: np.ndarray = self.points[self.walls[:, 1]] - self.points[self.walls[:, 0]]
        return vectors

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
    """Build the graph of polygons (n,) that share the vertices of their common walls."""
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
    """Remove the points of a closed path where it is straight or turns back on itself."""
    while len(path) > 2:
        arriving, leaving = path - np.roll(path, 1, axis=0), np.roll(path, -1, axis=0) - path
        turn = np.abs(arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0])
        lengths = np.hypot(*arriving.T) * np.hypot(*leaving.T)
        needed = kept & (np.hypot(*arriving.T) > 0) | (turn > _STRAIGHT * lengths)
        if needed.all():
            break
        # Of two neighbours only one at a time: without it the other one may become a corner.
        drop = ~needed
        drop[1:] &= ~drop[:-1]
        path, kept = path[~drop], kept[~drop]
    return path


def _polygon(shell: np.ndarray, holes: list[np.ndarray]) -> shapely.Polygon:
    """Return a polygon without degenerate holes; empty if its shell is degenerate."""
    if len(shell) < 3:
        return shapely.Polygon()
    return shapely.Polygon(shell, [hole for hole in holes if len(hole) > 2])
