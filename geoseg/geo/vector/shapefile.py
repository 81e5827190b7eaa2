"""Fields and limits of Shapefiles: names of 10 characters, decimal numbers, files of 2 GB."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from geoseg.errors import ConfigError

_NAME_LENGTH = 10
_NAMES = {"perimeter_m": "perim_m"}

# Some programs store file sizes in 31 bits.
_LARGEST = 2_000_000_000

# Bytes of a polygon without its rings and points, of a ring, and of a point.
_RECORD, _RING, _POINT = 52, 4, 16
_SHAPES_HEAD = 100

# Widths of columns. GDAL widens those of texts and integers in all rows for longer values. Other
# programs read integers of more than 10 digits as real numbers.
_TEXT, _WIDEST_TEXT = 16, 254
_INTEGER = 9
_OTHER = 80

# Real numbers are decimal numbers with so many digits, 3 of them after the point.
_REAL = pa.decimal128(18, 3)
_LARGEST_REAL = 9e14


class ShapefileSize:
    """Size of a Shapefile, computed while its polygons are written.

    Args:
        path: The Shapefile, for the error message.
        schema: Schema of its attributes.

    Attributes:
        shapes: Bytes of the .shp.
        table: Bytes of the .dbf.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._rows = path, 0
        self._widths = [_first_width(field.type) for field in schema]
        self.shapes, self.table = _SHAPES_HEAD, 0

    def add(self, columns: Sequence[pa.Array], polygons: np.ndarray) -> None:
        """Add rows.

        Args:
            columns: Attribute columns.
            polygons: Polygons or MultiPolygons (n,).

        Raises:
            ConfigError: If a file would become too large.
        """
        parts = shapely.get_parts(polygons)
        rings = len(parts) + int(shapely.get_num_interior_rings(parts).sum())
        points = int(shapely.get_num_coordinates(polygons).sum())
        self.shapes += _RECORD * len(polygons) + _RING * rings + _POINT * points
        self._rows += len(polygons)
        pairs = zip(self._widths, columns, strict=True)
        self._widths = [max(width, _longest(column)) for width, column in pairs]
        head = 32 + 32 * len(self._widths) + 1
        self.table = head + self._rows * (1 + sum(self._widths)) + 1
        if max(self.shapes, self.table) > _LARGEST:
            raise ConfigError(
                f"{self._path}: a Shapefile is limited to 2 GB and this layer is larger; use the "
                "suffix .gpkg"
            )


def shapefile_fields(schema: pa.Schema) -> list[pa.Field]:
    """Return the fields with short names, and with the types and widths of a Shapefile."""
    return [
        _narrow(field.with_name(name))
        for name, field in zip(short_names(schema.names), schema, strict=True)
    ]


def shapefile_columns(columns: Sequence[pa.Array]) -> list[pa.Array]:
    """Convert real numbers to decimal numbers; those that are too large or NaN become null."""
    return [_as_decimal(c) if pa.types.is_floating(c.type) else c for c in columns]


def _narrow(field: pa.Field) -> pa.Field:
    if pa.types.is_floating(field.type):
        return field.with_type(_REAL)  # a width alone would make it an integer
    if _is_text(field.type) or pa.types.is_integer(field.type):
        return field.with_metadata({"GDAL:OGR:width": str(_first_width(field.type))})
    return field


def _as_decimal(column: pa.Array) -> pa.Array:
    column = column.cast(pa.float64())
    fits = pc.less(pc.abs(column), _LARGEST_REAL)
    known = pc.if_else(pc.fill_null(fits, False), column, pa.scalar(None, column.type))
    return known.cast(_REAL, safe=False)


def short_names(names: Sequence[str]) -> list[str]:
    """Shorten names to at most ten letters, digits and underscores, distinct in any case."""
    short: list[str] = []
    taken: set[str] = set()
    for name in names:
        candidate = re.sub(r"\W", "_", _NAMES.get(name, name)[:_NAME_LENGTH])
        count = 1
        while candidate.lower() in taken:
            count += 1
            candidate = f"{candidate[: _NAME_LENGTH - 1 - len(str(count))]}_{count}"
        short.append(candidate)
        taken.add(candidate.lower())
    return short


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first_width(kind: pa.DataType) -> int:
    if _is_text(kind):
        return _TEXT
    if pa.types.is_floating(kind):
        return int(_REAL.precision) + 2  # sign and point
    if pa.types.is_integer(kind):
        return _INTEGER
    return 1 if pa.types.is_boolean(kind) else _OTHER


def _longest(column: pa.Array) -> int:
    """Return the length of the longest text or integer."""
    if pa.types.is_integer(column.type):
        ends = pc.min_max(column).values()
        return max(len(str(end.as_py() or 0)) for end in ends)
    if not _is_text(column.type):
        return 0
    return min(_WIDEST_TEXT, pc.max(pc.binary_length(column)).as_py() or 0)
