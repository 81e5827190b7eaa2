"""Zones of components: the area in which their outlines may be changed.

Traced outlines of two components never overlap, since there is at least one pixel between them.
Simplified and right-angled outlines move, however, and a component does not know the outlines of
its neighbours, which may be traced in another window. So each component has a zone: the pixels
nearer to this component than to any other. Of pixels that are equally near, the leftmost one
counts, and of these the top one, so that every pixel is in one zone only. All components that its
outlines could touch are in the margin of the window, so the zones of neighbours do not overlap,
whichever window they are computed in. Outlines that stay inside their zone never overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from rasterio.windows import Window
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from geoseg.geo.grid import Grid
from geoseg.vectorization.components.labelling import Components
from geoseg.vectorization.components.runs import (
    Runs,
    concatenate_runs,
    find_runs,
    label_runs,
    rasterize_runs,
)
from geoseg.vectorization.outlines.rings import trace_rings
from geoseg.vectorization.outlines.tracing import move_polygons

# Side of the squares in which the nearest pixels are searched, so that large components need little
# memory.
_SIDE = 512

# Share of the area of a polygon that may be outside by rounding errors.
_ROUNDING = 1e-9


def find_zones(
    mask: Runs,
    valid: np.ndarray,
    window: Window,
    grid: Grid,
    components: Components,
    margins: np.ndarray,
) -> list[BaseGeometry]:
    """Compute the zones of components, in pixels of the grid.

    Args:
        mask: Runs of a window; values are the numbers of components there, from 1.
        valid: bool (H, W), False on nodata, which is in no zone.
        window: Contains the components and their margins, clipped to the grid.
        grid: Grid of the raster; pixels outside it are in no zone.
        components: Components whose zones are computed.
        margins: int64 (n,), pixels around each component that contain all neighbours which its
            outlines may touch.

    Returns:
        A MultiPolygon per component; empty if the whole margin is in the zone.
    """
    zones: list[BaseGeometry] = [MultiPolygon()] * len(components)
    if not len(components):
        return zones
    limited = np.flatnonzero(~_have_free_margins(mask, valid, window, grid, components, margins))
    labels = rasterize_runs(mask, valid.shape)
    runs, moves, below = [], [], 0
    for component, margin in zip(components.pick(limited), margins[limited].tolist(), strict=True):
        wide = grid.widen(component.window, margin)
        top, left = wide.row_off - window.row_off, wide.col_off - window.col_off
        part = slice(top, top + wide.height), slice(left, left + wide.width)
        row, column = component.first
        own = labels[row - window.row_off, column - window.col_off]
        inside = (wide.height, wide.width) == (
            component.window.height + 2 * margin,
            component.window.width + 2 * margin,
        )
        zone = _find_zone(labels[part], own, valid[part], margin, inside=inside)
        runs.append(find_runs(zone.view(np.uint8)).move(below, 0))
        moves.append((wide.col_off, wide.row_off - below))
        below += wide.height + 1
    outlines = _outline(runs, np.array(moves).reshape(-1, 2))
    for number, outline in zip(limited.tolist(), outlines, strict=True):
        zones[number] = outline
    return zones


def _have_free_margins(
    mask: Runs,
    valid: np.ndarray,
    window: Window,
    grid: Grid,
    components: Components,
    margins: np.ndarray,
) -> np.ndarray:
    """Return which components (n,) have their whole margin inside the grid and to themselves.

    Boxes around components decide, so that a few others may have it, too. For the arguments see
    `find_zones`.
    """
    wide = shapely.box(
        components.lefts - margins, components.tops - margins,
        components.rights + margins, components.bottoms + margins,
    )  # fmt: skip
    free: np.ndarray = shapely.covers(shapely.box(0, 0, grid.width, grid.height), wide)
    every = shapely.STRtree(_boxes_around(mask.move(window.row_off, window.col_off)))
    hits, _ = every.query(wide)
    free &= np.bincount(hits, minlength=len(components)) == 1  # each hits its own box
    if not valid.all():
        for number in np.flatnonzero(free).tolist():
            left, top, right, bottom = (int(side) for side in shapely.bounds(wide[number]))
            rows = slice(top - window.row_off, bottom - window.row_off)
            free[number] = valid[rows, left - window.col_off : right - window.col_off].all()
    return free


def _boxes_around(runs: Runs) -> np.ndarray:
    """Return the bounding boxes of the pixels of each value, as polygons."""
    runs = runs.pick(np.argsort(runs.values, kind="stable"))
    begins = np.flatnonzero(np.diff(runs.values, prepend=0))
    ends = np.append(begins[1:], len(runs)) - 1
    # Boxes that only touch the margin do not reach into it.
    left, right = (
        np.minimum.reduceat(runs.starts, begins),
        np.maximum.reduceat(runs.stops, begins),
    )
    top, bottom = runs.rows[begins], runs.rows[ends] + 1
    boxes: np.ndarray = shapely.box(left + 0.5, top + 0.5, right - 0.5, bottom - 0.5)
    return boxes


def _find_zone(
    labels: np.ndarray, own: int, valid: np.ndarray, margin: int, *, inside: bool
) -> np.ndarray:
    """Return the pixels of a zone, bool (H, W); none if the zone is not limited.

    Args:
        labels: int32 (H, W), component of each pixel, 0 for background.
        own: Label of the component.
        valid: bool (H, W), False on nodata.
        margin: Pixels farther from the component may be in the zone or not.
        inside: Whether the margin is completely inside the grid.
    """
    foreign = (labels > 0) & (labels != own)
    if not foreign.any():
        return np.zeros_like(valid) if inside and valid.all() else valid
    zone = valid.copy()
    height, width = labels.shape
    for top in range(0, height, _SIDE):
        for left in range(0, width, _SIDE):
            # What is nearest within the margin does not depend on what is farther away.
            first = max(0, top - margin), max(0, left - margin)
            rows, columns = (slice(begin, side + _SIDE + margin)
                             for begin, side in zip(first, (top, left), strict=True))  # fmt: skip
            if foreign[rows, columns].any():
                own_nearest = find_nearest(labels[rows, columns]) == own
                part = slice(top, top + _SIDE), slice(left, left + _SIDE)
                zone[part] &= own_nearest[top - first[0] :, left - first[1] :][:_SIDE, :_SIDE]
    return zone


def find_nearest(labels: np.ndarray) -> np.ndarray:
    """Return the component of the nearest pixel that has one, int32 (H, W).

    Of pixels that are equally near, the leftmost one counts, and of these the top one.

    Args:
        labels: int32 (H, W), component of each pixel, 0 for background; one has a component.
    """
    from scipy.ndimage import distance_transform_edt  # slow to load

    rows, columns = distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    nearest: np.ndarray = labels[rows, columns]
    return nearest


def _outline(zones: list[Runs], moves: np.ndarray) -> list[BaseGeometry]:
    """Trace the outlines of zones that are stacked vertically, and move each to its position.

    Tracing all zones at once is much faster for small ones.

    Args:
        zones: Runs of each zone.
        moves: int64 (n, 2), columns and rows by which each zone is moved.
    """
    if not zones:
        return []
    runs = concatenate_runs(*zones)
    owners = np.repeat(np.arange(len(zones)), [len(zone) for zone in zones])
    pieces, count = label_runs(runs, diagonal=False)
    owner = np.zeros(count, dtype=np.int64)
    owner[pieces] = owners
    polygons = move_polygons(trace_rings(runs, pieces).polygons(), *moves[owner].T)
    ends = np.searchsorted(owner, np.arange(1, len(zones)))
    return [MultiPolygon(list(parts)) for parts in np.split(polygons, ends)]


def extend_zone(zone: BaseGeometry, traced: np.ndarray) -> BaseGeometry:
    """Return the union of a zone and the traced outlines (n,) of its component.

    An empty zone, which is not limited, stays empty.
    """
    if zone.is_empty:
        return zone
    extended: BaseGeometry = shapely.union(zone, shapely.coverage_union_all(traced))
    return extended


def stay_within(polygons: np.ndarray, zone: BaseGeometry) -> np.ndarray:
    """Return which outlines (n,) of a component stay within its zone, see `extend_zone`."""
    if zone.is_empty:
        return np.ones(len(polygons), dtype=bool)
    shapely.prepare(zone)
    kept: np.ndarray = shapely.covers(zone, polygons)
    kept[~kept] = [_is_within(polygon, zone) for polygon in polygons[~kept]]
    return kept


def stay_in_own(zones: Sequence[BaseGeometry], polygons: np.ndarray) -> np.ndarray:
    """Return which outlines (n,) stay within their own zone, see `stay_within`."""
    areas = np.array(zones, dtype=object)
    kept: np.ndarray = shapely.is_empty(areas) | shapely.covers(areas, polygons)
    kept[~kept] = [
        _is_within(polygon, zone)
        for polygon, zone in zip(polygons[~kept], areas[~kept], strict=True)
    ]
    return kept


def _is_within(polygon: BaseGeometry, zone: BaseGeometry) -> bool:
    """Whether a polygon leaves the zone by rounding errors only."""
    # The zone may be much larger than the polygon: clip it first.
    left, low, right, high = polygon.bounds
    with np.errstate(invalid="ignore"):  # GEOS may set the flag for intermediate results
        near = shapely.clip_by_rect(zone, left - 1, low - 1, right + 1, high + 1)
    outside: float = polygon.difference(near if near.is_valid else zone).area
    return outside <= _ROUNDING * polygon.area
