"""Writers of vector layers; files appear only when complete."""

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
from geoseg.geo.crs import as_crs, check_location
from geoseg.geo.grid import Grid
from geoseg.geo.styles import (
    LIMITS_OF_MEANS,
    ConfidenceLimits,
    class_style,
    confidence_style,
    review_style,
)
from geoseg.geo.vector.antimeridian import DECIMALS, to_degrees
from geoseg.geo.vector.columns import column_aliases, described, free_name
from geoseg.geo.vector.geopackage import (
    GEOMETRY_NAME,
    GPKG_OPTIONS,
    REVIEW_LAYER,
    ReviewPoints,
    add_layer,
    add_styles,
)
from geoseg.geo.vector.geoparquet import write_frames, write_geoparquet
from geoseg.geo.vector.layer_files import FOOTPRINT_LAYER
from geoseg.geo.vector.replacing import replace_layer
from geoseg.geo.vector.shapefile import ShapefileSize, shapefile_columns, shapefile_fields
from geoseg.geo.vector.spacenet_csv import write_spacenet_csv

# Attributes of all footprints that geoseg traces, and of an empty layer.
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
# Always in longitude and latitude, as RFC 7946 demands. GDAL and QGIS write and read .geojsonl
# without the record separators of RFC 8142, which belong to the suffix .geojsons.
_IN_DEGREES = (".geojson", ".geojsonl")
_DESCRIBED = (".gpkg", ".fgb")  # which store names and descriptions of columns
LAYER_SUFFIXES = (*_DRIVERS, ".parquet")
# Formats in which either all polygons of a layer have Z, or none.
SAME_DIMENSION_SUFFIXES = (".shp", ".fgb")
_SPACENET_SUFFIX = ".csv"  # polygons in pixels, without georeferencing
WRITABLE_SUFFIXES = (*LAYER_SUFFIXES, _SPACENET_SUFFIX)

_REVIEW_COLUMNS = {"id", "confidence"}  # needed for review points


def write_footprints(
    path: str | Path,
    batches: Iterable[gpd.GeoDataFrame],
    *,
    crs: Any,
    columns: Mapping[str, str] = FOOTPRINT_COLUMNS,
    grid: Grid | None = None,
    class_colours: Mapping[str, str] | None = None,
    is_review: bool = True,
    limits: ConfidenceLimits = LIMITS_OF_MEANS,
    keeps_parts: bool = False,
    has_z: bool = False,
) -> int:
    """Write footprints batch by batch; the file appears under its name only when complete.

    The suffix chooses the format. GeoJSON follows RFC 7946: longitude and latitude in WGS 84,
    right-handed, 7 decimals, cut at 180 degrees, where a footprint is a MultiPolygon; .geojsonl has
    the same features, one per line (newline-delimited GeoJSON, without the record separators of
    RFC 8142). A GeoPackage of footprints with confidences also has a layer
    `review` with a point in each footprint of low confidence (at most 100,000), and default
    styles for QGIS. Field names of a Shapefile are shortened to 10 characters (`perimeter_m`
    becomes `perim_m`). A CSV has SpaceNet's columns, with polygons in pixels and the file's name
    as `ImageId`. MultiPolygons are written as one row per part, unless `keeps_parts`.

    Args:
        path: Output file: .geojson, .geojsonl, .shp, .gpkg (layer `footprints`), .fgb, .parquet
            or .csv.
        batches: Frames of one schema in `crs`; there may be none, and they may be empty.
        crs: CRS of the batches.
        columns: Attribute names and dtypes of the layer when there is no batch.
        grid: Grid of the raster that the footprints were traced from; needed for a CSV.
        class_colours: Colour (#rrggbb) of each value of the column `class`, for the default style
            of a GeoPackage.
        is_review: Whether a GeoPackage of footprints with confidences gets the layer `review` and
            styles.
        limits: Confidences that decide about the colours, and which footprints are to be reviewed.
        keeps_parts: Whether the layer is one of MultiPolygons, and its rows are not divided.
        has_z: Whether polygons have Z; in formats of `SAME_DIMENSION_SUFFIXES` all of them must.

    Returns:
        Number of polygons written.

    Raises:
        ConfigError: If the suffix is not supported, a Shapefile would exceed 2 GB, or the grid for
            a CSV is missing.
        MissingCRSError: If `crs` is None.
        VectorReadError: If the file cannot be written.
        DiskFullError: If the disk is full.
    """
    path = Path(path)
    suffix = check_suffix(path)
    check_layer(path, crs)
    source_crs = as_crs(crs, path)
    target_crs = CRS.from_epsg(4326) if suffix in _IN_DEGREES else source_crs
    frames = _right_handed(batches, suffix, source_crs, keeps_parts)
    review = ReviewPoints(target_crs, limits.doubtful)
    is_review = is_review and suffix == ".gpkg"
    if is_review:
        frames = _collect_review_points(frames, review)
    stream = _RecordStream(frames, columns, target_crs)
    if suffix == ".shp":
        stream.on_batch = ShapefileSize(path, stream.schema).add
    with replace_layer(path) as partial:
        if suffix == ".parquet":
            write_geoparquet(
                partial, stream.schema, stream.crs, stream, keeps_parts=keeps_parts,
                has_z=has_z,
            )  # fmt: skip
        elif suffix == _SPACENET_SUFFIX:
            _write_spacenet(partial, stream, grid, path.stem)
        else:
            kind = "MultiPolygon" if keeps_parts else "Polygon"
            _write_ogr(partial, stream, suffix, f"{kind} Z" if has_z else kind)
        if is_review and set(stream.schema.names) >= _REVIEW_COLUMNS:
            _finish_geopackage(partial, stream.schema.names, review, class_colours, limits)
    return stream.count


