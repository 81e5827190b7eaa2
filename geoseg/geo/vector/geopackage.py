"""Layers, review points and default styles for QGIS in a GeoPackage."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import shapely
from pyproj import CRS

from geoseg.errors import VectorReadError, one_line
from geoseg.geo.vector.columns import described

REVIEW_LAYER = "review"

# Largest number of review points, those of lowest confidence.
MAX_POINTS = 100_000

_STYLES = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog TEXT(256), f_table_schema TEXT(256),
    f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT,
    styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)"""

# GeoPackage version that older programs read, and its usual name of the geometry column.
GPKG_OPTIONS = {"VERSION": "1.2"}
GEOMETRY_NAME = "geom"


class ReviewPoints:
    """Points in footprints of low confidence, collected while these are written.

    At most `MAX_POINTS` are kept, those of lowest confidence.

    Args:
        crs: CRS of the points.
        below: Footprints of lower confidence get a point.
    """

    def __init__(self, crs: CRS, below: float) -> None:
        self._below = below
        columns = {"id": np.zeros(0, dtype=np.int64), "confidence": np.zeros(0)}
        self._empty = gpd.GeoDataFrame(columns, geometry=np.zeros(0, dtype=object), crs=crs)
        self._parts: list[gpd.GeoDataFrame] = []

    def add(self, frame: gpd.GeoDataFrame) -> None:
        """Add the footprints of low confidence of a frame with `id` and `confidence`."""
        low = frame[frame["confidence"] < self._below]
        if low.empty:
            return
        points = shapely.point_on_surface(low.geometry.to_numpy())
        self._parts.append(
            gpd.GeoDataFrame(low[["id", "confidence"]], geometry=points, crs=frame.crs)
        )
        if sum(map(len, self._parts)) > 2 * MAX_POINTS:
            self._parts = [self.points()]

    def points(self) -> gpd.GeoDataFrame:
        """Return the points, lowest confidence first."""
        joined = pd.concat(self._parts) if self._parts else self._empty
        return joined.sort_values(["confidence", "id"], ignore_index=True).head(MAX_POINTS)


def add_layer(
    path: Path, name: str, frame: gpd.GeoDataFrame, geometry_type: str | None = None
) -> None:
    """Add a layer to a GeoPackage, which is made if there is none.

    Args:
        path: The GeoPackage.
        name: Name of the layer.
        frame: Its features; an empty one keeps columns and CRS.
        geometry_type: Type of its geometries; found out when None, `Polygon` of an empty frame.
    """
    shapes = np.array(frame.geometry.array, dtype=object)
    if geometry_type is None:
        shapes, geometry_type = _of_one_type(shapes)
    table = pa.Table.from_pandas(
        pd.DataFrame(frame.drop(columns=frame.geometry.name)), preserve_index=False
    )
    schema = pa.schema([*described(table.schema), ("geometry", pa.binary())])
    wkb = pa.array(shapely.to_wkb(shapes), pa.binary())
    columns = [
        column.cast(field.type) for column, field in zip(table.columns, schema, strict=False)
    ]
    table = pa.Table.from_arrays([*columns, wkb], schema=schema)
    pyogrio.write_arrow(
        table, path, layer=name, driver="GPKG", geometry_name="geometry",
        geometry_type=geometry_type, crs=frame.crs.to_wkt(),
        layer_options={"GEOMETRY_NAME": GEOMETRY_NAME},
        dataset_options={} if path.exists() else GPKG_OPTIONS,
    )  # fmt: skip


def _of_one_type(shapes: np.ndarray) -> tuple[np.ndarray, str]:
    """Return shapes of one type, and its name; polygons become MultiPolygons beside others."""
    single = shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON
    if single.all():
        return shapes, "Polygon"
    if not (single | (shapely.get_type_id(shapes) == shapely.GeometryType.MULTIPOLYGON)).all():
        return shapes, "Unknown"
    shapes[single] = shapely.multipolygons(shapes[single][:, None])
    return shapes, "MultiPolygon"


def add_styles(path: Path, styles: Mapping[str, str]) -> None:
    """Make styles the default styles of layers in QGIS.

    Args:
        path: A GeoPackage without styles.
        styles: Style by name of the layer.

    Raises:
        OSError: If the disk is full.
        VectorReadError: If the file cannot be written for another reason.
    """
    try:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(_STYLES)
            database.execute(
                "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id)"
                " VALUES ('layer_styles', 'attributes', 'layer_styles', 0)"
            )
            database.executemany(
                "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name,"
                " f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description)"
                f" VALUES ('', '', ?, '{GEOMETRY_NAME}', 'geoseg', ?, '', 1, '')",
                styles.items(),
            )
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise VectorReadError(f"{path}: cannot be written ({one_line(error)})") from error
