"""Polygons in longitude and latitude, cut at 180 degrees and at the poles (RFC 7946)."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import shapely
from shapely.affinity import translate
from shapely.errors import GEOSException
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from geoseg.geo.vector.polygons import polygonal_part

DECIMALS = 7  # about 1 cm on the ground; RFC 7946 advises against more

_SIZE = 10.0**-DECIMALS

# Degrees, about 20 cm: GDAL moves coordinates that are nearer to 180 degrees onto it, where
# narrower parts would collapse.
_LEAST_WIDTH = 2e-6

# Segments of a densified ring around a pole: short enough that edges follow their true course.
_POLAR_STEPS = 256


def to_degrees(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Reproject polygons to WGS 84, each as a Polygon or MultiPolygon of the same area.

    Polygons across 180 degrees are cut there, polygons around a pole along a meridian.
    Coordinates are rounded to `DECIMALS`; polygons that become invalid are repaired.

    Args:
        frame: Polygons in any CRS.
    """
    lonlat = frame.to_crs(4326)
    shapes = np.array(lonlat.geometry.array, dtype=object)
    if frame.crs != lonlat.crs:  # reprojection may tear polygons apart
        left, _, right, _ = shapely.bounds(shapes).reshape(-1, 4).T
        for index in np.flatnonzero(right - left > 180):
            shapes[index] = _reproject_torn(frame.geometry.iloc[[index]])
    shapes = np.array([wrap_lonlat(shape) for shape in shapes], dtype=object)
    return lonlat.set_geometry(
        gpd.GeoSeries(_round(shapes), index=lonlat.index, crs=lonlat.crs), crs=lonlat.crs
    )


def wrap_lonlat(shape: BaseGeometry) -> BaseGeometry:
    """Wrap longitudes to -180..180 degrees, and cut off what is beyond a pole.

    A scene in degrees may extend from 179 to 181, and a resampled one up to a pixel beyond the
    pole; GeoJSON allows neither.

    Args:
        shape: Polygon in longitude and latitude.

    Returns:
        The same area between -180 and 180, -90 and 90 degrees.
    """
    left, bottom, right, top = shape.bounds
    if shape.is_empty or (left >= -180 and right <= 180 and bottom >= -90 and top <= 90):
        return shape
    shape = shapely.make_valid(shape)
    parts = [
        translate(shape.intersection(shapely.box(turn - 180, -90, turn + 180, 90)), -turn)
        for turn in (-360, 0, 360)
    ]
    cut = np.array([part for part in parts if part.area > 0], dtype=object)
    bounds = shapely.bounds(cut).reshape(-1, 4)
    wide = bounds[:, 2] - bounds[:, 0] > _LEAST_WIDTH
    return shapely.union_all(cut[wide] if wide.any() else cut)


def _reproject_torn(polygon: gpd.GeoSeries) -> BaseGeometry:
    """Reproject one polygon, in any CRS, whose longitudes jump by 360 degrees."""
    lonlat = polygon.to_crs(4326).iloc[0]
    if _encloses_pole(_unrolled(lonlat.exterior.coords)):
        step = polygon.length.iloc[0] / _POLAR_STEPS
        lonlat = polygon.segmentize(step).to_crs(4326).iloc[0]
    outside, *holes = (
        wrap_lonlat(_polygon_of(_unrolled(ring.coords)))
        for ring in (lonlat.exterior, *lonlat.interiors)
    )
    return polygonal_part(shapely.difference(outside, shapely.union_all(holes)))


def _unrolled(ring: shapely.coords.CoordinateSequence) -> np.ndarray:
    """Return a closed ring (n, 2), with Z (n, 3), whose longitudes continue beyond 180 degrees."""
    points = np.array(ring)
    steps = np.diff(points[:, 0])
    points[1:, 0] = points[0, 0] + np.cumsum(steps - 360 * np.rint(steps / 360))
    return points


def _encloses_pole(ring: np.ndarray) -> bool:
    """Return whether an unrolled ring goes around a pole: it does not end where it began."""
    return bool(abs(ring[-1, 0] - ring[0, 0]) > 180)


def _polygon_of(ring: np.ndarray) -> BaseGeometry:
    """Return the polygon of an unrolled ring, closed along the pole if it goes around it."""
    if _encloses_pole(ring):
        pole = np.copysign(90.0, ring[:, 1].mean())
        ends = ring[[-1, 0]]
        ends[:, 1] = pole
        ring = np.vstack([ring, ends])
    return shapely.make_valid(Polygon(ring))


def _round(shapes: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = shapely.set_precision(shapes, _SIZE, mode="pointwise")
    try:
        rounded = shapely.remove_repeated_points(rounded)
    except GEOSException:  # a part is so thin that it collapses, such as one cut off at 180 degrees
        return np.array([_round_valid(shape) for shape in shapes], dtype=object)
    for index in np.flatnonzero(~shapely.is_valid(rounded)):
        rounded[index] = _round_valid(shapes[index])
    return rounded


def _round_valid(shape: BaseGeometry) -> BaseGeometry:
    """Round a polygon; parts that collapse are dropped."""
    return polygonal_part(shapely.set_precision(shapely.make_valid(shape), _SIZE))
