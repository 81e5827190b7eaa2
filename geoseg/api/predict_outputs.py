"""Outputs of predictions: rasters and footprints of one scene, or of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.api.predict_plan import PredictPlan
from geoseg.api.results import INDEX, PredictResult
from geoseg.jobs.output import Work, file_output, folder_output
from geoseg.jobs.pool import Pool
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers
from geoseg.prediction.mosaic_job import MosaicJob

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from geoseg.prediction.strips import Strips

PROB, MASK, FOOTPRINTS = "prob.tif", "mask.tif", "footprints.gpkg"


def open_output(plan: PredictPlan, overwrite: bool) -> AbstractContextManager[Work]:
    """Return the context in which the output of a prediction is written."""
    kind = file_output if plan.suffix else folder_output
    return kind(
        plan.output, job=plan.key, overwrite=overwrite, inputs=plan.job.list_protected_files()
    )


def write_outputs(
    plan: PredictPlan,
    work: Work,
    workers: Workers,
    pool: Pool,
    progress: Progress | None,
    strips: Sequence[Strips] | None = None,
) -> None:
    """Write rasters and footprints into the result of a working folder.

    Args:
        plan: The prediction.
        work: The working folder.
        workers: Limits of threads and memory.
        pool: The workers, open.
        progress: As of `predict`.
        strips: All strips of the scene, or of each mosaic of scenes, if they are predicted already.
    """
    if isinstance(plan.job, MosaicJob):
        _write_many(plan, plan.job, work, workers, pool, progress, strips)
        return
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
        strips=None if strips is None else strips[0],
    )  # fmt: skip


def _name_targets(plan: PredictPlan, work: Work) -> tuple[dict[str, Path], Path | None]:
    """Return the rasters to write by kind, and the layer if there is one to write."""
    if plan.is_layer:
        return {}, work.result
    if plan.suffix:
        return {"prob": work.result}, None
    layer = work.result / FOOTPRINTS if plan.job.options.footprints else None
    return {"prob": work.result / PROB, "mask": work.result / MASK}, layer


def _write_many(
    plan: PredictPlan,
    job: MosaicJob,
    work: Work,
    workers: Workers,
    pool: Pool,
    progress: Progress | None,
    strips: Sequence[Strips] | None,
) -> None:
    from geoseg.api.many_scenes import ManyTargets, write_many

    if plan.is_layer:
        folder = work.folder / "rasters"
        folder.mkdir(exist_ok=True)
        targets = ManyTargets(folder, work.result, has_rasters=False)
    else:
        layer = work.result / FOOTPRINTS if job.options.footprints else None
        targets = ManyTargets(work.result, layer, has_rasters=True)
    write_many(
        job, work, targets, plan.thresholds,
        workers=workers, pool=pool, progress=progress, strips=strips,
    )  # fmt: skip


def find_outputs(plan: PredictPlan) -> PredictResult:
    """Return the outputs of a prediction that is complete."""
    result = PredictResult(plan.job.label, left_out=plan.job.left_out)
    output = plan.output
    if isinstance(plan.job, MosaicJob) and not plan.is_layer:
        return _find_many(plan.job, result, output)
    if plan.is_layer:
        return replace(result, footprints_path=output)
    if plan.suffix:
        return replace(result, prob_path=output)
    layer = output / FOOTPRINTS if plan.job.options.footprints else None
    return replace(result, prob_path=output / PROB, mask_path=output / MASK, footprints_path=layer)


def _find_many(job: MosaicJob, result: PredictResult, output: Path) -> PredictResult:
    first, *_ = job.endings
    return replace(
        result,
        prob_path=output / f"prob{first}.vrt",
        mask_path=output / f"mask{first}.vrt",
        footprints_path=output / FOOTPRINTS if job.options.footprints else None,
        index_path=output / INDEX,
    )


def open_workers(plan: PredictPlan, work: Work, workers: Workers) -> AbstractContextManager[Pool]:
    """Return the context in which the workers of a prediction are open."""
    return workers.open(
        *tasks_of_scene(), preload=late_modules(), inputs=plan.job.list_input_files(),
        folder=work.folder,
    )  # fmt: skip


def tasks_of_scene() -> tuple[Callable[..., Any], ...]:
    """Return the functions by which workers predict and vectorize a scene."""
    from geoseg.prediction.blocks import predict_block
    from geoseg.vectorization.tasks import run_trace_task

    return predict_block, run_trace_task


def late_modules() -> tuple[str, ...]:
    """Return further modules that these functions need."""
    from geoseg.vectorization.tasks import LATE_MODULES

    return LATE_MODULES
