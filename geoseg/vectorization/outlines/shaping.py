"""Simplified and right-angled outlines of the components of a window."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from geoseg.options import Thresholds
from geoseg.vectorization.outlines.arcs import number_points
from geoseg.vectorization.outlines.rectangles import fit_rectangles
from geoseg.vectorization.outlines.right_angles import (
    KEPT,
    RAW,
    RECTANGLE,
    RegularOutlines,
    regularize,
)
from geoseg.vectorization.outlines.shared_corners import share_corners
from geoseg.vectorization.outlines.simplification import simplify_within
from geoseg.vectorization.outlines.zones import extend_zone, stay_in_own

# Maximum shift of right-angled outlines: metres or pixels, whichever is larger.
_MAX_SHIFT_M, _MAX_SHIFT_PX = 1.0, 2.0

# Tolerances are multiples of 1/64 pixel; smaller ones would remove hardly anything and count as 0.
_TOLERANCE_GRAIN = 64

# Least simplification tolerance before walls are aligned: metres or pixels, whichever is larger. A
# slanted wall between two buildings is a staircase of pixels.
_WALL_TOLERANCE_M, _WALL_TOLERANCE_PX = 0.25, 1.2

# Traced vertices of the groups that are made right-angled together, about 10 MB of memory.
_BATCH = 50_000

# A component with more corners than this per outline, plus a constant, is texture rather than
# buildings, and gets no right angles; models that are hardly trained predict it.
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


def keep_pixels(thresholds: Thresholds) -> bool:
    """Return whether outlines follow the edges of pixels exactly.

    Those of objects that are alone in their component are then complete when they are traced.
    """
    return not (thresholds.subpixel or thresholds.regularize or thresholds.simplify_m)


def are_alone(groups: np.ndarray) -> np.ndarray:
    """Return which objects (n,) are the only one of their group; groups are sorted."""
    changes = groups[1:] != groups[:-1]
    alone: np.ndarray = np.append(True, changes) & np.append(changes, True)
    return alone[: len(groups)]


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
    if not len(traced):
        return RegularOutlines(traced, np.empty(0, dtype=object))
    sides = np.sqrt(np.linalg.det(steps_m))
    extended = {
        int(groups[own.start]): extend_zone(zones[int(groups[own.start])], traced[own])
        for own in _group_slices(groups)
    }
    tolerances = _round(thresholds.simplify_m / sides)
    status = np.where(tolerances > 0, KEPT, RAW).astype(object)
    if not thresholds.regularize:
        outlines, rest = traced.copy(), ~(keep_pixels(thresholds) & are_alone(groups))
        outlines[rest] = simplify_within(traced[rest], groups[rest], extended, tolerances[rest])
        return RegularOutlines(outlines, status)
    max_shifts = max_regular_shifts_m(steps_m)
    least = _round(np.maximum(_WALL_TOLERANCE_M / sides, _WALL_TOLERANCE_PX))
    walls = simplify_within(traced, groups, extended, np.maximum(tolerances, least))
    outlines = walls.copy()
    done = _place_rectangles(outlines, traced, groups, extended, steps_m, max_shifts)
    status[done] = RECTANGLE
    left = np.flatnonzero(~done & ~_are_texture(walls, groups))
    for own in _split_batches(left, traced, groups):
        regular = _regularize_in_metres(
            walls[own], traced[own], groups[own], extended, steps_m[own], max_shifts[own]
        )
        # Neighbours share walls: all or none.
        found = np.isin(groups[own], groups[own][regular.status != KEPT])
        chosen = own[found]
        outlines[chosen], status[chosen] = regular.polygons[found], regular.status[found]
        done[chosen] = True
    rest = ~done
    outlines[rest] = simplify_within(traced[rest], groups[rest], extended, tolerances[rest])
    return RegularOutlines(outlines, status)


def _place_rectangles(
    outlines: np.ndarray,
    traced: np.ndarray,
    groups: np.ndarray,
    zones: Mapping[int, BaseGeometry],
    steps_m: np.ndarray,
    max_shifts_m: np.ndarray,
) -> np.ndarray:
    """Replace outlines that touch no other one by rectangles where these fit.

    Args:
        outlines: Polygons (n,) in pixels, simplified for the alignment of walls; changed in place.
        traced: See `shape_outlines`, as are `groups` and `steps_m`.
        groups: Component of each polygon.
        zones: Zone of each component with its traced outlines.
        steps_m: Steps to the next column and row.
        max_shifts_m: float64 (n,), maximum shifts of outlines.

    Returns:
        bool (n,), which outlines were replaced.
    """
    chosen = np.flatnonzero(
        are_alone(groups) & (shapely.get_num_coordinates(outlines) <= _most_corners(1))
    )
    steps = steps_m[chosen]
    # The origin is a pixel of the component, so that rounding does not depend on the window.
    origins = np.floor(shapely.bounds(outlines[chosen])[:, :2])
    walls, exact = (_to_metres(one[chosen], origins, steps) for one in (outlines, traced))
    rectangles = fit_rectangles(walls, exact, max_shifts_m[chosen])
    fits = ~shapely.is_empty(rectangles)
    chosen = chosen[fits]
    pixels = _to_pixels(rectangles[fits], origins[fits], steps[fits])
    inside = stay_in_own([zones[group] for group in groups[chosen].tolist()], pixels)
    outlines[chosen[inside]] = pixels[inside]
    replaced = np.zeros(len(outlines), dtype=bool)
    replaced[chosen[inside]] = True
    return replaced


def _to_metres(polygons: np.ndarray, origins: np.ndarray, steps_m: np.ndarray) -> np.ndarray:
    """Return polygons (n,) in metres from their origins (n, 2)."""
    points, owner = shapely.get_coordinates(polygons, return_index=True)
    return _set_points(polygons, _combine_steps(points - origins[owner], steps_m[owner]))


def _to_pixels(polygons: np.ndarray, origins: np.ndarray, steps_m: np.ndarray) -> np.ndarray:
    """Return polygons (n,) in pixels of the grid, see `_to_metres`."""
    points, owner = shapely.get_coordinates(polygons, return_index=True)
    pixels = _combine_steps(points, np.linalg.inv(steps_m)[owner])
    return _set_points(polygons, pixels + origins[owner])


def _set_points(polygons: np.ndarray, points: np.ndarray) -> np.ndarray:
    placed: np.ndarray = shapely.set_coordinates(polygons.copy(), points)
    return placed


def _round(tolerances: np.ndarray) -> np.ndarray:
    """Round tolerances to multiples of `1 / _TOLERANCE_GRAIN`."""
    rounded: np.ndarray = np.rint(tolerances * _TOLERANCE_GRAIN) / _TOLERANCE_GRAIN
    return rounded


def _split_batches(chosen: np.ndarray, traced: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """Split indices of polygons into batches of whole groups, see `_BATCH`."""
    total = np.cumsum(shapely.get_num_coordinates(traced[chosen]))
    is_first = np.diff(groups[chosen], prepend=-1) > 0
    batch = np.maximum.accumulate(np.where(is_first, total // _BATCH, 0))
    return np.split(chosen, np.flatnonzero(np.diff(batch)) + 1) if len(chosen) else []


def _are_texture(outlines: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return which outlines (n,) are in a group with so many corners that it is texture."""
    _, number, counts = np.unique(groups, return_inverse=True, return_counts=True)
    corners = np.bincount(number, shapely.get_num_coordinates(outlines))
    texture: np.ndarray = (corners > _most_corners(counts))[number]
    return texture


