"""Tasks of vectorization that any process can run: find components, trace a window."""

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

# Modules that tasks import only if they need them, for processes that start together.
LATE_MODULES = ("geoseg.vectorization.objects.separation",)

# Columns whose probabilities are read at a time.
_COLUMNS = 4096


@dataclass(frozen=True)
class FindTask:
    """Task that finds the components of a block.

    Attributes:
        prob: Description of the probability raster.
        thresholds: Thresholds.
        window: Some rows, all columns.
    """

    prob: ProbInfo
    thresholds: Thresholds
    window: Window


@dataclass(frozen=True)
class TraceTask:
    """Task that traces the components of a window.

    Attributes:
        prob: Description of the probability raster.
        thresholds: Thresholds.
        window: Contains the components and their margins.
        selection: Components that begin in the window.
        indices: int64 (n,), their indices among all selected components.
        chosen: bool (n,), which of them are traced.
        output: GeoParquet file of the footprints; appears only when complete.
    """

    prob: ProbInfo
    thresholds: Thresholds
    window: Window
    selection: ComponentSelection
    indices: np.ndarray
    chosen: np.ndarray
    output: Path


@limited_block_cache()
def run_find_task(task: FindTask) -> BlockComponents:
    """Find the components of a block."""
    with open_prob(task.prob) as source:
        return find_components(source, task.window, task.thresholds)


def find_components(
    source: ProbSource | ClassProb, window: Window, thresholds: Thresholds
) -> BlockComponents:
    """Find the components of a window that has all columns of the raster."""
    values = np.zeros((window.height, window.width), dtype=np.uint8)
    # Float probabilities need several times the memory of the values: never all columns at once.
    for left in range(0, window.width, _COLUMNS):
        width = min(_COLUMNS, window.width - left)
        part = Window(window.col_off + left, window.row_off, width, window.height)
        values[:, left : left + width] = _read_values(source, part, thresholds)
    return label_block(values, window.row_off)


def _read_values(
    source: ProbSource | ClassProb, window: Window, thresholds: Thresholds
) -> np.ndarray:
    if isinstance(source, ClassProb):
        return read_foreground_values(source, window)
    return building_mask(source.read(window), thresholds)


@limited_block_cache()
def run_trace_task(task: TraceTask) -> None:
    """Trace components and write their footprints, with the column `component`."""
    with open_prob(task.prob) as source:
        frame = trace_components(source, task.window, task.selection, task.chosen, task.thresholds)
    frame["component"] = task.indices[frame["component"].to_numpy()]
    write_parts(task.output, [frame])


def trace_components(
    source: ProbSource | ClassProb,
    window: Window,
    selection: ComponentSelection,
    chosen: np.ndarray,
    thresholds: Thresholds,
) -> gpd.GeoDataFrame:
    """Trace components and build their frame, see `trace_buildings` and `trace_classes`."""
    if isinstance(source, ClassProb):
        outlines = trace_classes(source, window, selection, chosen, thresholds)
    else:
        outlines = trace_buildings(source, window, selection, chosen, thresholds)
    return build_frame(outlines, source.grid, thresholds.confidence)