def _finish_geopackage(
    path: Path,
    columns: list[str],
    review: ReviewPoints,
    class_colours: Mapping[str, str] | None,
    limits: ConfidenceLimits,
) -> None:
    """Add the review points, and the default styles of both layers."""
    points, aliases = review.points(), column_aliases(columns)
    add_layer(path, REVIEW_LAYER, points, "Point")
    style = (
        class_style(aliases, class_colours) if class_colours else confidence_style(aliases, limits)
    )
    point_aliases = column_aliases(points.columns)
    add_styles(path, {FOOTPRINT_LAYER: style, REVIEW_LAYER: review_style(point_aliases, limits)})


def _collect_review_points(
    frames: Iterator[gpd.GeoDataFrame], review: ReviewPoints
) -> Iterator[gpd.GeoDataFrame]:
    for frame in frames:
        if set(frame.columns) >= _REVIEW_COLUMNS:
            review.add(frame)
        yield frame


def write_layers(
    path: str | Path,
    layers: Mapping[str, gpd.GeoDataFrame],
    styles: Mapping[str, str] | None = None,
) -> None:
    """Write several layers into one GeoPackage that appears only when complete.

    Args:
        path: Output file, a .gpkg.
        layers: Frame of each layer name; empty ones keep their columns and CRS.
        styles: Default style of layers in QGIS by name, see `geoseg.geo.styles`.

    Raises:
        ConfigError: If the suffix is not .gpkg.
        MissingCRSError: If a frame has no CRS.
        VectorReadError: If the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".gpkg":
        raise ConfigError(f"{path}: several layers need a GeoPackage; use the suffix .gpkg")
    with replace_layer(path) as partial:
        for name, frame in layers.items():
            as_crs(frame.crs, f"{path}, layer {name}")
            add_layer(partial, name, frame)
        if styles:
            add_styles(partial, styles)


def write_parts(path: str | Path, parts: Iterable[gpd.GeoDataFrame]) -> None:
    """Write frames of the same columns and CRS unchanged to a GeoParquet file.

    Each frame is a row group, so that `ParquetParts` can read them one by one.

    Args:
        path: Output file; appears only when complete.
        parts: At least one frame, with a column `geometry`.
    """
    with replace_layer(Path(path)) as partial:
        write_frames(partial, parts)


def check_layer(path: str | Path, crs: Any) -> None:
    """Check that polygons in a CRS can be written as a layer.

    Raises:
        ConfigError: If the suffix is not supported.
        MissingCRSError: If there is no CRS, or a local one, which GeoJSON does not allow.
    """
    suffix = check_suffix(path)
    if as_crs(crs, path) and suffix in _IN_DEGREES:
        check_location(crs, path)


def check_suffix(path: str | Path) -> str:
    """Return the suffix of a layer in lower case; raise `ConfigError` if it is not supported."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE_SUFFIXES:
        choices = ", ".join(WRITABLE_SUFFIXES)
        raise ConfigError(
            f"{path}: cannot write {suffix or 'a name without suffix'}; use one of {choices}"
        )
    return suffix


class _RecordStream:
    """Stream of frames as Arrow columns of one schema; counts the rows."""

    def __init__(
        self, frames: Iterator[gpd.GeoDataFrame], columns: Mapping[str, str], crs: CRS
    ) -> None:
        self.crs = crs
        self.count = 0
        self.on_batch: Callable[[list[pa.Array], np.ndarray], None] | None = None
        template = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
        for frame in frames:  # an empty frame has no reliable dtypes
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
        for frame in self._frames:
            table = pa.Table.from_pandas(_attributes(frame), self.schema, preserve_index=False)
            self.count += len(frame)
            columns = [column.combine_chunks() for column in table.columns]
            shapes = np.asarray(frame.geometry.array, dtype=object)
            if self.on_batch:
                self.on_batch(columns, shapes)
            yield columns, shapes


