"""Readers of polygons, from any vector format and always valid."""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from pyarrow import parquet
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from geoseg.errors import MissingCRSError, VectorReadError, one_line
from geoseg.geo.crs import Box, as_crs, transform_bounds
from geoseg.geo.paths import is_a_folder, is_missing, no_such_file
from geoseg.geo.plain_names import readable_name

logger = logging.getLogger(__name__)

FOOTPRINT_LAYER = "footprints"

# Formats with a spatial index, whose features are numbered in file order.
_INDEXED = (".gpkg", ".fgb")

_GEOPARQUET = (".parquet", ".geoparquet", ".pq")

# Column of the features' numbers, unless their format names it.
_FID = "OGC_FID"

# Features per batch where a layer is read in parts.
_BATCH = 8192

_POLYGON, _MULTIPOLYGON, _COLLECTION = 3, 6, 7

# Vector files that are read from a zip archive, in any of its folders.
_ZIPPED = (".shp", ".gpkg", ".geojson", ".json", ".fgb", ".kml", ".gml")

# No CRS has larger coordinates, and areas of larger ones overflow.
_MAX_COORDINATE = 1e12


def list_layers(path: str | Path) -> list[str]:
    """List the layers of a vector file.

    Args:
        path: Any vector file that GDAL opens, or GeoParquet.

    Returns:
        Names in file order; GeoParquet has one, named after the file.

    Raises:
        VectorReadError: If the file does not exist or is not a vector file.
    """
    return [name for name, _ in _layers(path)]


def read_footprints(
    path: str | Path,
    *,
    where: str | None = None,
    layer: str | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    bounds_crs: Any = None,
    numbered: bool = False,
) -> gpd.GeoDataFrame:
    """Read polygons and make them valid.

    Null and empty geometries, points, lines and geometries with infinite coordinates are dropped,
    invalid polygons repaired, Z dropped and collections reduced to their polygons.
    `.attrs["dropped"]`
    and `.attrs["repaired"]` of the result count the rows.

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

    Returns:
        Non-empty, valid Polygons and MultiPolygons with all attributes of the file.

    Raises:
        VectorReadError: If the file does not exist, is not a vector file, does not have the
            layer, or the filter does not match its attributes.
        MissingCRSError: If the layer has no CRS.
    """
    if _is_empty_sequence(Path(path)):
        return _polygons_only(gpd.GeoDataFrame(geometry=[], crs=4326))
    layer = _select_layer(path, layer)
    where = _ogr_where(where) if where else None
    if is_geoparquet(path):
        features = _read_parquet(path, where, bounds, bounds_crs)
    else:
        features = _read_ogr(path, layer, where, bounds, bounds_crs)
    polygons = _polygons_only(features)
    return polygons if numbered else polygons.reset_index(drop=True)


def iter_polygons(
    path: str | Path,
    *,
    where: str | None = None,
    layer: str | None = None,
    columns: Sequence[str] = (),
    bounds: tuple[float, float, float, float] | None = None,
    bounds_crs: Any = None,
) -> Iterator[gpd.GeoDataFrame]:
    """Yield the polygons of `read_footprints` in batches of some thousands.

    Each batch has its own `.attrs`. GeoParquet is not supported. Arguments and errors are those of
    `read_footprints`, and:

    Args:
        path: See `read_footprints`.
        where: See `read_footprints`.
        layer: See `read_footprints`.
        columns: Attributes to read; those that the layer lacks are left out.
        bounds: See `read_footprints`.
        bounds_crs: See `read_footprints`.
    """
    layer = _select_layer(path, layer)
    where = _ogr_where(where) if where else None
    info = _read_info(path, layer)
    crs = as_crs(info["crs"], path)
    boxes = transform_bounds(bounds, bounds_crs, crs, path, extent=_layer_extent(info))
    try:
        seen = np.zeros(0, dtype=np.int64)
        for box in boxes or [None]:
            for features in _iter_box(path, layer, where, columns, box):
                new = ~features.index.isin(seen)
                if boxes and len(boxes) > 1:  # a feature may be in several boxes
                    seen = np.concatenate([seen, features.index.to_numpy()])
                polygons = _polygons_only(features[new].set_crs(crs, allow_override=True))
                yield polygons.reset_index(drop=True)
    except (DataSourceError, DataLayerError, ValueError) as error:
        if where:
            raise _bad_filter(path, where, info["fields"]) from error
        raise _not_vector(path, error) from error


