"""The one door for vectors: reads footprints of any format as valid polygons, writes layers."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import shapely
from pyarrow import parquet
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from geoseg.errors import ConfigError, MissingCRSError, VectorReadError

logger = logging.getLogger(__name__)

FOOTPRINT_LAYER = "footprints"

# What every footprint that geoseg traces carries; a writer falls back on it for an empty layer.
FOOTPRINT_COLUMNS: Mapping[str, str] = {
    "id": "int64",
    "area_m2": "float64",
    "perimeter_m": "float64",
    "confidence": "float64",
}

_DRIVERS = {".geojson": "GeoJSON", ".shp": "ESRI Shapefile", ".gpkg": "GPKG", ".fgb": "FlatGeobuf"}
WRITABLE_SUFFIXES = (*_DRIVERS, ".parquet")

_GEOJSON_DECIMALS = 7  # about 1 cm on the ground, what RFC 7946 asks for at most
_SHAPEFILE_NAME_LENGTH = 10
_SHAPEFILE_NAMES = {"perimeter_m": "perim_m"}
_SHAPEFILE_INDEXES = (".qix", ".sbn", ".sbx")
_REMOTE = ("/vsi", "http://", "https://", "s3://", "gs://")
_POLYGON, _MULTIPOLYGON, _COLLECTION = 3, 6, 7


def list_layers(path: str | Path) -> list[str]:
    """Lists the layers of a vector file.

    Args:
        path: Any vector file that GDAL opens, or GeoParquet.

    Returns:
        Names in file order; GeoParquet holds one, named after the file.

    Raises:
        VectorReadError: If the file is absent or is no vector layer.
    """
    return [name for name, _ in _layers(path)]


def read_footprints(
    path: str | Path,
    *,
    where: str | None = None,
    layer: str | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    bounds_crs: Any = None,
) -> gpd.GeoDataFrame:
    """Reads polygons, valid whatever the file holds.

    Null and empty geometries, points and lines are dropped, invalid polygons repaired, Z dropped
    and collections reduced to their polygons. `.attrs["dropped"]` and `.attrs["repaired"]` of
    the result count the rows.

    Args:
        path: GeoJSON, GeoPackage, Shapefile (zipped or not), FlatGeobuf, GeoParquet, KML or
            another vector file that GDAL opens.
        where: Attribute filter in OGR SQL, e.g. `label = 1`; `==` means `=`.
        layer: Layer name; when None, `footprints` if there is one, else the first layer that
            may hold polygons.
        bounds: (left, bottom, right, top); only features whose bounding box meets it are read.
        bounds_crs: CRS of `bounds`; the layer's own when None.

    Returns:
        Non-empty, valid Polygons and MultiPolygons with all attributes of the file.

    Raises:
        VectorReadError: If the file is absent, is no vector layer, lacks the layer, or the
            filter does not fit its attributes.
        MissingCRSError: If the layer does not say where it lies.
    """
    layer = _select_layer(path, layer)
    where = _ogr_where(where) if where else None
    if Path(path).suffix.lower() == ".parquet":
        features = _read_parquet(path, where, bounds, bounds_crs)
    else:
        features = _read_ogr(path, layer, where, bounds, bounds_crs)
    return _polygons_only(features)


def write_footprints(
    path: str | Path,
    batches: Iterable[gpd.GeoDataFrame],
    *,
    crs: Any,
    columns: Mapping[str, str] = FOOTPRINT_COLUMNS,
) -> int:
    """Writes footprints batch by batch; the file appears under its name only when complete.

    The suffix chooses the format. GeoJSON follows RFC 7946: longitude and latitude in WGS 84,
    right-handed, 7 decimals. A Shapefile shortens names beyond 10 characters (`perimeter_m`
    becomes `perim_m`). MultiPolygons are written as one row per part.

    Args:
        path: Target: .geojson, .shp, .gpkg (layer `footprints`), .fgb or .parquet.
        batches: Frames of one schema in `crs`; there may be none, and they may be empty.
        crs: CRS of the batches.
        columns: Attribute names and dtypes of the layer when there is no batch.

    Returns:
        Number of polygons written.

    Raises:
        ConfigError: If the suffix is none of the five.
        MissingCRSError: If `crs` is None.
        VectorReadError: If the file cannot be written.
    """
    path = Path(path)
    suffix = check_suffix(path)
    source_crs = _as_crs(crs, path)
    target_crs = CRS.from_epsg(4326) if suffix == ".geojson" else source_crs
    stream = _RecordStream(_single_polygons(batches, suffix, source_crs), columns, target_crs)
    with _atomic(path) as partial:
        if suffix == ".parquet":
            _write_parquet(partial, stream)
        else:
            _write_ogr(partial, stream, suffix)
    return stream.count


def write_layers(path: str | Path, layers: Mapping[str, gpd.GeoDataFrame]) -> None:
    """Writes several layers into one GeoPackage that appears only when complete.

    Args:
        path: Target, a .gpkg.
        layers: Frame of each layer name; empty ones keep their columns and CRS.

    Raises:
        ConfigError: If the suffix is not .gpkg.
        MissingCRSError: If a frame has no CRS.
        VectorReadError: If the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".gpkg":
        raise ConfigError(f"{path}: several layers need a GeoPackage; end the name in .gpkg")
    with _atomic(path) as partial:
        for name, frame in layers.items():
            _as_crs(frame.crs, f"{path}, layer {name}")
            pyogrio.write_dataframe(
                frame, partial, layer=name, driver="GPKG", **_geometry_type(frame)
            )


