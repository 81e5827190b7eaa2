"""Predicts the probability and mask rasters of one scene."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from geoseg.geo.paths import absolute_path
from geoseg.geo.raster import (
    TRAINING_AREA_TAG,
    ExclusiveClasses,
    make_prob_tags,
    without_georeferencing_warnings,
)
from geoseg.geo.training_area import join_areas
from geoseg.jobs.output import Work
from geoseg.jobs.pool import Pool
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers
from geoseg.options import Thresholds
from geoseg.prediction.batch_choice import (
    JOURNAL_KEY,
    BatchChoice,
    retry_with_smaller_batches,
)
from geoseg.prediction.blocks import BlockTask, choose_batch, predict_block
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.memory import check_crf_memory, count_panels
from geoseg.prediction.prediction_job import PredictionJob
from geoseg.prediction.rasters import OutputRasters
from geoseg.prediction.scheduling import list_strips, split_blocks, split_panels
from geoseg.prediction.stitching import TileBlock

# Folder of the strips in the working folder.
_STRIPS = "strips"

# What the journal of an interrupted job may say.
_CHOICE = tuple[Literal["cpu", "gpu"], Annotated[int, Field(ge=1, le=1024)]]
_PANELS = Annotated[int, Field(ge=1, le=1_000_000)]


def predict_rasters(
    job: PredictionJob,
    work: Work,
    targets: Mapping[str, Path],
    thresholds: Thresholds,
    *,
    workers: Workers,
    pool: Pool,
    progress: Progress | None = None,
    meanwhile: Callable[[Path], None] | None = None,
) -> Path:
    """Predict a scene and write the rasters of it that are wanted.

    Args:
        job: Scene, models and settings.
        work: The working folder, which keeps finished strips when the job is interrupted.
        targets: Path of each raster to write: `prob`, with it perhaps `mask`.
        thresholds: Thresholds of the mask.
        workers: Who predicts; the bytes do not depend on it.
        pool: The same workers, open.
        progress: Called with the finished and the total number of tiles, then of CRF blocks.
        meanwhile: Called with the raster that is returned, while those that are wanted are written.

    Returns:
        A raster of all probabilities in the working folder.
    """
    encoding = OutputEncoding(job.plan.spec.outputs, job.options.uncertainty, job.options.floats)
    strips = _Strips(job, encoding, work, workers, progress).predict(pool)
    tags = _make_tags(job, encoding, thresholds)
    rasters = OutputRasters(job.plan, work.folder, encoding, tags, workers)
    prob = rasters.assemble(strips, job.options, progress)
    with without_georeferencing_warnings(), ThreadPoolExecutor(1) as background:
        writing = []
        if "prob" in targets:
            wanted = targets["prob"], targets.get("mask")
            writing.append(background.submit(rasters.write, prob, *wanted, thresholds))
        if meanwhile:
            meanwhile(prob)
        for one in writing:
            one.result()
    return prob


def _make_tags(
    job: PredictionJob, encoding: OutputEncoding, thresholds: Thresholds
) -> dict[str, str]:
    """Return the tags by which vectorize knows thresholds, scale and classes of the raster."""
    spec = job.plan.spec
    classes = (
        ExclusiveClasses(spec.classes, spec.background, spec.colours) if spec.exclusive else None
    )
    tags = make_prob_tags(thresholds, classes)
    if not encoding.floats:
        tags["GEOSEG_SCALE"] = str(1 / 255)
    if area := _join_training_areas(job):
        tags[TRAINING_AREA_TAG] = area
    return tags


def _join_training_areas(job: PredictionJob) -> str:
    """Return the area in which the models were trained as WKT; empty if it is not known."""
    return join_areas(spec.provenance.get("training_area") for spec in job.specs) or ""


class _Strips:
    """The strips of a scene: files in a folder that is kept when the job is interrupted."""

    def __init__(
        self,
        job: PredictionJob,
        encoding: OutputEncoding,
        work: Work,
        workers: Workers,
        progress: Progress | None,
    ) -> None:
        self._job, self._plan, self._options = job, job.plan, job.options
        self._encoding, self._workers, self._progress = encoding, workers, progress
        self._folder, self._journal = work.folder / _STRIPS, work.journal

    def predict(self, pool: Pool) -> list[tuple[Path, Any]]:
        """Predict the strips that are missing; return the files of all, with their windows."""
        options, scene = self._options, self._plan.scene
        if options.crf:
            # Refused here rather than after hours of prediction.
            check_crf_memory(
                options.crf, self._plan.grid.shape, len(scene.bands), self._workers.max_memory_gb
            )
        task = self._first_task()
        choice = self._choose_batch(pool, task)
        panels = self._split_panels()

        def predict_all(choice: BatchChoice, folder: Path) -> list[tuple[Path, Any]]:
            chosen = replace(
                task, folder=folder, device=choice.device, batch_size=choice.batch_size
            )
            return self._predict_blocks(chosen, panels, pool)

        return retry_with_smaller_batches(self._journal, self._folder, choice, predict_all)

    def _predict_blocks(
        self, task: BlockTask, panels: list[TileBlock], pool: Pool
    ) -> list[tuple[Path, Any]]:
        blocks = split_blocks(panels, task.folder, workers=pool.size, rows=self._options.block_rows)
        tasks = [replace(task, block=block) for block in blocks]
        strips, total = list_strips(panels, task.folder), len(self._plan.tiles)
        if pool.is_serial:
            counter = _Counter(self._progress, total, sum(len(task.block) for task in tasks))
            for one in tasks:
                predict_block(one, counter.add)
        else:
            with _watch(self._progress, total, [path for path, _ in strips]):
                for _ in pool.map(predict_block, tasks):
                    pass
        return strips

    def _first_task(self) -> BlockTask:
        plan, options = self._plan, self._options
        return BlockTask(
            folder=self._folder,
            scene=replace(plan.scene, path=absolute_path(plan.scene.path)),
            grid=plan.grid,
            block=TileBlock.whole(plan.tiles),
            models=self._job.models,
            device="cpu" if options.backend == "openvino" else options.device,
            backend=options.backend,
            tta=options.tta,
            batch_size=options.batch_size,
            threads=self._workers.local_threads,
            encoding=self._encoding,
            aoi=plan.aoi,
            max_memory_gb=self._workers.max_memory_gb,
        )

    def _choose_batch(self, pool: Pool, task: BlockTask) -> BatchChoice:
        """Return the choice of an interrupted run, since the bytes depend on it, or of a worker."""
        earlier: tuple[str, int] | None = self._journal.find(JOURNAL_KEY, _CHOICE)
        if earlier is not None:
            return BatchChoice(*earlier)
        (choice,) = pool.map(choose_batch, [task])
        # A batch is always full: larger ones would only repeat the last tile.
        choice = replace(choice, batch_size=min(choice.batch_size, len(self._plan.tiles)))
        self._journal.add(JOURNAL_KEY, [choice.device, choice.batch_size])
        return choice

    def _split_panels(self) -> list[TileBlock]:
        """Return the panels, as many as an interrupted run had."""
        count: int | None = self._journal.find("panels", _PANELS)
        if count is None:
            memory_gb = self._workers.max_memory_gb
            count = count_panels(self._plan.tiles, self._encoding, memory_gb)
            self._journal.add("panels", count)
        return split_panels(self._plan.tiles, count)


class _Counter:
    """Reports how many tiles are done, those of an earlier run included."""

    def __init__(self, progress: Progress | None, total: int, missing: int) -> None:
        self._progress, self._total, self._done = progress, total, max(0, total - missing)

    def add(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(min(self._done, self._total), self._total, "tiles")


@contextmanager
def _watch(progress: Progress | None, total: int, strips: Sequence[Path]) -> Iterator[None]:
    """Report progress by the strips that exist, while other processes predict."""
    done = threading.Event()

    def watch() -> None:
        while progress and not done.wait(1.0):
            finished = sum(path.exists() for path in strips)
            progress(total * finished // len(strips), total, "tiles")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
        if progress:
            progress(total, total, "tiles")
    finally:
        done.set()
        thread.join()
