"""Probabilities of exclusive classes → polygons of each class, without gaps between them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import shapely
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.geo.raster import likeliest_class
from geoseg.geo.vector import FOOTPRINT_COLUMNS
from geoseg.options import Thresholds
from geoseg.vectorization.components.runs import Runs, concatenate_runs, find_runs, label_runs
from geoseg.vectorization.components.selection import ComponentSelection
from geoseg.vectorization.footprint_frames import OutlineBatch
from geoseg.vectorization.outlines.rings import trace_rings
from geoseg.vectorization.outlines.tracing import move_polygons, simplify, step_rings
from geoseg.vectorization.prob_sources import ClassProb

CLASS_COLUMNS: Mapping[str, str] = {"id": "int64", "class": "str", **FOOTPRINT_COLUMNS}

# Pixels whose probabilities are read at a time.
_STRIP_PX = 1 << 20


def read_class_values(source: ClassProb, window: Window) -> np.ndarray:
    """The place of each pixel's class in `source.classes.names`, from 1; 0 on nodata.

    Returns:
        uint8 (H, W).
    """
    return _values(*source.read(window))


def read_foreground_values(source: ClassProb, window: Window) -> np.ndarray:
    """The same, but 0 on the background too, of which nothing is traced."""
    values = read_class_values(source, window)
    names, background = source.classes.names, source.classes.background
    if background in names:
        values[values == names.index(background) + 1] = 0
    return values


def _values(prob: np.ndarray, valid: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.where(valid, likeliest_class(prob) + np.uint8(1), np.uint8(0))
    return values


def trace_classes(
    source: ClassProb,
    window: Window,
    wanted: ComponentSelection,
    chosen: np.ndarray,
    thresholds: Thresholds,
) -> OutlineBatch:
    """Outlines of some patches, each of its likeliest class, traced with all that lies around.

    Lines run between the corners where three patches meet, and which corners these are the pixels
    beside a line tell. So a neighbour that is traced elsewhere has the very same line.

    Args:
        source: Probabilities.
        window: Holds the patches and a pixel around them, as far as the grid reaches.
        wanted: Components of `read_foreground_values` that begin in the window.
        chosen: bool (n,), which of them are traced.
        thresholds: `simplify_m` is used.

    Returns:
        Outlines in pixels of the grid, by component; attributes are `component`, its place among
        the wanted, class and confidence, the mean probability of the class.
    """
    runs, sums = _read_runs(source, window)
    pieces, count = label_runs(runs, diagonal=False)
    values = np.zeros(count, dtype=np.int64)
    values[pieces] = runs.values
    # Numbered class by class: a line is taken from the first of its two patches, and must run
    # the same way in the neighbour's window, for in a tie the way decides which corner goes.
    order = np.argsort(values, kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    pieces, values = rank[pieces], values[order]
    component = np.full(count, -1)
    component[pieces] = _match_components(runs, window, wanted)
    own = np.flatnonzero((component >= 0) & np.append(chosen, False)[component])
    own = own[np.argsort(component[own], kind="stable")]
    outlines = shapely.normalize(step_rings(trace_rings(runs, pieces)).polygons())
    tolerances = np.full(count, tolerance_px(source.grid, thresholds))
    simple = simplify(outlines, np.zeros(count, dtype=np.int64), tolerances)[own]
    names = np.array(source.classes.names, dtype=object)
    confidence = np.bincount(pieces, sums, count) / np.bincount(pieces, runs.lengths, count)
    attributes = {
        "component": component[own],
        "class": names[values[own] - 1],
        "confidence": confidence[own],
    }
    return OutlineBatch(move_polygons(simple, window.col_off, window.row_off), attributes)


def tolerance_px(grid: Grid, thresholds: Thresholds) -> float:
    """The tolerance of lines, one for all of the raster: neighbours must agree in it."""
    return thresholds.simplify_m / grid.gsd_m


def margin_px(grid: Grid, thresholds: Thresholds) -> int:
    """Pixels around a patch that its simplified lines may depend on.

    A corner goes only if its triangle holds no other line. Its area is the tolerance squared at
    the most, and its base a pixel at least.
    """
    return 2 + math.ceil(2 * tolerance_px(grid, thresholds) ** 2)


def class_margins(steps_m: np.ndarray, grid: Grid, thresholds: Thresholds) -> np.ndarray:
    """The same for each of some components (n,)."""
    return np.full(len(steps_m), margin_px(grid, thresholds))


def _read_runs(source: ClassProb, window: Window) -> tuple[Runs, np.ndarray]:
    """Runs of the classes of a window, and the sum of each one's probabilities."""
    rows = max(1, _STRIP_PX // window.width)
    found, sums = [], []
    for top in range(0, window.height, rows):
        height = min(rows, window.height - top)
        strip = Window(window.col_off, window.row_off + top, window.width, height)
        prob, valid = source.read(strip)
        runs = find_runs(_values(prob, valid))
        sums.append(_sum_inside(prob.max(axis=0), runs))
        found.append(runs.move(top, 0))
    return concatenate_runs(*found), np.concatenate(sums)


def _sum_inside(prob: np.ndarray, runs: Runs) -> np.ndarray:
    """The sum of the pixels (H, W) of each run."""
    begins = runs.rows * prob.shape[1] + runs.starts
    ends = np.column_stack([begins, begins + runs.lengths]).ravel()
    sums: np.ndarray = np.add.reduceat(np.append(prob.ravel(), 0).astype(np.float64), ends)[::2]
    return sums


def _match_components(runs: Runs, window: Window, wanted: ComponentSelection) -> np.ndarray:
    """The place among the wanted of each run's component, or -1."""
    owners, _ = label_runs(runs, diagonal=True)
    return wanted.components.match_runs(runs.with_values(owners + 1), window)
