"""Predict a scene: probabilities, mask, footprints."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.api.results import PredictResult
from geoseg.credentials import get_logger, hide_credentials
from geoseg.errors import ConfigError, SceneReadError
from geoseg.geo.paths import absolute_path, may_be_stac
from geoseg.geo.raster.block_cache import limited_block_cache
from geoseg.geo.scene_names import find_scenes
from geoseg.jobs.journal import describe_job
from geoseg.jobs.manifest import read_manifest
from geoseg.jobs.output import Work, check_output, file_output, folder_output
from geoseg.jobs.pool import Pool
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers
from geoseg.options import PredictOptions, Thresholds, VectorizeOptions, check_thresholds
from geoseg.prediction.backend_names import check_backend
from geoseg.prediction.prediction_job import ModelNames, PredictionJob, SceneNames, plan_job

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

logger = get_logger(__name__)

# Warning of the verbs that predict without a given model.
ABOUT_DEFAULT = (
    "using the default model, which was trained on small parts of ten places; elsewhere "
    "many of its footprints may be wrong (scores: geoseg info buildings), so check them, or "
    "continue the model on your own area"
)

_RASTER_SUFFIXES = (".tif", ".tiff")
_PROB, _MASK, _FOOTPRINTS = "prob.tif", "mask.tif", "footprints.gpkg"


@dataclass(frozen=True)
class PredictPlan:
    """A prediction with its output.

    Attributes:
        job: Scene, models and settings.
        thresholds: Thresholds of mask and footprints.
        output: The output as it was given.
        suffix: Suffix of an output file in lower case; empty for a folder.
        key: Text that differs for any two predictions whose outputs could differ.
    """

    job: PredictionJob
    thresholds: Thresholds
    output: Path
    suffix: str
    key: str

    @property
    def is_layer(self) -> bool:
        """Whether the only output is a layer of footprints."""
        return _is_layer(self.suffix)


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
    """Predict a scene, or several as one. An interrupted job continues when it is started again.

    Args:
        scene: Any raster that GDAL opens; several scenes, folders, patterns or lists of them (see
            `find_scenes`) are predicted as one, if they have the same pixel grid and bands.
            Where they overlap, the first one is used.
        output: A folder for `prob.tif`, `mask.tif` and `footprints.gpkg`; or one file: `.tif` for
            probabilities, a vector format for footprints. A model of boxes writes footprints only.
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
        workers = (workers or Workers()).with_default_processes(_count_gpus(plan.job))
        if plan.job.finds_boxes:
            return _predict_boxes(plan, overwrite, workers, progress)
        with _open_output(plan, overwrite) as work:
            if not work.is_complete:
                with workers.open(*_tasks_of_scene(), preload=_late_modules()) as pool:
                    _write_outputs(plan, work, workers, pool, progress)
    return _find_outputs(plan)


def plan_predict(
    scene: SceneNames,
    output: str | Path,
    *,
    model: ModelNames = None,
    options: PredictOptions | None = None,
    vectorize: VectorizeOptions | None = None,
    overwrite: bool = False,
) -> PredictPlan:
    """Check scene, model and output, reading headers only; arguments and errors as of `predict`."""
    options = options or PredictOptions()
    suffix = _check_suffix(output)
    if _is_layer(suffix) and not options.footprints:
        raise ConfigError(
            f"{output}: --rasters-only writes no footprints; use a folder or a file that ends in "
            ".tif"
        )
    check_backend(options.backend, options.device)
    failed: dict[str, SceneReadError] = {}
    names = [found.name for found in find_scenes(scene, options.asset, failed)]
    job = plan_job(names, model, options, failed)
    given = [scene] if isinstance(scene, str | Path) else scene
    job = replace(job, documents=tuple(filter(may_be_stac, map(str, given))))
    if _is_layer(suffix):
        # geopandas, which this imports, is slow to load.
        from geoseg.geo.vector import check_layer

        check_layer(output, job.plan.scene.grid.crs)
    if job.finds_boxes:
        _check_boxes(job, Path(output), suffix)
    check_output(
        output, overwrite=overwrite, inputs=job.list_protected_files(), is_file=bool(suffix)
    )
    thresholds = _choose_thresholds(job, vectorize)
    settings = options.model_dump(exclude={"block_rows"})
    key = describe_job(
        "predict", settings, thresholds.model_dump(), suffix, files=job.list_input_files()
    )
    return PredictPlan(job, thresholds, Path(output), suffix, key)


