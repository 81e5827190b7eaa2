"""Probabilities of buildings → their outlines, touching ones apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.geo.vector import FOOTPRINT_COLUMNS
from geoseg.options import Thresholds
from geoseg.vectorization.components.runs import rasterize_runs, run_pixels
from geoseg.vectorization.components.selection import ComponentSelection
from geoseg.vectorization.footprint_frames import OutlineBatch
from geoseg.vectorization.objects.buildings import Objects, find_objects
from geoseg.vectorization.outlines.rings import trace_rings
from geoseg.vectorization.outlines.shaping import max_shifts_m, shape_outlines
from geoseg.vectorization.outlines.tracing import cross_rings, move_polygons, step_rings
from geoseg.vectorization.outlines.zones import find_zones
from geoseg.vectorization.prob_sources import ProbSource, ProbWindow

BUILDING_COLUMNS: Mapping[str, str] = {
    **FOOTPRINT_COLUMNS,
    "conf_p10": "float64",
    "edge": "bool",
    "reg_status": "str",
}

_LEVELS = 1020  # that probabilities are rounded to; every byte is one of them


# Outlines begin within half a pixel of their pixels, and zones are of whole ones: twice each.
_BESIDE_PX = 3


def building_margins(steps_m: np.ndarray, _: Grid, thresholds: Thresholds) -> np.ndarray:
    """Pixels (n,) around components in which whoever their outlines may meet is seen.

    Their own outlines may go so far, and those of a neighbour come as far to meet them.
    """
    least_m = np.linalg.svd(steps_m, compute_uv=False).min(axis=1)
    farthest_px = max_shifts_m(steps_m, thresholds) / least_m
    margins: np.ndarray = np.ceil(2 * farthest_px).astype(np.int64) + _BESIDE_PX
    return margins


def trace_buildings(
    source: ProbSource,
    window: Window,
    wanted: ComponentSelection,
    chosen: np.ndarray,
    thresholds: Thresholds,
) -> OutlineBatch:
    """Outlines of the buildings of some components, from the probabilities of a window.

    Args:
        source: Probabilities.
        window: Holds the components and their margins, as far as the grid reaches.
        wanted: Components that begin in the window.
        chosen: bool (n,), which of them are traced.
        thresholds: What makes a building.

    Returns:
        Outlines in pixels of the grid, by component; attributes are `component`, its place among
        the wanted, confidence, conf_p10, edge and reg_status.
    """
    prob = source.read(window)
    objects = find_objects(prob, window, wanted, chosen, thresholds)
    found = move_polygons(_outline(objects, prob, thresholds), window.col_off, window.row_off)
    own = np.unique(objects.groups)
    zones = find_zones(
        objects.mask, prob.valid, window, source.grid, wanted.components.pick(own),
        wanted.margins[own],
    )  # fmt: skip
    regular = shape_outlines(
        found, objects.groups, dict(zip(own.tolist(), zones, strict=True)),
        wanted.steps_m[objects.groups], thresholds,
    )  # fmt: skip
    confidence, tenth = _confidences(objects, _calibrated(prob.body, thresholds.temperature))
    edge = _at_edge(objects, prob, window, source.grid)
    return OutlineBatch(
        regular.polygons,
        {
            "component": objects.groups,
            "confidence": confidence,
            "conf_p10": tenth,
            "edge": edge,
            "reg_status": regular.status,
        },
    )


def _outline(objects: Objects, prob: ProbWindow, thresholds: Thresholds) -> np.ndarray:
    """Outlines in pixels of a window; walls that objects share have the same vertices in both."""
    rings = step_rings(trace_rings(objects.runs, objects.runs.values - 1))
    if thresholds.subpixel:
        known = np.where(prob.valid, prob.body, np.float32(np.nan))
        rings = cross_rings(
            rings, rasterize_runs(objects.runs, known.shape), known, thresholds.body
        )
    return rings.polygons()


def _calibrated(prob: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities of logits that are divided by a temperature (arXiv 1706.04599)."""
    if temperature == 1:
        return prob
    power = 1 / temperature
    for_, against = prob.astype(np.float64) ** power, (1 - prob.astype(np.float64)) ** power
    calibrated: np.ndarray = for_ / (for_ + against)
    return calibrated


def _confidences(objects: Objects, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and tenth percentile of the probabilities inside each object."""
    places, owners = run_pixels(objects.runs, body.shape[1])
    numbers, inside = objects.runs.values[owners] - 1, body.ravel()[places]
    counts = np.bincount(numbers, minlength=len(objects))
    mean = np.bincount(numbers, inside, len(objects)) / counts
    # Sorted by object and level, the tenth percentile of each is at a known place.
    levels = numbers * (_LEVELS + 1) + np.rint(inside * _LEVELS).astype(np.int64)
    levels.sort()
    places = np.cumsum(counts) - counts + np.ceil(0.1 * counts).astype(np.int64) - 1
    return mean, levels[places] % (_LEVELS + 1) / _LEVELS


def _at_edge(objects: Objects, prob: ProbWindow, window: Window, grid: Grid) -> np.ndarray:
    """Which objects touch the grid's border or nodata, so that more of them may be unseen."""
    unseen = np.ones((window.height + 2, window.width + 2), dtype=bool)
    unseen[1:-1, 1:-1] = ~prob.valid
    if window.row_off > 0:
        unseen[0] = False
    if window.col_off > 0:
        unseen[:, 0] = False
    if window.row_off + window.height < grid.height:
        unseen[-1] = False
    if window.col_off + window.width < grid.width:
        unseen[:, -1] = False
    beside = unseen[:-2, 1:-1] | unseen[2:, 1:-1] | unseen[1:-1, :-2] | unseen[1:-1, 2:]
    places, owners = run_pixels(objects.runs, window.width)
    touching = np.bincount(objects.runs.values[owners] - 1, beside.ravel()[places], len(objects))
    edge: np.ndarray = touching > 0
    return edge
