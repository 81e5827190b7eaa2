"""A place for scenes that do not say where they lie."""

from __future__ import annotations

import math
import re
from hashlib import sha256
from pathlib import PurePath

from affine import Affine
from rasterio.crs import CRS

from geoseg.errors import ConfigError
from geoseg.geo.grid import Grid

# World Mercator: all of the Earth in one CRS, and metres that are metres along the equator.
_MERCATOR = CRS.from_epsg(3395)

# Within these, metres are right to 0.1 %.
_LEAST_X, _MOST_X = -19_000_000, 19_000_000
_LEAST_Y, _MOST_Y = -250_000, 250_000


def assume_place(path: str, height: int, width: int, gsd_m: float) -> Grid:
    """Lays a scene on the equator, north up, at a spot that its name alone decides.

    The strip along the equator is a lattice of cells, large enough for the scene. Which one is
    its, the number in its name says, counted from a cell that the rest of the name chooses: so
    scenes of a series, all of one size, never share ground.

    Args:
        path: Of the scene; its folder does not matter.
        height: Rows.
        width: Columns.
        gsd_m: Metres per pixel.

    Raises:
        ConfigError: If the scene is larger than the strip is wide.
    """
    side = 2 ** math.ceil(math.log2(max(height, width) * gsd_m))
    columns, rows = (_MOST_X - _LEAST_X) // side, (_MOST_Y - _LEAST_Y) // side
    if rows < 1:
        raise ConfigError(
            f"{path}: {height} x {width} pixels of {gsd_m:g} m are more than "
            f"{(_MOST_Y - _LEAST_Y) // 1000} km; check --assume-gsd (metres per pixel)"
        )
    name = PurePath(path).stem
    number = int("".join(re.findall("[0-9]", name)) or 0)
    letters = sha256(re.sub("[0-9]", "", name).encode()).digest()
    cell = (number + int.from_bytes(letters[:8])) % (columns * rows)
    row, column = divmod(cell, columns)
    left, top = _LEAST_X + column * side, _MOST_Y - row * side
    return Grid(_MERCATOR, Affine(gsd_m, 0, left, 0, -gsd_m, top), height, width)
