"""Scene → probabilities → mask and footprints."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geoseg.boxes.box_prediction import predict_boxes
from geoseg.errors import ConfigError
from geoseg.geo.paths import absolute_path
from geoseg.geo.raster import CLASSES_TAG, THRESHOLDS_TAG, describe_classes, read_prob
from geoseg.geo.vector import WRITABLE_SUFFIXES
from geoseg.jobs.journal import Journal, claim_output
from geoseg.jobs.progress import Progress, Run
from geoseg.networks.model_file import load_model
from geoseg.options import PredictOptions, Thresholds, VectorizeOptions
from geoseg.prediction.batch_choice import (
    JOURNAL_KEY,
    BatchChoice,
    retry_with_smaller_batches,
)
from geoseg.prediction.blocks import BlockTask, choose_batch, predict_block
from geoseg.prediction.drift import warn_of_drift
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.memory import count_panels
from geoseg.prediction.plan import PredictPlan
from geoseg.prediction.prediction_job import RASTER_SUFFIXES, plan_job
from geoseg.prediction.rasters import OutputRasters
from geoseg.prediction.scheduling import list_strips, split_blocks, split_panels
from geoseg.prediction.stitching import TileBlock
from geoseg.vectorization.layer import write_layer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """Who predicts the blocks of a scene.

    Attributes:
        run: Calls a function on every task and yields the results in order, an exception for a
            task that was lost; None does so in this process.
        count: How many work at a time.
        threads: Batches that each of them predicts at a time on a CPU.
    """

    run: Run | None = None
    count: int = 1
    threads: int | None = None


def predict(
    scene: str | Path,
    model: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    options: PredictOptions | None = None,
    thresholds: VectorizeOptions | None = None,
    overwrite: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Predicts a scene. An interrupted run goes on when it is started again.

    Args:
        scene: Any raster that GDAL opens.
        model: A model file that `geoseg train` wrote, or several whose probabilities are
            averaged; bands, pixel size, tiles and thresholds are the first one's.
        output: A folder for `prob.tif`, `mask.tif` and `footprints.gpkg`; or one file: a
            `.tif` for probabilities, a vector format for footprints. Of a model of boxes there
            are footprints alone.
        options: How to predict.
        thresholds: Replace the model's.
        overwrite: Replace the output if it is there.
        workers: Who predicts; the bytes do not depend on it.
        progress: Told the finished and the total number of tiles, of the CRF's blocks, then of
            what `vectorize` tells.

    Returns:
        The files written.

    Raises:
        GeosegError: If scene, model and output do not work together; nothing is written then.
    """
    options = options or PredictOptions()
    job = plan_job(scene, model, output, options, thresholds, overwrite=overwrite)
    plan, chosen, output, suffix = job.plan, job.thresholds, job.output, job.suffix
    warn_of_drift(plan.scene, job.specs)
    if job.finds_boxes:
        if workers is not None and workers.run is not None:
            logger.warning("%s finds boxes, which this process does alone", job.models[0])
        _, weights = load_model(job.models[0])
        return predict_boxes(
            plan, weights, output, options, chosen, overwrite=overwrite, progress=progress
        )
    names = _output_names(suffix, options)
    # Footprints may be several files, which their writer puts in their place together.
    file = None if suffix in WRITABLE_SUFFIXES else names[0] if suffix else ""
    with (
        claim_output(
            output, overwrite=overwrite, inputs=job.inputs, job=job.name, file=file
        ) as folder,
        Journal(folder, job.name) as journal,
    ):
        predicting = _Predicting(plan, job.models, options, folder / "strips", journal, progress)
        workers = workers or Workers()
        strips = predicting.predict_strips(workers)
        targets = [output] if file is None else [folder / name for name in names]
        prob = _write_rasters(
            plan, chosen, options, predicting.encoding, strips, folder, targets, progress
        )
        if targets[-1].suffix.lower() in WRITABLE_SUFFIXES:
            write_layer(
                read_prob(prob), targets[-1], folder / "windows", journal, chosen,
                max_memory_gb=options.max_memory_gb, run=workers.run or map, progress=progress,
            )  # fmt: skip
        _remove_steps(folder)
        predicting.clear()
    return [output] if suffix else [output / name for name in names]


