"""Vectorization of a probability raster into a layer of footprints or class polygons."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.geo.paths import absolute_path
from geoseg.geo.raster import ProbInfo, list_files, read_prob
from geoseg.geo.vector import ParquetParts, check_suffix, write_footprints
from geoseg.jobs.journal import Journal, describe_job
from geoseg.jobs.output import claim_output
from geoseg.jobs.progress import Progress, Run
from geoseg.options import CRFOptions, Thresholds, check_thresholds
from geoseg.prediction.crf.refinement import refine_raster
from geoseg.vectorization.block_layout import BlockLayout, check_window, choose_layout
from geoseg.vectorization.class_polygons import CLASS_COLUMNS, class_margins
from geoseg.vectorization.components.labelling import BlockComponents, Components, merge_blocks
from geoseg.vectorization.components.selection import (
    ComponentSelection,
    MarginFunction,
    select_components,
)
from geoseg.vectorization.components.trace_windows import TraceWindow, plan_windows
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


def vectorize(
    prob: str | Path,
    output: str | Path,
    *,
    thresholds: Thresholds | None = None,
    scene: str | Path | None = None,
    crf: CRFOptions | None = None,
    max_memory_gb: float = 4.0,
    block_px: int | None = None,
    overwrite: bool = False,
    run: Run = map,
    progress: Progress | None = None,
) -> int:
    """Vectorize a probability raster into a file of footprints or class polygons.

    Footprints have the columns `BUILDING_COLUMNS`: id (1..n, in the order of the first pixel of
    their component), area_m2, perimeter_m, confidence (mean building probability inside, 0..1),
    conf_p10 (its tenth percentile), edge (touches nodata or the border of the raster) and
    reg_status (how the outline was drawn). Class polygons have the columns `CLASS_COLUMNS`. An
    interrupted run resumes when it is started again.

    Args:
        prob: Probability raster, see `SceneProb` and `ClassProb`.
        output: Vector file in a format of `write_footprints`; appears only when complete.
        thresholds: Thresholds; those in the tags of the raster, or the defaults, when None.
        scene: Scene of the probabilities; if given, they are first refined with a dense CRF.
        crf: Settings of the CRF; the defaults when None.
        max_memory_gb: Memory limit of a process.
        block_px: Rows and columns that are processed at a time; as many as fit into the memory
            when None. The result does not depend on it.
        overwrite: Whether an existing output may be replaced.
        run: Calls a function on every task and yields the results in order, an exception for a
            lost task; `map` runs them in this process.
        progress: Called with the finished and the total number of blocks refined, blocks searched
            and windows traced.

    Returns:
        Number of footprints written.

    Raises:
        ConfigError: If the suffix or the thresholds are wrong, or a threshold is set that does
            not apply to the classes of the raster.
        MemoryLimitError: If the memory does not suffice; the same call with more memory resumes.
        OutputExistsError: If the output exists and may not be replaced.
        SceneReadError: If `prob` cannot be read or is not a probability raster.
        MissingCRSError: If `prob` has no georeferencing.
    """
    suffix = check_suffix(output)
    inputs = [prob] if scene is None else [prob, scene]
    info = read_prob(prob)
    prob_bands(info)  # refuse a raster without the needed bands before the work begins
    files = [*info.files, *(list_files(scene) if scene is not None else ())]
    if thresholds and info.classes:
        check_thresholds(thresholds, info.thresholds)
    thresholds = thresholds or info.thresholds
    options = (thresholds.model_dump(), crf.model_dump() if crf else None, suffix)
    job = describe_job("vectorize", *options, files=files)
    with (
        claim_output(output, overwrite=overwrite, inputs=inputs, job=job, file=None) as folder,
        Journal(folder, job) as journal,
    ):
        if scene is not None:
            info = read_prob(_refine(prob, scene, crf, folder, journal, progress))
        return write_layer(
            info, output, folder / "windows", journal, thresholds,
            max_memory_gb=max_memory_gb, block_px=block_px, run=run, progress=progress,
        )  # fmt: skip


def write_layer(
    prob: ProbInfo,
    output: str | Path,
    folder: Path,
    journal: Journal,
    thresholds: Thresholds,
    *,
    max_memory_gb: float,
    block_px: int | None = None,
    run: Run = map,
    progress: Progress | None = None,
) -> int:
    """Vectorize a probability raster as a step of a job, see `vectorize`.

    Args:
        prob: Description of the probability raster.
        output: Vector file; an existing one is replaced.
        folder: Folder of intermediate files; removed at the end.
        journal: Journal of the job.
        thresholds: Thresholds.
        max_memory_gb: Memory limit of a process.
        block_px: Rows and columns that are processed at a time, see `vectorize`.
        run: Runs tasks, see `vectorize`.
        progress: Called with the finished and the total number of tasks.

    Returns:
        Number of footprints written.
    """
    folder.mkdir(exist_ok=True)
    prob = replace(prob, path=absolute_path(prob.path))  # workers may run in another folder
    builder = _LayerBuilder(prob, thresholds, folder, journal, run, progress)
    frames, grid = builder.frames(max_memory_gb, block_px), prob.grid
    count = write_footprints(output, frames, crs=grid.crs, columns=builder.columns, grid=grid)
    shutil.rmtree(folder)
    return count


def _refine(
    prob: str | Path,
    scene: str | Path,
    options: CRFOptions | None,
    folder: Path,
    journal: Journal,
    progress: Progress | None,
) -> Path:
    """Refine the probabilities with a CRF; return the file in the working folder."""
    refined = folder / "refined.tif"
    if "refined" not in journal.done:
        refine_raster(prob, scene, refined, options=options, progress=progress)
        journal.add("refined", True)
    return refined


@dataclass(frozen=True)
class _LayerKind:
    """Differences between layers of buildings and of exclusive classes.

    Attributes:
        columns: Columns of the layer.
        margins: Computes the margins around components.
        holds_pixels: Whether the pixels of a whole window are in memory while it is traced.
    """

    columns: Mapping[str, str]
    margins: MarginFunction
    holds_pixels: bool


_BUILDINGS = _LayerKind(BUILDING_COLUMNS, building_margins, holds_pixels=True)
_CLASSES = _LayerKind(CLASS_COLUMNS, class_margins, holds_pixels=False)


class _LayerBuilder:
    """Builds a layer in a working folder that is kept when the run is interrupted."""

    def __init__(
        self,
        prob: ProbInfo,
        thresholds: Thresholds,
        folder: Path,
        journal: Journal,
        run: Run,
        progress: Progress | None,
    ) -> None:
        self._prob, self._thresholds, self._folder = prob, thresholds, folder
        self._journal, self._run, self._progress = journal, run, progress
        self._grid = prob.grid
        self._kind = _CLASSES if prob.classes else _BUILDINGS
        self.columns = self._kind.columns

    def frames(self, max_memory_gb: float, block_px: int | None) -> Iterator[gpd.GeoDataFrame]:
        """Yield the layer in batches, in order, after everything is traced."""
        layout = self._choose_layout(max_memory_gb, block_px)
        components = self._find_components(layout.rows)
        selection = select_components(components, self._grid, self._thresholds, self._kind.margins)
        windows = list(
            plan_windows(selection.components, self._grid, layout.side, selection.margins)
        )
        if self._kind.holds_pixels:
            for one in windows:
                check_window(one.window, max_memory_gb)
        self._trace(selection, windows)
        minimum = self._thresholds.min_area_m2, self._thresholds.min_confidence
        for frame in number_footprints(self._read_traced(windows), *minimum):
            yield frame[[*self.columns, "geometry"]]

    def _choose_layout(self, max_memory_gb: float, block_px: int | None) -> BlockLayout:
        """Return the layout of an interrupted run, or a new one if that run had more memory."""
        earlier = self._journal.done.get("layout")
        if earlier and max_memory_gb >= earlier[-1]:
            return BlockLayout(*earlier[:-1])
        layout = choose_layout(self._grid, max_memory_gb)
        if block_px:
            layout = BlockLayout(block_px, block_px)
        if earlier and layout != BlockLayout(*earlier[:-1]):
            shutil.rmtree(self._folder)  # files of other windows
            self._folder.mkdir()
        self._journal.add("layout", [layout.rows, layout.side, max_memory_gb])
        return layout

    def _find_components(self, rows: int) -> Components:
        """Find the components of the raster, or read those that an interrupted run found."""
        if "components" not in self._journal.done:
            windows = list(self._grid.row_windows(rows))
            tasks = [FindTask(self._prob, self._thresholds, window) for window in windows]
            blocks: list[BlockComponents] = list(
                self._run_tasks(run_find_task, tasks, 0, len(tasks), "blocks searched")
            )
            self._journal.keep("components", merge_blocks(blocks, self._grid.width).table)
        return Components(self._journal.kept("components"), self._grid.width)

    def _trace(self, selection: ComponentSelection, windows: list[TraceWindow]) -> None:
        """Trace the windows that are not traced yet."""
        missing = [number for number in range(len(windows)) if not self._file(number).exists()]
        tasks = (self._task(selection, windows[number], self._file(number)) for number in missing)
        done, what = len(windows) - len(missing), "windows traced"
        for _ in self._run_tasks(run_trace_task, tasks, done, len(windows), what):
            pass

    def _task(self, selection: ComponentSelection, one: TraceWindow, output: Path) -> TraceTask:
        indices = selection.beginning_in(one.window)
        return TraceTask(
            prob=self._prob, thresholds=self._thresholds, window=one.window,
            selection=selection.pick(indices), indices=indices,
            chosen=np.isin(indices, one.indices), output=output,
        )  # fmt: skip

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.parquet"

    def _run_tasks(
        self,
        function: Callable[[Any], Any],
        tasks: Iterable[Any],
        done: int,
        total: int,
        what: str,
    ) -> Iterator[Any]:
        """Yield the results of tasks and report progress."""
        for number, result in enumerate(self._run(function, tasks), start=done + 1):
            if isinstance(result, Exception):
                raise result
            if self._progress:
                self._progress(number, total, what)
            yield result

    def _read_traced(self, windows: list[TraceWindow]) -> Iterator[gpd.GeoDataFrame]:
        """Yield the footprints of each strip of rows, in the order of their components."""
        numbered = enumerate(windows)
        for _, strip in groupby(numbered, key=lambda pair: pair[1].strip):
            frames = [frame for number, _ in strip for frame in ParquetParts(self._file(number))]
            if frames := [frame for frame in frames if len(frame)]:
                yield pd.concat(frames).sort_values("component", kind="stable", ignore_index=True)


def vectorize_arrays(
    body: np.ndarray,
    border: np.ndarray | None,
    valid: np.ndarray,
    grid: Grid,
    thresholds: Thresholds,
    contact: np.ndarray | None = None,
) -> gpd.GeoDataFrame:
    """Vectorize probabilities in memory; the footprints equal those of `vectorize` from a file.

    Args:
        body: Building probability (H, W), uint8 (255 = probability 1) or float in 0..1.
        border: Border probability (H, W) likewise, or None.
        valid: Boolean (H, W), False on nodata; values that are not finite are nodata, too.
        grid: Grid of the arrays.
        thresholds: Thresholds.
        contact: Contact probability (H, W) likewise, or None.

    Returns:
        All footprints, with the columns of `vectorize`.
    """
    source = ArrayProb(body, border, valid, grid, contact)
    whole = Window(0, 0, grid.width, grid.height)
    components = merge_blocks([find_components(source, whole, thresholds)], grid.width)
    selection = select_components(components, grid, thresholds, building_margins)
    every = np.ones(len(selection), dtype=bool)
    frame = trace_components(source, whole, selection, every, thresholds)
    frames = number_footprints([frame], thresholds.min_area_m2, thresholds.min_confidence)
    return concatenate_frames(frames, grid, BUILDING_COLUMNS)
