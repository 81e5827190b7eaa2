"""Rectangles of scenes on one of their zoom levels, as VRT; what tile services are read by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from geoseg.geo.grid import GSD_TOLERANCE, Grid
from geoseg.geo.paths import absolute_path
from geoseg.geo.raster.opening import describe, open_raster
from geoseg.geo.raster.scene import SceneInfo
from geoseg.geo.raster.scene_vrt import has_palette, source_name
from geoseg.geo.raster.virtual_mosaic import add_band, add_mask_band, start_mosaic

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneCrop:
    """A rectangle of a scene in the pixels of one of its overviews.

    Attributes:
        path: The scene; absolute if it is a local file.
        level: Number of the overview from 0, which of a service is a zoom level; None for the
            pixels of the scene itself.
        window: The rectangle.
    """

    path: str
    level: int | None
    window: Window


def cover(grid: Grid, bounds: Bounds | None) -> Window:
    """Return the window of whole pixels, at least one, that covers bounds where they are on a grid.

    Args:
        grid: The grid.
        bounds: (left, bottom, right, top) in its CRS; all of it when None.
    """
    if bounds is None:
        return grid.window
    left, bottom, right, top = bounds
    xs, ys = np.array([left, right, left, right]), np.array([bottom, bottom, top, top])
    columns, rows = grid.to_pixels(xs, ys)
    first_row, height = _span(rows, grid.height)
    first_column, width = _span(columns, grid.width)
    return Window(first_column, first_row, width, height)


def _span(places: np.ndarray, length: int) -> tuple[int, int]:
    """Return the first pixel and the number of pixels of a side that contain places on it."""
    first = min(max(0, math.floor(places.min())), length - 1)
    last = max(min(length, math.ceil(places.max())), first + 1)
    return first, last - first


def plan_crop(
    scene: SceneInfo, gsd_m: float, *, bounds: Bounds | None = None, margin_m: float = 0.0
) -> SceneCrop:
    """Choose the coarsest overview with pixels of a given size or smaller, and its pixels.

    The pixels of one overview are used, rather than those that GDAL computes from its choice of
    overviews: they do not depend on the window that is read.

    Args:
        scene: The scene, with a transform.
        gsd_m: The pixel size, metres.
        bounds: (left, bottom, right, top) of the rectangle in the scene's CRS; the whole scene when
            None.
        margin_m: What to add to the rectangle on each side, metres.
    """
    path = absolute_path(scene.path)
    finest_m = scene.grid.window_grid(cover(scene.grid, bounds)).gsd_m
    most = gsd_m / finest_m * (1 + GSD_TOLERANCE)
    with open_raster(path) as source:
        factors = source.overviews(1)
    suited = [(factor, level) for level, factor in enumerate(factors) if factor <= most]
    level = max(suited)[1] if suited else None
    with open_raster(path, level) as source:
        grid = _grid_of(source)
    window = cover(grid, bounds)
    margin = math.ceil(margin_m / grid.window_grid(window).gsd_m)
    return SceneCrop(path, level, grid.widen(window, margin))


def write_scene_crop(path: Path, crop: SceneCrop) -> None:
    """Write a rectangle of a scene as a VRT with all bands, sentinels, and the mask of the scene.

    Args:
        path: Output, `.vrt`.
        crop: The rectangle.

    Raises:
        SceneReadError: If the scene cannot be opened.
    """
    with open_raster(crop.path, crop.level) as source:
        document = start_mosaic(_grid_of(source).window_grid(crop.window))
    # An overview that is opened as a raster has neither colours nor masks.
    with open_raster(crop.path) as source:
        name = source_name(source, ElementTree.fromstring(describe(source)))
        for number in source.indexes:
            _add_band(document, source, number).append(_crop_source(name, crop, str(number)))
        if MaskFlags.per_dataset in source.mask_flag_enums[0] and not _has_alpha(source):
            add_mask_band(document).append(_crop_source(name, crop, "mask,1"))
    path.write_bytes(ElementTree.tostring(document))


def _grid_of(source: Any) -> Grid:
    return Grid(source.crs, source.transform, source.height, source.width)


def _has_alpha(source: Any) -> bool:
    return ColorInterp.alpha in source.colorinterp


def _add_band(document: ElementTree.Element, source: Any, number: int) -> ElementTree.Element:
    """Add a band to a VRT with name, colour, palette and sentinel of that of a scene."""
    index = number - 1
    band = add_band(document, number, source.descriptions[index] or "", source.dtypes[index])
    colour, nodata = source.colorinterp[index], source.nodatavals[index]
    ElementTree.SubElement(band, "ColorInterp").text = colour.name.capitalize()
    if nodata is not None:
        ElementTree.SubElement(band, "NoDataValue").text = repr(nodata)
    if has_palette(source, number):
        palette = ElementTree.SubElement(band, "ColorTable")
        for _, entry in sorted(source.colormap(number).items()):
            parts = {f"c{part}": str(value) for part, value in enumerate(entry, start=1)}
            ElementTree.SubElement(palette, "Entry", parts)
    return band


def _crop_source(name: str, crop: SceneCrop, band: str) -> ElementTree.Element:
    """Return the pixels of a band of a scene, as GDAL names it, as a source of a VRT."""
    source = ElementTree.Element("SimpleSource")
    ElementTree.SubElement(source, "SourceFilename", {"relativeToVRT": "0"}).text = name
    if crop.level is not None:
        options = ElementTree.SubElement(source, "OpenOptions")
        ElementTree.SubElement(options, "OOI", {"key": "OVERVIEW_LEVEL"}).text = str(crop.level)
    ElementTree.SubElement(source, "SourceBand").text = band
    size = {"xSize": str(crop.window.width), "ySize": str(crop.window.height)}
    offset = {"xOff": str(crop.window.col_off), "yOff": str(crop.window.row_off)}
    ElementTree.SubElement(source, "SrcRect", {**offset, **size})
    ElementTree.SubElement(source, "DstRect", {"xOff": "0", "yOff": "0", **size})
    return source
