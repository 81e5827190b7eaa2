"""Simplified and right-angled outlines of the components of a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from geoseg.options import Thresholds
from geoseg.vectorization.outlines.right_angles import KEPT, RAW, RegularOutlines, regularize
from geoseg.vectorization.outlines.tracing import simplify, simplify_around
from geoseg.vectorization.outlines.zones import all_stay_within, extend_zone, stay_within

# Maximum shift of right-angled outlines: metres or pixels, whichever is larger.
_MAX_SHIFT_M, _MAX_SHIFT_PX = 1.0, 2.0

# Tolerances are multiples of 1/64 pixel, so that many outlines have the same one and are simplified
# in one call.
_TOLERANCE_GRAIN = 64

# Simplification tolerance before walls are aligned, as a share of the maximum shift.
_WALL_SHARE = 0.75

# Shares of it that are tried where walls would leave the zone of their component: right angles need
# few corners, and may still be found with some more.
_WALL_SHARES = (0.5, 0.25)

# Outlines that leave the zone of their component are found this often; a neighbour of one that is
# kept may be the next one to leave it.
_MOST_ATTEMPTS = 5

# A component with more corners than this per outline, plus a constant, is texture rather than
# buildings; models that are hardly trained predict it.
_CORNERS_EACH, _CORNERS_MORE = 32, 30_000


def max_regular_shifts_m(steps_m: np.ndarray) -> np.ndarray:
    """Return the maximum shift of right-angled outlines in metres (n,).

    Args:
        steps_m: float64 (n, 2, 2), steps to the next column and row, see `Grid.steps_m`.
    """
    sides = np.hypot(steps_m[..., 0], steps_m[..., 1])
    max_shifts: np.ndarray = np.maximum(_MAX_SHIFT_M, _MAX_SHIFT_PX * sides.max(axis=1))
    return max_shifts


def max_shifts_m(steps_m: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Return the maximum distance of final outlines from the traced ones in metres (n,)."""
    max_shifts = max_regular_shifts_m(steps_m) if thresholds.regularize else np.zeros(len(steps_m))
    return np.maximum(max_shifts, thresholds.simplify_m)


def shape_outlines(
    traced: np.ndarray,
    groups: np.ndarray,
    zones: Mapping[int, BaseGeometry],
    steps_m: np.ndarray,
    thresholds: Thresholds,
) -> RegularOutlines:
    """Simplify outlines and make them right-angled, each component separately.

    Args:
        traced: Traced polygons (n,) in pixels of a grid; those of a component share the vertices
            of shared walls.
        groups: int64 (n,), component of each polygon, sorted.
        zones: Zone of each component, see `find_zones`.
        steps_m: float64 (n, 2, 2), steps to the next column and row, see `Grid.steps_m`.
        thresholds: `simplify_m` and `regularize` are used.
    """
    sides = np.sqrt(np.linalg.det(steps_m))
    extended = {
        int(groups[own.start]): extend_zone(zones[int(groups[own.start])], traced[own])
        for own in _group_slices(groups)
    }
    tolerances = _round(thresholds.simplify_m / sides)
    outlines, kept, texture = _simplify_within(traced, groups, extended, tolerances)
    status = np.where((tolerances > 0) & ~kept, KEPT, RAW).astype(object)
    if not thresholds.regularize:
        return RegularOutlines(outlines, status)
    max_shifts = max_regular_shifts_m(steps_m)
    tolerances = _round(_WALL_SHARE * max_shifts / sides)
    rest = np.flatnonzero(~texture)
    walls = outlines.copy()
    walls[rest], kept[rest], texture[rest] = _simplify_within(
        traced[rest], groups[rest], extended, tolerances[rest], _WALL_SHARES
    )
    for own in _group_slices(groups):
        if texture[own.start]:
            continue
        first = own.start
        zone, steps = extended[int(groups[first])], steps_m[first]
        regular = _regularize_in_metres(walls[own], traced[own], zone, steps, max_shifts[first])
        if (regular.status != KEPT).any():  # neighbours share walls: all or none
            outlines[own] = regular.polygons
            status[own] = np.where((regular.status == KEPT) & kept[own], RAW, regular.status)
    return RegularOutlines(outlines, status)


