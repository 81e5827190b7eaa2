"""Reprojection of polygons near a grid, also where x of a CRS repeats every 360 degrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from shapely.affinity import translate
from shapely.errors import GEOSException
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from geoseg.errors import GridMismatchError
from geoseg.geo.crs import (
    ContinuousTransformer,
    XPeriod,
    as_crs,
    build_transformer,
    has_location,
    x_period,
)
from geoseg.geo.grid import Grid
from geoseg.geo.vector.polygons import polygonal_part

# Share of a period that a polygon may be wide and high which spans the whole period as it is
# written, with vertices at 179.9 and -179.9 degrees, and is meant to cross 180 degrees. A larger
# one, such as an area of interest around the Earth, is meant as it is written.
_NARROW = 0.05

# Polygons of which one with a possible position is searched at a time.
_CHECKED = 1000

# Share of a period to which coordinates are rounded where parts are joined at the end of x.
_PRECISION = 1e-12


def to_crs_near(
    layer: gpd.GeoDataFrame, crs: Any, grid: Grid, *, where: str | Path = "layer"
) -> gpd.GeoDataFrame:
    """Reproject the vertices of polygons, and move what is beyond 180 degrees next to a grid.

    In degrees and in cylindrical projections, a scene across 180 degrees continues where PROJ
    returns x at the other end of the Earth. Polygons are moved by whole periods to be nearest to
    the grid, and parts that were cut at 180 degrees are joined. Other CRSs are not affected.

    Args:
        layer: Polygons in any CRS.
        crs: CRS of the result.
        grid: The scene's grid, in any CRS.
        where: File of the layer, for messages.

    Returns:
        The layer in `crs`; reprojection may make polygons invalid or infinite.

    Raises:
        MissingCRSError: If one of the CRSs is a local one.
    """
    target = as_crs(crs)
    shapes = np.array(layer.geometry.array, dtype=object)
    shapes = to_crs_continuous(shapes, layer.crs, target, where)
    left, bottom, right, top = grid.bounds
    centre = np.array([[(left + right) / 2, (bottom + top) / 2]])
    ((x, _),) = ContinuousTransformer(grid.crs, target, where)(centre)
    shapes = place_near(shapes, target, x)
    return layer.set_geometry(gpd.GeoSeries(shapes, index=layer.index, crs=target), crs=target)


def check_range(layer: gpd.GeoDataFrame, path: str | Path) -> None:
    """Check that a layer has polygons with possible positions on Earth.

    A GeoJSON file without a CRS is in degrees, whatever its coordinates are.

    Raises:
        GridMismatchError: If the coordinates of all polygons are outside the range of the CRS.
    """
    if layer.empty or not has_location(layer.crs):
        return
    transformer, boxes = build_transformer(layer.crs, 4326, path), layer.bounds.to_numpy()
    for first in range(0, len(boxes), _CHECKED):
        corners = boxes[first : first + _CHECKED].reshape(-1, 2, 2)
        xs, ys = transformer.transform(corners[..., 0], corners[..., 1])
        if ((np.abs(xs) <= 540) & (np.abs(ys) <= 90)).all(axis=1).any():
            return
    left, bottom, _, _ = layer.total_bounds
    raise GridMismatchError(
        f"{path}: its coordinates, about ({left:.6g}, {bottom:.6g}), are outside the range of "
        f"its CRS, {layer.crs.name}; assign the right CRS with ogr2ogr -a_srs EPSG:CODE "
        "out.gpkg in.geojson"
    )


def to_crs_whole(layer: gpd.GeoDataFrame, crs: Any) -> gpd.GeoDataFrame:
    """Reproject the vertices of polygons; one that crosses 180 degrees continues beyond it.

    Raises:
        MissingCRSError: If one of the CRSs is a local one.
    """
    target = as_crs(crs)
    shapes = np.array(layer.geometry.array, dtype=object)
    shapes = to_crs_continuous(shapes, layer.crs, target)
    return layer.set_geometry(gpd.GeoSeries(shapes, index=layer.index, crs=target), crs=target)


def to_crs_continuous(
    shapes: np.ndarray, source: Any, target: Any, where: str | Path = "layer"
) -> np.ndarray:
    """Reproject the vertices of polygons (N,); none is torn to both ends of x."""
    transformer = ContinuousTransformer(source, target, where)
    moved: np.ndarray = shapely.transform(mend_torn(shapes, source), transformer)
    if transformer.period and not transformer.source_period:
        for index in _find_wide(moved, transformer.period):
            moved[index] = _unroll(moved[index], transformer.period)
    return moved


def mend_torn(shapes: np.ndarray, crs: Any) -> np.ndarray:
    """Move the vertices of polygons (N,) that are at both ends of x next to each other."""
    period = x_period(as_crs(crs))
    if period is None:
        return shapes
    shapes = shapes.copy()
    for index in _find_wide(shapes, period):
        unrolled = _unroll(shapes[index], period)
        left, bottom, right, top = shapely.bounds(shapely.get_parts(unrolled)).T
        largest = max((right - left).max(), (top - bottom).max())
        if unrolled.area > 0 and largest < _NARROW * period.size:
            shapes[index] = unrolled
    return shapes


def place_near(shapes: np.ndarray, crs: Any, x: float) -> np.ndarray:
    """Move each part of polygons (N,) by whole periods of a CRS to be nearest to x."""
    period = x_period(as_crs(crs))
    if period is None or not np.isfinite(x):
        return shapes
    parts, owners = shapely.get_parts(shapes, return_index=True)
    spans = _spans(parts)
    spans[~np.isfinite(spans).all(axis=1)] = x  # without coordinates in this CRS
    turns = period.turns(x - spans.mean(axis=1))
    # Both ends of a wide part may be near, of which one is beyond the range of x.
    wide = np.diff(spans, axis=1)[:, 0] > period.size / 2
    placed = shapes.copy()
    alone = np.bincount(owners)[owners] == 1
    moved = alone & ~wide & (turns != 0)
    placed[owners[moved]] = _shift(parts[moved], turns[moved])
    for index in np.unique(owners[wide | (~alone & (turns != 0))]):
        own = slice(*np.searchsorted(owners, [index, index + 1]))
        copies = [
            translate(part, turn + extra)
            for part, turn, is_wide in zip(parts[own], turns[own], wide[own], strict=True)
            for extra in ((-period.size, 0.0, period.size) if is_wide else (0.0,))
        ]
        placed[index] = _join(copies, _PRECISION * period.size)
    return placed


def _shift(shapes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return shapes (N,) moved along x, each by its own offset."""
    points, owners = shapely.get_coordinates(shapes, return_index=True)
    points[:, 0] += offsets[owners]
    shifted: np.ndarray = shapely.set_coordinates(shapes.copy(), points)
    return shifted


