"""Polygons in longitude and latitude as RFC 7946 has them: cut at 180 degrees, and at a pole."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import shapely
from shapely.affinity import translate
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from geoseg.geo.vector.polygons import polygonal_part

DECIMALS = 7  # about 1 cm on the ground, what RFC 7946 asks for at most

# Steps around a polygon that holds a pole, between which meridians and edges do not differ much.
_POLAR_STEPS = 256


def to_degrees(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Brings polygons to WGS 84, each to a Polygon or MultiPolygon of the same ground.

    What crosses 180 degrees is cut there, what holds a pole along a meridian. Coordinates are
    rounded to `DECIMALS`; what that makes invalid is repaired.

    Args:
        frame: Polygons in any CRS.
    """
    lonlat = frame.to_crs(4326)
    shapes = np.array(lonlat.geometry.array, dtype=object)
    if frame.crs != lonlat.crs:  # else nothing was torn apart
        left, _, right, _ = shapely.bounds(shapes).reshape(-1, 4).T
        for place in np.flatnonzero(right - left > 180):
            shapes[place] = _mend(frame.geometry.iloc[[place]])
    shapes = np.array([within_globe(shape) for shape in shapes], dtype=object)
    return lonlat.set_geometry(
        gpd.GeoSeries(_round(shapes), index=lonlat.index, crs=lonlat.crs), crs=lonlat.crs
    )


def within_globe(shape: BaseGeometry) -> BaseGeometry:
    """Brings back what lies beyond 180 degrees, by a turn, and cuts off what lies beyond a pole.

    A scene in degrees may reach from 179 to 181, and one that was resampled ends up to a pixel
    further south; GeoJSON knows neither.

    Args:
        shape: In longitude and latitude.

    Returns:
        The same ground between -180 and 180, -90 and 90 degrees.
    """
    left, bottom, right, top = shape.bounds
    if shape.is_empty or (left >= -180 and right <= 180 and bottom >= -90 and top <= 90):
        return shape
    shape = shapely.make_valid(shape)
    parts = [
        translate(shape.intersection(shapely.box(turn - 180, -90, turn + 180, 90)), -turn)
        for turn in (-360, 0, 360)
    ]
    return shapely.union_all([part for part in parts if part.area > 0])


def _mend(polygon: gpd.GeoSeries) -> BaseGeometry:
    """The ground of one polygon, in any CRS, whose longitudes jump by a turn."""
    lonlat = polygon.to_crs(4326).iloc[0]
    if _turns(_unrolled(lonlat.exterior.coords)):
        step = polygon.length.iloc[0] / _POLAR_STEPS
        lonlat = polygon.segmentize(step).to_crs(4326).iloc[0]
    outside, *holes = (
        within_globe(_ground_of(_unrolled(ring.coords)))
        for ring in (lonlat.exterior, *lonlat.interiors)
    )
    return polygonal_part(shapely.difference(outside, shapely.union_all(holes)))


def _unrolled(ring: shapely.coords.CoordinateSequence) -> np.ndarray:
    """A closed ring (n, 2) whose longitudes go on beyond 180 degrees."""
    points = np.array(ring)
    steps = np.diff(points[:, 0])
    points[1:, 0] = points[0, 0] + np.cumsum(steps - 360 * np.rint(steps / 360))
    return points


def _turns(ring: np.ndarray) -> bool:
    """Whether an unrolled ring goes around a pole, and so does not end where it began."""
    return bool(abs(ring[-1, 0] - ring[0, 0]) > 180)


def _ground_of(ring: np.ndarray) -> BaseGeometry:
    """What an unrolled ring holds, by way of the pole if it turns around that."""
    if _turns(ring):
        pole = np.copysign(90.0, ring[:, 1].mean())
        ring = np.vstack([ring, [ring[-1, 0], pole], [ring[0, 0], pole]])
    return shapely.make_valid(Polygon(ring))


def _round(shapes: np.ndarray) -> np.ndarray:
    size = 10.0**-DECIMALS
    rounded: np.ndarray = shapely.set_precision(shapes, size, mode="pointwise")
    rounded = shapely.remove_repeated_points(rounded)
    for place in np.flatnonzero(~shapely.is_valid(rounded)):
        mended = shapely.set_precision(shapely.make_valid(shapes[place]), size)
        rounded[place] = polygonal_part(mended)
    return rounded
