"""GeoParquet writers and metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import shapely
from pyarrow import parquet
from pyproj import CRS

from geoseg.geo.vector.columns import free_name

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_BOX = pa.struct([(side, pa.float64()) for side in _SIDES])


def write_geoparquet(
    path: Path,
    schema: pa.Schema,
    crs: CRS,
    rows: Iterable[tuple[list[pa.Array], np.ndarray]],
    *,
    keeps_parts: bool = False,
    has_z: bool = False,
) -> None:
    """Write right-handed polygons, with a bounding box for each row.

    The column of the boxes is named `bbox`, or `bbox_2` and so on where an attribute has that name.

    Args:
        path: Output file.
        schema: Schema of the attributes.
        crs: CRS of the polygons.
        rows: Attribute columns and polygons (n,) of each row group.
        keeps_parts: Whether they are MultiPolygons.
        has_z: Whether some of them have Z.
    """
    box = free_name("bbox", schema.names)
    schema = pa.schema([*schema, ("geometry", pa.binary()), (box, _BOX)])
    covering = {"bbox": {side: [box, side] for side in _SIDES}}
    kind = "MultiPolygon" if keeps_parts else "Polygon"
    kinds = (kind, f"{kind} Z") if has_z else (kind,)
    schema = _describe(schema, crs, kinds=kinds, orientation="counterclockwise", covering=covering)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for columns, shapes in rows:
            corners = [pa.array(side) for side in shapely.bounds(shapes).reshape(-1, 4).T]
            boxes = pa.StructArray.from_arrays(corners, names=_SIDES)
            writer.write_batch(pa.record_batch([*columns, _wkb(shapes), boxes], schema=schema))


def write_frames(path: Path, frames: Iterable[gpd.GeoDataFrame]) -> None:
    """Write frames of the same columns and CRS unchanged, each as a row group.

    Args:
        path: Output file.
        frames: At least one, with a column `geometry`.
    """
    frames = iter(frames)
    first = next(frames)
    table = _table(first)
    schema = _describe(table.schema, first.crs)
    with parquet.ParquetWriter(path, schema) as writer:
        for one in chain([table], map(_table, frames)):
            writer.write_table(one.cast(schema))


def _describe(
    schema: pa.Schema, crs: CRS, *, kinds: Sequence[str] = (), **more: object
) -> pa.Schema:
    """Add GeoParquet metadata to a schema with a column `geometry`; no kinds means any kind."""
    column = {"encoding": "WKB", "geometry_types": kinds, "crs": crs.to_json_dict(), **more}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return schema.with_metadata({"geo": json.dumps(geo)})


def _table(frame: gpd.GeoDataFrame) -> pa.Table:
    attributes = pd.DataFrame(frame.drop(columns="geometry"))
    table = pa.Table.from_pandas(attributes, preserve_index=False)
    return table.append_column("geometry", _wkb(frame.geometry.to_numpy()))


def _wkb(shapes: np.ndarray) -> pa.Array:
    return pa.array(shapely.to_wkb(shapes), pa.binary())