def _iter_box(
    path: str | Path, layer: str, where: str | None, columns: Sequence[str], box: Box | None
) -> Iterator[gpd.GeoDataFrame]:
    """Yield the features in a box with some of their attributes, indexed by their numbers."""
    with pyogrio.open_arrow(
        _gdal_name(path), layer=layer, where=where, bbox=box, columns=list(columns),
        batch_size=_BATCH, use_pyarrow=True, return_fids=True,
    ) as (described, batches):  # fmt: skip
        name = described["geometry_name"] or "wkb_geometry"
        for batch in batches:
            numbers = batch.column(described["fid_column"] or _FID).to_numpy()
            encoded = batch.column(name).to_numpy(zero_copy_only=False)
            found = [column for column in columns if column in batch.schema.names]
            attributes = {column: batch.column(column).to_pandas() for column in found}
            shapes = _decode(encoded, numbers, path, layer)
            yield gpd.GeoDataFrame(attributes, geometry=shapes).set_index(numbers)


def _decode(encoded: np.ndarray, numbers: np.ndarray, path: str | Path, layer: str) -> np.ndarray:
    """Return the geometries of WKB (N,); curves as the lines that GDAL approximates them by."""
    try:
        shapes: np.ndarray = shapely.from_wkb(encoded)
    except NotImplementedError:
        shapes = np.array([_decode_linear(code) for code in encoded], dtype=object)
        unread = shapely.is_missing(shapes) & np.array([code is not None for code in encoded])
        again = pyogrio.read_dataframe(
            _gdal_name(path), layer=layer, columns=[], fids=numbers[unread], fid_as_index=True
        )
        shapes[unread] = again.geometry.reindex(numbers[unread]).array
    return shapes


def _decode_linear(code: bytes | None) -> BaseGeometry | None:
    """Return the geometry of WKB; None for a curve, which shapely does not know."""
    try:
        return shapely.from_wkb(code)
    except NotImplementedError:
        return None