def _round(tolerances: np.ndarray) -> np.ndarray:
    """Round tolerances to multiples of the same step, so that equal ones compare as equal."""
    rounded: np.ndarray = np.rint(tolerances * _TOLERANCE_GRAIN) / _TOLERANCE_GRAIN
    return rounded


def _simplify_within(
    traced: np.ndarray,
    groups: np.ndarray,
    zones: Mapping[int, BaseGeometry],
    tolerances: np.ndarray,
    shares: Sequence[float] = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simplify outlines; those that would leave the zone of their component stay as traced.

    Their neighbours are simplified except for the walls that they share with them. Texture that
    leaves its zone stays as a whole as it was traced.

    Args:
        traced: See `shape_outlines`.
        groups: See `shape_outlines`.
        zones: Zone of each component, with its traced outlines.
        tolerances: float64 (n,), in pixels, equal within a component.
        shares: Shares of the tolerance that are tried for a whole component first.

    Returns:
        Outlines; bool (n,), which of them stay as traced; and bool (n,), which are texture.
    """
    outlines = simplify(traced, groups, tolerances)
    kept, texture = np.zeros(len(traced), dtype=bool), np.zeros(len(traced), dtype=bool)
    for own in _group_slices(groups):
        zone = zones[int(groups[own.start])]
        if all_stay_within(outlines[own], zone):
            continue
        texture[own] = _is_texture(outlines[own])
        if texture[own.start]:
            outlines[own], kept[own] = traced[own], True
        else:
            outlines[own], kept[own] = _keep_leaving(
                traced[own], outlines[own], zone, float(tolerances[own.start]), shares
            )
    return outlines, kept, texture


def _keep_leaving(
    traced: np.ndarray,
    outlines: np.ndarray,
    zone: BaseGeometry,
    tolerance: float,
    shares: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the outlines of one component that leave its zone, and simplify the others around them.

    Returns:
        Outlines (n,), and bool (n,), which of them are as traced.
    """
    kept = np.zeros(len(traced), dtype=bool)
    for share in shares:
        finer = simplify_around(traced, kept, share * tolerance)
        if all_stay_within(finer, zone):
            return finer, kept
    for _ in range(_MOST_ATTEMPTS):
        kept |= ~stay_within(outlines, zone)
        outlines = simplify_around(traced, kept, tolerance)
        if all_stay_within(outlines, zone):
            return outlines, kept
    return traced.copy(), np.ones(len(traced), dtype=bool)


def _is_texture(outlines: np.ndarray) -> bool:
    corners = int(shapely.get_num_coordinates(outlines).sum())
    return corners > _CORNERS_EACH * len(outlines) + _CORNERS_MORE


def _regularize_in_metres(
    outlines: np.ndarray,
    traced: np.ndarray,
    zone: BaseGeometry,
    steps_m: np.ndarray,
    max_shift_m: float,
) -> RegularOutlines:
    """Make a component right-angled in metres; return its outlines in pixels."""
    # The origin is a pixel of the component, so that rounding does not depend on the window.
    origin = np.floor(shapely.total_bounds(outlines)[:2])

    def to_metres(geometries: np.ndarray) -> np.ndarray:
        placed: np.ndarray = shapely.transform(
            geometries, lambda xy: _combine_steps(xy - origin, steps_m)
        )
        return placed

    zone_m = to_metres(np.array([zone], dtype=object))[0]
    regular = regularize(to_metres(outlines), to_metres(traced), zone_m, max_shift_m)
    changed, back = regular.status != KEPT, np.linalg.inv(steps_m)
    polygons = outlines.copy()
    polygons[changed] = shapely.transform(
        regular.polygons[changed], lambda xy: _combine_steps(xy, back) + origin
    )
    return RegularOutlines(polygons, regular.status)


def _combine_steps(points: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return points (n, 2) as sums of two steps, added in a fixed order for stable rounding."""
    summed: np.ndarray = points[:, :1] * steps[0] + points[:, 1:] * steps[1]
    return summed


def _group_slices(groups: np.ndarray) -> list[slice]:
    """Return the slice of each group in sorted groups."""
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    ends = np.append(begins, len(groups))[1:]
    return [slice(*pair) for pair in zip(begins.tolist(), ends.tolist(), strict=True)]