def _is_layer(suffix: str) -> bool:
    return suffix not in ("", *_RASTER_SUFFIXES)


def _choose_thresholds(job: PredictionJob, vectorize: VectorizeOptions | None) -> Thresholds:
    vectorize = vectorize or VectorizeOptions()
    if vectorize.crf is not None:
        raise ConfigError(
            "vectorize.crf: applies only to geoseg vectorize; use predict.crf, or --crf"
        )
    if job.specs[0].exclusive:
        check_thresholds(vectorize)
    return vectorize.over(job.specs[0].thresholds)


def _check_suffix(output: str | Path) -> str:
    """Return the suffix of an output file in lower case, or an empty text for a folder."""
    is_folder = str(output).endswith(("/", os.sep)) or Path(output).is_dir()
    suffix = "" if is_folder else Path(output).suffix.lower()
    if not suffix or suffix in _RASTER_SUFFIXES:
        return suffix
    # geopandas, which this imports, is slow to load.
    from geoseg.geo.vector import WRITABLE_SUFFIXES

    if suffix not in WRITABLE_SUFFIXES:
        choices = ", ".join((*_RASTER_SUFFIXES[:1], *WRITABLE_SUFFIXES))
        raise ConfigError(
            f"{output}: unknown suffix {suffix}; use a folder, or a file that ends in one of "
            f"{choices}"
        )
    return suffix


def _check_boxes(job: PredictionJob, output: Path, suffix: str) -> None:
    """Check that neither output nor options need probabilities per pixel.

    Args:
        job: Scene, model and settings.
        output: The output as it was given.
        suffix: Its suffix; empty for a folder.

    Raises:
        ConfigError: If one of them does.
    """
    # geopandas, which this imports, is slow to load.
    from geoseg.geo.vector import WRITABLE_SUFFIXES

    arch, options = job.specs[0].arch, job.options
    if suffix and suffix not in WRITABLE_SUFFIXES:
        raise ConfigError(
            f"{output}: cannot be written, since {arch} predicts boxes, not probabilities per "
            f"pixel; use a folder or one of {', '.join(WRITABLE_SUFFIXES)}"
        )
    is_set = {
        "tta": options.tta != "none",
        "crf": options.crf is not None,
        "uncertainty": options.uncertainty,
        "floats": options.floats,
        "aoi": options.aoi is not None,
    }
    for name, value in is_set.items():
        if value:
            raise ConfigError(
                f"predict.{name}: needs probabilities per pixel, but {arch} predicts boxes; "
                "remove it"
            )


def warn_of_drift_in(job: PredictionJob) -> None:
    """Warn if the scene differs from those that the models were trained on."""
    from geoseg.prediction.drift import warn_of_drift

    warn_of_drift(job.plan.scene, job.specs)


def _count_gpus(job: PredictionJob) -> int:
    from geoseg.networks.device import count_gpus

    return count_gpus(job.options.device)


def _open_output(plan: PredictPlan, overwrite: bool) -> AbstractContextManager[Work]:
    kind = file_output if plan.suffix else folder_output
    return kind(
        plan.output, job=plan.key, overwrite=overwrite, inputs=plan.job.list_protected_files()
    )


