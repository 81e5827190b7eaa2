"""Probabilities of buildings → their outlines, touching ones apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from rasterio.windows import Window

from geoseg.grid import Grid
from geoseg.options import Thresholds
from geoseg.vector import FOOTPRINT_COLUMNS
from geoseg.vector.measure import pixel_sizes_m
from geoseg.vectorize.components import Components, find_components
from geoseg.vectorize.objects import Objects, Wanted, find_objects, likely
from geoseg.vectorize.outlines import cross_rings, move_polygons, step_rings
from geoseg.vectorize.place import Traced
from geoseg.vectorize.prob import Prob, ProbSource
from geoseg.vectorize.rings import trace_rings
from geoseg.vectorize.runs import paint, pixels
from geoseg.vectorize.shaping import reaches_m, shape_outlines
from geoseg.vectorize.windows import deal_windows
from geoseg.vectorize.zones import find_zones

BUILDING_COLUMNS: Mapping[str, str] = {
    **FOOTPRINT_COLUMNS,
    "conf_p10": "float64",
    "edge": "bool",
    "reg_status": "str",
}

_LEVELS = 1020  # of a histogram of probabilities; every byte is one of them


def iter_buildings(source: ProbSource, thresholds: Thresholds, block_rows: int) -> Iterator[Traced]:
    """Finds buildings, component by component.

    Args:
        source: Probabilities.
        thresholds: What makes a building.
        block_rows: Rows in memory at a time; the result does not depend on it.

    Yields:
        Outlines in pixels of the grid, with confidence, conf_p10, edge and reg_status.
    """
    components = find_components(
        lambda window: likely(source.read(window), thresholds), source.grid.shape, block_rows
    )
    wanted = choose_components(components, source.grid, thresholds)
    margin = int(wanted.margins.max(initial=1))
    for window, chosen in deal_windows(wanted.components, source.grid, block_rows, margin):
        yield trace_buildings(source, window, wanted, chosen, thresholds)


def choose_components(components: Components, grid: Grid, thresholds: Thresholds) -> Wanted:
    """The components that are large enough."""
    sizes_m = pixel_sizes_m(grid, *components.centres.T)
    large = components.areas * sizes_m.prod(axis=1) >= thresholds.min_area_m2
    components, sizes_m = components.pick(large), sizes_m[large]
    pixel_m2 = sizes_m.prod(axis=1)
    hole_m2 = thresholds.min_hole_m2
    hole_m2 = thresholds.min_area_m2 if hole_m2 is None else hole_m2
    margins = np.ceil(reaches_m(sizes_m) / sizes_m.min(axis=1)).astype(np.int64) + 1
    return Wanted(
        components, sizes_m, margins, thresholds.min_area_m2 / pixel_m2, hole_m2 / pixel_m2
    )


def trace_buildings(
    source: ProbSource, window: Window, wanted: Wanted, chosen: np.ndarray, thresholds: Thresholds
) -> Traced:
    """Outlines of the buildings of some components, from the probabilities of a window.

    Args:
        source: Probabilities.
        window: Holds the components and their margins, as far as the grid reaches.
        wanted: All components.
        chosen: bool (n,), which of them are traced.
        thresholds: What makes a building.
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
        wanted.sizes_m[objects.groups], thresholds,
    )  # fmt: skip
    confidence, tenth = _confidences(objects, prob.body)
    edge = _at_edge(objects, prob, window, source.grid)
    attributes = {"confidence": confidence, "conf_p10": tenth, "edge": edge}
    return Traced(regular.polygons, {**attributes, "reg_status": regular.status})


def _outline(objects: Objects, prob: Prob, thresholds: Thresholds) -> np.ndarray:
    """Outlines in pixels of a window; walls that objects share have the same vertices in both."""
    rings = step_rings(trace_rings(objects.runs, objects.runs.values - 1))
    if thresholds.subpixel:
        known = np.where(prob.valid, prob.body, np.float32(np.nan))
        rings = cross_rings(rings, paint(objects.runs, known.shape), known, thresholds.body)
    return rings.polygons()


def _confidences(objects: Objects, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and tenth percentile of the probabilities inside each object."""
    places, owners = pixels(objects.runs, body.shape[1])
    numbers, inside = objects.runs.values[owners] - 1, body.ravel()[places]
    counts = np.bincount(numbers, minlength=len(objects))
    mean = np.bincount(numbers, inside, len(objects)) / counts
    levels = np.rint(inside * _LEVELS).astype(np.int64)
    histogram = np.bincount(
        numbers * (_LEVELS + 1) + levels, minlength=len(objects) * (_LEVELS + 1)
    )
    reached = histogram.reshape(len(objects), _LEVELS + 1).cumsum(axis=1) >= 0.1 * counts[:, None]
    return mean, reached.argmax(axis=1) / _LEVELS


def _at_edge(objects: Objects, prob: Prob, window: Window, grid: Grid) -> np.ndarray:
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
    places, owners = pixels(objects.runs, window.width)
    touching = np.bincount(objects.runs.values[owners] - 1, beside.ravel()[places], len(objects))
    edge: np.ndarray = touching > 0
    return edge
