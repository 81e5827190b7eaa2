"""The ground that belongs to a component, where its outlines may go when they change.

Outlines as they are found keep apart, for between two components lies a pixel at least. What is
simplified or made regular moves, though, and knows nothing of its neighbours: they may be far
away in the raster's rows, and traced elsewhere. So each has a zone, of the pixels that are closer
to it than to anything else in sight. Sight reaches as far as its own outlines and those of a
neighbour may go together: two that could meet see each other, and their zones share no ground.
Whoever stays in the own one meets nobody.
"""

from __future__ import annotations

import numpy as np
import shapely
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt
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

# Of a polygon's area; less than this lies outside by the last digits alone.
_ROUNDING = 1e-9


def find_zones(
    mask: Runs,
    valid: np.ndarray,
    window: Window,
    grid: Grid,
    components: Components,
    margins: np.ndarray,
) -> list[BaseGeometry]:
    """The zones of some components, in pixels of the grid.

    Args:
        mask: Runs of a window, whose values are numbers of components there, from 1.
        valid: bool (H, W), False on nodata, which is in no zone.
        window: Holds the components and their margins, as far as the grid reaches.
        grid: Ground beyond it is in no zone.
        components: Those that zones are for.
        margins: int64 (n,), pixels around each in which whoever its outlines may meet is seen.

    Returns:
        For each a polygon or several; empty if it may go anywhere within its margin.
    """
    names = rasterize_runs(mask, valid.shape)
    found, moves, below = [], [], 0
    for component, margin in zip(components, margins.tolist(), strict=True):
        wide = grid.widen(component.window, margin)
        whole = (wide.height, wide.width) == (
            component.window.height + 2 * margin,
            component.window.width + 2 * margin,
        )
        top, left = wide.row_off - window.row_off, wide.col_off - window.col_off
        part = slice(top, top + wide.height), slice(left, left + wide.width)
        row, column = component.first
        own = names[row - window.row_off, column - window.col_off]
        zone = _find_zone(names[part], own, valid[part], inside=whole)
        found.append(find_runs(zone.view(np.uint8)).move(below, 0))
        moves.append((wide.col_off, wide.row_off - below))
        below += wide.height + 1
    return _outline(found, np.array(moves).reshape(-1, 2))


def _find_zone(names: np.ndarray, own: int, valid: np.ndarray, *, inside: bool) -> np.ndarray:
    """Pixels of a zone, bool (H, W); none if it is everywhere."""
    foreign = (names > 0) & (names != own)
    near = foreign.any()
    if not near:
        return np.zeros_like(valid) if inside and valid.all() else valid
    zone: np.ndarray = valid & (
        distance_transform_edt(names != own) < distance_transform_edt(~foreign)
    )
    return zone


def _outline(found: list[Runs], moves: np.ndarray) -> list[BaseGeometry]:
    """Outlines of zones that lie one below the other, each moved to its place.

    All are traced at once, which for small ones is much faster.

    Args:
        found: Runs of each.
        moves: int64 (n, 2), columns and rows.
    """
    if not found:
        return []
    runs = concatenate_runs(*found)
    owners = np.repeat(np.arange(len(found)), [len(zone) for zone in found])
    pieces, count = label_runs(runs, diagonal=False)
    owner = np.zeros(count, dtype=np.int64)
    owner[pieces] = owners
    polygons = move_polygons(trace_rings(runs, pieces).polygons(), *moves[owner].T)
    ends = np.searchsorted(owner, np.arange(1, len(found)))
    return [MultiPolygon(list(parts)) for parts in np.split(polygons, ends)]


def extend_zone(zone: BaseGeometry, found: np.ndarray) -> BaseGeometry:
    """A zone with the ground of a component's outlines (n,) as they were found.

    Empty if the zone is, where the component may go anywhere.
    """
    if zone.is_empty:
        return zone
    ground: BaseGeometry = shapely.union(zone, shapely.coverage_union_all(found))
    return ground


def stay_within(polygons: np.ndarray, ground: BaseGeometry) -> np.ndarray:
    """Which outlines (n,) of a component keep to its ground, see `extend_zone`."""
    if ground.is_empty:
        return np.ones(len(polygons), dtype=bool)
    shapely.prepare(ground)
    kept: np.ndarray = shapely.covers(ground, polygons)
    kept[~kept] = [_all_but_stays(polygon, ground) for polygon in polygons[~kept]]
    return kept


def all_stay_within(polygons: np.ndarray, ground: BaseGeometry) -> bool:
    """Whether all of them do; the first one that does not is the last one looked at."""
    if ground.is_empty:
        return True
    shapely.prepare(ground)
    kept = shapely.covers(ground, polygons)
    return all(_all_but_stays(polygon, ground) for polygon in polygons[~kept])


def _all_but_stays(polygon: BaseGeometry, ground: BaseGeometry) -> bool:
    """Whether a polygon leaves ground, which may be much larger, by the last digits alone."""
    left, low, right, high = polygon.bounds
    with np.errstate(invalid="ignore"):  # what GEOS computes on the way is no concern
        near = shapely.clip_by_rect(ground, left - 1, low - 1, right + 1, high + 1)
    outside: float = polygon.difference(near if near.is_valid else ground).area
    return outside <= _ROUNDING * polygon.area
