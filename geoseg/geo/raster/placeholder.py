"""Placeholder locations for scenes without georeferencing."""

from __future__ import annotations

import math
import re
from hashlib import sha256
from pathlib import PurePath

from affine import Affine
from rasterio.crs import CRS

from geoseg.credentials import hide_credentials
from geoseg.errors import ConfigError
from geoseg.geo.grid import Grid

# World Mercator: the whole Earth in one CRS, with true metres along the equator.
_MERCATOR = CRS.from_epsg(3395)

# Within these limits, metres are correct to 0.1 %.
_LEAST_X, _MOST_X = -19_000_000, 19_000_000
_LEAST_Y, _MOST_Y = -250_000, 250_000


def placeholder_grid(path: str, height: int, width: int, gsd_m: float) -> Grid:
    """Return a north-up grid near the equator, at a location that depends on the file name only.

    A strip along the equator is divided into cells that are large enough for the scene. The
    letters of the name choose a first cell, and the number in the name is added to it: scenes of
    one series and of one size therefore never overlap.

    Args:
        path: Path of the scene; only the file name is used.
        height: Rows.
        width: Columns.
        gsd_m: Metres per pixel.

    Raises:
        ConfigError: If the scene is larger than the strip.
    """
    side = 2 ** math.ceil(math.log2(max(height, width) * gsd_m))
    columns, rows = (_MOST_X - _LEAST_X) // side, (_MOST_Y - _LEAST_Y) // side
    if rows < 1:
        raise ConfigError(
            f"{path}: {height} x {width} pixels of {gsd_m:g} m are larger than "
            f"{(_MOST_Y - _LEAST_Y) // 1000} km; check --assume-gsd (metres per pixel)"
        )
    name = PurePath(hide_credentials(path)).stem
    number = int("".join(re.findall("[0-9]", name)) or 0)
    letters = sha256(re.sub("[0-9]", "", name).encode()).digest()
    cell = (number + int.from_bytes(letters[:8])) % (columns * rows)
    row, column = divmod(cell, columns)
    left, top = _LEAST_X + column * side, _MOST_Y - row * side
    return Grid(_MERCATOR, Affine(gsd_m, 0, left, 0, -gsd_m, top), height, width)
