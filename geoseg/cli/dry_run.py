"""What a prediction would do, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geoseg.api.predict_plan import PredictPlan
from geoseg.errors import counted
from geoseg.jobs.workers import Workers
from geoseg.prediction.mosaic_job import MosaicJob
from geoseg.prediction.prediction_job import PredictionJob

# Mosaics of scenes that are described one by one.
_MOST_LINES = 5


def describe_prediction(planned: PredictPlan, workers: Workers) -> str:
    """Return what a prediction will do: pixels, tiles, time, disk and memory, in some lines."""
    job, options = planned.job, planned.job.options
    aoi = f", inside {options.aoi}" if options.aoi else ""
    jobs = [mosaic.job for mosaic in job.mosaics] if isinstance(job, MosaicJob) else [job]
    lines = [_describe_plan(one, aoi) for one in jobs[:_MOST_LINES]]
    if jobs[_MOST_LINES:]:
        lines.append(f"... and {len(jobs) - _MOST_LINES} more")
    if isinstance(job, MosaicJob):
        lines.append(_sum_up(job))
    if not (isinstance(job, PredictionJob) and job.finds_boxes):
        lines.append(_describe_time(jobs, workers))
    return "\n".join(lines)


def _sum_up(job: MosaicJob) -> str:
    tiles = sum(len(mosaic.job.plan.tiles) for mosaic in job.mosaics)
    pixels = sum(area.width * area.height for mosaic in job.mosaics for area in mosaic.areas)
    bands = len(job.specs[0].outputs) + job.options.uncertainty
    size = pixels * (bands * (4 if job.options.floats else 1) + 1)
    mosaics = counted(len(job.mosaics), "mosaic")
    return (
        f"{job.label}: {mosaics} of one pixel grid each, {tiles} tiles; "
        f"rasters of {pixels / 1e6:.0f} megapixels, {size / 1e6:.0f} MB before compression, and "
        "about as much in the meantime"
    )


def _describe_time(jobs: Sequence[PredictionJob], workers: Workers) -> str:
    """Return time and memory of a prediction; the network is tried for a few seconds."""
    # torch, which these import, is slow to load.
    from geoseg.prediction.blocks import measure_tiles_per_s
    from geoseg.prediction.encoding import OutputEncoding
    from geoseg.prediction.strips import plan_task

    tiles = sum(len(job.plan.tiles) for job in jobs)
    memory = f"up to {workers.max_memory_gb:g} GB of memory per process"
    if workers.is_remote:
        return f"the time on the cluster is not known; {memory}"
    encoding = OutputEncoding(jobs[0].plan.spec.outputs)
    # All cores in this process do as much as local processes that share them.
    everything = Workers(max_memory_gb=workers.max_memory_gb)
    rate = measure_tiles_per_s(plan_task(jobs[0], encoding, Path(), everything))
    return (
        f"{rate:.3g} tiles per second on this machine: about {_format_time(tiles / rate)} for the "
        f"network, without reading, rasters and footprints; {memory}"
    )


def _format_time(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} seconds"


def _describe_plan(job: PredictionJob, aoi: str) -> str:
    plan, options = job.plan, job.options
    bands = len(plan.spec.outputs) + options.uncertainty
    pixels = plan.out_grid.height * plan.out_grid.width
    size = pixels * bands * (4 if options.floats else 1)
    return (
        f"{plan.scene.name}: {plan.grid.height} rows x {plan.grid.width} columns at "
        f"{plan.grid.gsd_m:.3g} m, {len(plan.tiles)} tiles of {plan.tiles.size} pixels, "
        f"overlap {plan.tiles.overlap}{aoi}; "
        f"outputs {plan.out_grid.height} rows x {plan.out_grid.width} columns, {size / 1e6:.0f} MB "
        "before compression"
    )