def union_aoi(path: str | Path, crs: Any) -> BaseGeometry:
    """Reads an area of interest: the union of a file's polygons.

    Args:
        path: Any vector file `read_footprints` takes.
        crs: CRS of the result; long edges are densified before they are reprojected.

    Returns:
        A valid Polygon or MultiPolygon.

    Raises:
        VectorReadError: If the file cannot be read or holds no polygon.
        MissingCRSError: If the file does not say where it lies.
    """
    areas = read_footprints(path)
    if areas.empty:
        raise VectorReadError(f"{path}: holds no polygon; an area of interest needs at least one")
    target = _as_crs(crs, path)
    if target != areas.crs:
        left, bottom, right, top = areas.total_bounds
        areas = areas.segmentize(max(right - left, top - bottom) / 100).to_crs(target)
    return shapely.make_valid(shapely.union_all(shapely.make_valid(areas.geometry.array)))


def check_suffix(path: str | Path) -> str:
    """Returns the lower-case suffix of a layer that can be written, or raises `ConfigError`."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE_SUFFIXES:
        choices = ", ".join(WRITABLE_SUFFIXES)
        raise ConfigError(
            f"{path}: cannot write {suffix or 'a name without suffix'}; end the "
            f"name in one of {choices}"
        )
    return suffix


# Reading


def _layers(path: str | Path) -> list[tuple[str, str | None]]:
    name = str(path)
    if not name.startswith(_REMOTE) and not Path(name).exists():
        raise VectorReadError(f"{name}: no such file; check the path (and quotes around spaces)")
    if Path(name).suffix.lower() == ".parquet":
        return [(Path(name).stem, "Unknown")]
    try:
        layers = [(str(layer), kind) for layer, kind in pyogrio.list_layers(path)]
    except DataSourceError as error:
        raise _not_vector(path, error) from error
    if not layers:
        raise VectorReadError(f"{name}: holds no vector layer; give a file that does")
    return layers


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
    try:
        info = pyogrio.read_info(path, layer=layer)
        if info["geometry_type"] is None:
            raise _no_geometry(path)
        crs = _as_crs(info["crs"], path)
        if info["features"] == 0:
            where = None  # an empty GeoJSON has no attributes that a filter could name
        return pyogrio.read_dataframe(
            path, layer=layer, where=where, bbox=_bounds_in(bounds, bounds_crs, crs)
        )
    except (DataSourceError, DataLayerError) as error:
        if where:
            raise _bad_filter(path, where, info["fields"]) from error
        raise _not_vector(path, error) from error
    except ValueError as error:
        if where and not isinstance(error, MissingCRSError):
            raise _bad_filter(path, where, info["fields"]) from error
        raise


def _read_parquet(
    path: str | Path,
    where: str | None,
    bounds: tuple[float, float, float, float] | None,
    bounds_crs: Any,
) -> gpd.GeoDataFrame:
    try:
        features = gpd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow raises both for a file of another kind
        raise _not_vector(path, error) from error
    crs = _as_crs(features.crs, path)
    box = _bounds_in(bounds, bounds_crs, crs)
    if box is not None:
        features = features.iloc[features.sindex.intersection(box)].sort_index()
    if where:
        features = features.iloc[_matching_rows(features, where, path)]
    return features


def _matching_rows(features: gpd.GeoDataFrame, where: str, path: str | Path) -> np.ndarray:
    """Evaluates an OGR filter on a frame by way of an attribute table in memory.

    One filter language then serves every format, and no expression reaches an interpreter.
    """
    table = pd.DataFrame(features.drop(columns=features.geometry.name)).reset_index(drop=True)
    scalar = [str(c) for c in table if not table[c].map(lambda v: isinstance(v, dict | list)).any()]
    name = f"/vsimem/geoseg_where_{os.getpid()}_{id(table)}.gpkg"
    try:
        pyogrio.write_dataframe(table[scalar], name, driver="GPKG", layer="table")
        found = pyogrio.read_dataframe(name, where=where, columns=[], fid_as_index=True)
    except (DataSourceError, DataLayerError, ValueError) as error:
        raise _bad_filter(path, where, scalar) from error
    finally:
        pyogrio.vsi_unlink(name)
    rows: np.ndarray = found.index.to_numpy()
    return rows - 1  # GeoPackage counts rows from 1


def _ogr_where(where: str) -> str:
    """Writes `==` as OGR's `=`, except inside quotes."""
    return re.sub(r"""('[^']*'|"[^"]*")|==""", lambda match: match.group(1) or "=", where)


