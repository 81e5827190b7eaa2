"""Geodesic areas and perimeters of polygons in any CRS."""

from __future__ import annotations

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.geometry import Polygon

from geoseg.geo.grid import WGS84_ELLIPSOID, unit_m


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
    measures = [_measure(polygon) for polygon in lonlat]
    areas, perimeters = np.array(measures, dtype=np.float64).reshape(-1, 2).T
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
    return lonlat if np.isfinite(shapely.bounds(lonlat)).all() else None


def _measure(polygon: Polygon) -> tuple[float, float]:
    """Measure area and perimeter of one polygon in longitude and latitude."""
    area, perimeter = 0.0, 0.0
    for index, ring in enumerate((polygon.exterior, *polygon.interiors)):
        lon, lat = shapely.get_coordinates(ring).T
        inside, length = WGS84_ELLIPSOID.polygon_area_perimeter(lon, lat)
        area += abs(inside) if index == 0 else -abs(inside)
        perimeter += length
    return area, perimeter
