"""Descriptions of rasters, also of those that geoseg does not read as scenes."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags
from rasterio.errors import NodataShadowWarning, RasterioError

from geoseg.errors import DataError, SceneReadError, one_line
from geoseg.geo.crs import build_transformer
from geoseg.geo.grid import Grid
from geoseg.geo.raster.blank_scenes import describe_blank_areas
from geoseg.geo.raster.opening import as_read_errors, check_blocks, open_raster
from geoseg.geo.raster.prob import CLASS_TAG, CLASSES_TAG, THRESHOLDS_TAG
from geoseg.geo.raster.scene import describe_source
from geoseg.geo.raster.scene_vrt import name_band

# Longer side of the reduced image from which statistics are computed.
_SIDE = 1024


def describe_raster(path: str | Path) -> dict[str, Any]:
    """Describe any raster that GDAL opens, by values that JSON can hold.

    Args:
        path: The raster.

    Returns:
        Size, bands with statistics, validity and georeferencing; `problem` is the reason for which
        geoseg does not read it as a scene, or None. Statistics are those of a reduced image.

    Raises:
        SceneReadError: If GDAL does not open it.
    """
    with open_raster(path) as source, as_read_errors(path):
        try:
            grid, problem = describe_source(source, path).grid, None
        except DataError as error:
            grid, problem = None, str(error)
        described = {
            "driver": source.driver,
            "height": source.height,
            "width": source.width,
            "validity": _describe_validity(source),
            "crs": source.crs.to_string() if source.crs else None,
            "subdatasets": list(source.subdatasets),
            "thresholds": source.tags().get(THRESHOLDS_TAG),
            **(_describe_grid(grid, path) if grid else {}),
        }
        bands, unreadable = _describe_bands(source)
        problem = problem or (unreadable and f"{path}: cannot be read ({unreadable})")
        blank = None if unreadable or _is_result(source) else describe_blank_areas(source, path)
        return {**described, "bands": bands, "blank": blank, "problem": problem}


def _is_result(source: Any) -> bool:
    """Return whether a raster is a probability raster or a mask of geoseg."""
    first_class = CLASS_TAG.format(0)
    return not {THRESHOLDS_TAG, CLASSES_TAG, first_class}.isdisjoint(source.tags())


def _describe_bands(source: Any) -> tuple[list[dict[str, Any]], str | None]:
    """Return the bands with their statistics, and why these could not be read."""
    bands, unreadable = [], None
    for index, dtype in enumerate(source.dtypes, start=1):
        colour = source.colorinterp[index - 1]
        bands.append(
            {
                "name": name_band(source.descriptions[index - 1], colour, index),
                "dtype": dtype,
                "colour": colour.name,
                "nodata": _number(source.nodatavals[index - 1]),
                "statistics": None,
            }
        )
    try:
        check_blocks(source, source.name)
    except SceneReadError as error:
        return bands, str(error)
    # Last, because GDAL may report an error of reading again at the next call.
    for index, band in enumerate(bands, start=1):
        try:
            band["statistics"] = _measure_band(source, index)
        except (RasterioError, CPLE_BaseError, ValueError, MemoryError) as error:
            unreadable = one_line(error)
    return bands, unreadable


def _measure_band(source: Any, index: int) -> dict[str, Any] | None:
    """Return minimum, mean and maximum of the valid pixels of a reduced band."""
    scale = max(1.0, max(source.shape) / _SIDE)
    shape = tuple(max(1, math.floor(side / scale)) for side in source.shape)
    with warnings.catch_warnings():
        # A nodata value beside an alpha band; both are listed.
        warnings.simplefilter("ignore", NodataShadowWarning)
        pixels = source.read(index, out_shape=shape, masked=True).compressed()
    pixels = pixels[np.isfinite(pixels)]
    if not pixels.size or pixels.dtype.kind == "c":
        return None
    mean = float(pixels.mean(dtype=np.float64))
    low, high = _number(pixels.min()), _number(pixels.max())
    return {"minimum": low, "mean": round(mean, 6), "maximum": high}


def _number(value: Any) -> float | int | str | None:
    """Return a number as JSON can hold it: what is not finite as text."""
    if value is None:
        return None
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float) and not math.isfinite(number):
        return str(number)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _describe_validity(source: Any) -> str:
    """Return how the raster marks pixels without data."""
    flags = {flag for band in source.mask_flag_enums for flag in band}
    if MaskFlags.alpha in flags:
        return "alpha band"
    if MaskFlags.per_dataset in flags:
        return "mask band"
    if MaskFlags.nodata in flags:
        return "nodata value"
    return "none: all pixels are valid"


def _describe_grid(grid: Grid, path: str | Path) -> dict[str, Any]:
    """Return pixel size and extent, in the CRS and in degrees where it has a location."""
    try:
        bounds = build_transformer(grid.crs, 4326, path).transform_bounds(*grid.bounds)
        degrees = [round(value, 6) for value in bounds] if np.isfinite(bounds).all() else None
    except DataError:
        degrees = None
    return {
        "gsd_m": [round(value, 6) for value in grid.axis_gsd_m],
        "crs": grid.crs.to_string(),
        "bounds": list(grid.bounds),
        "degrees": degrees,
    }