def _bounds_in(
    bounds: tuple[float, float, float, float] | None, bounds_crs: Any, crs: CRS
) -> tuple[float, float, float, float] | None:
    if bounds is None or bounds_crs is None:
        return bounds
    transformer = Transformer.from_crs(_as_crs(bounds_crs, "bounds"), crs, always_xy=True)
    left, bottom, right, top = transformer.transform_bounds(*bounds, densify_pts=21)
    if not np.isfinite([left, bottom, right, top]).all() or left > right:
        return None  # outside the CRS's domain or across the antimeridian: read everything
    return left, bottom, right, top


def _polygons_only(features: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    before = len(features)
    shapes = shapely.force_2d(np.asarray(features.geometry.array, dtype=object))
    kinds = shapely.get_type_id(shapes)
    areal = np.isin(kinds, (_POLYGON, _MULTIPOLYGON, _COLLECTION)) & ~shapely.is_empty(shapes)
    invalid = areal & ~shapely.is_valid(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid])
    mixed = areal & (shapely.get_type_id(shapes) == _COLLECTION)
    shapes[mixed] = [_polygonal_part(shape) for shape in shapes[mixed]]
    kept = areal & np.isin(shapely.get_type_id(shapes), (_POLYGON, _MULTIPOLYGON))
    kept &= ~shapely.is_empty(shapes)
    result = features.set_geometry(gpd.GeoSeries(shapes, index=features.index, crs=features.crs))
    result = result[kept].reset_index(drop=True)
    result.attrs["dropped"] = int(before - kept.sum())
    result.attrs["repaired"] = int((invalid & kept).sum())
    return result


