"""A synthetic town: an aerial scene of any size whose footprints are known exactly.

Tests, benchmarks and the demo use it. Streets, gabled and flat roofs, rows of houses that share
walls, courtyards, halls, shadows, trees and cars are drawn at random from a seed; the same
arguments give the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from geoseg.errors import ConfigError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import write_array
from geoseg.geo.vector import FOOTPRINT_LAYER, write_layers
from geoseg.town.layout import build_layout
from geoseg.town.paint import paint_scene
from geoseg.town.roofs import move
from geoseg.town.site import place_grid

__all__ = ["Town", "build_town", "write_town"]

_BANDS = {
    1: ("pan",),
    3: ("red", "green", "blue"),
    4: ("red", "green", "blue", "nir"),
}

# Sides of the triangle without data, as a fraction of the scene's height and width.
_CORNER = 0.25


@dataclass(frozen=True)
class Town:
    """A scene and its true footprints.

    Attributes:
        grid: Pixel grid.
        image: Pixels (C, H, W).
        valid: (H, W), False in the corner without data.
        bands: Name of each band.
        nodata: Sentinel in all bands of invalid pixels, or None.
        footprints: Columns `id` (from 1), `kind` and exact polygons in the grid's CRS: valid,
            complete, and disjoint except for the shared walls of row houses.
    """

    grid: Grid
    image: np.ndarray
    valid: np.ndarray
    bands: tuple[str, ...]
    nodata: float | None
    footprints: gpd.GeoDataFrame


def build_town(
    height: int,
    width: int,
    *,
    seed: int = 0,
    gsd_m: float = 0.5,
    crs: str = "EPSG:32633",
    bands: int = 3,
    dtype: str = "uint8",
    nodata: float | None = 0,
    nodata_corner: bool = True,
    density: float = 1.0,
    rotation_deg: float = 0.0,
) -> Town:
    """Build a town; the same arguments give the same bytes.

    Args:
        height: Rows.
        width: Columns.
        seed: Random seed.
        gsd_m: Ground sampling distance in metres.
        crs: Any CRS, geographic ones included; the site is chosen inside its area of use.
        bands: Bands; 1 is panchromatic, 3 is RGB, 4 is RGB and near infrared.
        dtype: uint8 has values up to 255, wider integers up to 2047, floats reflectance in 0..1.
        nodata: Sentinel of the empty corner, NaN allowed for floats; None for no empty corner.
        nodata_corner: Whether the top right corner is empty.
        density: Fraction of lots with buildings; above 1 the gaps between houses shrink.
        rotation_deg: Counter-clockwise rotation of the grid.

    Returns:
        The town. Buildings that are mostly in the empty corner are left out.

    Raises:
        ConfigError: If an argument is out of range, or nodata does not fit the dtype.
    """
    shape = (height, width)
    _check(shape, seed=seed, gsd_m=gsd_m, bands=bands, density=density)
    kind = _check_dtype(dtype, nodata)
    corner = _CORNER if nodata_corner and nodata is not None else 0.0
    grid = place_grid(shape, gsd_m=gsd_m, crs=crs, rotation_deg=rotation_deg)
    plan, brush = np.random.default_rng(seed).spawn(2)
    leg_x, leg_y = corner * width, corner * height
    triangle = [(width - leg_x, 0), (width, 0), (width, leg_y)]
    hidden = shapely.Polygon(triangle if corner else None)
    layout = build_layout(plan, shape, gsd_m=gsd_m, density=density, hidden=hidden)
    valid = _valid(shape, leg_x, leg_y)
    scene = paint_scene(brush, layout, shape, bands, gsd_m)
    return Town(
        grid=grid,
        image=_quantised(scene, kind, nodata, valid),
        valid=valid,
        bands=_BANDS.get(bands, tuple(f"band{i + 1}" for i in range(bands))),
        nodata=nodata,
        footprints=_footprints(grid, [b.kind for b in layout.buildings], layout.outlines),
    )


def write_town(town: Town, folder: Path) -> tuple[Path, Path]:
    """Write a town as `scene.tif` and `footprints.gpkg`; each appears only when complete.

    Returns:
        Paths of the scene and of the footprints.
    """
    folder = Path(folder)
    scene, footprints = folder / "scene.tif", folder / "footprints.gpkg"
    write_array(scene, town.grid, town.image, nodata=town.nodata, descriptions=town.bands)
    write_layers(footprints, {FOOTPRINT_LAYER: town.footprints})
    return scene, footprints


def _check(shape: tuple[int, int], *, seed: int, gsd_m: float, bands: int, density: float) -> None:
    height, width = shape
    if min(shape) < 1:
        raise ConfigError(f"town: {height} x {width} pixels; give a height and width from 1")
    if seed < 0:
        raise ConfigError(f"seed: must be 0 or more (got {seed})")
    if not (math.isfinite(gsd_m) and gsd_m > 0):
        raise ConfigError(f"gsd_m: must be a positive number of metres (got {gsd_m})")
    if bands < 1:
        raise ConfigError(f"bands: must be 1 or more (got {bands})")
    if not (math.isfinite(density) and density >= 0):
        raise ConfigError(f"density: must be 0 or more (got {density})")


def _check_dtype(name: str, nodata: float | None) -> np.dtype:
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = np.dtype(bool)
    if dtype.kind not in "iuf":
        raise ConfigError(
            f"dtype: {name!r} is not a data type for scenes; use uint8, uint16 or float32"
        )
    if nodata is None or dtype.kind == "f":
        return dtype
    limits = np.iinfo(dtype)
    if not (limits.min <= nodata <= limits.max and nodata == int(nodata)):
        raise ConfigError(
            f"nodata: {nodata} does not fit {dtype.name}; use an integer in "
            f"{limits.min}..{limits.max}, or a float dtype"
        )
    return dtype


def _valid(shape: tuple[int, int], leg_x: float, leg_y: float) -> np.ndarray:
    height, width = shape
    if leg_x == 0 or leg_y == 0:
        return np.ones(shape, bool)
    from_right = (width - 0.5 - np.arange(width)) / leg_x
    from_top = (np.arange(height) + 0.5) / leg_y
    valid: np.ndarray = from_right + from_top[:, None] >= 1
    return valid


def _quantised(
    scene: np.ndarray, dtype: np.dtype, nodata: float | None, valid: np.ndarray
) -> np.ndarray:
    """Convert reflectance to `dtype`, with nodata in all invalid pixels and in no valid one."""
    if dtype.kind == "f":
        image, step = scene.astype(dtype), 1 / 1024
    else:
        top = min(np.iinfo(dtype).max, 255 if dtype.itemsize == 1 else 2047)
        image, step = np.rint(scene * top).astype(dtype), 1
    if nodata is None:
        return image
    image[image == nodata] = nodata - step if nodata >= image.max() else nodata + step
    image[:, ~valid] = nodata
    return image


def _footprints(
    grid: Grid, kinds: list[str], outlines: tuple[shapely.Polygon, ...]
) -> gpd.GeoDataFrame:
    shapes = shapely.transform(
        np.array(outlines, object), lambda points: move(points, grid.transform)
    )
    columns = {"id": np.arange(1, len(shapes) + 1), "kind": np.array(kinds, object)}
    return gpd.GeoDataFrame(columns, geometry=gpd.GeoSeries(shapes), crs=grid.crs.to_wkt())
