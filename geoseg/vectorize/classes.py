"""Probabilities of exclusive classes → polygons of each class, without gaps between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import geopandas as gpd
import numpy as np
import shapely
from rasterio.windows import Window

from geoseg.options import Thresholds
from geoseg.vector import FOOTPRINT_COLUMNS
from geoseg.vector.measure import pixel_areas_m2
from geoseg.vectorize.components import Component, Components, find_components
from geoseg.vectorize.outlines import move_polygons, simplify, step_rings
from geoseg.vectorize.place import Traced, place_footprints
from geoseg.vectorize.prob import ClassProb, likeliest
from geoseg.vectorize.rings import trace_rings
from geoseg.vectorize.runs import Runs, find_runs, label_runs, pixels

_TOGETHER = 1024  # components

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
        own = components.pick(components.values == value)
        outlines = _join(_iter_outlines(source, own, thresholds))
        for frame in place_footprints(
            outlines, source.grid, thresholds.min_area_m2, thresholds.min_confidence
        ):
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


def _join(outlines: Iterator[Traced]) -> Iterator[Traced]:
    """Outlines of several components at a time, which are measured in less time."""
    while some := list(islice(outlines, _TOGETHER)):
        confidence = np.concatenate([traced.attributes["confidence"] for traced in some])
        polygons = np.concatenate([traced.polygons for traced in some])
        yield Traced(polygons, {"confidence": confidence})


def _iter_outlines(
    source: ClassProb, components: Components, thresholds: Thresholds
) -> Iterator[Traced]:
    """Yields outlines in pixels of the grid, with the mean probability of the class."""
    centres = components.centres
    pixel_m2 = pixel_areas_m2(source.grid, centres[:, 0], centres[:, 1])
    large = components.areas * pixel_m2 >= thresholds.min_area_m2
    tolerances = thresholds.simplify_m / np.sqrt(pixel_m2[large])
    for component, tolerance in zip(components.pick(large), tolerances.tolist(), strict=True):
        yield _trace(source, component, tolerance)


def _trace(source: ClassProb, component: Component, tolerance: float) -> Traced:
    """Outlines of one component, traced together with all that lies around it.

    Lines run between the corners where three polygons meet, and which corners these are the
    pixels beside a line tell. So its neighbour, traced by itself, has the very same line.
    """
    window = source.grid.widen(component.window, 1)
    top, left = window.row_off, window.col_off
    prob, valid = source.read(window)
    runs = find_runs(np.where(valid, likeliest(prob) + np.uint8(1), np.uint8(0)))
    pieces, count = label_runs(runs, diagonal=False)
    values = np.zeros(count, dtype=np.int64)
    values[pieces] = runs.values
    # Numbered class by class: a line is taken from the first of its two polygons, and must run
    # the same way in the neighbour's window, for in a tie the way decides which corner goes.
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(count)
    outlines = shapely.normalize(step_rings(trace_rings(runs, rank[pieces])).polygons())
    group = np.zeros(count, dtype=np.int64)
    simple = simplify(outlines, group, np.full(count, tolerance))
    own = _of_component(runs, component, top, left)
    numbers = np.unique(rank[pieces[own]])
    confidence = _mean_inside(prob[component.value - 1], runs.pick(own), rank[pieces[own]], count)
    polygons = move_polygons(simple[numbers], left, top)
    return Traced(polygons, {"confidence": confidence[numbers]})


def _of_component(runs: Runs, component: Component, top: int, left: int) -> np.ndarray:
    """Which runs of a window are the component's."""
    owners, _ = label_runs(runs, diagonal=True)
    row, column = component.first[0] - top, component.first[1] - left
    first = np.flatnonzero((runs.rows == row) & (runs.starts == column))
    chosen: np.ndarray = owners == owners[first[0]]
    return chosen


def _mean_inside(prob: np.ndarray, runs: Runs, numbers: np.ndarray, count: int) -> np.ndarray:
    """Mean probability of the pixels of each number; NaN where there are none."""
    places, owners = pixels(runs, prob.shape[1])
    total = np.bincount(numbers[owners], prob.ravel()[places], count)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = total / np.bincount(numbers[owners], minlength=count)
    return mean
