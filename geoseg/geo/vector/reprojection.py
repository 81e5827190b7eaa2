"""Reprojection of polygons with long edges."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from geoseg.geo.crs import (
    Box,
    ContinuousTransformer,
    as_crs,
    is_same_crs,
    transform_bounds,
    x_period,
)
from geoseg.geo.grid import unit_m
from geoseg.geo.vector.placement import mend_torn, place_near
from geoseg.geo.vector.polygons import extent_x, keep_polygons, polygonal_part

# Largest distance between an edge and its reprojected points, in metres.
_TOLERANCE_M = 0.001

# Positions at which an edge is compared with its projection. The middle alone does not suffice:
# an edge that bends like an S is exact there.
_QUARTERS = np.array([0.25, 0.5, 0.75])[:, None]

# An edge of 20 000 km split so many times has parts of 80 m. Where coordinates jump, as at 180
# degrees, no split suffices.
_MOST_SPLITS = 9

# Share of the bounds' size that is kept around them, so that cut edges are well outside.
_MARGIN = 0.1


def to_crs_densified(
    layer: gpd.GeoDataFrame,
    crs: Any,
    *,
    bounds: Box | None = None,
) -> gpd.GeoDataFrame:
    """Reproject polygons, with additional vertices where a straight edge becomes a curve.

    `GeoDataFrame.to_crs` moves vertices only: between them an edge stays straight, and may be
    kilometres from where it was. The result differs from the true curve by 1 mm at most.

    Args:
        layer: Valid polygons in any CRS.
        crs: CRS of the result.
        bounds: (left, bottom, right, top) in `crs`; polygons are cut to a somewhat larger area,
            since a CRS has no coordinates for points that are far outside its domain, and moved
            next to it if they are beyond 180 degrees.

    Returns:
        Valid polygons; those that are outside the bounds or have no coordinates in `crs` are
        left out.
    """
    target = as_crs(crs)
    same = is_same_crs(target, layer.crs)
    if target == layer.crs and (bounds is None or x_period(target) is None):
        return layer
    shapes = mend_torn(np.array(layer.geometry.array, dtype=object), layer.crs)
    if not same:
        shapes = _densify(shapes, layer.crs, target, bounds)
    if bounds is not None:
        shapes = place_near(shapes, target, (bounds[0] + bounds[2]) / 2)
    layer = layer.set_geometry(gpd.GeoSeries(shapes, index=layer.index, crs=target), crs=target)
    return layer[~layer.geometry.is_empty]


def _densify(shapes: np.ndarray, source: CRS, target: CRS, bounds: Box | None) -> np.ndarray:
    """Reproject valid polygons (N,), cut to somewhat more than the bounds."""
    boxes = transform_bounds(bounds, target, source, extent=extent_x(shapes))
    if boxes is not None:
        box = shapely.union_all([_widen(box) for box in boxes])
        cut = ~shapely.covered_by(shapes, box)
        shapes[cut] = keep_polygons(shapely.intersection(shapes[cut], box))
    edges = _RingEdges(source, target)
    return np.array([edges.reproject(shape) for shape in shapes], dtype=object)


def _widen(bounds: Box) -> BaseGeometry:
    left, bottom, right, top = bounds
    margin = _MARGIN * max(right - left, top - bottom)
    return shapely.box(left - margin, bottom - margin, right + margin, top + margin)


class _RingEdges:
    """Edges of polygons in one CRS, and their course in another."""

    def __init__(self, source: CRS, target: CRS) -> None:
        self._transform = ContinuousTransformer(source, target, "polygons")
        # Between two periodic CRSs, x is continuous already.
        self._period = None if self._transform.source_period else self._transform.period
        self._tolerance = _TOLERANCE_M / unit_m(target)

    def reproject(self, shape: BaseGeometry) -> BaseGeometry:
        """Reproject a polygon; an empty one where it has no coordinates."""
        parts = [
            self._align(self._ring(part.exterior), [self._ring(hole) for hole in part.interiors])
            for part in shapely.get_parts(shape)
        ]
        finite = [part for part in parts if np.isfinite(part.bounds).all()]
        placed = finite[0] if len(finite) == 1 else MultiPolygon(finite)
        return placed if placed.is_valid else polygonal_part(shapely.make_valid(placed))

    def _ring(self, ring: BaseGeometry) -> np.ndarray:
        """Reprojected vertices (n, 2) of a ring, as many as its course needs."""
        points = shapely.get_coordinates(ring)
        for _ in range(_MOST_SPLITS):
            backward = _run_backward(points)
            between = _at_quarters(points, backward)
            straight = _at_quarters(self._unroll(self._transform(points)), backward)
            moved = self._transform(between.reshape(-1, 2)).reshape(between.shape)
            offsets = moved - straight
            if self._period:
                offsets[..., 0] -= np.nan_to_num(self._period.turns(offsets[..., 0]))
            bent = np.hypot(*offsets.transpose(2, 0, 1)).max(axis=1) > self._tolerance
            if not bent.any():
                break
            places = np.repeat(np.flatnonzero(bent) + 1, len(_QUARTERS))
            points = np.insert(points, places, between[bent].reshape(-1, 2), axis=0)
        return self._unroll(self._transform(points))

    def _align(self, outside: np.ndarray, holes: list[np.ndarray]) -> Polygon:
        """Build a polygon whose holes are in the same period of x as its outside."""
        if self._period:
            centre = outside[:, 0].mean()
            for hole in holes:
                hole[:, 0] += np.nan_to_num(self._period.turns(centre - hole[:, 0].mean()))
        return Polygon(outside, holes)

    def _unroll(self, ring: np.ndarray) -> np.ndarray:
        """Make x of a ring continuous where it jumps, unless it is around a pole."""
        if not self._period or not np.isfinite(ring).all():
            return ring
        unrolled = self._period.unroll(ring)
        closed = abs(unrolled[-1, 0] - unrolled[0, 0]) < self._period.size / 2
        return unrolled if closed else ring


def _run_backward(points: np.ndarray) -> np.ndarray:
    """Return which edges (n - 1,) of a ring run to the left, or straight down."""
    (x, y), (next_x, next_y) = points[:-1].T, points[1:].T
    backward: np.ndarray = (next_x < x) | (next_x == x) & (next_y < y)
    return backward


def _at_quarters(points: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Return the points (n - 1, 3, 2) that divide the edges of a ring.

    Neighbours run along their common edge in opposite directions. Both must get the same points to
    the last digit, so edges that run backward are divided from their other end.
    """
    swapped = backward[:, None]
    begins = np.where(swapped, points[1:], points[:-1])
    ends = np.where(swapped, points[:-1], points[1:])
    divided = begins[:, None] + (ends - begins)[:, None] * _QUARTERS
    divided[backward] = divided[backward, ::-1]
    quarters: np.ndarray = divided
    return quarters
