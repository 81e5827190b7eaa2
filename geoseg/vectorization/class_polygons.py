"""Polygons of exclusive classes, without gaps between neighbours."""

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
from geoseg.vectorization.outlines.simplification import COLLINEAR_PX
from geoseg.vectorization.outlines.tracing import move_polygons, step_rings
from geoseg.vectorization.prob_sources import ClassProb

CLASS_COLUMNS: Mapping[str, str] = {"id": "int64", "class": "str", **FOOTPRINT_COLUMNS}

# Pixels whose probabilities are read at a time.
_STRIP_PX = 1 << 20


def read_class_values(source: ClassProb, window: Window) -> np.ndarray:
    """Read the most probable class of each pixel.

    Returns:
        uint8 (H, W), 1 + index in `source.classes.names`; 0 on nodata.
    """
    return _values(*source.read(window))


def read_foreground_values(source: ClassProb, window: Window) -> np.ndarray:
    """Read the classes like `read_class_values`, with 0 on the background, which is not traced."""
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
    selection: ComponentSelection,
    chosen: np.ndarray,
    thresholds: Thresholds,
) -> OutlineBatch:
    """Trace the outlines of components, together with all pixels around them.

    Shared lines end at corners where three polygons meet. The pixels next to a line determine these
    corners, so a neighbour that is traced in another window gets exactly the same line.

    Args:
        source: Probabilities.
        window: Contains the components and their margins, clipped to the grid.
        selection: Components of `read_foreground_values` that begin in the window.
        chosen: bool (n,), which of them are traced.
        thresholds: `simplify_m` is used.

    Returns:
        Outlines in pixels of the grid, sorted by component; attributes are `component` (index in
        the selection), `class` and `confidence` (mean probability of the class).
    """
    runs, sums = _read_runs(source, window)
    pieces, count = label_runs(runs, diagonal=False)
    values = np.zeros(count, dtype=np.int64)
    values[pieces] = runs.values
    # Pieces are numbered class by class. A shared line takes its direction from the first of its
    # two pieces, and in a tie the direction decides which corner is removed. So the order must be
    # the same in the window of the neighbour.
    order = np.argsort(values, kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    pieces, values = rank[pieces], values[order]
    component = np.full(count, -1)
    component[pieces] = _match_components(runs, window, selection)
    own = np.flatnonzero((component >= 0) & np.append(chosen, False)[component])
    own = own[np.argsort(component[own], kind="stable")]
    outlines = shapely.normalize(step_rings(trace_rings(runs, pieces)).polygons())
    simple = simplify_coverage(outlines, tolerance_px(source.grid, thresholds))[own]
    names = np.array(source.classes.names, dtype=object)
    confidence = np.bincount(pieces, sums, count) / np.bincount(pieces, runs.lengths, count)
    attributes = {
        "component": component[own],
        "class": names[values[own] - 1],
        "confidence": confidence[own],
    }
    return OutlineBatch(move_polygons(simple, window.col_off, window.row_off), attributes)


def simplify_coverage(polygons: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplify polygons that touch; shared lines stay shared.

    A corner is removed if the area of its triangle is below the squared tolerance, whatever its
    line does farther away. So lines do not depend on how far the window reaches beyond them.

    Args:
        polygons: Polygons (n,) in pixels, which share the vertices of shared lines.
        tolerance: In pixels.

    Returns:
        Valid polygons (n,); the given ones if one would become invalid.
    """
    simple: np.ndarray = shapely.coverage_simplify(polygons, max(tolerance, COLLINEAR_PX))
    is_polygon = shapely.get_type_id(simple) == shapely.GeometryType.POLYGON
    valid = is_polygon & shapely.is_valid(simple) & ~shapely.is_empty(simple)
    return simple if valid.all() else polygons


def tolerance_px(grid: Grid, thresholds: Thresholds) -> float:
    """Return the simplification tolerance, one for the whole raster: neighbours must share it."""
    return thresholds.simplify_m / grid.gsd_m


def margin_px(grid: Grid, thresholds: Thresholds) -> int:
    """Return how many pixels around a component its simplified lines may depend on.

    A corner is removed only if no other line crosses its triangle. The area of the triangle is at
    most the squared tolerance, and its base at least one pixel.
    """
    return 2 + math.ceil(2 * tolerance_px(grid, thresholds) ** 2)


def class_margins(steps_m: np.ndarray, grid: Grid, thresholds: Thresholds) -> np.ndarray:
    """Return `margin_px` for each component, (n,)."""
    return np.full(len(steps_m), margin_px(grid, thresholds))


def _read_runs(source: ClassProb, window: Window) -> tuple[Runs, np.ndarray]:
    """Read the runs of the classes of a window, and the sum of the probabilities in each."""
    rows = max(1, _STRIP_PX // window.width)
    parts, sums = [], []
    for top in range(0, window.height, rows):
        height = min(rows, window.height - top)
        strip = Window(window.col_off, window.row_off + top, window.width, height)
        prob, valid = source.read(strip)
        runs = find_runs(_values(prob, valid))
        sums.append(_sum_inside(prob.max(axis=0), runs))
        parts.append(runs.move(top, 0))
    return concatenate_runs(*parts), np.concatenate(sums)


def _sum_inside(prob: np.ndarray, runs: Runs) -> np.ndarray:
    """Return the sum of the pixels (H, W) of each run."""
    begins = runs.rows * prob.shape[1] + runs.starts
    ends = np.column_stack([begins, begins + runs.lengths]).ravel()
    sums: np.ndarray = np.add.reduceat(np.append(prob.ravel(), 0).astype(np.float64), ends)[::2]
    return sums


def _match_components(runs: Runs, window: Window, selection: ComponentSelection) -> np.ndarray:
    """Return the index in the selection of the component of each run, or -1."""
    owners, _ = label_runs(runs, diagonal=True)
    return selection.components.match_runs(runs.with_values(owners + 1), window)
