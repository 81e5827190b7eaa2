"""Writes a layer of footprints, or of the polygons of each class, from a probability raster."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, Any, TypeVar

import geopandas as gpd
import numpy as np
import pandas as pd
from pydantic import Field
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.geo.paths import absolute_path
from geoseg.geo.raster import ProbInfo
from geoseg.geo.styles import (
    LIMITS_OF_MEANS,
    LIMITS_OF_RULES,
    choose_class_colours,
)
from geoseg.geo.vector import ParquetParts, write_footprints
from geoseg.jobs.memory import resident_bytes
from geoseg.jobs.output import Work
from geoseg.jobs.pool import Pool
from geoseg.jobs.progress import Progress
from geoseg.options import Thresholds
from geoseg.vectorization.block_layout import BlockLayout, check_window, choose_layout
from geoseg.vectorization.class_polygons import CLASS_COLUMNS, class_margins
from geoseg.vectorization.components.labelling import BlockComponents, Components, merge_blocks
from geoseg.vectorization.components.selection import (
    ComponentSelection,
    MarginFunction,
    select_components,
)
from geoseg.vectorization.components.trace_windows import TraceWindow, plan_windows
from geoseg.vectorization.confidence import without_unusable_rule
from geoseg.vectorization.footprint_frames import concatenate_frames, number_footprints
from geoseg.vectorization.footprints import BUILDING_COLUMNS, building_margins
from geoseg.vectorization.prob_sources import ArrayProb, prob_bands
from geoseg.vectorization.tasks import (
    FindTask,
    TraceTask,
    find_components,
    run_find_task,
    run_trace_task,
    trace_components,
)

Task = TypeVar("Task")
Result = TypeVar("Result")

# Rows, side and memory limit, as the journal of an interrupted job may have them.
_SIDE = Annotated[int, Field(ge=1, le=2**31)]
_LAYOUT = tuple[_SIDE, _SIDE, Annotated[float, Field(ge=0)]]

# Folder of the traced windows in the working folder.
_WINDOWS = "windows"


def write_layer(
    prob: ProbInfo,
    output: Path,
    work: Work,
    thresholds: Thresholds,
    *,
    pool: Pool,
    max_memory_gb: float,
    block_px: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Turn a probability raster into a layer of footprints, or of the polygons of each class.

    Footprints have the columns `BUILDING_COLUMNS`: id (1..n by the first pixel of their connected
    component), area_m2, perimeter_m, confidence (probability that it is a building, 0..1),
    mean_prob (mean building probability inside), conf_p10 (its tenth percentile), edge (touches
    nodata or the border of the raster) and reg_status (how the outline was drawn). Polygons of
    classes have `CLASS_COLUMNS`.

    Args:
        prob: Description of the probability raster.
        output: The layer, in a format of `write_footprints`; an existing one is replaced.
        work: Working folder and journal, which keep finished windows when the job is interrupted.
        thresholds: Thresholds of the footprints.
        pool: Workers that search and trace; the layer does not depend on them.
        max_memory_gb: Memory of each process, in gigabytes.
        block_px: Rows and columns that are processed at a time; chosen by the memory when None. The
            layer does not depend on it.
        progress: Called with the finished and the total number of blocks searched and of windows
            traced.

    Returns:
        Number of polygons written, also recorded in the journal as `count`.

    Raises:
        MemoryLimitError: If the memory does not suffice for a connected region.
    """
    folder = work.folder / _WINDOWS
    folder.mkdir(exist_ok=True)
    prob = replace(prob, path=absolute_path(prob.path))  # workers may run in another folder
    thresholds = without_unusable_rule(thresholds, () if prob.classes else prob_bands(prob))
    tracer = _Tracer(prob, thresholds, folder, work, pool, progress)
    with closing(tracer.trace(max_memory_gb, block_px)) as frames:
        count = write_footprints(
            output, frames, crs=prob.grid.crs, grid=prob.grid,
            **describe_layer(prob, thresholds),
        )  # fmt: skip
    work.journal.add("count", count)
    return count


