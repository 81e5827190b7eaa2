"""Predict a scene: probabilities, mask, footprints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from geoseg.api.predict_outputs import (
    FOOTPRINTS,
    MASK,
    PROB,
    find_outputs,
    late_modules,
    open_output,
    open_workers,
    tasks_of_scene,
    write_outputs,
)
from geoseg.api.predict_plan import PredictPlan, plan_predict
from geoseg.api.results import PredictResult
from geoseg.credentials import get_logger, hide_credentials
from geoseg.errors import ConfigError, SceneReadError
from geoseg.geo.paths import absolute_path
from geoseg.geo.raster.block_cache import limited_block_cache
from geoseg.jobs.manifest import read_manifest
from geoseg.jobs.output import Work, file_output, folder_output
from geoseg.jobs.pool import Pool
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers
from geoseg.options import PredictOptions, VectorizeOptions
from geoseg.prediction.mosaic_job import MosaicJob, find_damaged
from geoseg.prediction.prediction_job import (
    PANELS,
    ModelNames,
    PredictionJob,
    SceneNames,
)

logger = get_logger(__name__)

# Keys of the journal: scenes that are damaged, and why; those without which work was begun anew.
_DAMAGED, _DISCARDED = "damaged", "discarded"

# Warning of the verbs that predict without a given model.
ABOUT_DEFAULT = (
    "using the default model, which was trained on small parts of ten places; elsewhere "
    "many of its footprints may be wrong (scores: geoseg info buildings), so check them, or "
    "continue the model on your own area"
)


def predict(
    scene: SceneNames,
    output: str | Path,
    *,
    model: ModelNames = None,
    options: PredictOptions | None = None,
    vectorize: VectorizeOptions | None = None,
    overwrite: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> PredictResult:
    """Predict a scene, or many. An interrupted job continues when it is started again.

    Args:
        scene: Any raster that GDAL opens; or several scenes, folders, patterns or lists of them
            (see `find_scenes`). Those of one pixel grid are predicted as one, the first one on top
            where they overlap.
        output: A folder for `prob.tif`, `mask.tif` and `footprints.gpkg`; or one file: `.tif` for
            probabilities, a vector format for footprints. A model of boxes writes footprints only.
            Of several scenes, a folder gets the rasters of each, virtual mosaics `prob.vrt` and
            `mask.vrt`, one layer, and an index; a `.tif` needs scenes of one pixel grid.
        model: A model file that `geoseg.train` wrote or the name of a shipped model, or several
            whose probabilities are averaged (bands, pixel size, tiles and thresholds are the first
            one's); None for the default model.
        options: Settings of the prediction; the defaults when None.
        vectorize: Settings that replace those of the model for mask and footprints.
        overwrite: Replace an existing output.
        workers: Where tasks run; the bytes do not depend on it.
        progress: Called with the finished and the total number of tiles, of CRF blocks, of blocks
            searched and of windows traced.

    Raises:
        GeosegError: If scene, model and output do not fit together; nothing is written then.
    """
    with limited_block_cache():
        plan = plan_predict(
            scene, output, model=model, options=options, vectorize=vectorize, overwrite=overwrite
        )
        if model is None:
            logger.warning("%s", ABOUT_DEFAULT)
        warn_of_drift_in(plan.job)
        workers = (workers or Workers()).with_default_processes(count_gpus_of(plan.job))
        if isinstance(plan.job, PredictionJob) and plan.job.finds_boxes:
            return _predict_boxes(plan, plan.job, overwrite, workers, progress)
        with open_output(plan, overwrite) as work:
            if work.is_complete:
                plan = _without_damaged(plan, work)
            else:
                with open_workers(plan, work, workers) as pool:
                    plan = _write(plan, work, workers, pool, progress)
    return find_outputs(plan)


def _write(
    plan: PredictPlan, work: Work, workers: Workers, pool: Pool, progress: Progress | None
) -> PredictPlan:
    """Write the outputs, without scenes that turn out to be damaged, which the journal names.

    Returns:
        The plan without these scenes.
    """
    while True:
        damaged = _read_damaged(work)
        if damaged and work.journal.find(_DISCARDED, list[str]) != sorted(damaged):
            # Also after a kill in between: what was made with the scene must not be used.
            for key in [key for key in work.journal.done if key.startswith(PANELS)]:
                work.journal.add(key, None)
            work.discard_results()
            work.journal.add(_DISCARDED, sorted(damaged))
        sound = _without_damaged(plan, work)
        try:
            write_outputs(sound, work, workers, pool, progress)
        except SceneReadError as error:
            if not isinstance(sound.job, MosaicJob):
                raise
            logger.warning("%s; reading the scenes to find the one that is damaged", error)
            found = find_damaged(sound.job, str(error))
            if not found:
                raise
            pool.settle()  # tasks that still run must not write among those of the next try
            work.journal.add(_DAMAGED, damaged | found)
        else:
            return sound


def _read_damaged(work: Work) -> dict[str, str]:
    damaged: dict[str, str] | None = work.journal.find(_DAMAGED, dict[str, str])
    return damaged or {}


def _without_damaged(plan: PredictPlan, work: Work) -> PredictPlan:
    """Return a plan without the scenes that the journal names as damaged."""
    damaged = _read_damaged(work)
    if not damaged or not isinstance(plan.job, MosaicJob):
        return plan
    return replace(plan, job=plan.job.without(damaged))


def warn_of_drift_in(job: PredictionJob | MosaicJob) -> None:
    """Warn if a scene differs from those that the models were trained on."""
    from geoseg.prediction.drift import warn_of_drift

    if isinstance(job, PredictionJob):
        warn_of_drift(job.plan.scene, job.specs)
        return
    for mosaic in job.mosaics:
        with suppress(SceneReadError):  # a scene that is damaged is left out later
            warn_of_drift(mosaic.job.plan.scene, job.specs)


def count_gpus_of(job: PredictionJob | MosaicJob) -> int:
    """Return the number of GPUs that a prediction uses."""
    from geoseg.networks.device import count_gpus

    return count_gpus(job.options.device)


def _predict_boxes(
    plan: PredictPlan,
    job: PredictionJob,
    overwrite: bool,
    workers: Workers,
    progress: Progress | None,
) -> PredictResult:
    """Predict with a model of boxes, which writes footprints only."""
    from geoseg.detection.box_prediction import predict_boxes

    if workers.is_remote or workers.local_processes > 1:
        logger.warning("%s finds boxes, which is done by this process alone", job.models[0])
    path = plan.output if plan.is_layer else plan.output / FOOTPRINTS
    kind = file_output if plan.is_layer else folder_output
    with kind(plan.output, overwrite=overwrite, inputs=job.list_protected_files()) as work:
        layer = work.result if plan.is_layer else work.result / FOOTPRINTS
        predict_boxes(job, layer, plan.thresholds, progress=progress)
    return PredictResult(job.label, footprints_path=path, left_out=job.left_out)


@dataclass(frozen=True)
class PredictTask:
    """One of several scenes to predict, sent to a worker."""

    scene: str
    output: str
    model: ModelNames
    options: PredictOptions | None
    vectorize: VectorizeOptions | None
    workers: Workers


def predict_scenes(
    scenes: Sequence[str | Path],
    output: str | Path,
    *,
    model: ModelNames = None,
    options: PredictOptions | None = None,
    vectorize: VectorizeOptions | None = None,
    workers: Workers | None = None,
) -> list[PredictResult]:
    """Predict several scenes, one per worker at a time, each into a folder of its name.

    Scenes that were predicted already are left as they are, so that an interrupted call can be
    repeated.

    Args:
        scenes: The scenes.
        output: Parent of the folders.
        model: As of `predict`, like the other arguments.
        options: As of `predict`.
        vectorize: As of `predict`.
        workers: Where tasks run; each process predicts one scene at a time.

    Raises:
        ConfigError: If two scenes have the same name.
        GeosegError: As `predict`.
    """
    workers = workers or Workers()
    folders = [Path(output) / Path(hide_credentials(str(scene))).stem for scene in scenes]
    counts = Counter(folders)
    repeated = next((folder for folder in folders if counts[folder] > 1), None)
    if repeated:
        raise ConfigError(
            f"two scenes are called {repeated.name}, and their results would share a folder; "
            "rename one"
        )
    tasks = [
        PredictTask(
            absolute_path(scene),
            f"{folder.absolute()}/",
            model,
            options,
            vectorize,
            workers.single(),
        )
        for scene, folder in zip(scenes, folders, strict=True)
        if not read_manifest(folder)
    ]
    with workers.open(predict_task, *tasks_of_scene(), preload=late_modules()) as pool:
        for _ in pool.map(predict_task, tasks):
            pass
    return [_find_written(scene, folder) for scene, folder in zip(scenes, folders, strict=True)]


def _find_written(scene: str | Path, folder: Path) -> PredictResult:
    names = read_manifest(folder)
    prob, mask, layer = (
        folder / name if name in names else None for name in (PROB, MASK, FOOTPRINTS)
    )
    return PredictResult(str(scene), prob, mask, layer)


def predict_task(task: PredictTask) -> None:
    """Predict one of several scenes."""
    predict(
        task.scene, task.output, model=task.model, options=task.options,
        vectorize=task.vectorize, workers=task.workers,
    )  # fmt: skip
