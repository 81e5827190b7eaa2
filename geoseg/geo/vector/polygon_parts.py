"""Polygons of a layer in parts, for more of them than fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from pyarrow import parquet
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from geoseg.geo.crs import Box, as_crs, transform_bounds
from geoseg.geo.plain_names import readable_name
from geoseg.geo.vector.layer_files import (
    PARQUET_ERRORS,
    filter_error,
    gdal_name,
    layer_extent,
    not_vector_error,
    ogr_where,
    read_layer_info,
    select_layer,
)
from geoseg.geo.vector.polygons import polygons_only

# Column of the features' numbers, unless their format names it.
_FID = "OGC_FID"

# Features per batch where a layer is read in parts.
_BATCH = 8192


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
    layer = select_layer(path, layer)
    where = ogr_where(where) if where else None
    info = read_layer_info(path, layer)
    crs = as_crs(info["crs"], path)
    boxes = transform_bounds(bounds, bounds_crs, crs, path, extent=layer_extent(info))
    try:
        seen = np.zeros(0, dtype=np.int64)  # features of other boxes
        for box in boxes or [None]:
            found = []
            for features in _iter_box(path, layer, where, columns, box):
                new = ~features.index.isin(seen)
                if boxes and len(boxes) > 1:
                    found.append(features.index.to_numpy())
                polygons = polygons_only(features[new].set_crs(crs, allow_override=True))
                yield polygons.reset_index(drop=True)
            seen = np.concatenate([seen, *found])
    except (DataSourceError, DataLayerError, ValueError) as error:
        if where:
            raise filter_error(path, where, info["fields"]) from error
        raise not_vector_error(path, error) from error


def _iter_box(
    path: str | Path, layer: str, where: str | None, columns: Sequence[str], box: Box | None
) -> Iterator[gpd.GeoDataFrame]:
    """Yield the features in a box with some of their attributes, indexed by their numbers."""
    with pyogrio.open_arrow(
        gdal_name(path), layer=layer, where=where, bbox=box, columns=list(columns),
        batch_size=_BATCH, use_pyarrow=True, return_fids=True,
    ) as (described, batches):  # fmt: skip
        name = described["geometry_name"] or "wkb_geometry"
        for batch in batches:
            batch.validate(full=True)  # texts are decoded when they are used
            numbers = batch.column(described["fid_column"] or _FID).to_numpy()
            encoded = batch.column(name).to_numpy(zero_copy_only=False)
            found = [column for column in columns if column in batch.schema.names]
            attributes = {column: batch.column(column).to_pandas() for column in found}
            shapes = _decode(encoded, numbers, path, layer)
            yield gpd.GeoDataFrame(attributes, geometry=shapes).set_index(numbers)


def _decode(encoded: np.ndarray, numbers: np.ndarray, path: str | Path, layer: str) -> np.ndarray:
    """Return the geometries of WKB (N,); curves as the lines that GDAL approximates them by."""
    try:
        shapes: np.ndarray = shapely.from_wkb(encoded, on_invalid="fix")
    except NotImplementedError:
        shapes = np.array([_decode_linear(code) for code in encoded], dtype=object)
        unread = shapely.is_missing(shapes) & np.array([code is not None for code in encoded])
        again = pyogrio.read_dataframe(
            gdal_name(path), layer=layer, columns=[], fids=numbers[unread], fid_as_index=True
        )
        shapes[unread] = again.geometry.reindex(numbers[unread]).array
    return shapes


def _decode_linear(code: bytes | None) -> BaseGeometry | None:
    """Return the geometry of WKB; None for a curve, which shapely does not know."""
    try:
        return shapely.from_wkb(code, on_invalid="fix")
    except NotImplementedError:
        return None


class ParquetParts(Sequence[gpd.GeoDataFrame]):
    """A GeoParquet file that is read row group by row group.

    Args:
        path: Written by geopandas or `write_parts`.

    Raises:
        VectorReadError: If it is damaged, also while a part is read.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        try:
            self._file = parquet.ParquetFile(readable_name(path))
            geo = json.loads(self._file.schema_arrow.metadata[b"geo"])
            self._crs = CRS.from_json_dict(geo["columns"]["geometry"]["crs"])
        except PARQUET_ERRORS as error:
            raise not_vector_error(path, error) from error

    def __len__(self) -> int:
        return int(self._file.num_row_groups)

    def __getitem__(self, index: Any) -> gpd.GeoDataFrame:
        """Read one part."""
        try:
            columns = self._file.read_row_group(index)
            columns.validate(full=True)  # texts are decoded when they are used
            table = columns.to_pandas()
            shapes = shapely.from_wkb(table.pop("geometry").to_numpy())
            return gpd.GeoDataFrame(table, geometry=shapes, crs=self._crs)
        except PARQUET_ERRORS as error:
            raise not_vector_error(self._path, error) from error

    def __iter__(self) -> Iterator[gpd.GeoDataFrame]:
        return (self[index] for index in range(len(self)))
