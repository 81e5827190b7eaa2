"""Readers of polygons, from any vector format and always valid."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from pyarrow import parquet
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from pyproj import CRS
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from geoseg.errors import MissingCRSError
from geoseg.geo.crs import as_crs, transform_bounds
from geoseg.geo.plain_names import readable_name
from geoseg.geo.vector.layer_files import (
    INDEXED_SUFFIXES,
    PARQUET_ERRORS,
    filter_error,
    gdal_name,
    is_empty_sequence,
    is_geoparquet,
    layer_extent,
    not_vector_error,
    ogr_where,
    read_geoparquet,
    read_layer_info,
    select_layer,
)

_POLYGON, _MULTIPOLYGON, _COLLECTION = 3, 6, 7

# No CRS has larger coordinates, and areas of larger ones overflow.
_MAX_COORDINATE = 1e12


def read_footprints(
    path: str | Path,
    *,
    where: str | None = None,
    layer: str | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    bounds_crs: Any = None,
    numbered: bool = False,
    keeps_z: bool = False,
) -> gpd.GeoDataFrame:
    """Read polygons and make them valid.

    Null and empty geometries, points, lines and geometries with infinite coordinates are dropped,
    invalid polygons repaired, Z dropped and collections reduced to their polygons.
    `.attrs["dropped"]` and `.attrs["repaired"]` of the result count the rows, and so does
    `.attrs["flattened"]` those whose Z was lost although it was wanted.

    Args:
        path: GeoJSON, GeoPackage, Shapefile (zipped or not), FlatGeobuf, GeoParquet, KML or
            another vector file that GDAL opens.
        where: Attribute filter in OGR SQL, e.g. `label = 1`; `==` means `=`.
        layer: Layer name; when None, `footprints` if there is one, else the first layer that
            may contain polygons.
        bounds: (left, bottom, right, top); only features whose bounding box intersects it are read.
        bounds_crs: CRS of `bounds`; the layer's own when None.
        numbered: Whether the index is the number of each feature in the file, as QGIS shows it
            (`$id`), instead of 0, 1, 2 ...
        keeps_z: Whether polygons keep their Z. One that has no Z at a vertex, as where edges
            crossed that had none, loses it.

    Returns:
        Non-empty, valid Polygons and MultiPolygons with all attributes of the file.

    Raises:
        VectorReadError: If the file does not exist, is not a vector file, does not have the
            layer, or the filter does not match its attributes.
        MissingCRSError: If the layer has no CRS.
    """
    if is_empty_sequence(Path(path)):
        return polygons_only(gpd.GeoDataFrame(geometry=[], crs=4326), keeps_z=keeps_z)
    layer = select_layer(path, layer)
    where = ogr_where(where) if where else None
    if is_geoparquet(path):
        features = _read_parquet(path, where, bounds, bounds_crs)
    else:
        features = _read_ogr(path, layer, where, bounds, bounds_crs)
    polygons = polygons_only(features, keeps_z=keeps_z)
    return polygons if numbered else polygons.reset_index(drop=True)


def count_features(path: str | Path, *, layer: str | None = None, where: str | None = None) -> int:
    """Count the features of a layer, of any geometry or none.

    Args:
        path: See `read_footprints`.
        layer: See `read_footprints`.
        where: See `read_footprints`.

    Raises:
        VectorReadError: If it cannot be read.
    """
    if is_empty_sequence(Path(path)):
        return 0
    layer = select_layer(path, layer)
    if where is not None:
        return _count_matching(path, layer, ogr_where(where))
    try:
        if is_geoparquet(path):
            return int(parquet.read_metadata(readable_name(path)).num_rows)
        info = pyogrio.read_info(gdal_name(path), layer=layer, force_feature_count=True)
        return int(info["features"])
    except (DataSourceError, DataLayerError, *PARQUET_ERRORS) as error:
        raise not_vector_error(path, error) from error


def _count_matching(path: str | Path, layer: str, where: str) -> int:
    if is_geoparquet(path):
        return len(_read_parquet(path, where, None, None))
    info = read_layer_info(path, layer)
    if info["features"] == 0 or info["encoding"] not in (None, "UTF-8"):
        return len(_read_ogr(path, layer, where, None, None))
    try:
        _, numbers, *_ = pyogrio.raw.read(
            gdal_name(path), layer=layer, where=where, columns=[], read_geometry=False,
            return_fids=True,
        )  # fmt: skip
    except (DataSourceError, DataLayerError, FeatureError, ValueError) as error:
        raise filter_error(path, where, info["fields"]) from error
    return len(numbers)


def polygonal_part(shape: BaseGeometry) -> BaseGeometry:
    """Return the polygons in a geometry of any type, as a Polygon or MultiPolygon."""
    parts = shapely.get_parts(shape)
    while (shapely.get_type_id(parts) == _COLLECTION).any():
        parts = shapely.get_parts(parts)
    return shapely.union_all(parts[np.isin(shapely.get_type_id(parts), (_POLYGON, _MULTIPOLYGON))])


def keep_polygons(shapes: np.ndarray) -> np.ndarray:
    """Drop the points and lines that an overlay leaves beside polygons (N,)."""
    mixed = ~np.isin(shapely.get_type_id(shapes), (_POLYGON, _MULTIPOLYGON))
    shapes[mixed] = [polygonal_part(shape) for shape in shapes[mixed]]
    return shapes


def _read_ogr(
    path: str | Path,
    layer: str,
    where: str | None,
    bounds: tuple[float, float, float, float] | None,
    bounds_crs: Any,
) -> gpd.GeoDataFrame:
    info = read_layer_info(path, layer)
    crs = as_crs(info["crs"], path)
    if info["features"] == 0:
        where = None  # an empty GeoJSON has no attributes to filter by
    # GDAL would compare the filter, in UTF-8, with the bytes of another encoding.
    later = where if where and info["encoding"] not in (None, "UTF-8") else None
    boxes = transform_bounds(bounds, bounds_crs, crs, path, extent=layer_extent(info))
    try:
        parts = [
            _read_frame(path, crs, layer=layer, where=None if later else where, bbox=box)
            for box in boxes or [None]
        ]
        features = parts[0] if len(parts) == 1 else _merge_parts(parts)
        if not features.index.is_unique:
            features = features.reset_index(drop=True)
        if later:
            return features.iloc[_matching_rows(features, later, path)]
        # With bounds, a GeoPackage returns features in the order of its spatial index.
        in_order = Path(path).suffix.lower() in INDEXED_SUFFIXES or len(parts) > 1
        return features.sort_index() if in_order else features
    except (DataSourceError, DataLayerError) as error:
        if where:
            raise filter_error(path, where, info["fields"]) from error
        raise not_vector_error(path, error) from error
    except ValueError as error:
        if where and not isinstance(error, MissingCRSError):
            raise filter_error(path, where, info["fields"]) from error
        raise


def _read_frame(path: str | Path, crs: CRS, **chosen: Any) -> gpd.GeoDataFrame:
    """Read features, indexed by their numbers; where rings are not closed, close them.

    Geometries that cannot be repaired are None.
    """
    name = gdal_name(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Non closed ring", RuntimeWarning)
        try:
            return pyogrio.read_dataframe(name, fid_as_index=True, **chosen)
        except ShapelyError:
            table = pyogrio.read_dataframe(name, fid_as_index=True, read_geometry=False, **chosen)
            _, _, stored, _ = pyogrio.raw.read(name, columns=[], **chosen)
    shapes = shapely.from_wkb(stored, on_invalid="fix")
    return gpd.GeoDataFrame(table, geometry=shapes, crs=crs)


def _merge_parts(parts: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """Return the features of several boxes, indexed by their numbers, each once."""
    filled = [part for part in parts if len(part)] or parts[:1]
    features = pd.concat(filled)
    return features[~features.index.duplicated()]


def extent_x(shapes: np.ndarray) -> tuple[float, float] | None:
    """Return the smallest and largest finite x of geometries (N,); None if there is none."""
    xs = shapely.bounds(shapes).reshape(-1, 4)[:, [0, 2]]
    xs = xs[np.isfinite(xs).all(axis=1)]
    return (float(xs[:, 0].min()), float(xs[:, 1].max())) if len(xs) else None


def _read_parquet(
    path: str | Path,
    where: str | None,
    bounds: tuple[float, float, float, float] | None,
    bounds_crs: Any,
) -> gpd.GeoDataFrame:
    features = read_geoparquet(path).reset_index(drop=True)
    crs = as_crs(features.crs, path)
    extent = extent_x(np.array(features.geometry.array, dtype=object))
    boxes = transform_bounds(bounds, bounds_crs, crs, path, extent=extent)
    if boxes is not None:
        rows = [np.asarray(features.sindex.intersection(box), dtype=int) for box in boxes]
        features = features.iloc[np.unique(np.concatenate(rows))]
    if where:
        features = features.iloc[_matching_rows(features, where, path)]
    name = features.geometry.name
    others = [str(column) for column in features.select_dtypes("geometry") if column != name]
    features = features.drop(columns=others)
    if name == "geometry":
        return features
    return features.drop(columns="geometry", errors="ignore").rename_geometry("geometry")


def _matching_rows(features: gpd.GeoDataFrame, where: str, path: str | Path) -> np.ndarray:
    """Evaluate an OGR filter on a frame, using an attribute table in memory.

    So all formats have the same filter language, and no expression is evaluated as Python.
    """
    geometries = list(features.select_dtypes("geometry"))
    table = pd.DataFrame(features.drop(columns=geometries)).reset_index(drop=True)
    scalar = [str(c) for c in table if not table[c].map(lambda v: isinstance(v, dict | list)).any()]
    name = f"/vsimem/geoseg_where_{os.getpid()}_{id(table)}.gpkg"
    try:
        pyogrio.write_dataframe(table[scalar], name, driver="GPKG", layer="table")
        found = pyogrio.read_dataframe(name, where=where, columns=[], fid_as_index=True)
    except (DataSourceError, DataLayerError, ValueError) as error:
        raise filter_error(path, where, scalar) from error
    finally:
        with suppress(OSError):  # the table may not have been written
            pyogrio.vsi_unlink(name)
    rows: np.ndarray = found.index.to_numpy()
    return rows - 1  # GeoPackage counts rows from 1


def polygons_only(features: gpd.GeoDataFrame, *, keeps_z: bool = False) -> gpd.GeoDataFrame:
    """Return the polygons of features, valid and without M and Z; see `read_footprints`."""
    before = len(features)
    shapes = np.array(features.geometry.array, dtype=object)
    had_z = shapely.has_z(shapes) & keeps_z
    shapes[~had_z] = shapely.force_2d(shapes[~had_z])
    shapes[had_z] = _without_m(shapes[had_z])
    kinds = shapely.get_type_id(shapes)
    areal = np.isin(kinds, (_POLYGON, _MULTIPOLYGON, _COLLECTION)) & ~shapely.is_empty(shapes)
    areal &= _have_valid_coordinates(shapes)
    invalid = areal & ~shapely.is_valid(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid])
    mixed = areal & (shapely.get_type_id(shapes) == _COLLECTION)
    shapes[mixed] = [polygonal_part(shape) for shape in shapes[mixed]]
    kept = areal & np.isin(shapely.get_type_id(shapes), (_POLYGON, _MULTIPOLYGON))
    kept &= ~shapely.is_empty(shapes)
    lost = had_z & ~_have_z_everywhere(shapes)
    shapes[lost] = shapely.force_2d(shapes[lost])
    result = features.set_geometry(gpd.GeoSeries(shapes, index=features.index, crs=features.crs))
    result = result[kept]
    result.attrs["dropped"] = int(before - kept.sum())
    result.attrs["repaired"] = int((invalid & kept).sum())
    if keeps_z:
        result.attrs["flattened"] = int((lost & kept).sum())
    return result


def _without_m(shapes: np.ndarray) -> np.ndarray:
    """Return geometries with Z (N,) without their M."""
    measured = shapely.has_m(shapes)
    shapes[measured] = shapely.from_wkb(shapely.to_wkb(shapes[measured], output_dimension=3))
    return shapes


def _have_z_everywhere(shapes: np.ndarray) -> np.ndarray:
    """Return which geometries (N,) have a finite Z at all vertices, bool (N,)."""
    points, owners = shapely.get_coordinates(shapes, include_z=True, return_index=True)
    complete = np.ones(len(shapes), dtype=bool)
    complete[owners[~np.isfinite(points[:, 2])]] = False
    return complete


def _have_valid_coordinates(shapes: np.ndarray) -> np.ndarray:
    """Return which geometries have only finite coordinates of possible size, bool (N,)."""
    coordinates, owners = shapely.get_coordinates(shapes, return_index=True)
    valid = np.ones(len(shapes), dtype=bool)
    valid[owners[~(np.abs(coordinates) <= _MAX_COORDINATE).all(axis=1)]] = False
    return valid