class ParquetParts(Sequence[gpd.GeoDataFrame]):
    """A GeoParquet file that is read row group by row group.

    Args:
        path: Written by geopandas or `write_parts`.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = parquet.ParquetFile(readable_name(path))
        geo = json.loads(self._file.schema_arrow.metadata[b"geo"])
        self._crs = CRS.from_json_dict(geo["columns"]["geometry"]["crs"])

    def __len__(self) -> int:
        return int(self._file.num_row_groups)

    def __getitem__(self, index: Any) -> gpd.GeoDataFrame:
        """Read one part."""
        table = self._file.read_row_group(index).to_pandas()
        shapes = shapely.from_wkb(table.pop("geometry").to_numpy())
        return gpd.GeoDataFrame(table, geometry=shapes, crs=self._crs)

    def __iter__(self) -> Iterator[gpd.GeoDataFrame]:
        return (self[index] for index in range(len(self)))


def count_features(path: str | Path, *, layer: str | None = None, where: str | None = None) -> int:
    """Count the features of a layer, of any geometry or none.

    Args:
        path: See `read_footprints`.
        layer: See `read_footprints`.
        where: See `read_footprints`.

    Raises:
        VectorReadError: If it cannot be read.
    """
    if _is_empty_sequence(Path(path)):
        return 0
    layer = _select_layer(path, layer)
    if where is not None:
        return _count_matching(path, layer, _ogr_where(where))
    if is_geoparquet(path):
        return int(parquet.read_metadata(readable_name(path)).num_rows)
    info = pyogrio.read_info(_gdal_name(path), layer=layer, force_feature_count=True)
    return int(info["features"])


def _count_matching(path: str | Path, layer: str, where: str) -> int:
    if is_geoparquet(path):
        return len(_read_parquet(path, where, None, None))
    info = _read_info(path, layer)
    if info["features"] == 0 or info["encoding"] not in (None, "UTF-8"):
        return len(_read_ogr(path, layer, where, None, None))
    _, numbers, *_ = pyogrio.raw.read(
        _gdal_name(path), layer=layer, where=where, columns=[], read_geometry=False,
        return_fids=True,
    )  # fmt: skip
    return len(numbers)


def count_indexed(path: str | Path, layer: str | None = None) -> int:
    """Count the features of a layer in a spatially indexed format; 0 for other formats."""
    if Path(path).suffix.lower() not in _INDEXED:
        return 0
    return max(0, int(_read_info(path, _select_layer(path, layer))["features"]))


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


def is_geoparquet(path: str | Path) -> bool:
    """Whether a file is GeoParquet, by its suffix."""
    return Path(path).suffix.lower() in _GEOPARQUET


def _is_empty_sequence(path: Path) -> bool:
    """Return whether a file is an empty GeoJSON sequence, which GDAL cannot open."""
    return path.suffix.lower() == ".geojsonl" and path.is_file() and path.stat().st_size == 0


def _layers(path: str | Path) -> list[tuple[str, str | None]]:
    name = str(path)
    if is_missing(name):
        raise VectorReadError(no_such_file(name))
    if is_geoparquet(name):
        return [(Path(name).stem, "Unknown")]
    try:
        layers = [(str(layer), kind) for layer, kind in pyogrio.list_layers(_gdal_name(path))]
    except DataSourceError as error:
        raise _not_vector(path, error) from error
    if not layers:
        raise VectorReadError(f"{name}: has no vector layer; give a file that has one")
    return layers


def _gdal_name(path: str | Path) -> str:
    """Return the name by which GDAL opens a file; for a zip archive, that of its content."""
    if Path(path).suffix.lower() != ".zip" or not zipfile.is_zipfile(path):
        return readable_name(path)
    with zipfile.ZipFile(path) as archive:
        members = [PurePosixPath(name) for name in archive.namelist()]
    found = [
        member
        for member in members
        if member.suffix.lower() in _ZIPPED and "__MACOSX" not in member.parts
    ]
    if not found:
        raise VectorReadError(
            f"{path}: has no vector file; give an archive of a Shapefile, GeoPackage or GeoJSON"
        )
    folders = {member.parent for member in found}
    if len(folders) > 1:
        raise VectorReadError(
            f"{path}: has several vector files ({_join(map(str, found))}); unpack it and give one"
        )
    inside = found[0] if len(found) == 1 else found[0].parent
    return f"/vsizip/{Path(readable_name(path)).absolute()}/{inside}"


def _select_layer(path: str | Path, layer: str | None) -> str:
    layers = _layers(path)
    names = [name for name, _ in layers]
    if layer is not None:
        if layer not in names:
            raise VectorReadError(f"{path}: has no layer {layer!r}; its layers are {_join(names)}")
        return layer
    if FOOTPRINT_LAYER in names:
        return FOOTPRINT_LAYER
    spatial = [name for name, kind in layers if kind is not None]
    polygonal = [
        name for name, kind in layers if kind and re.match(r"(Multi)?Polygon|Unknown|Geom", kind)
    ]
    chosen = (polygonal or spatial or names)[0]
    if len(names) > 1:
        logger.warning("%s: read layer %s of %s", path, chosen, _join(names))
    return chosen


def _read_ogr(
    path: str | Path,
    layer: str,
    where: str | None,
    bounds: tuple[float, float, float, float] | None,
    bounds_crs: Any,
) -> gpd.GeoDataFrame:
    info = _read_info(path, layer)
    crs = as_crs(info["crs"], path)
    if info["features"] == 0:
        where = None  # an empty GeoJSON has no attributes to filter by
    # GDAL would compare the filter, in UTF-8, with the bytes of another encoding.
    later = where if where and info["encoding"] not in (None, "UTF-8") else None
    boxes = transform_bounds(bounds, bounds_crs, crs, path, extent=_layer_extent(info))
    try:
        parts = [
            pyogrio.read_dataframe(
                _gdal_name(path),
                layer=layer,
                where=None if later else where,
                bbox=box,
                fid_as_index=True,
            )
            for box in boxes or [None]
        ]
        features = parts[0] if len(parts) == 1 else _merge_parts(parts)
        if not features.index.is_unique:
            features = features.reset_index(drop=True)
        if later:
            return features.iloc[_matching_rows(features, later, path)]
        # With bounds, a GeoPackage returns features in the order of its spatial index.
        in_order = Path(path).suffix.lower() in _INDEXED or len(parts) > 1
        return features.sort_index() if in_order else features
    except (DataSourceError, DataLayerError) as error:
        if where:
            raise _bad_filter(path, where, info["fields"]) from error
        raise _not_vector(path, error) from error
    except ValueError as error:
        if where and not isinstance(error, MissingCRSError):
            raise _bad_filter(path, where, info["fields"]) from error
        raise


def _merge_parts(parts: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """Return the features of several boxes, indexed by their numbers, each once."""
    filled = [part for part in parts if len(part)] or parts[:1]
    features = pd.concat(filled)
    return features[~features.index.duplicated()]


def _layer_extent(info: dict[str, Any]) -> tuple[float, float] | None:
    """Return the smallest and largest x of a layer; None if its format does not know them."""
    bounds = info["total_bounds"]
    if bounds is None or not np.isfinite(bounds).all():
        return None
    return float(bounds[0]), float(bounds[2])


def extent_x(shapes: np.ndarray) -> tuple[float, float] | None:
    """Return the smallest and largest finite x of geometries (N,); None if there is none."""
    xs = shapely.bounds(shapes).reshape(-1, 4)[:, [0, 2]]
    xs = xs[np.isfinite(xs).all(axis=1)]
    return (float(xs[:, 0].min()), float(xs[:, 1].max())) if len(xs) else None


def _read_info(path: str | Path, layer: str) -> dict[str, Any]:
    try:
        info: dict[str, Any] = pyogrio.read_info(_gdal_name(path), layer=layer)
    except (DataSourceError, DataLayerError) as error:
        raise _not_vector(path, error) from error
    if info["geometry_type"] is None:
        raise _no_geometry(path)
    return info


def _read_parquet(
    path: str | Path,
    where: str | None,
    bounds: tuple[float, float, float, float] | None,
    bounds_crs: Any,
) -> gpd.GeoDataFrame:
    try:
        features = gpd.read_parquet(readable_name(path))
    except (ValueError, OSError) as error:  # pyarrow raises both for a file of another kind
        raise _not_vector(path, error) from error
    features = features.reset_index(drop=True)
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
        raise _bad_filter(path, where, scalar) from error
    finally:
        with suppress(OSError):  # the table may not have been written
            pyogrio.vsi_unlink(name)
    rows: np.ndarray = found.index.to_numpy()
    return rows - 1  # GeoPackage counts rows from 1


def _ogr_where(where: str) -> str:
    """Replace `==` by OGR's `=`, except inside quotes."""
    return re.sub(r"""('[^']*'|"[^"]*")|==""", lambda match: match.group(1) or "=", where)


