"""Writes footprints batch by batch into files that appear only when complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import shapely
from pyproj import CRS

from geoseg.errors import ConfigError
from geoseg.geo.grid import Grid
from geoseg.geo.vector.antimeridian import DECIMALS, to_degrees
from geoseg.geo.vector.geopackage import (
    GEOMETRY_NAME,
    GPKG_OPTIONS,
    Doubtful,
    finish_geopackage,
)
from geoseg.geo.vector.geoparquet import write_frames, write_geoparquet
from geoseg.geo.vector.polygons import FOOTPRINT_LAYER, as_crs
from geoseg.geo.vector.replacing import replace_layer
from geoseg.geo.vector.shapefile import ShapefileSize, shapefile_fields
from geoseg.geo.vector.spacenet_csv import write_contest

# What every footprint that geoseg traces carries; a writer falls back on it for an empty layer.
FOOTPRINT_COLUMNS: Mapping[str, str] = {
    "id": "int64",
    "area_m2": "float64",
    "perimeter_m": "float64",
    "confidence": "float64",
}

_DRIVERS = {
    ".geojson": "GeoJSON",
    ".geojsonl": "GeoJSONSeq",
    ".shp": "ESRI Shapefile",
    ".gpkg": "GPKG",
    ".fgb": "FlatGeobuf",
}
_IN_DEGREES = (".geojson", ".geojsonl")  # always, by RFC 7946 and RFC 8142
LAYER_SUFFIXES = (*_DRIVERS, ".parquet")
_CONTEST_SUFFIX = ".csv"  # polygons in pixels, which say nothing of where they lie
WRITABLE_SUFFIXES = (*LAYER_SUFFIXES, _CONTEST_SUFFIX)

_JUDGED = {"id", "confidence"}  # columns of footprints that may be doubtful


def write_footprints(
    path: str | Path,
    batches: Iterable[gpd.GeoDataFrame],
    *,
    crs: Any,
    columns: Mapping[str, str] = FOOTPRINT_COLUMNS,
    grid: Grid | None = None,
) -> int:
    """Writes footprints batch by batch; the file appears under its name only when complete.

    The suffix chooses the format. GeoJSON follows RFC 7946: longitude and latitude in WGS 84,
    right-handed, 7 decimals, cut at 180 degrees, where a footprint is a MultiPolygon; .geojsonl is
    the same, a line for each. A GeoPackage of footprints with a confidence also gets the points of
    those that are doubtful, of 100,000 at the most, in the layer `review`, and styles that QGIS
    takes by default. A Shapefile shortens names beyond 10 characters (`perimeter_m` becomes
    `perim_m`). A CSV is that of the SpaceNet contests, in pixels, whose `ImageId` is the file's
    name. MultiPolygons are written as one row per part.

    Args:
        path: Target: .geojson, .geojsonl, .shp, .gpkg (layer `footprints`), .fgb, .parquet or .csv.
        batches: Frames of one schema in `crs`; there may be none, and they may be empty.
        crs: CRS of the batches.
        columns: Attribute names and dtypes of the layer when there is no batch.
        grid: Of the raster that the footprints were found in, which a CSV needs.

    Returns:
        Number of polygons written.

    Raises:
        ConfigError: If the suffix is none of these, a Shapefile would grow beyond 2 GB, or a CSV
            has no grid.
        MissingCRSError: If `crs` is None.
        VectorReadError: If the file cannot be written.
        DiskFullError: If there is no room for it.
    """
    path = Path(path)
    suffix = check_suffix(path)
    source_crs = as_crs(crs, path)
    target_crs = CRS.from_epsg(4326) if suffix in _IN_DEGREES else source_crs
    frames = _single_polygons(batches, suffix, source_crs)
    doubtful = Doubtful(target_crs)
    if suffix == ".gpkg":
        frames = _looked_at(frames, doubtful)
    stream = _RecordStream(frames, columns, target_crs)
    if suffix == ".shp":
        stream.watch = ShapefileSize(path, stream.schema).add
    with replace_layer(path) as partial:
        if suffix == ".parquet":
            write_geoparquet(partial, stream.schema, stream.crs, stream)
        elif suffix == _CONTEST_SUFFIX:
            _write_contest(partial, stream, grid)
        else:
            _write_ogr(partial, stream, suffix)
        if suffix == ".gpkg" and set(stream.schema.names) >= _JUDGED:
            finish_geopackage(partial, FOOTPRINT_LAYER, doubtful.points())
    return stream.count


def _looked_at(
    frames: Iterator[gpd.GeoDataFrame], doubtful: Doubtful
) -> Iterator[gpd.GeoDataFrame]:
    for frame in frames:
        if set(frame.columns) >= _JUDGED:
            doubtful.look(frame)
        yield frame


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
    with replace_layer(path) as partial:
        for name, frame in layers.items():
            as_crs(frame.crs, f"{path}, layer {name}")
            pyogrio.write_dataframe(
                frame, partial, layer=name, driver="GPKG", **_geometry_type(frame)
            )


def write_parts(path: str | Path, parts: Iterable[gpd.GeoDataFrame]) -> None:
    """Writes GeoParquet that holds frames of the same columns and CRS as they are.

    Each is a row group, so that `ParquetParts` reads them back one by one.

    Args:
        path: Target; appears only when complete.
        parts: At least one frame, with a column `geometry`.
    """
    with replace_layer(Path(path)) as partial:
        write_frames(partial, parts)


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


class _RecordStream:
    """Frames as Arrow columns of one schema, counted and watched while they pass."""

    def __init__(
        self, frames: Iterator[gpd.GeoDataFrame], columns: Mapping[str, str], crs: CRS
    ) -> None:
        self.crs = crs
        self.count = 0
        self.error: Exception | None = None
        self.watch: Callable[[list[pa.Array], np.ndarray], None] | None = None
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
                shapes = np.asarray(frame.geometry.array, dtype=object)
                if self.watch:
                    self.watch(columns, shapes)
                yield columns, shapes
        except Exception as error:  # GDAL would report no more than that the stream ended
            self.error = error
            raise


def _attributes(frame: gpd.GeoDataFrame) -> pd.DataFrame:
    return pd.DataFrame(frame.drop(columns=frame.geometry.name))


def _single_polygons(
    batches: Iterable[gpd.GeoDataFrame], suffix: str, crs: CRS
) -> Iterator[gpd.GeoDataFrame]:
    """A right-handed polygon in each row; in degrees it may have to be cut, and stays one row."""
    for batch in batches:
        frame = batch.set_crs(crs, allow_override=True).explode(ignore_index=True)
        frame = frame[frame.geom_type == "Polygon"]
        if suffix in _IN_DEGREES:
            frame = to_degrees(frame)
        frame = frame[~frame.is_empty]
        right_handed = shapely.orient_polygons(frame.geometry.to_numpy())
        yield frame.set_geometry(gpd.GeoSeries(right_handed, index=frame.index, crs=frame.crs))


def _write_ogr(path: Path, stream: _RecordStream, suffix: str) -> None:
    fields: list[pa.Field] = list(stream.schema)
    options: dict[str, Any] = {}
    if suffix in _IN_DEGREES:
        options = {"COORDINATE_PRECISION": str(DECIMALS)}
    if suffix == ".geojson":
        options["RFC7946"] = "YES"
    if suffix == ".gpkg":
        options["GEOMETRY_NAME"] = GEOMETRY_NAME
    if suffix == ".shp":
        fields, options = shapefile_fields(stream.schema), {"ENCODING": "UTF-8"}
    shape = pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
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
            geometry_type="Unknown" if suffix in _IN_DEGREES else "Polygon",
            crs=stream.crs.to_wkt(),
            dataset_options=GPKG_OPTIONS if suffix == ".gpkg" else {},
            layer_options=options,
        )
    except RuntimeError as error:
        raise stream.error or error from None


def _write_contest(path: Path, stream: _RecordStream, grid: Grid | None) -> None:
    if grid is None:
        raise ConfigError(
            f"{path.name}: a SpaceNet CSV lies in pixels of a raster, and none is known; end the "
            "name in .gpkg"
        )
    names = stream.schema.names
    sure = names.index("confidence") if "confidence" in names else None
    batches = (
        (shapes, np.ones(len(shapes)) if sure is None else columns[sure].to_numpy())
        for columns, shapes in stream
    )
    write_contest(path, batches, grid, path.stem)


def _geometry_type(frame: gpd.GeoDataFrame) -> dict[str, Any]:
    kinds = set(frame.geom_type.dropna())
    if kinds <= {"Polygon"}:
        return {"geometry_type": "Polygon"}
    if kinds <= {"Polygon", "MultiPolygon"}:
        return {"geometry_type": "MultiPolygon", "promote_to_multi": True}
    return {}
