"""Outlines of buildings, with confidences, from the probabilities of a window."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rasterio.windows import Window
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from geoseg.geo.grid import Grid
from geoseg.geo.vector import FOOTPRINT_COLUMNS
from geoseg.options import Thresholds
from geoseg.vectorization.components.runs import rasterize_runs, touching_pairs
from geoseg.vectorization.components.selection import ComponentSelection
from geoseg.vectorization.footprint_frames import OutlineBatch
from geoseg.vectorization.objects.buildings import Objects, find_objects
from geoseg.vectorization.objects.pixels import ObjectPixels
from geoseg.vectorization.outlines.rings import trace_rings
from geoseg.vectorization.outlines.shaping import (
    are_alone,
    keep_pixels,
    max_shifts_m,
    shape_outlines,
)
from geoseg.vectorization.outlines.tracing import cross_rings, move_polygons, step_rings
from geoseg.vectorization.outlines.zones import find_zones
from geoseg.vectorization.prob_sources import ProbSource, ProbWindow

BUILDING_COLUMNS: Mapping[str, str] = {
    **FOOTPRINT_COLUMNS,
    "mean_prob": "float64",
    "conf_p10": "float64",
    "edge": "bool",
    "reg_status": "str",
}

# With everything that their confidence depends on.
MEASURED_COLUMNS: Mapping[str, str] = {
    **BUILDING_COLUMNS,
    "border": "float64",
    "contact": "float64",
    "touching": "bool",
}

# Probabilities are rounded to this many levels, a multiple of 255, so that bytes stay exact.
_LEVELS = 1020

# Up to so many bins, and so many per pixel, histograms are faster than sorting and small in memory.
_MOST_BINS, _MOST_BINS_EACH = 1 << 20, 8

# Additional margin: outlines start up to half a pixel beside their pixels, and zones consist of
# whole pixels. Both hold for a component and for its neighbour.
_EXTRA_PX = 3


def building_margins(steps_m: np.ndarray, _: Grid, thresholds: Thresholds) -> np.ndarray:
    """Return the margins (n,) of components in pixels.

    The margin contains every neighbour that the outlines of a component may touch: the outlines of
    both may move by the same distance.
    """
    smallest_m = np.linalg.svd(steps_m, compute_uv=False).min(axis=1)
    max_shifts_px = max_shifts_m(steps_m, thresholds) / smallest_m
    margins: np.ndarray = np.ceil(2 * max_shifts_px).astype(np.int64) + _EXTRA_PX
    return margins


def trace_buildings(
    source: ProbSource,
    window: Window,
    selection: ComponentSelection,
    chosen: np.ndarray,
    thresholds: Thresholds,
) -> OutlineBatch:
    """Trace the outlines of the buildings of components.

    Args:
        source: Probabilities.
        window: Contains the components and their margins, clipped to the grid.
        selection: Components that begin in the window.
        chosen: bool (n,), which of them are traced.
        thresholds: Thresholds.

    Returns:
        Outlines in pixels of the grid, sorted by component; attributes are `component` (index in
        the selection), `mean_prob`, `conf_p10`, `border` and `contact` (mean of these
        probabilities at the outline, 0 without them), `touching` (another building of the
        component touches it), `edge` and `reg_status`.
    """
    prob = source.read(window)
    objects = find_objects(prob, window, selection, chosen, thresholds)
    traced = move_polygons(_outline(objects, prob, thresholds), window.col_off, window.row_off)
    zones = _find_zones(objects, prob.valid, window, source.grid, selection, thresholds)
    regular = shape_outlines(
        traced, objects.groups, zones, selection.steps_m[objects.groups], thresholds
    )
    pixels = ObjectPixels.of_runs(objects.runs, prob.body.shape, len(objects))
    mean, tenth = _summarise(pixels, prob.body, thresholds.temperature)
    return OutlineBatch(
        regular.polygons,
        {
            "component": objects.groups,
            "mean_prob": mean,
            "conf_p10": tenth,
            **_describe_outlines(objects, pixels, prob),
            "edge": _touch_edge(pixels, prob, window, source.grid),
            "reg_status": regular.status,
        },
    )


def _find_zones(
    objects: Objects,
    valid: np.ndarray,
    window: Window,
    grid: Grid,
    selection: ComponentSelection,
    thresholds: Thresholds,
) -> dict[int, BaseGeometry]:
    """Return the zone of each component that has objects, by its index in the selection."""
    own = np.unique(objects.groups)
    if keep_pixels(thresholds):  # outlines do not move
        return dict.fromkeys(own.tolist(), MultiPolygon())
    zones = find_zones(
        objects.mask, valid, window, grid, selection.components.pick(own), selection.margins[own]
    )
    return dict(zip(own.tolist(), zones, strict=True))


def _outline(objects: Objects, prob: ProbWindow, thresholds: Thresholds) -> np.ndarray:
    """Trace outlines in pixels of a window; objects have the same vertices on shared walls."""
    if keep_pixels(thresholds):
        return _outline_pixels(objects)
    rings = step_rings(trace_rings(objects.runs, objects.runs.values - 1))
    if thresholds.subpixel:
        known = prob.valid.all()
        body = prob.body if known else np.where(prob.valid, prob.body, np.float32(np.nan))
        rings = cross_rings(rings, rasterize_runs(objects.runs, body.shape), body, thresholds.body)
    return rings.polygons()


def _outline_pixels(objects: Objects) -> np.ndarray:
    """Trace outlines along pixel edges; those of objects that are alone have corners only."""
    outlines, alone = np.empty(len(objects), dtype=object), are_alone(objects.groups)
    for chosen in (alone, ~alone):
        runs = objects.runs.pick(chosen[objects.runs.values - 1])
        rings = trace_rings(runs, (np.cumsum(chosen) - 1)[runs.values - 1])
        outlines[chosen] = (rings if chosen is alone else step_rings(rings)).polygons()
    return outlines


def _calibrate(prob: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities after dividing their logits by a temperature (arXiv 1706.04599)."""
    if temperature == 1:
        return prob
    power = 1 / temperature
    for_, against = prob.astype(np.float64) ** power, (1 - prob.astype(np.float64)) ** power
    scaled: np.ndarray = for_ / (for_ + against)
    return scaled


