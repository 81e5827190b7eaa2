"""Prediction of scenes into strips, which are kept when the job is interrupted."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from rasterio.windows import Window

from geoseg.geo.paths import absolute_path
from geoseg.jobs.journal import Journal
from geoseg.jobs.pool import Pool
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers
from geoseg.prediction.batch_choice import (
    JOURNAL_KEY,
    BatchChoice,
    retry_with_smaller_batches,
)
from geoseg.prediction.blocks import BlockTask, choose_batch, predict_block
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.memory import check_crf_memory, count_panels
from geoseg.prediction.prediction_job import PANELS, PredictionJob
from geoseg.prediction.scheduling import list_strips, split_blocks, split_panels
from geoseg.prediction.stitching import TileBlock

# What the journal of an interrupted job may say.
_CHOICE = tuple[Literal["cpu", "gpu"], Annotated[int, Field(ge=1, le=1024)]]
_PANELS = Annotated[int, Field(ge=1, le=1_000_000)]

# Files of strips, each with its window on the grid of the tiles.
Strips = list[tuple[Path, Window]]

# (index of a scene, its strips, the folder of all strips) → what is to be done with them.
Follow = Callable[[int, Strips, Path], Sequence[Callable[[], object]]]


@dataclass(frozen=True)
class _Planned:
    """A scene whose strips are predicted.

    Attributes:
        job: Prediction of the scene.
        count: Largest number of panels.
        panels: The tiles, in panels that are predicted one by one.
        task: Task of all its tiles, without device and batch size.
        strips: Strips to predict, as pairs of panel and row of tiles; None for all.
    """

    job: PredictionJob
    count: int
    panels: list[TileBlock]
    task: BlockTask
    strips: frozenset[tuple[int, int]] | None = None


class StripPrediction:
    """Predicts the strips of scenes.

    Args:
        jobs: The scenes, with the same models and settings.
        encoding: Bands of the strips.
        folder: Folder for the strips, which is kept when the job is interrupted.
        journal: Journal of the job.
        workers: Who predicts; the bytes do not depend on it.
        progress: Called with the finished and the total number of tiles.
    """

    def __init__(
        self,
        jobs: Sequence[PredictionJob],
        encoding: OutputEncoding,
        folder: Path,
        journal: Journal,
        workers: Workers,
        progress: Progress | None,
    ) -> None:
        self._encoding, self._folder, self._journal = encoding, folder, journal
        self._workers, self._progress = workers, progress
        self._scenes = [self._plan(number, job) for number, job in enumerate(jobs)]

    @property
    def panels(self) -> list[list[TileBlock]]:
        """Panels of each scene."""
        return [scene.panels for scene in self._scenes]

    @property
    def panel_counts(self) -> list[int]:
        """Largest number of panels of each scene, for `split_panels`."""
        return [scene.count for scene in self._scenes]

    @property
    def choice(self) -> BatchChoice:
        """Device and batch size of a finished prediction."""
        found: tuple[str, int] | None = self._journal.find(JOURNAL_KEY, _CHOICE)
        assert found is not None
        return BatchChoice(*found)

    def restrict(self, strips: Sequence[frozenset[tuple[int, int]]]) -> None:
        """Predict only some strips of each scene, as pairs of panel and row of tiles."""
        self._scenes = [
            replace(scene, strips=some) for scene, some in zip(self._scenes, strips, strict=True)
        ]

    def predict(self, pool: Pool, follow: Follow | None = None) -> list[Strips]:
        """Predict the strips that are missing.

        Args:
            pool: The workers, open.
            follow: Returns further tasks when all strips of a scene are there; workers carry them
                out before they predict the next ones.

        Returns:
            The strips of each scene.
        """
        choice = self._choose_batch(pool)

        def predict_all(choice: BatchChoice, folder: Path) -> list[Strips]:
            return _Run(self._scenes, choice, folder, pool, self._progress, follow).predict()

        return retry_with_smaller_batches(self._journal, self._folder, choice, predict_all)

    def _plan(self, number: int, job: PredictionJob) -> _Planned:
        plan, options = job.plan, job.options
        if options.crf:
            # Refused here rather than after hours of prediction.
            check_crf_memory(
                options.crf, plan.grid.shape, len(plan.scene.bands), self._workers.max_memory_gb
            )
        count = self._count_panels(number, job)
        task = plan_task(job, self._encoding, self._folder, self._workers)
        return _Planned(job, count, split_panels(plan.tiles, count), task)

    def _count_panels(self, number: int, job: PredictionJob) -> int:
        """Return the number of panels, that of an interrupted run if there was one."""
        key = f"{PANELS} {number}"
        count: int | None = self._journal.find(key, _PANELS)
        if count is None:
            memory_gb = self._workers.max_memory_gb
            count = count_panels(job.plan.tiles, self._encoding, memory_gb)
            self._journal.add(key, count)
        return count

    def _choose_batch(self, pool: Pool) -> BatchChoice:
        """Return the choice of an interrupted run, since the bytes depend on it, or of a worker."""
        earlier: tuple[str, int] | None = self._journal.find(JOURNAL_KEY, _CHOICE)
        if earlier is not None:
            return BatchChoice(*earlier)
        (choice,) = pool.map(choose_batch, [self._scenes[0].task])
        # A batch is always full: larger ones would only repeat the last tile.
        most = max(len(scene.job.plan.tiles) for scene in self._scenes)
        choice = replace(choice, batch_size=min(choice.batch_size, most))
        self._journal.add(JOURNAL_KEY, [choice.device, choice.batch_size])
        return choice


def plan_task(
    job: PredictionJob, encoding: OutputEncoding, folder: Path, workers: Workers
) -> BlockTask:
    """Return the task of all tiles of a scene, without a choice of device and batch size.

    Args:
        job: Prediction of the scene.
        encoding: Bands of the strips.
        folder: Folder of the strips.
        workers: Limits of threads and memory.
    """
    plan, options = job.plan, job.options
    return BlockTask(
        folder=folder,
        scene=replace(plan.scene, path=absolute_path(plan.scene.path)),
        grid=plan.grid,
        block=TileBlock.whole(plan.tiles),
        models=job.models,
        device="cpu" if options.backend == "openvino" else options.device,
        backend=options.backend,
        tta=options.tta,
        batch_size=options.batch_size,
        threads=workers.local_threads,
        encoding=encoding,
        aoi=plan.aoi,
        max_memory_gb=workers.max_memory_gb,
    )


class _Run:
    """Prediction of all strips with one batch size; for the arguments see `StripPrediction`."""

    def __init__(
        self,
        scenes: Sequence[_Planned],
        choice: BatchChoice,
        folder: Path,
        pool: Pool,
        progress: Progress | None,
        follow: Follow | None,
    ) -> None:
        self._folder, self._pool, self._follow = folder, pool, follow
        self._blocks = [
            self._list_blocks(number, scene, choice) for number, scene in enumerate(scenes)
        ]
        self._strips = [
            list_strips(scene.panels, self._folder_of(number), scene.strips)
            for number, scene in enumerate(scenes)
        ]
        self._counter = _Counter(
            progress,
            sum(map(_count_tiles, scenes)),
            sum(len(task.block) for tasks in self._blocks for task in tasks),
        )
        self._missing = [len(tasks) for tasks in self._blocks]
        self._following: deque[Callable[[], object]] = deque()

    def _folder_of(self, number: int) -> Path:
        folder = self._folder / str(number)
        folder.mkdir(exist_ok=True)
        return folder

    def _list_blocks(self, number: int, scene: _Planned, choice: BatchChoice) -> list[BlockTask]:
        folder, rows = self._folder_of(number), scene.job.options.block_rows
        task = replace(
            scene.task, folder=folder, device=choice.device, batch_size=choice.batch_size
        )
        blocks = split_blocks(
            scene.panels, folder, workers=self._pool.size, rows=rows, strips=scene.strips
        )
        return [replace(task, block=block) for block in blocks]

    def predict(self) -> list[Strips]:
        """Predict the strips that are missing, and return the strips of each scene."""
        for scene, missing in enumerate(self._missing):
            if not missing:
                self._finish(scene)
        with self._counter.watching([] if self._pool.is_serial else self._list_files()):
            for number in self._pool.map(run_task, self._tasks()):
                if number is not None:
                    self._missing[number] -= 1
                    if not self._missing[number]:
                        self._finish(number)
            for _ in self._pool.map(run_task, map(StripTask, self._following)):
                pass
        return self._strips

    def _list_files(self) -> list[Path]:
        return [path for strips in self._strips for path, _ in strips]

    def _tasks(self) -> Iterator[StripTask]:
        """Yield tasks, those that finish a scene first."""
        count = self._counter.add if self._pool.is_serial else None
        for number, tasks in enumerate(self._blocks):
            for task in tasks:
                while self._following:
                    yield StripTask(self._following.popleft())
                yield StripTask(partial(predict_block, task, count), number, needs_device=True)

    def _finish(self, number: int) -> None:
        if self._follow:
            self._following.extend(self._follow(number, self._strips[number], self._folder))


def _count_tiles(scene: _Planned) -> int:
    if scene.strips is None:
        return len(scene.job.plan.tiles)
    return sum(len(scene.panels[panel].tile_columns) for panel, _ in scene.strips)


@dataclass(frozen=True)
class StripTask:
    """A task of a prediction.

    Attributes:
        function: Carries it out.
        scene: Index of the scene of which strips are predicted; None for other tasks.
        needs_device: Whether a network computes.
    """

    function: Callable[[], object]
    scene: int | None = None
    needs_device: bool = False


def run_task(task: StripTask) -> int | None:
    """Carry out a task; return its scene."""
    task.function()
    return task.scene


class _Counter:
    """Reports how many tiles are done, those of an earlier run included."""

    def __init__(self, progress: Progress | None, total: int, missing: int) -> None:
        self._progress, self._total, self._done = progress, total, max(0, total - missing)

    def add(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(min(self._done, self._total), self._total, "tiles")

    @contextmanager
    def watching(self, strips: Sequence[Path]) -> Iterator[None]:
        """Report progress by the strips that exist, while other processes predict."""
        done = threading.Event()

        def watch() -> None:
            pause = 1.0
            while self._progress and strips and not done.wait(pause):
                begun = time.monotonic()
                finished = sum(path.exists() for path in strips)
                # A file share with many strips is not asked all the time.
                pause = max(1.0, 20 * (time.monotonic() - begun))
                self._progress(self._total * finished // len(strips), self._total, "tiles")

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
            if self._progress and strips:
                self._progress(self._total, self._total, "tiles")
        finally:
            done.set()
            thread.join()
