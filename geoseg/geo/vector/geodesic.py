"""Geodesic areas and perimeters of polygons in any CRS."""

from __future__ import annotations

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.geometry import Polygon

from geoseg.geo.grid import WGS84_ELLIPSOID, unit_m

# Up to about 500 m, and not near the poles, measures in a plane are off by less than a millionth.
_SMALL_DEGREES, _LEAST_COSINE = 0.005, 0.05


def geodesic_measures(polygons: np.ndarray, crs: CRS) -> tuple[np.ndarray, np.ndarray]:
    """Measure polygons on the ellipsoid.

    Args:
        polygons: Polygons (N,) in `crs`.
        crs: Any CRS; if it cannot be transformed to longitude and latitude, its unit is used.

    Returns:
        Areas in square metres (N,) and perimeters in metres (N,), holes included.
    """
    lonlat = _to_lonlat(polygons, crs)
    if lonlat is None:
        factor = unit_m(crs)
        return shapely.area(polygons) * factor**2, shapely.length(polygons) * factor
    is_small = _are_small(lonlat)
    areas, perimeters = np.empty(len(polygons)), np.empty(len(polygons))
    areas[is_small], perimeters[is_small] = _measure_small(lonlat[is_small])
    for number in np.flatnonzero(~is_small).tolist():
        areas[number], perimeters[number] = _measure(lonlat[number])
    return areas, perimeters


def _to_lonlat(polygons: np.ndarray, crs: CRS) -> np.ndarray | None:
    try:
        transformer = Transformer.from_crs(crs, 4326, always_xy=True)
        lonlat: np.ndarray = shapely.transform(
            polygons,
            lambda points: np.column_stack(transformer.transform(*points.T, errcheck=True)),
        )
    except ProjError:
        return None
    known = np.isfinite(shapely.bounds(lonlat)).all(axis=1) | shapely.is_empty(lonlat)
    return lonlat if known.all() else None


def _are_small(lonlat: np.ndarray) -> np.ndarray:
    """Return which polygons are so small that they can be measured in a plane."""
    left, low, right, high = shapely.bounds(lonlat).T
    least = np.cos(np.radians(np.maximum(np.abs(low), np.abs(high))))
    small: np.ndarray = (
        (high - low <= _SMALL_DEGREES)
        & ((right - left) * least <= _SMALL_DEGREES)
        & (least >= _LEAST_COSINE)
    )
    return small


def _measure_small(lonlat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure areas and perimeters of many small polygons, each in a plane of its own.

    The coordinates in the plane are the length of the parallel from the central meridian, and that
    of the meridian plus the rise of the parallel above the plane's first axis. Geodesic lines are
    straight there but for third powers of their length.
    """
    left, low, right, high = shapely.bounds(lonlat).T
    points, owner = shapely.get_coordinates(lonlat, return_index=True)
    middle = np.radians((low + high) / 2)[owner]
    lon, lat = np.radians(points[:, 0] - ((left + right) / 2)[owner]), np.radians(points[:, 1])
    east = _normal_radius(lat) * np.cos(lat) * lon
    square = WGS84_ELLIPSOID.es
    between = (lat + middle) / 2
    meridian = (1 - square) * _normal_radius(between) ** 3 / WGS84_ELLIPSOID.a**2
    north = meridian * (lat - middle) + east * np.sin(lat) * lon / 2
    plane = shapely.set_coordinates(lonlat.copy(), np.column_stack([east, north]))
    return shapely.area(plane), shapely.length(plane)


def _normal_radius(lat: np.ndarray) -> np.ndarray:
    """Return the radius of curvature across the meridian at latitudes in radians, metres."""
    radius: np.ndarray = WGS84_ELLIPSOID.a / np.sqrt(1 - WGS84_ELLIPSOID.es * np.sin(lat) ** 2)
    return radius


def _measure(polygon: Polygon) -> tuple[float, float]:
    """Measure area and perimeter of one polygon in longitude and latitude."""
    area, perimeter = 0.0, 0.0
    for index, ring in enumerate((polygon.exterior, *polygon.interiors)):
        lon, lat = shapely.get_coordinates(ring).T
        inside, length = WGS84_ELLIPSOID.polygon_area_perimeter(lon, lat)
        area += abs(inside) if index == 0 else -abs(inside)
        perimeter += length
    return area, perimeter
