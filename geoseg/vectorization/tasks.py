"""Pieces of the work that any process can do: what a block holds, outlines of a window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
from rasterio.windows import Window

from geoseg.geo.raster import ProbInfo, limited_block_cache
from geoseg.geo.vector import write_parts
from geoseg.options import Thresholds
from geoseg.vectorization.class_polygons import read_foreground_values, trace_classes
from geoseg.vectorization.components.labelling import BlockComponents, label_block
from geoseg.vectorization.components.selection import ComponentSelection
from geoseg.vectorization.footprint_frames import build_frame
from geoseg.vectorization.footprints import trace_buildings
from geoseg.vectorization.objects.buildings import building_mask
from geoseg.vectorization.prob_sources import ClassProb, ProbSource, open_prob

# Columns whose probabilities are read at a time.
_COLUMNS = 4096


@dataclass(frozen=True)
class FindTask:
    """Finds the components of a block.

    Attributes:
        prob: Probability raster.
        thresholds: What makes a building.
        window: Some rows, all columns.
    """

    prob: ProbInfo
    thresholds: Thresholds
    window: Window


@dataclass(frozen=True)
class TraceTask:
    """Traces some components.

    Attributes:
        prob: Probability raster.
        thresholds: What makes a building.
        window: Holds the components and the pixels around them.
        wanted: Components that begin in the window.
        numbers: int64 (n,), their places among all.
        chosen: bool (n,), which are traced.
        output: GeoParquet of their footprints, which appears only when complete.
    """

    prob: ProbInfo
    thresholds: Thresholds
    window: Window
    wanted: ComponentSelection
    numbers: np.ndarray
    chosen: np.ndarray
    output: Path


@limited_block_cache()
def run_find_task(task: FindTask) -> BlockComponents:
    """Components of a block."""
    with open_prob(task.prob) as source:
        return find_components(source, task.window, task.thresholds)


def find_components(
    source: ProbSource | ClassProb, window: Window, thresholds: Thresholds
) -> BlockComponents:
    """Components of a window as wide as the raster."""
    values = np.zeros((window.height, window.width), dtype=np.uint8)
    for left in range(0, window.width, _COLUMNS):
        width = min(_COLUMNS, window.width - left)
        strip = Window(window.col_off + left, window.row_off, width, window.height)
        values[:, left : left + width] = _read_values(source, strip, thresholds)
    return label_block(values, window.row_off)


def _read_values(
    source: ProbSource | ClassProb, window: Window, thresholds: Thresholds
) -> np.ndarray:
    if isinstance(source, ClassProb):
        return read_foreground_values(source, window)
    return building_mask(source.read(window), thresholds)


@limited_block_cache()
def run_trace_task(task: TraceTask) -> None:
    """Traces components and writes their footprints, with the column `component`."""
    with open_prob(task.prob) as source:
        frame = trace_components(source, task.window, task.wanted, task.chosen, task.thresholds)
    frame["component"] = task.numbers[frame["component"]]
    write_parts(task.output, [frame])


def trace_components(
    source: ProbSource | ClassProb,
    window: Window,
    wanted: ComponentSelection,
    chosen: np.ndarray,
    thresholds: Thresholds,
) -> gpd.GeoDataFrame:
    """Footprints of some components, see `trace_buildings` and `trace_classes`."""
    if isinstance(source, ClassProb):
        traced = trace_classes(source, window, wanted, chosen, thresholds)
    else:
        traced = trace_buildings(source, window, wanted, chosen, thresholds)
    return build_frame(traced, source.grid)
