"""Probabilities of exclusive classes → polygons of each class, without gaps between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from rasterio.windows import Window
from scipy import ndimage
from shapely.geometry import Polygon

from geoseg.grid import Grid
from geoseg.options import Thresholds
from geoseg.vector import FOOTPRINT_COLUMNS
from geoseg.vector.measure import pixel_areas_m2
from geoseg.vectorize.components import EIGHT, FOUR, Component, find_components
from geoseg.vectorize.place import place_footprints
from geoseg.vectorize.prob import ClassProb, likeliest
from geoseg.vectorize.trace import simplify_coverage, trace

CLASS_COLUMNS: Mapping[str, str] = {"id": "int64", "class": "str", **FOOTPRINT_COLUMNS}


def iter_classes(
    source: ClassProb, thresholds: Thresholds, block_rows: int
) -> Iterator[gpd.GeoDataFrame]:
    """Yields the polygons of each class but the background, in batches.

    Each pixel is of its likeliest class. Neighbours of two classes share the line between them,
    also once it is simplified.

    Args:
        source: Probabilities.
        thresholds: `min_area_m2` and `simplify_m` are used.
        block_rows: Rows in memory at a time; the result does not depend on it.

    Yields:
        Frames in the raster's CRS with the columns `CLASS_COLUMNS` and geometry, class by class;
        id goes from 1 to n.
    """
    components = find_components(
        lambda window: read_values(source, window), source.grid.shape, block_rows
    )
    last = 0
    for value, name in enumerate(source.classes.names, start=1):
        if name == source.classes.background:
            continue
        own = [component for component in components if component.value == value]
        outlines = _iter_outlines(source, own, thresholds)
        for frame in place_footprints(outlines, source.grid, thresholds.min_area_m2):
            frame["id"] += last
            frame.insert(1, "class", np.full(len(frame), name, dtype=object))
            last += len(frame)
            yield frame


def read_values(source: ClassProb, window: Window) -> np.ndarray:
    """The place of each pixel's class in `source.classes.names`, from 1; 0 on nodata.

    Returns:
        uint8 (H, W).
    """
    prob, valid = source.read(window)
    values: np.ndarray = np.where(valid, likeliest(prob) + np.uint8(1), np.uint8(0))
    return values


def _iter_outlines(
    source: ClassProb, components: list[Component], thresholds: Thresholds
) -> Iterator[tuple[Polygon, float]]:
    """Yields outline in pixels of the grid and mean probability of the class."""
    centres = np.array([component.centre for component in components]).reshape(-1, 2)
    areas_m2 = pixel_areas_m2(source.grid, centres[:, 1], centres[:, 0])
    for component, pixel_m2 in zip(components, areas_m2.tolist(), strict=True):
        if component.area * pixel_m2 >= thresholds.min_area_m2:
            yield from _trace(source, component, thresholds.simplify_m / math.sqrt(pixel_m2))


def _trace(
    source: ClassProb, component: Component, tolerance: float
) -> list[tuple[Polygon, float]]:
    """Outlines of one component, traced together with all that lies around it.

    Lines run between the corners where three polygons meet, and which corners these are the
    pixels beside a line tell. So its neighbour, traced by itself, has the very same line.
    """
    window = _wider(component.window, source.grid)
    top, left = window.row_off, window.col_off
    prob, valid = source.read(window)
    values = np.where(valid, likeliest(prob).astype(np.int32) + 1, 0)
    parts, _ = ndimage.label(values == component.value, structure=EIGHT)
    mask = parts == parts[component.first[0] - top, component.first[1] - left]
    pieces, count = ndimage.label(mask, structure=FOUR)
    # Numbered class by class: a line is taken from the first of its two polygons, and must run
    # the same way in the neighbour's window, for in a tie the way decides which corner goes.
    numbers = values * (count + 1) + pieces
    traced = trace(np.where(values > 0, numbers, 0), Affine.translation(left, top))
    outlines = shapely.normalize(np.array([polygon for _, polygon in traced], dtype=object))
    simple = simplify_coverage(list(outlines), tolerance)
    own = component.value * (count + 1)
    confidence = ndimage.mean(prob[component.value - 1], pieces, np.arange(1, count + 1))
    return [
        (polygon, confidence[number - own - 1])
        for polygon, (number, _) in zip(simple, traced, strict=True)
        if own < number <= own + count
    ]


def _wider(window: Window, grid: Grid) -> Window:
    """A window with the pixels around it, as far as the grid reaches."""
    top, left = max(0, window.row_off - 1), max(0, window.col_off - 1)
    bottom = min(grid.height, window.row_off + window.height + 1)
    right = min(grid.width, window.col_off + window.width + 1)
    return Window(left, top, right - left, bottom - top)