def _spans(shapes: np.ndarray) -> np.ndarray:
    """Return (left, right) of shapes (N, 2)."""
    spans: np.ndarray = shapely.bounds(shapes).reshape(-1, 4)[:, [0, 2]]
    return spans


def _find_wide(shapes: np.ndarray, period: XPeriod) -> np.ndarray:
    """Return the positions of shapes that span more than half of a period."""
    with np.errstate(invalid="ignore"):
        return np.flatnonzero(np.diff(_spans(shapes), axis=1)[:, 0] > period.size / 2)


def _unroll(shape: BaseGeometry, period: XPeriod) -> BaseGeometry:
    """Make x of polygons continuous where it jumps; rings around a pole stay as they are."""
    parts = [_unroll_part(part, period) for part in shapely.get_parts(shape)]
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _unroll_part(part: Polygon, period: XPeriod) -> Polygon:
    outside, *holes = (
        period.unroll(shapely.get_coordinates(ring)) for ring in (part.exterior, *part.interiors)
    )
    if abs(outside[-1, 0] - outside[0, 0]) > period.size / 2:
        return part
    centre = (outside[:, 0].min() + outside[:, 0].max()) / 2
    for hole in holes:
        hole[:, 0] += period.turns(centre - hole[:, 0].mean())
    return Polygon(outside, holes)


def _join(parts: list[BaseGeometry], precision: float) -> BaseGeometry:
    """Join parts that share an edge up to rounding errors."""
    valid = shapely.make_valid(np.array(parts, dtype=object))
    try:
        return polygonal_part(shapely.union_all(valid, grid_size=precision))
    except GEOSException:  # coordinates that cannot be compared
        return polygonal_part(shapely.geometrycollections(parts))
