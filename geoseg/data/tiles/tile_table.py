"""The columns of `tiles.parquet`, and the ranges outside of which no table is used."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from geoseg.data.splits import SPLITS

# Rasters have at most so many rows and columns.
_MAX_OFFSET = 2**31

# Names of tile files: no folders.
_ID = r"[\w-]{1,100}"

# More tiles in one place would make the search for neighbours quadratic. Drawn areas may overlap.
_MOST_IN_ONE_PLACE = 100


@dataclass(frozen=True)
class Column:
    """Values that a column may have.

    Attributes:
        description: For the message.
        fits: Returns which values fit, bool (N,).
    """

    description: str
    fits: Callable[[pd.Series], pd.Series]


def _whole(least: int, most: int) -> Column:
    def fits(values: pd.Series) -> pd.Series:
        whole = pd.api.types.is_integer_dtype(values)
        return values.between(least, most) if whole else pd.Series(False, values.index)

    return Column(f"whole numbers from {least} to {most}", fits)


def _share(*, above_zero: bool) -> Column:
    def fits(values: pd.Series) -> pd.Series:
        if not pd.api.types.is_float_dtype(values):
            return pd.Series(False, values.index)
        return values.between(0, 1, inclusive="right" if above_zero else "both")

    return Column("numbers from 0 to 1", fits)


def _text(pattern: str, description: str) -> Column:
    compiled = re.compile(pattern)

    def fit(value: object) -> bool:
        return isinstance(value, str) and compiled.fullmatch(value) is not None

    return Column(description, lambda values: values.map(fit).astype(bool))


def _counts() -> Column:
    def fit(value: object) -> bool:
        return (
            isinstance(value, np.ndarray | list | tuple)
            and 0 < len(value) <= 256
            and all(isinstance(count, int | np.integer) and count >= 0 for count in value)
        )

    return Column("lists of pixel counts", lambda values: values.map(fit).astype(bool))


def columns_for(size: int) -> dict[str, Column]:
    """Return the columns of a table of tiles, by name.

    Args:
        size: Tile side.
    """
    return {
        "id": _text(_ID, "letters, digits, _ and -"),
        "scene": _text(r"(?s).{1,10000}", "paths"),
        "split": _text("|".join(SPLITS), f"one of {', '.join(SPLITS)}"),
        "col_off": _whole(0, _MAX_OFFSET),
        "row_off": _whole(0, _MAX_OFFSET),
        "width": _whole(1, size),
        "height": _whole(1, size),
        "valid_fraction": _share(above_zero=True),
        "building_fraction": _share(above_zero=False),
        "class_pixels": _counts(),
    }


def check_table(tiles: pd.DataFrame, size: int, stride: int) -> None:
    """Check the columns of a table of tiles.

    Args:
        tiles: The table.
        size: Tile side.
        stride: Pixels from one tile to the next.

    Raises:
        ValueError: If a column is missing or has a value that it may not have.
    """
    for name, column in columns_for(size).items():
        if name not in tiles:
            raise ValueError(f"column {name} is missing")
        if not column.fits(tiles[name]).all():
            raise ValueError(f"column {name} may only have {column.description}")
    if tiles.id.duplicated().any():
        raise ValueError("two tiles have the same id")
    places = [tiles.scene, tiles.col_off // stride, tiles.row_off // stride]
    if len(tiles) and tiles.groupby(places, sort=False).size().max() > _MOST_IN_ONE_PLACE:
        raise ValueError("too many tiles have one position")