def _polygonal_part(collection: BaseGeometry) -> BaseGeometry:
    parts = shapely.get_parts(collection)
    while (shapely.get_type_id(parts) == _COLLECTION).any():
        parts = shapely.get_parts(parts)
    return shapely.union_all(parts[np.isin(shapely.get_type_id(parts), (_POLYGON, _MULTIPOLYGON))])


# Writing


class _RecordStream:
    """Frames as Arrow columns of one schema, counted while they pass."""

    def __init__(
        self, frames: Iterator[gpd.GeoDataFrame], columns: Mapping[str, str], crs: CRS
    ) -> None:
        self.crs = crs
        self.count = 0
        self.error: Exception | None = None
        template = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
        for frame in frames:  # an empty frame does not know its dtypes: look for a better one
            template = _attributes(frame)
            if len(frame):
                frames = chain([frame], frames)
                break
        schema = pa.Schema.from_pandas(template, preserve_index=False)
        self.schema = pa.schema(
            [f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in schema]
        )
        self._frames = frames

    def __iter__(self) -> Iterator[tuple[list[pa.Array], np.ndarray]]:
        """Yields the attribute columns and the geometries (N,) of each frame."""
        try:
            for frame in self._frames:
                table = pa.Table.from_pandas(_attributes(frame), self.schema, preserve_index=False)
                self.count += len(frame)
                columns = [column.combine_chunks() for column in table.columns]
                yield columns, np.asarray(frame.geometry.array, dtype=object)
        except Exception as error:  # GDAL would report no more than that the stream ended
            self.error = error
            raise


def _attributes(frame: gpd.GeoDataFrame) -> pd.DataFrame:
    return pd.DataFrame(frame.drop(columns=frame.geometry.name))


def _single_polygons(
    batches: Iterable[gpd.GeoDataFrame], suffix: str, crs: CRS
) -> Iterator[gpd.GeoDataFrame]:
    for batch in batches:
        frame = batch.set_crs(crs, allow_override=True)
        if suffix == ".geojson":
            frame = _geojson_precision(frame.to_crs(4326))
        frame = frame.explode(ignore_index=True)
        shapes = np.asarray(frame.geometry.array, dtype=object)
        kept = (shapely.get_type_id(shapes) == _POLYGON) & ~shapely.is_empty(shapes)
        right_handed = shapely.orient_polygons(shapes[kept])
        yield frame[kept].set_geometry(
            gpd.GeoSeries(right_handed, index=frame.index[kept], crs=frame.crs)
        )


def _geojson_precision(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Rounds to the decimals of the file, and repairs what rounding made invalid."""
    size = 10.0**-_GEOJSON_DECIMALS
    shapes = np.asarray(frame.geometry.array, dtype=object)
    rounded = shapely.set_precision(shapes, size, mode="pointwise")
    broken = ~shapely.is_valid(rounded)
    rounded[broken] = shapely.set_precision(shapely.make_valid(shapes[broken]), size)
    return frame.set_geometry(gpd.GeoSeries(rounded, index=frame.index, crs=frame.crs))


def _write_ogr(path: Path, stream: _RecordStream, suffix: str) -> None:
    names = stream.schema.names
    options: dict[str, Any] = {}
    if suffix == ".geojson":
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": str(_GEOJSON_DECIMALS)}
    if suffix == ".shp":
        names, options = _short_names(names), {"ENCODING": "UTF-8"}
    shape = pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
    fields = [field.with_name(n) for n, field in zip(names, stream.schema, strict=True)]
    schema = pa.schema([*fields, shape])
    batches = (
        pa.record_batch([*columns, pa.array(shapely.to_wkb(shapes), pa.binary())], schema=schema)
        for columns, shapes in stream
    )
    try:
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(schema, batches),
            path,
            layer=path.stem if suffix == ".shp" else FOOTPRINT_LAYER,
            driver=_DRIVERS[suffix],
            geometry_name="geometry",
            geometry_type="Polygon",
            crs=stream.crs.to_wkt(),
            layer_options=options,
        )
    except RuntimeError as error:
        raise stream.error or error from None


def _short_names(names: list[str]) -> list[str]:
    """Names that fit a Shapefile, still distinct."""
    short: list[str] = []
    for name in names:
        candidate = _SHAPEFILE_NAMES.get(name, name)[:_SHAPEFILE_NAME_LENGTH]
        count = 1
        while candidate in short:
            count += 1
            candidate = f"{candidate[: _SHAPEFILE_NAME_LENGTH - 1 - len(str(count))]}_{count}"
        short.append(candidate)
    return short


def _write_parquet(path: Path, stream: _RecordStream) -> None:
    """Writes GeoParquet 1.1 row group by row group, with a bounding box for each row."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    box = pa.struct([(side, pa.float64()) for side in sides])
    geo = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": stream.crs.to_json_dict(),
        "orientation": "counterclockwise",
        "covering": {"bbox": {side: ["bbox", side] for side in sides}},
    }
    metadata = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geo}}
    schema = pa.schema(
        [*stream.schema, ("geometry", pa.binary()), ("bbox", box)],
        metadata={"geo": json.dumps(metadata)},
    )
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for columns, shapes in stream:
            corners = [pa.array(side) for side in shapely.bounds(shapes).reshape(-1, 4).T]
            covering = pa.StructArray.from_arrays(corners, names=sides)
            wkb = pa.array(shapely.to_wkb(shapes), pa.binary())
            writer.write_batch(pa.record_batch([*columns, wkb, covering], schema=schema))


