"""Outputs of a prediction of many scenes: rasters, one layer, an index and a STAC item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from geoseg.api.results import INDEX
from geoseg.api.scene_index import write_index, write_item
from geoseg.geo.crs import as_crs
from geoseg.geo.raster import read_prob
from geoseg.geo.vector import write_footprints
from geoseg.jobs.journal import Journal
from geoseg.jobs.output import Work
from geoseg.jobs.pool import Pool
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers
from geoseg.options import Thresholds
from geoseg.prediction.mosaic_job import MosaicJob
from geoseg.prediction.mosaic_prediction import MosaicRasters, predict_mosaics
from geoseg.prediction.strips import Strips
from geoseg.vectorization.layer import describe_layer, write_layer
from geoseg.vectorization.mosaic_layer import (
    SCENE_COLUMN,
    JoinedLayer,
    MosaicLayer,
    SceneArea,
)


@dataclass(frozen=True)
class ManyTargets:
    """What is written of a prediction of many scenes.

    Attributes:
        folder: Folder of the rasters.
        layer: Layer of footprints; None for none.
        has_rasters: Whether the rasters are an output, with masks, an index and a STAC item.
    """

    folder: Path
    layer: Path | None
    has_rasters: bool


def write_many(
    job: MosaicJob,
    work: Work,
    targets: ManyTargets,
    thresholds: Thresholds,
    *,
    workers: Workers,
    pool: Pool,
    progress: Progress | None = None,
    strips: Sequence[Strips] | None = None,
) -> None:
    """Predict many scenes and write what is wanted of them.

    Args:
        job: Scenes, models and settings.
        work: The working folder, which keeps finished work when the job is interrupted.
        targets: What is written.
        thresholds: Thresholds of masks and footprints.
        workers: Who predicts; the bytes do not depend on it.
        pool: The same workers, open.
        progress: Called with finished and total numbers, and of what.
        strips: All strips of each mosaic, if they are predicted already.
    """
    rasters = predict_mosaics(
        job, work, targets.folder, thresholds, masks=targets.has_rasters, workers=workers,
        pool=pool, progress=progress, strips=strips,
    )  # fmt: skip
    areas = _read_areas(rasters, job)
    counts: Mapping[str, int] | None = None
    if targets.layer is not None:
        paths = [
            _vectorize(one, work, number, thresholds, workers, pool, progress)
            for number, one in enumerate(rasters)
        ]
        counts = _join_layers(job, rasters, areas, paths, targets.layer, thresholds)
        work.journal.add("count", sum(counts.values()))
    if targets.has_rasters:
        write_index(targets.folder / INDEX, job, rasters, areas, counts)
        write_item(targets.folder, job, rasters, areas, targets.layer)


def _read_areas(rasters: Sequence[MosaicRasters], job: MosaicJob) -> list[tuple[SceneArea, ...]]:
    """Return the areas of the scenes of each mosaic."""
    crs = as_crs(job.crs)
    return [
        tuple(
            SceneArea.read(name, prob, as_crs(one.mosaic.job.crs), crs)
            for name, prob in zip(one.mosaic.names, one.scene_probs, strict=True)
        )
        for one in rasters
    ]


def _vectorize(
    rasters: MosaicRasters,
    work: Work,
    number: int,
    thresholds: Thresholds,
    workers: Workers,
    pool: Pool,
    progress: Progress | None,
) -> Path:
    """Write the layer of one mosaic into the working folder, unless an interrupted run has."""
    folder = work.folder / "mosaics" / str(number)
    path = folder / "footprints.parquet"
    if not path.exists():
        with closing(Journal(folder, "layer of a mosaic")) as journal:
            write_layer(
                read_prob(rasters.prob), path, Work(folder, path, journal, is_complete=False),
                thresholds, max_memory_gb=workers.max_memory_gb, pool=pool, progress=progress,
            )  # fmt: skip
    return path


def _join_layers(
    job: MosaicJob,
    rasters: Sequence[MosaicRasters],
    areas: Sequence[tuple[SceneArea, ...]],
    paths: Sequence[Path],
    layer: Path,
    thresholds: Thresholds,
) -> Mapping[str, int]:
    """Join the layers of mosaics; return the number of polygons of each scene."""
    prob = read_prob(rasters[0].prob)
    grids = [one.mosaic.job.plan.out_grid for one in rasters]
    layers = [
        MosaicLayer(path, scenes, grid.gsd_m)
        for path, scenes, grid in zip(paths, areas, grids, strict=True)
    ]
    spec = job.specs[0]
    # A network sees half of a tile around the middle of it.
    depth_m = math.inf if job.options.prefer == "inner" else spec.gsd_m * spec.size / 4
    joined = JoinedLayer(layers, as_crs(job.crs), prob.classes is not None, depth_m)
    style = describe_layer(prob, thresholds)
    columns = {**style.pop("columns"), SCENE_COLUMN: "str"}
    with closing(joined.frames()) as frames:
        write_footprints(
            layer, frames, crs=joined.crs, columns=columns,
            grid=grids[0] if len(grids) == 1 else None, **style,
        )  # fmt: skip
    return joined.counts