def describe_layer(prob: ProbInfo, thresholds: Thresholds) -> dict[str, Any]:
    """Return columns and style of the layer of a probability raster, for `write_footprints`.

    Args:
        prob: Description of the raster.
        thresholds: Thresholds, with a rule of confidence only if the raster has its bands.
    """
    return {
        "columns": _kind_of(prob).columns,
        "class_colours": _choose_colours(prob),
        "limits": LIMITS_OF_MEANS if thresholds.confidence is None else LIMITS_OF_RULES,
    }


def _choose_colours(prob: ProbInfo) -> dict[str, str] | None:
    if prob.classes is None:
        return None
    classes = prob.classes
    return choose_class_colours(classes.names, classes.colours, classes.background)


@dataclass(frozen=True)
class _Kind:
    """Properties of layers of buildings, or of those of classes.

    Attributes:
        columns: Columns of the layer with their data types.
        margins: Function that returns the margins of components.
        holds_pixels: Whether a traced window is in memory as pixels, not only as runs.
    """

    columns: Mapping[str, str]
    margins: MarginFunction
    holds_pixels: bool


_BUILDINGS = _Kind(BUILDING_COLUMNS, building_margins, holds_pixels=True)
_CLASSES = _Kind(CLASS_COLUMNS, class_margins, holds_pixels=False)


def _kind_of(prob: ProbInfo) -> _Kind:
    return _CLASSES if prob.classes else _BUILDINGS


class _Tracer:
    """Finds and traces the components of a raster; each traced window is kept as a file."""

    def __init__(
        self,
        prob: ProbInfo,
        thresholds: Thresholds,
        folder: Path,
        work: Work,
        pool: Pool,
        progress: Progress | None,
    ) -> None:
        self._prob, self._folder, self._thresholds = prob, folder, thresholds
        self._journal, self._pool, self._progress = work.journal, pool, progress
        self._kind = _kind_of(prob)

    def trace(
        self, max_memory_gb: float, block_px: int | None
    ) -> Generator[gpd.GeoDataFrame, None, None]:
        """Yield the layer in batches, in order, while further components are traced."""
        layout = self._choose_layout(max_memory_gb, block_px)
        components = self._find(layout.rows)
        grid, margins = self._prob.grid, self._kind.margins
        selection = select_components(components, grid, self._thresholds, margins)
        windows = list(plan_windows(selection.components, grid, layout.side, selection.margins))
        if self._kind.holds_pixels:
            for window in windows:
                check_window(window.window, max_memory_gb, resident_bytes() / 1e9)
        traced = self._trace_windows(selection, windows)
        minimum = self._thresholds.min_area_m2, self._thresholds.min_confidence
        for frame in number_footprints(_read_strips(traced), *minimum):
            yield frame[[*self._kind.columns, "geometry"]]

    def _choose_layout(self, max_memory_gb: float, block_px: int | None) -> BlockLayout:
        """Return the layout of an earlier run, whose files exist, unless it had more memory."""
        earlier: tuple[int, int, float] | None = self._journal.find("layout", _LAYOUT)
        if earlier and max_memory_gb >= earlier[-1]:
            return BlockLayout(*earlier[:-1])
        layout = choose_layout(self._prob.grid, max_memory_gb)
        if block_px:
            layout = BlockLayout(block_px, block_px)
        if earlier and layout != BlockLayout(*earlier[:-1]):
            shutil.rmtree(self._folder)  # its files belong to other windows
            self._folder.mkdir()
        self._journal.add("layout", [layout.rows, layout.side, max_memory_gb])
        return layout

    def _find(self, rows: int) -> Components:
        """Return the components of the raster, from the journal if an earlier run found them."""
        width = self._prob.grid.width
        table = self._journal.find_array("components", "int64", Components.COLUMNS)
        if table is None or not Components.fits(table, self._prob.grid.shape):
            windows = list(self._prob.grid.row_windows(rows))
            tasks = [FindTask(self._prob, self._thresholds, window) for window in windows]
            parts: list[BlockComponents] = list(
                self._run(run_find_task, tasks, 0, len(tasks), "blocks searched")
            )
            table = merge_blocks(parts, width).table
            self._journal.add_array("components", table)
        return Components(table, width)

    def _trace_windows(
        self, selection: ComponentSelection, windows: list[TraceWindow]
    ) -> Iterator[tuple[TraceWindow, Path]]:
        """Trace the windows that have no file yet; yield each window with its file, in order."""
        files = [self._folder / f"{number:06d}.parquet" for number in range(len(windows))]
        traced = list(zip(windows, files, strict=True))
        missing = {file for file in files if not file.exists()}
        tasks = (self._task(selection, *pair) for pair in traced if pair[1] in missing)
        done = len(windows) - len(missing)
        results = self._run(run_trace_task, tasks, done, len(windows), "windows traced")
        if missing:  # tracing begins at once, also where many windows have files
            results = chain([next(results)], results)
        for window, file in traced:
            if file in missing:
                next(results)
            yield window, file

    def _task(self, selection: ComponentSelection, one: TraceWindow, output: Path) -> TraceTask:
        indices = selection.beginning_in(one.window)
        return TraceTask(
            prob=self._prob, thresholds=self._thresholds, window=one.window,
            selection=selection.pick(indices), indices=indices,
            chosen=np.isin(indices, one.indices), output=output,
        )  # fmt: skip

    def _run(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        done: int,
        total: int,
        what: str,
    ) -> Iterator[Result]:
        """Yield the results of tasks and report progress."""
        for number, result in enumerate(self._pool.map(function, tasks), start=done + 1):
            if self._progress:
                self._progress(number, total, what)
            yield result


