"""Probabilities of buildings → their outlines, touching ones apart."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from affine import Affine
from rasterio.windows import Window
from scipy import ndimage
from shapely.geometry import Polygon

from geoseg.options import Thresholds
from geoseg.vector.measure import pixel_areas_m2
from geoseg.vectorize.components import EIGHT, Component, find_components
from geoseg.vectorize.prob import Prob, ProbSource
from geoseg.vectorize.separate import fill_holes, separate
from geoseg.vectorize.trace import simplify_coverage, trace

_SEED_SHARE = 0.25  # of the minimum area; a smaller seed is noise


def iter_buildings(
    source: ProbSource, thresholds: Thresholds, block_rows: int
) -> Iterator[tuple[Polygon, float]]:
    """Finds buildings, component by component.

    Args:
        source: Probabilities.
        thresholds: What makes a building.
        block_rows: Rows in memory at a time; the result does not depend on it.

    Yields:
        Outline in pixels of the grid, and confidence.
    """

    def read_mask(window: Window) -> np.ndarray:
        return _mask(source.read(window), thresholds)

    components = find_components(read_mask, source.grid.shape, block_rows)
    centres = np.array([component.centre for component in components]).reshape(-1, 2)
    areas_m2 = pixel_areas_m2(source.grid, centres[:, 1], centres[:, 0])
    for component, pixel_m2 in zip(components, areas_m2.tolist(), strict=True):
        if component.area * pixel_m2 >= thresholds.min_area_m2:
            prob = source.read(component.window)
            yield from _trace_component(prob, component, thresholds, pixel_m2)


def _trace_component(
    prob: Prob, component: Component, thresholds: Thresholds, pixel_m2: float
) -> list[tuple[Polygon, float]]:
    """Objects of one component, from the probabilities of its own window."""
    row, column = component.first[0], component.first[1]
    top, left = component.window.row_off, component.window.col_off
    pieces, _ = ndimage.label(_mask(prob, thresholds), structure=EIGHT)
    mask = pieces == pieces[row - top, column - left]
    min_area_px = thresholds.min_area_m2 / pixel_m2
    labels = separate(
        prob.body,
        prob.border,
        fill_holes(mask, prob.valid, min_area_px),
        thresholds,
        min_seed_px=_SEED_SHARE * min_area_px,
        min_area_px=min_area_px,
    )
    outlines = [polygon for _, polygon in trace(labels, Affine.translation(left, top))]
    if not outlines:
        return []
    tolerance = thresholds.simplify_m / math.sqrt(pixel_m2)
    confidences = ndimage.mean(prob.body, labels, np.arange(1, len(outlines) + 1))
    return list(zip(simplify_coverage(outlines, tolerance), confidences, strict=True))


def _mask(prob: Prob, thresholds: Thresholds) -> np.ndarray:
    mask: np.ndarray = prob.valid & (prob.body >= np.float32(thresholds.body))
    return mask
