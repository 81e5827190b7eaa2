"""Check of the columns of a layer before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyarrow as pa

from geoseg.errors import ConfigError

# Holds columns of any name and of all types that Arrow has.
_ANY_SUFFIX = ".parquet"

# Shortens names, so that they are distinct.
_SHORT_SUFFIX = ".shp"

# GDAL reads a column of this name as the number of the feature, and drops it, except in a
# GeoPackage, whose numbers have another name.
_NUMBER, _NUMBER_SUFFIX = "OGC_FID", ".gpkg"

# The table of a Shapefile has no more columns.
_MOST_SHORT = 255

_WRITABLE = (
    *(pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary),
    *(pa.types.is_date, pa.types.is_time, pa.types.is_timestamp, pa.types.is_null),
)


def check_columns(path: str | Path, frame: gpd.GeoDataFrame) -> None:
    """Check that the columns of a layer can be written in the format of a file.

    Args:
        path: The file; its suffix is that of a layer.
        frame: The layer.

    Raises:
        ConfigError: If two names differ only in case, or a column has a name or type that the
            format does not support.
    """
    suffix = Path(path).suffix.lower()
    attributes = pd.DataFrame(frame.drop(columns=frame.geometry.name))
    for name in attributes.columns:
        _check_type(path, suffix, str(name), attributes[name])
    if suffix == _ANY_SUFFIX:
        return
    _check_names(path, suffix, [str(name) for name in attributes.columns])


def _check_type(path: str | Path, suffix: str, name: str, values: pd.Series) -> None:
    try:
        kind = pa.Array.from_pandas(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        raise ConfigError(
            f"{path}: the column {name} has values that no layer can hold, such as numbers beside "
            "texts; convert it to text, or remove it from the labels"
        ) from None
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if suffix != _ANY_SUFFIX and not any(is_kind(kind) for is_kind in _WRITABLE):
        raise ConfigError(
            f"{path}: the column {name} has the type {kind}, which {suffix} does not support; use "
            "the suffix .parquet, convert it to numbers or text, or remove it from the labels"
        )


def _check_names(path: str | Path, suffix: str, names: Sequence[str]) -> None:
    if suffix == _SHORT_SUFFIX:
        if len(names) > _MOST_SHORT:
            raise ConfigError(
                f"{path}: has {len(names)} columns, but a Shapefile at most {_MOST_SHORT}; use the "
                "suffix .gpkg"
            )
    else:
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(name.lower(), name)
            if other != name:
                raise ConfigError(
                    f"{path}: the names of the columns {other} and {name} differ only in case, "
                    f"which {suffix} does not distinguish; rename one of them in the labels, or "
                    "use the suffix .parquet"
                )
    if suffix != _NUMBER_SUFFIX and _NUMBER in names:
        raise ConfigError(
            f"{path}: the column {_NUMBER} would be lost, since {suffix} has no column of this "
            "name; rename it in the labels, or use the suffix .gpkg"
        )