def _geometry_type(frame: gpd.GeoDataFrame) -> dict[str, Any]:
    kinds = set(frame.geom_type.dropna())
    if kinds <= {"Polygon"}:
        return {"geometry_type": "Polygon"}
    if kinds <= {"Polygon", "MultiPolygon"}:
        return {"geometry_type": "MultiPolygon", "promote_to_multi": True}
    return {}


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """Yields a name in a folder beside `path`; what is there at the end takes its place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(f".{path.name}.partial", ".", path.parent))
    except OSError as error:
        raise VectorReadError(f"{path}: cannot be written ({_reason(error)})") from error
    try:
        yield folder / path.name
        if path.suffix.lower() == ".shp":
            for suffix in _SHAPEFILE_INDEXES:  # of a layer that is overwritten
                path.with_suffix(suffix).unlink(missing_ok=True)
        for written in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            os.replace(written, path.with_name(written.name))
    except (DataSourceError, DataLayerError, FeatureError, pa.ArrowInvalid) as error:
        raise VectorReadError(f"{path}: cannot be written ({_reason(error)})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Errors


def _as_crs(crs: Any, where: str | Path) -> CRS:
    if crs is None:
        raise MissingCRSError(
            f"{where}: has no coordinate reference system; ogr2ogr -a_srs EPSG:CODE out.gpkg "
            "in.shp writes one"
        )
    try:
        return CRS.from_user_input(crs.to_wkt() if hasattr(crs, "to_wkt") else crs)
    except CRSError as error:
        raise MissingCRSError(
            f"{where}: {str(crs)[:80]!r} is no coordinate reference system; give EPSG:CODE or WKT"
        ) from error


def _not_vector(path: str | Path, error: Exception) -> VectorReadError:
    return VectorReadError(
        f"{path}: cannot be read as a vector layer ({_reason(error)}); give a GeoJSON, "
        "GeoPackage, Shapefile, FlatGeobuf or GeoParquet file"
    )


def _no_geometry(path: str | Path) -> VectorReadError:
    return VectorReadError(f"{path}: is a table without geometries; give a layer of polygons")


def _bad_filter(path: str | Path, where: str, columns: Iterable[str]) -> VectorReadError:
    return VectorReadError(
        f"{path}: the filter {where!r} does not fit; the attributes are {_join(columns)}"
    )


def _join(names: Iterable[str]) -> str:
    return ", ".join(map(str, names)) or "(none)"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip(".")