class _ArrowBatches:
    """Batches of a stream for GDAL, which reports of an error in them only that the stream ended.

    Attributes:
        error: The error or signal that ended them, if any.
    """

    def __init__(
        self,
        stream: _RecordStream,
        schema: pa.Schema,
        convert: Callable[[list[pa.Array]], list[pa.Array]],
    ) -> None:
        self._stream, self._schema, self._convert = stream, schema, convert
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Return an iterator over batches of the attribute columns and the geometries as WKB."""
        batches = self._encode()
        next(batches)
        return batches

    def _encode(self) -> Iterator[pa.RecordBatch | None]:
        try:
            # A signal during GDAL's own work is raised where this function goes on: it has to be
            # here already.
            yield None
            for columns, shapes in self._stream:
                encoded = pa.array(shapely.to_wkb(shapes), pa.binary())
                yield pa.record_batch([*self._convert(columns), encoded], schema=self._schema)
        except GeneratorExit:  # GDAL needs no more batches
            raise
        except BaseException as error:
            self.error = error
            raise


def _attributes(frame: gpd.GeoDataFrame) -> pd.DataFrame:
    return pd.DataFrame(frame.drop(columns=frame.geometry.name))


def _right_handed(
    batches: Iterable[gpd.GeoDataFrame], suffix: str, crs: CRS, keeps_parts: bool
) -> Iterator[gpd.GeoDataFrame]:
    """Yield frames of right-handed polygons.

    A row is a single polygon, or that in GeoJSON which is cut at 180 degrees; a MultiPolygon in all
    rows if parts are kept.
    """
    for batch in batches:
        frame = batch.set_crs(crs, allow_override=True)
        if keeps_parts:
            frame = _as_multipolygons(frame)
        else:
            frame = frame.explode(ignore_index=True)
            frame = frame[frame.geom_type == "Polygon"]
        if suffix in _IN_DEGREES:
            frame = to_degrees(frame)
        frame = frame[~frame.is_empty]
        right_handed = shapely.orient_polygons(frame.geometry.to_numpy())
        yield frame.set_geometry(gpd.GeoSeries(right_handed, index=frame.index, crs=frame.crs))


def _as_multipolygons(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    shapes = np.array(frame.geometry.array, dtype=object)
    single = shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON
    shapes[single] = shapely.multipolygons(shapes[single][:, None])
    return frame.set_geometry(gpd.GeoSeries(shapes, index=frame.index, crs=frame.crs))


def _write_ogr(path: Path, stream: _RecordStream, suffix: str, kind: str) -> None:
    fields: list[pa.Field] = list(stream.schema)
    options: dict[str, Any] = {}
    if suffix in _IN_DEGREES:
        options = {"COORDINATE_PRECISION": str(DECIMALS)}
    if suffix == ".geojson":
        options["RFC7946"] = "YES"
    if suffix in _DESCRIBED:
        fields = described(stream.schema)
    if suffix == ".gpkg":
        options["GEOMETRY_NAME"] = free_name(GEOMETRY_NAME, stream.schema.names)
        options["FID"] = free_name("fid", stream.schema.names)
    if suffix == ".shp":
        fields, options = shapefile_fields(stream.schema), {"ENCODING": "UTF-8"}
    shape = pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
    schema = pa.schema([*fields, shape])
    convert = shapefile_columns if suffix == ".shp" else list
    batches = _ArrowBatches(stream, schema, convert)
    try:
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(schema, iter(batches)),
            path,
            layer=path.stem if suffix == ".shp" else FOOTPRINT_LAYER,
            driver=_DRIVERS[suffix],
            geometry_name="geometry",
            geometry_type="Unknown" if suffix in _IN_DEGREES else kind,
            crs=stream.crs.to_wkt(),
            dataset_options=GPKG_OPTIONS if suffix == ".gpkg" else {},
            layer_options=options,
        )
    except RuntimeError as error:
        raise batches.error or error from None


def _write_spacenet(path: Path, stream: _RecordStream, grid: Grid | None, image: str) -> None:
    if grid is None:
        raise ConfigError(
            f"{path.name}: a SpaceNet CSV has coordinates in pixels of a raster, and there is "
            "none; use the suffix .gpkg"
        )
    names = stream.schema.names
    confidence = names.index("confidence") if "confidence" in names else None
    batches = (
        (shapes, np.ones(len(shapes)) if confidence is None else columns[confidence].to_numpy())
        for columns, shapes in stream
    )
    write_spacenet_csv(path, batches, grid, image)