def _polygons_only(features: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    before = len(features)
    shapes = shapely.force_2d(np.array(features.geometry.array, dtype=object))
    kinds = shapely.get_type_id(shapes)
    areal = np.isin(kinds, (_POLYGON, _MULTIPOLYGON, _COLLECTION)) & ~shapely.is_empty(shapes)
    areal &= _have_valid_coordinates(shapes)
    invalid = areal & ~shapely.is_valid(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid])
    mixed = areal & (shapely.get_type_id(shapes) == _COLLECTION)
    shapes[mixed] = [polygonal_part(shape) for shape in shapes[mixed]]
    kept = areal & np.isin(shapely.get_type_id(shapes), (_POLYGON, _MULTIPOLYGON))
    kept &= ~shapely.is_empty(shapes)
    result = features.set_geometry(gpd.GeoSeries(shapes, index=features.index, crs=features.crs))
    result = result[kept]
    result.attrs["dropped"] = int(before - kept.sum())
    result.attrs["repaired"] = int((invalid & kept).sum())
    return result


def _have_valid_coordinates(shapes: np.ndarray) -> np.ndarray:
    """Return which geometries have only finite coordinates of possible size, bool (N,)."""
    coordinates, owners = shapely.get_coordinates(shapes, return_index=True)
    valid = np.ones(len(shapes), dtype=bool)
    valid[owners[~(np.abs(coordinates) <= _MAX_COORDINATE).all(axis=1)]] = False
    return valid


def _not_vector(path: str | Path, error: Exception) -> VectorReadError:
    file = Path(path)
    if file.is_dir():
        return VectorReadError(is_a_folder(path, "layer"))
    indexes = (file.with_suffix(suffix) for suffix in (".shx", ".SHX"))
    if file.suffix.lower() == ".shp" and file.is_file() and not any(i.exists() for i in indexes):
        return VectorReadError(
            f"{path}: {file.stem}.shx, the Shapefile's index, is missing; copy it, too, or rebuild "
            "it with ogr2ogr --config SHAPE_RESTORE_SHX YES out.gpkg in.shp"
        )
    # The rest of the message is about drivers, which users need not specify.
    reason = one_line(Exception(str(error).partition("; It might help")[0]))
    return VectorReadError(
        f"{path}: cannot be read as a vector layer ({reason}); give a GeoJSON, GeoPackage, "
        "Shapefile, FlatGeobuf or GeoParquet file"
    )


def _no_geometry(path: str | Path) -> VectorReadError:
    return VectorReadError(f"{path}: is a table without geometries; give a layer of polygons")


def _bad_filter(path: str | Path, where: str, columns: Iterable[str]) -> VectorReadError:
    return VectorReadError(
        f"{path}: the filter {where!r} does not match; the attributes are {_join(columns)}"
    )


def _join(names: Iterable[str]) -> str:
    return ", ".join(map(str, names)) or "(none)"