def _output_names(suffix: str, options: PredictOptions) -> tuple[str, ...]:
    if suffix in RASTER_SUFFIXES:
        return ("prob.tif",)
    if suffix:
        return (f"footprints{suffix}",)
    rasters = ("prob.tif", "mask.tif")
    return (*rasters, "footprints.gpkg") if options.footprints else rasters


class _Predicting:
    """Predicts the strips of a scene into a folder that outlives an interruption."""

    def __init__(
        self,
        plan: PredictPlan,
        models: tuple[Path, ...],
        options: PredictOptions,
        folder: Path,
        journal: Journal,
        progress: Progress | None,
    ) -> None:
        self._plan, self._models, self._options = plan, models, options
        self._folder, self._journal, self._progress = folder, journal, progress
        self.encoding = OutputEncoding(plan.spec.outputs, options.uncertainty, options.floats)

    def predict_strips(self, workers: Workers) -> list[tuple[Path, Any]]:
        """Predict unfinished strips; return the files of all, with their windows."""
        run = workers.run or map
        task = self._first_task(workers)
        choice = self._agree_on_batch(run, task)
        panels = self._split_panels()

        def predict_all(choice: BatchChoice, folder: Path) -> list[tuple[Path, Any]]:
            chosen = replace(
                task, folder=folder, device=choice.device, batch_size=choice.batch_size
            )
            return self._predict_blocks(chosen, panels, workers)

        return retry_with_smaller_batches(self._journal, self._folder, choice, predict_all)

    def _predict_blocks(
        self, task: BlockTask, panels: list[TileBlock], workers: Workers
    ) -> list[tuple[Path, Any]]:
        blocks = split_blocks(
            panels, task.folder, workers=workers.count, rows=self._options.block_rows
        )
        tasks = [replace(task, block=block) for block in blocks]
        strips, total = list_strips(panels, task.folder), len(self._plan.tiles)
        if workers.run is None:
            counter = _Counter(self._progress, total, sum(len(task.block) for task in tasks))
            for one in tasks:
                predict_block(one, counter.add)
        else:
            with _watching(self._progress, total, [path for path, _ in strips]):
                for result in workers.run(predict_block, tasks):
                    if isinstance(result, Exception):
                        raise result
        return strips

    def clear(self) -> None:
        """Remove the strips."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _first_task(self, workers: Workers) -> BlockTask:
        plan, options = self._plan, self._options
        return BlockTask(
            folder=self._folder,
            scene=replace(plan.scene, path=absolute_path(plan.scene.path)),
            grid=plan.grid,
            block=TileBlock.whole(plan.tiles),
            models=self._models,
            device="cpu" if options.backend == "openvino" else options.device,
            backend=options.backend,
            tta=options.tta,
            batch_size=options.batch_size,
            threads=workers.threads or max(1, _count_cores() // workers.count),
            encoding=self.encoding,
            aoi=plan.aoi,
            max_memory_gb=options.max_memory_gb,
        )

    def _agree_on_batch(self, run: Run, task: BlockTask) -> BatchChoice:
        """Return the choice of an interrupted run, since the bytes depend on it, or of a worker."""
        if JOURNAL_KEY not in self._journal.done:
            (choice,) = run(choose_batch, [task])
            if isinstance(choice, Exception):
                raise choice
            # A batch is always full: larger ones would only repeat the last tile.
            size = min(choice.batch_size, len(self._plan.tiles))
            self._journal.add(JOURNAL_KEY, [choice.device, size])
        return BatchChoice(*self._journal.done[JOURNAL_KEY])

    def _split_panels(self) -> list[TileBlock]:
        """Return the panels, as many as an interrupted run had."""
        if "panels" not in self._journal.done:
            count = count_panels(self._plan.tiles, self.encoding, self._options.max_memory_gb)
            self._journal.add("panels", count)
        return split_panels(self._plan.tiles, self._journal.done["panels"])


class _Counter:
    """Says how many tiles are done; those of an earlier run are."""

    def __init__(self, progress: Progress | None, total: int, missing: int) -> None:
        self._progress, self._total, self._done = progress, total, max(0, total - missing)

    def add(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(min(self._done, self._total), self._total, "tiles")


@contextmanager
def _watching(progress: Progress | None, total: int, strips: Sequence[Path]) -> Iterator[None]:
    """Says how many tiles are done by the bands that are there, while others predict."""
    done = threading.Event()

    def watch() -> None:
        while progress and not done.wait(1.0):
            there = sum(path.exists() for path in strips)
            progress(total * there // len(strips), total, "tiles")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
        if progress:
            progress(total, total, "tiles")
    finally:
        done.set()
        thread.join()


def _write_rasters(
    plan: PredictPlan,
    thresholds: Thresholds,
    options: PredictOptions,
    encoding: OutputEncoding,
    strips: Iterable[tuple[Path, Any]],
    folder: Path,
    targets: Sequence[Path],
    progress: Progress | None,
) -> Path:
    """Makes the rasters of bands; the one of all probabilities."""
    spec = plan.spec
    tags = {THRESHOLDS_TAG: thresholds.model_dump_json()}
    if not encoding.floats:
        tags["GEOSEG_SCALE"] = str(1 / 255)
    if spec.exclusive:
        tags[CLASSES_TAG] = describe_classes(spec.classes, spec.background)
    rasters = OutputRasters(plan, folder, encoding, tags)
    prob = rasters.assemble(strips, options, progress)
    wanted = {target.name: target for target in targets}
    if "prob.tif" in wanted:
        rasters.write(prob, wanted["prob.tif"], wanted.get("mask.tif"), thresholds)
    return prob


def _remove_steps(folder: Path) -> None:
    """Removes what lies between bands and outputs."""
    for path in folder.iterdir():
        if path.name.startswith(("stitched.", "refined.", "placed.")):
            path.unlink()


def _count_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


@dataclass(frozen=True)
class PredictTask:
    """One scene to predict: a recipe that any process can carry out; see `predict`."""

    scene: str | Path
    model: str | Path
    output: Path
    options: PredictOptions
    thresholds: VectorizeOptions


def predict_scenes(
    scenes: Sequence[str | Path],
    model: str | Path,
    output: str | Path,
    *,
    options: PredictOptions | None = None,
    thresholds: VectorizeOptions | None = None,
    run: Run = map,
) -> list[Path]:
    """Predicts scenes, each into a folder of its name; those that are there already stay.

    Args:
        scenes: The scenes.
        model: A model file that `geoseg train` wrote.
        output: Where the folders lie.
        options: How to predict.
        thresholds: Replace the model's.
        run: Calls a function on every task and yields the results in order, an exception for
            a task that was lost; `map` does so in this process.

    Returns:
        The folders.

    Raises:
        ConfigError: If two scenes have one name.
        GeosegError: As `predict` raises it.
    """
    folders = [Path(output) / Path(scene).stem for scene in scenes]
    repeated = next((folder for folder in folders if folders.count(folder) > 1), None)
    if repeated:
        raise ConfigError(
            f"two scenes have one name, {repeated.name}; their results would share a folder"
        )
    tasks = [
        PredictTask(
            scene, model, folder, options or PredictOptions(), thresholds or VectorizeOptions()
        )
        for scene, folder in zip(scenes, folders, strict=True)
        if not folder.exists()
    ]
    for lost in run(predict_task, tasks):
        if isinstance(lost, Exception):
            raise lost
    return folders


def predict_task(task: PredictTask) -> None:
    """Predicts one scene."""
    predict(task.scene, task.model, task.output, options=task.options, thresholds=task.thresholds)