def _write_outputs(
    plan: PredictPlan, work: Work, workers: Workers, pool: Pool, progress: Progress | None
) -> None:
    """Write rasters and footprints into the result of a working folder."""
    from geoseg.geo.raster import read_prob
    from geoseg.prediction.scene_prediction import predict_rasters
    from geoseg.vectorization.layer import write_layer

    targets, layer = _name_targets(plan, work)
    job = plan.job.join_scenes_in(work.folder)

    def vectorize(prob: Path) -> None:
        if layer is not None:
            write_layer(
                read_prob(prob), layer, work, plan.thresholds,
                max_memory_gb=workers.max_memory_gb, pool=pool, progress=progress,
            )  # fmt: skip

    predict_rasters(
        job, work, targets, plan.thresholds,
        workers=workers, pool=pool, progress=progress, meanwhile=vectorize,
    )  # fmt: skip


def _name_targets(plan: PredictPlan, work: Work) -> tuple[dict[str, Path], Path | None]:
    """Return the rasters to write by kind, and the layer if there is one to write."""
    if plan.is_layer:
        return {}, work.result
    if plan.suffix:
        return {"prob": work.result}, None
    layer = work.result / _FOOTPRINTS if plan.job.options.footprints else None
    return {"prob": work.result / _PROB, "mask": work.result / _MASK}, layer


def _find_outputs(plan: PredictPlan) -> PredictResult:
    result = PredictResult(plan.job.plan.scene.name, left_out=plan.job.left_out)
    output = plan.output
    if plan.is_layer:
        return replace(result, footprints_path=output)
    if plan.suffix:
        return replace(result, prob_path=output)
    layer = output / _FOOTPRINTS if plan.job.options.footprints else None
    return replace(
        result, prob_path=output / _PROB, mask_path=output / _MASK, footprints_path=layer
    )


def _predict_boxes(
    plan: PredictPlan, overwrite: bool, workers: Workers, progress: Progress | None
) -> PredictResult:
    """Predict with a model of boxes, which writes footprints only."""
    from geoseg.detection.box_prediction import predict_boxes

    if workers.is_remote or workers.local_processes > 1:
        logger.warning("%s finds boxes, which is done by this process alone", plan.job.models[0])
    path = plan.output if plan.is_layer else plan.output / _FOOTPRINTS
    kind = file_output if plan.is_layer else folder_output
    with kind(plan.output, overwrite=overwrite, inputs=plan.job.list_protected_files()) as work:
        layer = work.result if plan.is_layer else work.result / _FOOTPRINTS
        predict_boxes(plan.job, layer, plan.thresholds, progress=progress)
    return PredictResult(plan.job.plan.scene.name, footprints_path=path, left_out=plan.job.left_out)


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
    repeated = next((folder for folder in folders if folders.count(folder) > 1), None)
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
    with workers.open(predict_task, *_tasks_of_scene(), preload=_late_modules()) as pool:
        for _ in pool.map(predict_task, tasks):
            pass
    return [_find_written(scene, folder) for scene, folder in zip(scenes, folders, strict=True)]


def _find_written(scene: str | Path, folder: Path) -> PredictResult:
    names = read_manifest(folder)
    prob, mask, layer = (
        folder / name if name in names else None for name in (_PROB, _MASK, _FOOTPRINTS)
    )
    return PredictResult(str(scene), prob, mask, layer)


def _tasks_of_scene() -> tuple[Callable[..., Any], ...]:
    """Return the functions by which workers predict and vectorize a scene."""
    from geoseg.prediction.blocks import predict_block
    from geoseg.vectorization.tasks import run_trace_task

    return predict_block, run_trace_task


def _late_modules() -> tuple[str, ...]:
    from geoseg.vectorization.tasks import LATE_MODULES

    return LATE_MODULES


def predict_task(task: PredictTask) -> None:
    """Predict one of several scenes."""
    predict(
        task.scene, task.output, model=task.model, options=task.options,
        vectorize=task.vectorize, workers=task.workers,
    )  # fmt: skip
