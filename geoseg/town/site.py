"""Location of the synthetic town: a grid in any CRS with square pixels of a given size."""

from __future__ import annotations

import math

import pyproj
from affine import Affine
from pyproj.exceptions import CRSError as ProjCRSError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from geoseg.errors import ConfigError
from geoseg.geo.grid import Grid


def place_grid(
    shape: tuple[int, int], *, gsd_m: float, crs: str, rotation_deg: float = 0.0
) -> Grid:
    """Return a grid with square pixels of `gsd_m` metres, in the CRS's area of use.

    Args:
        shape: (height, width) in pixels.
        gsd_m: Ground sampling distance in metres.
        crs: Any CRS that rasterio understands, geographic ones included.
        rotation_deg: Counter-clockwise rotation of the grid.

    Raises:
        ConfigError: If the CRS is unknown.
    """
    try:
        system = CRS.from_user_input(crs)
        x, y = _site(pyproj.CRS.from_user_input(crs))
    except (CRSError, ProjCRSError) as error:
        raise ConfigError(f"crs: {crs!r} is unknown; give a code such as EPSG:32633") from error
    height, width = shape
    unit = 1e-5 if system.is_geographic else 1.0
    trial = Affine.translation(x, y) * Affine.scale(unit, -unit)
    metres_x, metres_y = Grid(system, trial, 1, 1).axis_gsd_m
    transform = (
        Affine.translation(x, y)
        * Affine.scale(unit / metres_x, unit / metres_y)
        * Affine.rotation(rotation_deg)
        * Affine.scale(gsd_m, -gsd_m)
        * Affine.translation(-width / 2, -height / 2)
    )
    return Grid(system, transform, height, width)


def _site(crs: pyproj.CRS) -> tuple[float, float]:
    """Return CRS (x, y) well inside the area of use, as close to latitude 45 as possible."""
    area = crs.area_of_use
    if area is None:
        return (0.0, 45.0) if crs.is_geographic else (0.0, 0.0)
    south, north = area.south, area.north
    inset = (north - south) / 4
    wanted = math.copysign(45, north + south)
    latitude = min(max(wanted, south + inset), north - inset)
    east = area.east if area.east >= area.west else area.east + 360
    longitude = (area.west + east) / 2
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(longitude, latitude)
    return (x, y) if math.isfinite(x) and math.isfinite(y) else (0.0, 0.0)