def _most_corners(count: np.ndarray | int) -> np.ndarray | int:
    return _CORNERS_EACH * count + _CORNERS_MORE


def _regularize_in_metres(
    outlines: np.ndarray,
    traced: np.ndarray,
    groups: np.ndarray,
    zones: Mapping[int, BaseGeometry],
    steps_m: np.ndarray,
    max_shifts_m: np.ndarray,
) -> RegularOutlines:
    """Make groups right-angled in metres; return their outlines in pixels."""
    names, firsts, number = np.unique(groups, return_index=True, return_inverse=True)
    # The origin is a pixel of the component, so that rounding does not depend on the window.
    lows = np.full((len(names), 2), np.inf)
    np.minimum.at(lows, number, shapely.bounds(outlines)[:, :2])
    origins = np.floor(lows)
    own_zones = np.array([zones[group] for group in names.tolist()], dtype=object)
    zones_m = _to_metres(own_zones, origins, steps_m[firsts])
    metres, exact = (_to_metres(one, origins[number], steps_m) for one in (outlines, traced))
    regular = regularize(
        metres, exact, groups, dict(zip(names.tolist(), zones_m, strict=True)), max_shifts_m
    )
    # Corners that did not move stay as they were, to the last digit, since outlines that are not
    # right-angled share them.
    before, owner = shapely.get_coordinates(metres, return_index=True)
    after, owner_after = shapely.get_coordinates(regular.polygons, return_index=True)
    owners = np.concatenate([owner, owner_after])
    corner = number_points(np.concatenate([before, after]), groups[owners])
    pixels = np.empty((int(corner.max(initial=-1)) + 1, 2))
    pixels[corner[len(before) :]] = (
        _combine_steps(after, np.linalg.inv(steps_m)[owner_after]) + origins[number[owner_after]]
    )
    pixels[corner[: len(before)]] = shapely.get_coordinates(outlines)
    polygons = _set_points(regular.polygons, pixels[corner[len(before) :]])
    return RegularOutlines(share_corners(polygons, groups), regular.status)


def _combine_steps(points: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return points (n, 2) as sums of two steps, added in a fixed order for stable rounding.

    Args:
        points: float64 (n, 2).
        steps: The two steps, (2, 2), or those of each point, (n, 2, 2).
    """
    summed: np.ndarray = points[:, :1] * steps[..., 0, :] + points[:, 1:] * steps[..., 1, :]
    return summed


def _group_slices(groups: np.ndarray) -> list[slice]:
    """Return the slice of each group in sorted groups."""
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    ends = np.append(begins, len(groups))[1:]
    return [slice(*pair) for pair in zip(begins.tolist(), ends.tolist(), strict=True)]