def _read_strips(traced: Iterable[tuple[TraceWindow, Path]]) -> Iterator[gpd.GeoDataFrame]:
    """Yield the footprints that begin in each strip of rows, in the order of components."""
    for _, strip in groupby(traced, key=lambda pair: pair[0].strip):
        files = [file for _, file in strip]  # all are traced before one is read into memory
        frames = [frame for file in files for frame in ParquetParts(file) if len(frame)]
        if frames:
            frame = pd.concat(frames)
            del frames  # the strip is in memory once while the next one is traced
            yield frame.sort_values("component", kind="stable", ignore_index=True)
            del frame


def vectorize_arrays(
    body: np.ndarray,
    border: np.ndarray | None,
    valid: np.ndarray,
    grid: Grid,
    thresholds: Thresholds,
    contact: np.ndarray | None = None,
    *,
    columns: Mapping[str, str] = BUILDING_COLUMNS,
) -> gpd.GeoDataFrame:
    """Vectorize probabilities in memory; the footprints equal those of `write_layer`.

    Args:
        body: Building probability (H, W), uint8 (255 = probability 1) or float in 0..1.
        border: Border probability (H, W) likewise, or None.
        valid: Boolean (H, W), False on nodata; values that are not finite are nodata, too.
        grid: Grid of the arrays.
        thresholds: Thresholds.
        contact: Contact probability (H, W) likewise, or None.
        columns: Columns to return, with their data types; `MEASURED_COLUMNS` are all.

    Returns:
        All footprints, with these columns.
    """
    source = ArrayProb(body, border, valid, grid, contact)
    bands = {"border": border, "contact": contact}
    thresholds = without_unusable_rule(
        thresholds, [name for name, band in bands.items() if band is not None]
    )
    whole = Window(0, 0, grid.width, grid.height)
    components = merge_blocks([find_components(source, whole, thresholds)], grid.width)
    selection = select_components(components, grid, thresholds, building_margins)
    every = np.ones(len(selection), dtype=bool)
    frame = trace_components(source, whole, selection, every, thresholds)
    frames = number_footprints([frame], thresholds.min_area_m2, thresholds.min_confidence)
    return concatenate_frames(frames, grid, columns)
