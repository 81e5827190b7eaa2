"""Distances of points from the outlines of polygons, of many small ones at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import shapely

from geoseg.vectorization.components.runs import expand_ranges

# Pairs of a point and an edge that are in memory at a time.
_PAIRS = 250_000

# For outlines with more edges, an index of GEOS is faster than all pairs.
_MOST_EDGES = 40


def dot(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the dot products (n,) of vectors (n, 2), faster than by a sum over their axis."""
    products: np.ndarray = ones[:, 0] * others[:, 0] + ones[:, 1] * others[:, 1]
    return products


def distances_to_edges(
    points: np.ndarray, owner: np.ndarray, begins: np.ndarray, ends: np.ndarray, of_edge: np.ndarray
) -> np.ndarray:
    """Return the distance (m,) of each point from the nearest edge of its polygon.

    Args:
        points: float64 (m, 2).
        owner: int64 (m,), polygon of each point, ascending; it has at least one edge.
        begins: float64 (edges, 2), where edges begin.
        ends: float64 (edges, 2), where they end.
        of_edge: int64 (edges,), polygon of each edge, ascending.
    """
    first = np.searchsorted(of_edge, owner, side="left")
    counts = np.searchsorted(of_edge, owner, side="right") - first
    steps = ends - begins
    lengths = np.maximum(dot(steps, steps), 1e-300)
    distances = np.empty(len(points))
    for part in _parts(counts):
        edge = expand_ranges(first[part], counts[part])
        point = np.repeat(np.arange(part.start, part.stop), counts[part])
        offsets = points[point] - begins[edge]
        along = steps[edge]
        share = np.clip(dot(offsets, along) / lengths[edge], 0, 1)
        pairs = np.hypot(*(offsets - share[:, None] * along).T)
        starts = np.cumsum(counts[part]) - counts[part]
        distances[part] = np.minimum.reduceat(pairs, starts)
    return distances


def _parts(counts: np.ndarray) -> Iterator[slice]:
    """Yield slices of points with about `_PAIRS` pairs, but at least one point."""
    total, begin = np.cumsum(counts), 0
    while begin < len(counts):
        done = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + _PAIRS, side="right")))
        yield slice(begin, end)
        begin = end


def stay_near(polygons: np.ndarray, others: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return which polygons have all corners near the outline of their counterpart.

    Args:
        polygons: Polygons (n,).
        others: Their counterparts (n,).
        distances: float64 (n,), largest distance of each pair.
    """
    points, owner = shapely.get_coordinates(polygons, return_index=True)
    rings, of_ring = shapely.get_rings(others, return_index=True)
    vertices, ring = shapely.get_coordinates(rings, return_index=True)
    inside = ring[1:] == ring[:-1]
    begins, ends, of_edge = vertices[:-1][inside], vertices[1:][inside], of_ring[ring[1:][inside]]
    is_small = np.bincount(of_edge, minlength=len(polygons)) <= _MOST_EDGES
    near = np.empty(len(polygons), dtype=bool)
    used, used_edges = is_small[owner], is_small[of_edge]
    far = (
        distances_to_edges(
            points[used], owner[used], begins[used_edges], ends[used_edges], of_edge[used_edges]
        )
        > distances[owner[used]]
    )
    near[is_small] = (np.bincount(owner[used], far, len(polygons)) == 0)[is_small]
    near[~is_small] = _stay_near_by_index(
        polygons[~is_small], others[~is_small], distances[~is_small]
    )
    return near


def _stay_near_by_index(
    polygons: np.ndarray, others: np.ndarray, distances: np.ndarray
) -> np.ndarray:
    points, owners = shapely.get_coordinates(polygons, return_index=True)
    lines = shapely.boundary(others)
    shapely.prepare(lines)
    is_near: Callable[..., np.ndarray] = shapely.dwithin  # its stubs know one distance only
    far = ~is_near(lines[owners], shapely.points(points), distances[owners])
    near: np.ndarray = np.bincount(owners, far, len(polygons)) == 0
    return near
