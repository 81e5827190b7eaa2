"""Predicts many scenes: rasters of each, and virtual mosaics over those of one pixel grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rasterio.windows import Window

from geoseg.geo.raster import write_mosaic
from geoseg.geo.styles import prob_style, write_raster_style
from geoseg.jobs.output import Work
from geoseg.jobs.pool import Pool
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers
from geoseg.options import Thresholds
from geoseg.prediction.class_mask import MASK_BAND, MASK_NODATA, make_mask_tags, write_mask_style
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.mosaic_job import MosaicJob, SceneMosaic
from geoseg.prediction.plan import ScenePlan
from geoseg.prediction.rasters import OutputRasters
from geoseg.prediction.scene_prediction import STRIPS, make_tags
from geoseg.prediction.strips import StripPrediction, Strips, StripTask, run_task

# Folder of the rasters of each scene, in that of the virtual mosaics.
SCENES = "scenes"


@dataclass(frozen=True)
class SceneTask:
    """Rasters of one scene to write: a recipe that any process can carry out.

    Attributes:
        plan: Plan of the mosaic.
        stitched: Probabilities of the mosaic on the grid of the tiles.
        area: Pixels of the scene on the output grid of the mosaic.
        prob: Raster of probabilities to write.
        mask: Mask to write; None for none.
        encoding: Bands of the probabilities.
        tags: Tags of the probabilities.
        thresholds: Thresholds of the mask.
        workers: Threads and memory.
        folder: Folder for intermediate rasters.
        done: File that is made when the rasters are complete.
    """

    plan: ScenePlan
    stitched: Path
    area: Window
    prob: Path
    mask: Path | None
    encoding: OutputEncoding
    tags: dict[str, str]
    thresholds: Thresholds
    workers: Workers
    folder: Path
    done: Path


@dataclass(frozen=True)
class MosaicRasters:
    """Rasters of a mosaic.

    Attributes:
        mosaic: The mosaic.
        prob: Virtual mosaic of the probabilities.
        mask: Virtual mosaic of the masks; None if there are none.
        scene_probs: Probabilities of each scene.
    """

    mosaic: SceneMosaic
    prob: Path
    mask: Path | None
    scene_probs: tuple[Path, ...]


def predict_mosaics(
    job: MosaicJob,
    work: Work,
    folder: Path,
    thresholds: Thresholds,
    *,
    masks: bool,
    workers: Workers,
    pool: Pool,
    progress: Progress | None = None,
    strips: Sequence[Strips] | None = None,
) -> list[MosaicRasters]:
    """Predict many scenes, and write the rasters of each.

    The rasters of scenes that overlap have the same values there, those of the mosaic.

    Args:
        job: Scenes, models and settings.
        work: The working folder, which keeps finished strips when the job is interrupted.
        folder: Folder for the virtual mosaics, with the rasters of the scenes in a folder of it.
        thresholds: Thresholds of the masks.
        masks: Whether masks are written.
        workers: Who predicts; the bytes do not depend on it.
        pool: The same workers, open.
        progress: Called with the finished and the total number of tiles.
        strips: All strips of each mosaic, if they are predicted already.

    Returns:
        The rasters of each mosaic.
    """
    spec, options = job.specs[0], job.options
    encoding = OutputEncoding(spec.outputs, options.uncertainty, options.floats)
    tags = make_tags(job.mosaics[0].job, encoding, thresholds)
    (folder / SCENES).mkdir(exist_ok=True)
    writers = [
        _MosaicWriter(mosaic, folder, encoding, tags, thresholds, masks, workers)
        for mosaic in join_scenes(job, work.folder)
    ]

    def follow(number: int, strips: Strips, batch: Path) -> list[Callable[[], object]]:
        scratch = batch / f"{number} stitched"
        scratch.mkdir(exist_ok=True)
        tasks = writers[number].plan_tasks(strips, scratch, progress)
        return [partial(write_scene_rasters, task) for task in tasks]

    if strips is None:
        StripPrediction(
            [writer.mosaic.job for writer in writers], encoding, work.folder / STRIPS, work.journal,
            workers, progress,
        ).predict(pool, follow)  # fmt: skip
    else:
        batch = work.folder / STRIPS
        batch.mkdir(exist_ok=True)
        tasks = (task for number, some in enumerate(strips) for task in follow(number, some, batch))
        for _ in pool.map(run_task, map(StripTask, tasks)):
            pass
    return [writer.join(end) for writer, end in zip(writers, job.endings, strict=True)]


def join_scenes(job: MosaicJob, folder: Path) -> list[SceneMosaic]:
    """Join the scenes of mosaics in a working folder, which all workers can read."""
    joined = []
    for number, mosaic in enumerate(job.mosaics):
        place = folder / "mosaics" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        joined.append(mosaic.join_scenes_in(place))
    return joined


class _MosaicWriter:
    """Plans and joins the rasters of the scenes of a mosaic; arguments as of `predict_mosaics`."""

    def __init__(
        self,
        mosaic: SceneMosaic,
        folder: Path,
        encoding: OutputEncoding,
        tags: dict[str, str],
        thresholds: Thresholds,
        masks: bool,
        workers: Workers,
    ) -> None:
        self.mosaic, self._folder, self._encoding, self._tags = mosaic, folder, encoding, tags
        self._thresholds, self._has_masks, self._workers = thresholds, masks, workers

    def plan_tasks(
        self, strips: Strips, scratch: Path, progress: Progress | None
    ) -> list[SceneTask]:
        """Join strips, and return the tasks that write the rasters of the scenes.

        Args:
            strips: All strips of the mosaic.
            scratch: Folder for intermediate files, which belongs to these strips.
            progress: Called with the finished and the total number of CRF blocks.
        """
        job, encoding, tags = self.mosaic.job, self._encoding, self._tags
        rasters = OutputRasters(job.plan, scratch, encoding, tags, self._workers)
        stitched = rasters.stitch(strips, job.options, progress)
        return [
            SceneTask(
                plan=job.plan, stitched=stitched, area=area, prob=self._path(name, "prob"),
                mask=self._path(name, "mask") if self._has_masks else None, encoding=encoding,
                tags=tags, thresholds=self._thresholds, workers=self._workers.single(),
                folder=scratch / name, done=scratch / f"{name} is written",
            )
            for name, area in zip(self.mosaic.names, self.mosaic.areas, strict=True)
        ]  # fmt: skip

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / SCENES / f"{name}_{kind}.tif"

    def join(self, end: str) -> MosaicRasters:
        """Write the virtual mosaics over the rasters of the scenes, with an end of their names."""
        plan, encoding = self.mosaic.job.plan, self._encoding
        grid, spec = plan.out_grid, plan.spec
        prob, mask = self._folder / f"prob{end}.vrt", self._folder / f"mask{end}.vrt"
        write_mosaic(
            prob, grid, self._parts("prob"), bands=encoding.bands, dtype=encoding.dtype,
            scales=encoding.scales, tags=self._tags, has_gaps=True,
        )  # fmt: skip
        write_raster_style(prob, prob_style(spec.outputs, spec.background))
        if self._has_masks:
            write_mosaic(
                mask, grid, self._parts("mask"), bands=[MASK_BAND], dtype="uint8",
                nodata=MASK_NODATA, tags=make_mask_tags(spec),
            )  # fmt: skip
            write_mask_style(mask, spec)
        probs = tuple(self._path(name, "prob") for name in self.mosaic.names)
        return MosaicRasters(self.mosaic, prob, mask if self._has_masks else None, probs)

    def _parts(self, kind: str) -> list[tuple[Path, Window]]:
        paths = [self._path(name, kind) for name in self.mosaic.names]
        return list(zip(paths, self.mosaic.areas, strict=True))


def write_scene_rasters(task: SceneTask) -> None:
    """Write the rasters of one scene, unless an interrupted run has done it."""
    if task.done.exists():
        return
    task.folder.mkdir(parents=True, exist_ok=True)
    rasters = OutputRasters(task.plan, task.folder, task.encoding, task.tags, task.workers)
    prob = rasters.cut(task.stitched, task.area)
    rasters.write(prob, task.prob, task.mask, task.thresholds, task.workers.local_threads)
    if prob.parent == task.folder:
        prob.unlink()
    task.done.touch()
