"""A probability raster becomes a layer, of footprints or of the polygons of each class."""

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
from geoseg.jobs.journal import Journal, claim_output, describe_job
from geoseg.jobs.progress import Progress, Run
from geoseg.options import CRFOptions, Thresholds, check_thresholds
from geoseg.prediction.crf.refinement import refine_raster
from geoseg.vectorization.block_layout import BlockLayout, check_window, choose_layout
from geoseg.vectorization.class_polygons import CLASS_COLUMNS, class_margins
from geoseg.vectorization.components.labelling import BlockComponents, Components, merge_blocks
from geoseg.vectorization.components.selection import ComponentSelection, Margins, select_components
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
    """Turns a probability raster into a file of footprints, or of polygons of each class.

    Footprints have the columns `BUILDING_COLUMNS`: id (1..n by the first pixel of what hangs
    together), area_m2, perimeter_m, confidence (mean p_body inside, 0..1), conf_p10 (its tenth
    percentile), edge (touches nodata or the raster's border) and reg_status (how the outline was
    drawn). Polygons of classes have `CLASS_COLUMNS`. An interrupted run goes on when it is started
    again.

    Args:
        prob: Probability raster, see `SceneProb` and `ClassProb`.
        output: Of a format of `write_footprints`; appears only when complete.
        thresholds: When None those in the raster's tags, else the defaults.
        scene: When given, probabilities are first refined by its colours with a dense CRF.
        crf: How they are refined; the defaults when None.
        max_memory_gb: What a process may take.
        block_px: Rows and columns that are looked at at a time; what fits into the memory when
            None. The result does not depend on it.
        overwrite: Whether an existing output may be replaced.
        run: Calls a function on every task and yields the results in order, an exception for a
            task that was lost; `map` does so in this process.
        progress: Told the finished and the total number of blocks refined, blocks searched and
            windows traced.

    Returns:
        Number of footprints written.

    Raises:
        ConfigError: If the suffix or the thresholds are wrong, if one is set that says nothing of
            the raster's classes.
        MemoryLimitError: If the memory does not suffice; with more the same call goes on.
        OutputExistsError: If the output exists and may not be replaced.
        SceneReadError: If `prob` cannot be read or is no probability raster.
        MissingCRSError: If `prob` does not say where it lies.
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
    """Does what `vectorize` does as a part of a job.

    Args:
        prob: Description of the probability raster.
        output: The layer; what is there is replaced.
        folder: For what lies between the two; gone when the layer is there.
        journal: Of the job.
        thresholds: What makes a building.
        max_memory_gb: See `vectorize`, as the others.
        block_px: Likewise.
        run: Likewise.
        progress: Likewise.

    Returns:
        Number of footprints written.
    """
    folder.mkdir(exist_ok=True)
    prob = replace(prob, path=absolute_path(prob.path))  # workers may run in another folder
    making = _Making(prob, thresholds, folder, journal, run, progress)
    frames, grid = making.frames(max_memory_gb, block_px), prob.grid
    count = write_footprints(output, frames, crs=grid.crs, columns=making.columns, grid=grid)
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
    """The probabilities refined, in the working folder."""
    refined = folder / "refined.tif"
    if "refined" not in journal.done:
        refine_raster(prob, scene, refined, options=options, progress=progress)
        journal.add("refined", True)
    return refined


@dataclass(frozen=True)
class _Kind:
    """What differs between layers of buildings and those of classes.

    Attributes:
        columns: Of the layer.
        margins: Around components.
        holds_pixels: Whether all of a window is in memory while it is traced, not its lines alone.
    """

    columns: Mapping[str, str]
    margins: Margins
    holds_pixels: bool


_BUILDINGS = _Kind(BUILDING_COLUMNS, building_margins, holds_pixels=True)
_CLASSES = _Kind(CLASS_COLUMNS, class_margins, holds_pixels=False)


class _Making:
    """Makes a layer, in a folder that outlives an interruption."""

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
        """Yields the layer in batches, in order, once all of it is traced."""
        layout = self._agree_on_layout(max_memory_gb, block_px)
        components = self._find(layout.rows)
        wanted = select_components(components, self._grid, self._thresholds, self._kind.margins)
        shares = list(plan_windows(wanted.components, self._grid, layout.side, wanted.margins))
        if self._kind.holds_pixels:
            for share in shares:
                check_window(share.window, max_memory_gb)
        self._trace(wanted, shares)
        least = self._thresholds.min_area_m2, self._thresholds.min_confidence
        for frame in number_footprints(self._read_bands(shares), *least):
            yield frame[[*self.columns, "geometry"]]

    def _agree_on_layout(self, max_memory_gb: float, block_px: int | None) -> BlockLayout:
        """As an earlier run chose it, whose files are there, unless it had more memory."""
        earlier = self._journal.done.get("layout")
        if earlier and max_memory_gb >= earlier[-1]:
            return BlockLayout(*earlier[:-1])
        layout = choose_layout(self._grid, max_memory_gb)
        if block_px:
            layout = BlockLayout(block_px, block_px)
        if earlier and layout != BlockLayout(*earlier[:-1]):
            shutil.rmtree(self._folder)  # of other windows
            self._folder.mkdir()
        self._journal.add("layout", [layout.rows, layout.side, max_memory_gb])
        return layout

    def _find(self, rows: int) -> Components:
        """The components of the raster, of which an earlier run may know."""
        if "components" not in self._journal.done:
            windows = list(self._grid.row_windows(rows))
            tasks = [FindTask(self._prob, self._thresholds, window) for window in windows]
            parts: list[BlockComponents] = list(
                self._follow(run_find_task, tasks, 0, len(tasks), "blocks searched")
            )
            self._journal.keep("components", merge_blocks(parts, self._grid.width).table)
        return Components(self._journal.kept("components"), self._grid.width)

    def _trace(self, wanted: ComponentSelection, shares: list[TraceWindow]) -> None:
        """Traces what is not traced yet."""
        missing = [number for number in range(len(shares)) if not self._file(number).exists()]
        tasks = (self._task(wanted, shares[number], self._file(number)) for number in missing)
        done, what = len(shares) - len(missing), "windows traced"
        for _ in self._follow(run_trace_task, tasks, done, len(shares), what):
            pass

    def _task(self, wanted: ComponentSelection, share: TraceWindow, output: Path) -> TraceTask:
        numbers = wanted.beginning_in(share.window)
        chosen = np.isin(numbers, share.chosen)
        given = (self._prob, self._thresholds, share.window)
        return TraceTask(*given, wanted.pick(numbers), numbers, chosen, output)

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.parquet"

    def _follow(
        self,
        function: Callable[[Any], Any],
        tasks: Iterable[Any],
        done: int,
        total: int,
        what: str,
    ) -> Iterator[Any]:
        """Results of tasks, of which progress is told."""
        for number, result in enumerate(self._run(function, tasks), start=done + 1):
            if isinstance(result, Exception):
                raise result
            if self._progress:
                self._progress(number, total, what)
            yield result

    def _read_bands(self, shares: list[TraceWindow]) -> Iterator[gpd.GeoDataFrame]:
        """The footprints that begin in each band of rows, in the order of their components."""
        numbered = enumerate(shares)
        for _, band in groupby(numbered, key=lambda pair: pair[1].band):
            frames = [frame for number, _ in band for frame in ParquetParts(self._file(number))]
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
    """Turns probabilities in memory into footprints, exactly as `vectorize` does from a file.

    Args:
        body: p_body (H, W), uint8 (255 = certain) or float in 0..1.
        border: p_border (H, W) likewise, or None.
        valid: Boolean (H, W), False on nodata; what is not finite is nodata, too.
        grid: Place on the ground.
        thresholds: What makes a building.
        contact: p_contact (H, W) likewise, or None.

    Returns:
        All footprints, columns as of `vectorize`.
    """
    source = ArrayProb(body, border, valid, grid, contact)
    whole = Window(0, 0, grid.width, grid.height)
    components = merge_blocks([find_components(source, whole, thresholds)], grid.width)
    wanted = select_components(components, grid, thresholds, building_margins)
    frame = trace_components(source, whole, wanted, np.ones(len(wanted), dtype=bool), thresholds)
    frames = number_footprints([frame], thresholds.min_area_m2, thresholds.min_confidence)
    return concatenate_frames(frames, grid, BUILDING_COLUMNS)
