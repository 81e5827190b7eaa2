"""Review points and QGIS styles in a GeoPackage of footprints."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from pyproj import CRS

from geoseg.errors import VectorReadError, one_line

REVIEW_LAYER = "review"

# Footprints of lower confidence get a point in the review layer.
REVIEW_BELOW = 0.7

# Largest number of review points, those of lowest confidence.
MAX_POINTS = 100_000

# Upper bound of confidence and colour of each class of the style.
_COLOURS = ((REVIEW_BELOW, "215,48,39"), (0.85, "253,174,97"), (1.0, "26,152,80"))

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
    """

    def __init__(self, crs: CRS) -> None:
        columns = {"id": np.zeros(0, dtype=np.int64), "confidence": np.zeros(0)}
        self._empty = gpd.GeoDataFrame(columns, geometry=np.zeros(0, dtype=object), crs=crs)
        self._parts: list[gpd.GeoDataFrame] = []

    def add(self, frame: gpd.GeoDataFrame) -> None:
        """Add the footprints of low confidence of a frame with `id` and `confidence`."""
        low = frame[frame["confidence"] < REVIEW_BELOW]
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


def finish_geopackage(path: Path, layer: str, points: gpd.GeoDataFrame) -> None:
    """Add the review points and the default styles for QGIS.

    Args:
        path: GeoPackage with the footprints.
        layer: Name of their layer.
        points: Points with `id` and `confidence`.

    Raises:
        OSError: If the disk is full.
        VectorReadError: If the file cannot be written for another reason.
    """
    pyogrio.write_dataframe(
        points, path, layer=REVIEW_LAYER, driver="GPKG", geometry_type="Point",
        layer_options={"GEOMETRY_NAME": GEOMETRY_NAME},
    )  # fmt: skip
    styles = ((layer, "by confidence", _by_confidence()), (REVIEW_LAYER, "doubtful", _marker()))
    try:
        with closing(sqlite3.connect(path)) as database, database:
            _add_styles(database, styles)
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise VectorReadError(f"{path}: cannot be written ({one_line(error)})") from error


def _add_styles(database: sqlite3.Connection, styles: Iterable[tuple[str, str, str]]) -> None:
    database.execute(_STYLES)
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id)"
        " VALUES ('layer_styles', 'attributes', 'layer_styles', 0)"
    )
    database.executemany(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name,"
        " f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description)"
        f" VALUES ('', '', ?, '{GEOMETRY_NAME}', ?, ?, '', 1, '')",
        styles,
    )


def _by_confidence() -> str:
    """Return a QGIS style of polygons coloured by confidence."""
    root, renderer = _style("graduatedSymbol", attr="confidence", graduatedMethod="GraduatedColor")
    ranges = ElementTree.SubElement(renderer, "ranges")
    symbols = ElementTree.SubElement(renderer, "symbols")
    low = 0.0
    for number, (high, colour) in enumerate(_COLOURS):
        ElementTree.SubElement(
            ranges, "range", lower=str(low), upper=str(high), symbol=str(number),
            label=f"{low:g} - {high:g}", render="true",
        )  # fmt: skip
        fill = {"color": f"{colour},70", "outline_color": f"{colour},255", "style": "solid"}
        outline = {"outline_style": "solid", "outline_width": "0.4", "outline_width_unit": "MM"}
        _symbol(symbols, number, "fill", "SimpleFill", fill | outline)
        low = high
    return _text(root)


def _marker() -> str:
    """Return a QGIS style of the review points."""
    root, renderer = _style("singleSymbol")
    symbols = ElementTree.SubElement(renderer, "symbols")
    colour = {"color": f"{_COLOURS[0][1]},255", "outline_color": "255,255,255,255"}
    shape = {"name": "circle", "size": "2.4", "size_unit": "MM"}
    _symbol(symbols, 0, "marker", "SimpleMarker", colour | shape)
    return _text(root)


def _style(kind: str, **attributes: str) -> tuple[ElementTree.Element, ElementTree.Element]:
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = ElementTree.SubElement(root, "renderer-v2", {"type": kind, **attributes})
    renderer.set("symbollevels", "0")
    return root, renderer


def _symbol(
    symbols: ElementTree.Element, number: int, kind: str, layer: str, values: dict[str, str]
) -> None:
    attributes = {"type": kind, "name": str(number), "alpha": "1", "clip_to_extent": "1"}
    symbol = ElementTree.SubElement(symbols, "symbol", attributes)
    part = ElementTree.SubElement(
        symbol, "layer", {"class": layer, "enabled": "1", "locked": "0", "pass": "0"}
    )
    options = ElementTree.SubElement(part, "Option", type="Map")
    for key, value in values.items():
        ElementTree.SubElement(options, "Option", name=key, type="QString", value=value)
        ElementTree.SubElement(part, "prop", k=key, v=value)  # for QGIS before 3.26


def _text(root: ElementTree.Element) -> str:
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + ElementTree.tostring(
        root, encoding="unicode"
    )
