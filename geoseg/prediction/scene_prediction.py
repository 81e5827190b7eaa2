"""Predicts the probability and mask rasters of one scene."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from geoseg.geo.paths import absolute_path
from geoseg.geo.raster import make_prob_tags
from geoseg.jobs.journal import Journal
from geoseg.jobs.output import Work
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Pool, Workers
from geoseg.options import Thresholds
from geoseg.prediction.blocks import BlockTask, Step, choose_step, predict_block
from geoseg.prediction.encoding import ValuesKind
from geoseg.prediction.panels import count_panels
from geoseg.prediction.prediction_job import PredictionJob
from geoseg.prediction.rasters import Rasters
from geoseg.prediction.scheduling import deal_blocks, deal_panels, list_bands
from geoseg.prediction.stitching import TileBlock

# Folder of the strips, and beginnings of the names of intermediate rasters, in the working folder.
_STRIPS = "strips"
_INTERMEDIATE = ("stitched.", "refined.", "placed.")


def predict_rasters(
    job: PredictionJob,
    work: Work,
    targets: Mapping[str, Path],
    thresholds: Thresholds,
    *,
    workers: Workers,
    pool: Pool,
    progress: Progress | None = None,
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

    Returns:
        A raster of all probabilities in the working folder, which `clear_rasters` removes.
    """
    values = ValuesKind(job.plan.spec.outputs, job.options.uncertainty, job.options.floats)
    strips = _Strips(job, values, work, workers, progress).predict(pool)
    rasters = Rasters(job.plan, work.folder, values, _make_tags(job, values, thresholds))
    prob = rasters.join(strips, job.options, progress)
    if "prob" in targets:
        rasters.write(prob, targets["prob"], targets.get("mask"), thresholds)
    return prob


def _make_tags(job: PredictionJob, values: ValuesKind, thresholds: Thresholds) -> dict[str, str]:
    """Return the tags by which vectorize knows thresholds, scale and classes of the raster."""
    spec = job.plan.spec
    classes = (spec.classes, spec.background) if spec.exclusive else None
    tags = make_prob_tags(thresholds, classes)
    if not values.floats:
        tags["GEOSEG_SCALE"] = str(1 / 255)
    return tags


def clear_rasters(work: Work) -> None:
    """Remove strips and intermediate rasters from a working folder."""
    for path in work.folder.iterdir():
        if path.name.startswith(_INTERMEDIATE):
            path.unlink()
    strips = work.folder / _STRIPS
    for path in strips.iterdir():
        path.unlink()
    strips.rmdir()


class _Strips:
    """The strips of a scene: files in a folder that is kept when the job is interrupted."""

    def __init__(
        self,
        job: PredictionJob,
        values: ValuesKind,
        work: Work,
        workers: Workers,
        progress: Progress | None,
    ) -> None:
        self._job, self._plan, self._options = job, job.plan, job.options
        self._values, self._workers, self._progress = values, workers, progress
        self._folder = work.folder / _STRIPS
        self._journal: Journal = work.journal

    def predict(self, pool: Pool) -> list[tuple[Path, Any]]:
        """Predict the strips that are missing; return the files of all, with their windows."""
        self._folder.mkdir(exist_ok=True)
        task = self._first_task()
        step = self._choose_step(pool, task)
        task = replace(task, device=step.device, batch_size=step.batch_size)
        panels = self._split_into_panels()
        blocks = deal_blocks(panels, self._folder, workers=pool.size, rows=self._options.block_rows)
        tasks = [replace(task, block=block) for block in blocks]
        strips = list_bands(panels, self._folder)
        total = len(self._plan.tiles)
        if pool.is_local:
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
            values=self._values,
            area=plan.area,
        )

    def _choose_step(self, pool: Pool, task: BlockTask) -> Step:
        """Return the device and batch size of an earlier run, or let a worker choose them.

        The bytes depend on both, so an interrupted job must continue with the same.
        """
        if "step" not in self._journal.done:
            (chosen,) = pool.map(choose_step, [task])
            # A batch is always full: the last tile of the scene is repeated if need be.
            size = min(chosen.batch_size, len(self._plan.tiles))
            self._journal.add("step", [chosen.device, size])
        return Step(*self._journal.done["step"])

    def _split_into_panels(self) -> list[TileBlock]:
        """Return the panels of an earlier run, whose strips exist, or new ones."""
        if "panels" not in self._journal.done:
            count = count_panels(self._plan.tiles, self._values, self._workers.max_memory_gb)
            self._journal.add("panels", count)
        return deal_panels(self._plan.tiles, self._journal.done["panels"])


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
