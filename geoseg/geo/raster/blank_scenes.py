"""Detection of blank areas in scenes, and the warning about them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import rasterio

from geoseg.errors import DataError, SceneReadError
from geoseg.geo.raster.blank import BlankAreas, find_blank_areas
from geoseg.geo.raster.scene import SceneInfo, inspect_source

logger = logging.getLogger(__name__)


def mark_blank_areas(info: SceneInfo) -> SceneInfo:
    """Return a scene whose blank areas, if it has any, are treated as nodata; warn of them."""
    blank = _find_blank_areas(info)
    if blank is None:
        return info
    logger.warning(
        "%s: %s and is treated as nodata; --keep-blank uses it as an image",
        info.path,
        blank.describe(),
    )
    return replace(info, blank=blank)


def _find_blank_areas(info: SceneInfo) -> BlankAreas | None:
    try:
        # All blocks of a scene without overviews are decoded, by several threads if it can be.
        with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"), info.open_pixels() as scene:
            return find_blank_areas(scene)
    except SceneReadError:  # damaged somewhere: the rest may be read
        return None


def describe_blank_areas(source: Any, path: str | Path) -> str | None:
    """Return the share and the values of a raster's blank areas; None if it has none.

    Args:
        source: The open rasterio dataset, with or without georeferencing.
        path: Its path.
    """
    try:
        info, _, _ = inspect_source(source, str(path), None, assume_gsd_m=1.0)
    except DataError:  # its bands are no image
        return None
    blank = _find_blank_areas(info)
    return None if blank is None else blank.describe()