def _summarise(
    pixels: ObjectPixels, body: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the tenth percentile of the calibrated probabilities in each object."""
    inside = _calibrate(body.ravel()[pixels.places], temperature)
    if len(inside) and inside.min() == inside.max():  # as in a mask
        level = np.rint(inside[:1] * _LEVELS).astype(np.int64) / _LEVELS
        return np.full(pixels.count, float(inside[0])), np.full(pixels.count, level[0])
    counts = pixels.total()
    levels = np.rint(inside * _LEVELS).astype(np.int64)
    tenth = _find_ranked(pixels, levels, np.ceil(0.1 * counts).astype(np.int64)) / _LEVELS
    return pixels.total(inside) / counts, tenth


def _find_ranked(pixels: ObjectPixels, levels: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the level of each object that has a rank among its levels, from 1 for the lowest."""
    size = _LEVELS + 1
    keys = pixels.numbers * size + levels
    if pixels.count * size <= min(_MOST_BINS, _MOST_BINS_EACH * len(keys)):
        table = np.bincount(keys, minlength=pixels.count * size).reshape(-1, size)
        return np.asarray((table.cumsum(axis=1) < ranks[:, None]).sum(axis=1))
    keys.sort()
    counts = pixels.total()
    ranked: np.ndarray = keys[np.cumsum(counts) - counts + ranks - 1] % size
    return ranked


def _describe_outlines(
    objects: Objects, pixels: ObjectPixels, prob: ProbWindow
) -> dict[str, np.ndarray]:
    """Return the mean probabilities at the outline of each object, and which share a wall."""
    bands = {"border": prob.border, "contact": prob.contact}
    means = {name: np.zeros(pixels.count) for name in bands}
    if any(band is not None for band in bands.values()):
        labels = np.zeros([side + 2 for side in pixels.shape], dtype=np.int32)
        labels.ravel()[pixels.in_padded()] = pixels.numbers + 1
        outline = pixels.pick(np.any(pixels.beside(labels) != pixels.numbers + 1, axis=0))
        for name, band in bands.items():
            if band is not None:
                means[name] = outline.total(band.ravel()[outline.places]) / outline.total()
    return means | {"touching": _share_walls(objects)}


def _share_walls(objects: Objects) -> np.ndarray:
    """Return which objects touch another one, bool (n,)."""
    runs, touching = objects.runs, np.zeros(len(objects), dtype=bool)
    upper, lower = touching_pairs(runs, diagonal=False)
    left = np.flatnonzero((runs.stops[:-1] == runs.starts[1:]) & (runs.rows[:-1] == runs.rows[1:]))
    ones, others = np.append(upper, left), np.append(lower, left + 1)
    ones, others = runs.values[ones] - 1, runs.values[others] - 1
    differ = ones != others
    touching[ones[differ]] = touching[others[differ]] = True
    return touching


def _touch_edge(pixels: ObjectPixels, prob: ProbWindow, window: Window, grid: Grid) -> np.ndarray:
    """Return which objects touch nodata or the border of the grid and may be incomplete."""
    unknown = np.ones((window.height + 2, window.width + 2), dtype=bool)
    unknown[1:-1, 1:-1] = ~prob.valid
    if window.row_off > 0:
        unknown[0] = False
    if window.col_off > 0:
        unknown[:, 0] = False
    if window.row_off + window.height < grid.height:
        unknown[-1] = False
    if window.col_off + window.width < grid.width:
        unknown[:, -1] = False
    if not unknown.any():
        return np.zeros(pixels.count, dtype=bool)
    edge: np.ndarray = pixels.total(np.any(pixels.beside(unknown), axis=0)) > 0
    return edge
