"""Corners on the wall of a neighbour, made corners of both outlines.

A corner inside the wall of another outline is on it only up to rounding errors, and in another CRS,
where the wall has another course, it is beside it. A corner of both is shared in every CRS.
"""

from __future__ import annotations

import numpy as np
import shapely

from geoseg.vectorization.outlines.arcs import number_points

# Largest distance between a corner and the wall that it is on, in pixels.
_ON_WALL_PX = 1e-5


def share_corners(
    polygons: np.ndarray, groups: np.ndarray, tolerance: float = _ON_WALL_PX
) -> np.ndarray:
    """Insert corners that are on a wall of another outline of the same group into that wall.

    Args:
        polygons: Valid polygons (n,) in pixels.
        groups: int64 (n,), group of each polygon.
        tolerance: Largest distance between a corner and the wall that it is on, in the unit of the
            polygons.

    Returns:
        Polygons (n,); one that would become invalid is returned unchanged.
    """
    rings, owners = shapely.get_rings(polygons, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    walls, corners = _corners_on_walls(points, ring, groups[owners[ring]], owners[ring], tolerance)
    paths = np.split(
        np.insert(points, walls + 1, corners, axis=0),
        np.cumsum(np.bincount(np.concatenate([ring, ring[walls]]), minlength=len(rings)))[:-1],
    )
    begins = np.searchsorted(owners, np.arange(len(polygons) + 1))
    shared = polygons.copy()
    for changed in np.unique(owners[ring[walls]]):
        shell, *holes = paths[begins[changed] : begins[changed + 1]]
        polygon = shapely.Polygon(shell, holes)
        shared[changed] = polygon if polygon.is_valid else polygons[changed]
    return shared


def _corners_on_walls(
    points: np.ndarray, ring: np.ndarray, groups: np.ndarray, owner: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the corners inside walls of other outlines of the same group.

    Args:
        points: Vertices of closed rings (m, 2).
        ring: Ring of each vertex (m,), ascending.
        groups: Group of each vertex (m,).
        owner: Polygon of each vertex (m,).
        tolerance: See `share_corners`.

    Returns:
        Index of the vertex at which the wall of each corner begins, and the corners, in the order
        in which they are passed along the rings.
    """
    indices = number_points(points, groups)
    count = int(indices.max(initial=-1)) + 1
    corners, group = np.empty((count, 2)), np.empty(count, dtype=np.int64)
    corners[indices], group[indices] = points, groups
    begins = np.flatnonzero(ring[:-1] == ring[1:])
    ends = np.stack([points[begins], points[begins + 1]], axis=1)
    corner, wall = shapely.STRtree(np.asarray(shapely.linestrings(ends))).query(
        shapely.points(corners), predicate="dwithin", distance=tolerance
    )
    begin = begins[wall]
    known = owner * len(corners) + indices
    others = ~np.isin(owner[begin] * len(corners) + corner, known)
    others &= group[corner] == groups[begin]
    begin, found = begin[others], corners[corner[others]]
    order = np.lexsort([np.hypot(*(found - points[begin]).T), begin])
    return begin[order], found[order]
