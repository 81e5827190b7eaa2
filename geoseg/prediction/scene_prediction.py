"""Predicts the probability and mask rasters of one scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.prediction_job import PredictionJob
from geoseg.prediction.rasters import OutputRasters
from geoseg.prediction.strips import StripPrediction, Strips

# Folder of the strips in the working folder.
STRIPS = "strips"


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
    strips: Strips | None = None,
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
        strips: All strips of the scene, if they are predicted already.

    Returns:
        A raster of all probabilities in the working folder.
    """
    encoding = OutputEncoding(job.plan.spec.outputs, job.options.uncertainty, job.options.floats)
    if strips is None:
        (strips,) = StripPrediction(
            [job], encoding, work.folder / STRIPS, work.journal, workers, progress
        ).predict(pool)
    tags = make_tags(job, encoding, thresholds)
    rasters = OutputRasters(job.plan, work.folder, encoding, tags, workers)
    prob = rasters.cut(rasters.stitch(strips, job.options, progress))
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


def make_tags(
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
