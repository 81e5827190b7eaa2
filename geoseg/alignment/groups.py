"""Groups of polygons that are moved together."""

from __future__ import annotations

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Polygons nearer than this share a wall, which may have been drawn twice.
_TOUCH_M = 0.2

# Two polygons that share less of the smaller one overlap because one of them is misplaced; with
# more, one is a part of the other.
_PART = 0.5

# Polygons that were farther apart must remain so. It exceeds what other formats round to.
_CLEARANCE_M = 0.05

# Growth of an overlap that is due to rounding, in m².
_ROUNDING_M2 = 1e-3


def find_groups(polygons: np.ndarray) -> np.ndarray:
    """Return the number of each polygon's group, int (N,): those that are connected.

    Polygons are connected if they touch, directly or by others, or if one is a part of the other.
    Polygons that overlap otherwise are not: one of them is misplaced.

    Args:
        polygons: Polygons (N,) in metres.
    """
    one, other = _find_pairs(polygons, _TOUCH_M)
    connected = ~_overlap_by_mistake(polygons[one], polygons[other])
    return _connect(np.stack([one[connected], other[connected]]), len(polygons))


def merge_colliding(polygons: np.ndarray, groups: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return the groups after joining those that would newly touch, or overlap more than before.

    Args:
        polygons: Polygons (N,) in metres, where they were.
        groups: Group of each (N,), from 0.
        shifts: Shift of each in metres (N, 2).

    Returns:
        Group of each polygon (N,), from 0; the same array if none collide.
    """
    moved = move_polygons(polygons, shifts)
    one, other = _find_pairs(moved, _CLEARANCE_M)
    apart = groups[one] != groups[other]
    one, other = one[apart], other[apart]
    before, after = (_overlaps(shapes[one], shapes[other]) for shapes in (polygons, moved))
    colliding = (before == 0) | (after > before + _ROUNDING_M2)
    if not colliding.any():
        return groups
    pairs = np.stack([groups[one[colliding]], groups[other[colliding]]])
    merged: np.ndarray = _connect(pairs, int(groups.max()) + 1)[groups]
    return merged


def _find_pairs(polygons: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of pairs of polygons that are near each other, each pair once."""
    one, other = shapely.STRtree(polygons).query(polygons, predicate="dwithin", distance=distance)
    once = one < other
    return one[once], other[once]


def _overlap_by_mistake(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which pairs (n,) overlap by more than a wall, but by less than a part, bool (n,)."""
    common = shapely.intersection(one, other)
    smaller = np.minimum(shapely.area(one), shapely.area(other))
    is_deep = ~shapely.is_empty(shapely.buffer(common, -_TOUCH_M))
    mistaken: np.ndarray = is_deep & (shapely.area(common) < _PART * smaller)
    return mistaken


def _overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    areas: np.ndarray = shapely.area(shapely.intersection(one, other))
    return areas


def move_polygons(polygons: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return polygons (N,), each moved by its own shift (N, 2); unmoved ones as they are.

    Their Z, if they have one, is kept.
    """
    moved, is_moving = polygons.copy(), (shifts != 0).any(axis=1)
    for has_z in (False, True):
        moving = np.flatnonzero(is_moving & (shapely.has_z(polygons) == has_z))
        points, owners = shapely.get_coordinates(
            polygons[moving], include_z=has_z, return_index=True
        )
        points[:, :2] += shifts[moving][owners]
        moved[moving] = shapely.set_coordinates(polygons[moving], points)
    return moved


def _connect(pairs: np.ndarray, count: int) -> np.ndarray:
    """Return the component of each of some items (count,) of which pairs (2, n) are connected."""
    graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    numbers: np.ndarray = labels
    return numbers
