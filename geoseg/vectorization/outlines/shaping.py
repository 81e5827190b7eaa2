"""From outlines as they are found to outlines as a surveyor draws them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from geoseg.options import Thresholds
from geoseg.vectorization.outlines.right_angles import KEPT, RAW, RegularOutlines, regularize
from geoseg.vectorization.outlines.tracing import simplify
from geoseg.vectorization.outlines.zones import all_stay_within, extend_zone

# Outlines may move by so much to become regular, and by so many pixels in any case.
_REACH_M, _REACH_PX = 1.0, 2.0

# Tolerances are multiples of this part of a pixel, so that many outlines have the same.
_TOLERANCE_GRAIN = 64

# Walls are looked for in outlines that are simplified by this share of their reach.
_WALL_SHARE = 0.75

# Of the tolerance, until a component's outlines stay on its own ground.
_SHARES = (1.0, 0.5, 0.25, 0.0)

# A component of more corners than so many for each outline, and some for the whole, is no
# buildings but texture, as models say that have learnt little.
_CORNERS_EACH, _CORNERS_MORE = 32, 30_000


def max_regular_shifts_m(steps_m: np.ndarray) -> np.ndarray:
    """How far outlines may move, in metres (n,), by the steps of pixels (n, 2, 2)."""
    sides = np.hypot(steps_m[..., 0], steps_m[..., 1])
    reaches: np.ndarray = np.maximum(_REACH_M, _REACH_PX * sides.max(axis=1))
    return reaches


def max_shifts_m(steps_m: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """How far from what was found outlines may end, in metres (n,); otherwise as above."""
    reaches = max_regular_shifts_m(steps_m) if thresholds.regularize else np.zeros(len(steps_m))
    return np.maximum(reaches, thresholds.simplify_m)


def shape_outlines(
    found: np.ndarray,
    groups: np.ndarray,
    zones: Mapping[int, BaseGeometry],
    steps_m: np.ndarray,
    thresholds: Thresholds,
) -> RegularOutlines:
    """Simplifies outlines and makes them regular, each component by itself.

    Args:
        found: Polygons (n,) in pixels of a grid; those of a component share the vertices of
            shared walls.
        groups: int64 (n,), sorted, the component of each.
        zones: Where the outlines of each component may go, see `find_zones`.
        steps_m: float64 (n, 2, 2), steps to the next column and row, see `Grid.steps_m`.
        thresholds: `simplify_m` and `regularize` are used.
    """
    sides = np.sqrt(np.linalg.det(steps_m))
    grounds = {
        int(groups[own.start]): extend_zone(zones[int(groups[own.start])], found[own])
        for own in _slices(groups)
    }
    tolerances = _round(thresholds.simplify_m / sides)
    outlines, texture = _simplify_within(found, groups, grounds, tolerances)
    status = np.where((tolerances > 0) & ~texture, KEPT, RAW).astype(object)
    if not thresholds.regularize:
        return RegularOutlines(outlines, status)
    reaches = max_regular_shifts_m(steps_m)
    tolerances = _round(_WALL_SHARE * reaches / sides)
    rest = np.flatnonzero(~texture)
    walls = outlines.copy()
    walls[rest], texture[rest] = _simplify_within(
        found[rest], groups[rest], grounds, tolerances[rest]
    )
    for own in _slices(groups):
        if texture[own.start]:
            continue
        first = own.start
        ground, steps = grounds[int(groups[first])], steps_m[first]
        regular = _regularize_on_ground(walls[own], found[own], ground, steps, reaches[first])
        if (regular.status != KEPT).any():  # neighbours share walls, so all of them or none
            outlines[own], status[own] = regular.polygons, regular.status
    return RegularOutlines(outlines, status)


def _round(tolerances: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.rint(tolerances * _TOLERANCE_GRAIN) / _TOLERANCE_GRAIN
    return rounded


def _simplify_within(
    found: np.ndarray,
    groups: np.ndarray,
    grounds: Mapping[int, BaseGeometry],
    tolerances: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Simplifies as far as components stay on their ground.

    Texture that leaves it at once is not tried any further, for it would not stay there.

    Returns:
        Outlines, and bool (n,), which of them are texture and as they were found.
    """
    outlines, left = found.copy(), np.ones(len(found), dtype=bool)
    texture = np.zeros(len(found), dtype=bool)
    for share in _SHARES:
        outlines[left] = simplify(found[left], groups[left], share * tolerances[left])
        astray = np.zeros(len(found), dtype=bool)
        for own in _slices(groups):
            if left[own.start] and not all_stay_within(
                outlines[own], grounds[int(groups[own.start])]
            ):
                texture[own] = _is_texture(outlines[own])
                astray[own] = not texture[own.start]
        left = astray
        if not left.any():
            break
    outlines[texture] = found[texture]
    return outlines, texture


def _is_texture(outlines: np.ndarray) -> bool:
    corners = int(shapely.get_num_coordinates(outlines).sum())
    return corners > _CORNERS_EACH * len(outlines) + _CORNERS_MORE


def _regularize_on_ground(
    outlines: np.ndarray,
    found: np.ndarray,
    ground: BaseGeometry,
    steps_m: np.ndarray,
    reach_m: float,
) -> RegularOutlines:
    """Makes a component regular in metres, and gives it back in pixels."""
    # From a pixel of its own, and back in one step: the last digits do not depend on more.
    origin = np.floor(shapely.total_bounds(outlines)[:2])

    def to_metres(geometries: np.ndarray) -> np.ndarray:
        placed: np.ndarray = shapely.transform(geometries, lambda xy: _along(xy - origin, steps_m))
        return placed

    there = to_metres(np.array([ground], dtype=object))[0]
    regular = regularize(to_metres(outlines), to_metres(found), there, reach_m)
    changed, back = regular.status != KEPT, np.linalg.inv(steps_m)
    polygons = outlines.copy()
    polygons[changed] = shapely.transform(
        regular.polygons[changed], lambda xy: _along(xy, back) + origin
    )
    return RegularOutlines(polygons, regular.status)


def _along(points: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Points (n, 2) as sums of two steps; no library decides on the order of the sums."""
    summed: np.ndarray = points[:, :1] * steps[0] + points[:, 1:] * steps[1]
    return summed


def _slices(groups: np.ndarray) -> list[slice]:
    """Where each of some sorted groups lies."""
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    ends = np.append(begins, len(groups))[1:]
    return [slice(*pair) for pair in zip(begins.tolist(), ends.tolist(), strict=True)]
