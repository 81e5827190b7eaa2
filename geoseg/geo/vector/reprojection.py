"""Reprojection of polygons with long edges."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from geoseg.geo.crs import as_crs, build_transformer, transform_bounds
from geoseg.geo.grid import unit_m
from geoseg.geo.vector.polygons import keep_polygons, polygonal_part

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
    bounds: tuple[float, float, float, float] | None = None,
) -> gpd.GeoDataFrame:
    """Reproject polygons, with additional vertices where a straight edge becomes a curve.

    `GeoDataFrame.to_crs` moves vertices only: between them an edge stays straight, and may be
    kilometres from where it was. The result differs from the true curve by 1 mm at most.

    Args:
        layer: Valid polygons in any CRS.
        crs: CRS of the result.
        bounds: (left, bottom, right, top) in `crs`; polygons are cut to a somewhat larger area,
            since a CRS has no coordinates for points that are far outside its domain.

    Returns:
        Valid polygons; those that are outside the bounds or have no coordinates in `crs` are
        left out.
    """
    target = as_crs(crs)
    if target == layer.crs:
        return layer
    shapes = np.array(layer.geometry.array, dtype=object)
    box = _widened(transform_bounds(bounds, target, layer.crs))
    if box is not None:
        cut = ~shapely.covered_by(shapes, box)
        shapes[cut] = keep_polygons(shapely.intersection(shapes[cut], box))
    edges = _RingEdges(layer.crs, target)
    shapes = np.array([edges.reproject(shape) for shape in shapes], dtype=object)
    layer = layer.set_geometry(gpd.GeoSeries(shapes, index=layer.index, crs=target), crs=target)
    return layer[~layer.geometry.is_empty]


def _widened(bounds: tuple[float, float, float, float] | None) -> BaseGeometry | None:
    if bounds is None:
        return None
    left, bottom, right, top = bounds
    margin = _MARGIN * max(right - left, top - bottom)
    return shapely.box(left - margin, bottom - margin, right + margin, top + margin)


class _RingEdges:
    """Edges of polygons in one CRS, and their course in another."""

    def __init__(self, source: CRS, target: CRS) -> None:
        self._transformer = build_transformer(source, target, "polygons")
        self._tolerance = _TOLERANCE_M / unit_m(target)

    def reproject(self, shape: BaseGeometry) -> BaseGeometry:
        """Reproject a polygon; an empty one where it has no coordinates."""
        parts = [
            Polygon(self._ring(part.exterior), [self._ring(ring) for ring in part.interiors])
            for part in shapely.get_parts(shape)
        ]
        finite = [part for part in parts if np.isfinite(part.bounds).all()]
        placed = finite[0] if len(finite) == 1 else MultiPolygon(finite)
        return placed if placed.is_valid else polygonal_part(shapely.make_valid(placed))

    def _ring(self, ring: BaseGeometry) -> np.ndarray:
        """Reprojected vertices (n, 2) of a ring, as many as its course needs."""
        points = shapely.get_coordinates(ring)
        for _ in range(_MOST_SPLITS):
            between = points[:-1, None] + np.diff(points, axis=0)[:, None] * _QUARTERS
            ends = self._transform(points)
            straight = ends[:-1, None] + np.diff(ends, axis=0)[:, None] * _QUARTERS
            moved = self._transform(between.reshape(-1, 2)).reshape(between.shape)
            bent = np.hypot(*(moved - straight).transpose(2, 0, 1)).max(axis=1) > self._tolerance
            if not bent.any():
                break
            places = np.repeat(np.flatnonzero(bent) + 1, len(_QUARTERS))
            points = np.insert(points, places, between[bent].reshape(-1, 2), axis=0)
        return self._transform(points)

    def _transform(self, points: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.column_stack(self._transformer.transform(*points.T))
