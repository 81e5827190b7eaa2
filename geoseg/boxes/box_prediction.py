"""Scene → boxes as footprints, one row of tiles in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from geoseg.boxes.box_arrays import Boxes, outlines_of
from geoseg.boxes.detector import LEAST_SCORE, BoxPredictor
from geoseg.boxes.merging import stitch_boxes
from geoseg.errors import ConfigError
from geoseg.geo.raster import Scene
from geoseg.geo.tiling import Tile, TileGrid
from geoseg.geo.vector import WRITABLE_SUFFIXES, write_footprints
from geoseg.jobs.progress import Progress
from geoseg.networks.model_file import load_model
from geoseg.options import PredictOptions, Thresholds
from geoseg.prediction.plan import PredictPlan
from geoseg.prediction.prediction_job import PredictionJob
from geoseg.vectorization.footprint_frames import OutlineBatch, georeference_outlines

logger = logging.getLogger(__name__)

# A tile with its data (C, h, w) and where that is valid (h, w).
_ReadTile = tuple[Tile, np.ndarray, np.ndarray]

# Tiles per step, unless it is said.
_BATCH_SIZE = 8

FindBoxes = Callable[[np.ndarray, np.ndarray], list[Boxes]]


def predict_boxes(
    job: PredictionJob,
    layer: Path,
    thresholds: Thresholds,
    *,
    progress: Progress | None = None,
) -> None:
    """Predict a scene with a model of boxes and write the boxes as footprints.

    Args:
        job: Scene, model and settings; see `check_boxes`.
        layer: File of footprints.
        thresholds: `body` is the least score of a box; `min_area_m2` applies too.
        progress: Called with the finished and the total number of tiles.
    """
    plan, options = job.plan, job.options
    if plan.tiles.overlap == 0 and len(plan.tiles) > 1:
        logger.warning(
            "predict.overlap: 0 means that no pixels are seen by two tiles, so that a building "
            "between two of them is found twice; choose more pixels than a building is wide"
        )
    least = min(LEAST_SCORE, thresholds.body)
    _, weights = load_model(job.models[0])
    predictor = BoxPredictor(plan.spec, weights, options.device, least=least, iou=options.nms_iou)
    _write(plan, predictor, layer, options, thresholds, progress)


def check_boxes(job: PredictionJob, output: Path, suffix: str) -> None:
    """Check that nothing is requested that needs probabilities per pixel.

    Args:
        job: Scene, model and settings.
        output: The output as it was given.
        suffix: Its suffix; empty for a folder.

    Raises:
        ConfigError: If the output is a raster, or a setting applies only to probabilities.
    """
    arch, options = job.specs[0].arch, job.options
    if suffix and suffix not in WRITABLE_SUFFIXES:
        raise ConfigError(
            f"{output}: cannot be written, {arch} finds boxes and has no probabilities per pixel; "
            f"use a folder or one of {', '.join(WRITABLE_SUFFIXES)}"
        )
    requested = {
        f"tta: {options.tta} averages": options.tta != "none",
        "crf: refines": options.crf is not None,
        "uncertainty: compares": options.uncertainty,
        "floats: stores": options.floats,
        "aoi: leaves out": options.aoi is not None,
    }
    for setting, is_set in requested.items():
        if is_set:
            raise ConfigError(
                f"predict.{setting} probabilities per pixel, which {arch} does not have; remove it"
            )


def iter_boxes(
    scene: Scene,
    plan: TileGrid,
    predictor: FindBoxes,
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Iterator[tuple[Tile, Boxes]]:
    """Finds the boxes of the tiles of a plan, in their order.

    Tiles without a valid pixel are left out.

    Args:
        scene: The scene on the plan's grid.
        plan: The tiles.
        predictor: (N, C, h, w), (N, h, w) → boxes in pixels of each of the N tiles.
        batch_size: Tiles per batch.
        progress: Told the finished and the total number of tiles.
    """
    for batch in _iter_batches(scene, plan, batch_size):
        tiles, data, valid = zip(*batch, strict=True)
        yield from zip(tiles, predictor(np.stack(data), np.stack(valid)), strict=True)
        if progress:
            progress(tiles[-1].row * len(plan.columns) + tiles[-1].column + 1, len(plan), "tiles")
    if progress:
        progress(len(plan), len(plan), "tiles")


def _iter_batches(scene: Scene, plan: TileGrid, batch_size: int) -> Iterator[list[_ReadTile]]:
    """Reads the tiles of a plan in their order; those without a valid pixel are left out."""
    batch: list[_ReadTile] = []
    for tile in plan:
        data, valid = scene.read(tile.window)
        if valid.any():
            batch.append((tile, data, valid))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(
    plan: PredictPlan,
    predictor: BoxPredictor,
    path: Path,
    options: PredictOptions,
    thresholds: Thresholds,
    progress: Progress | None,
) -> None:
    with plan.scene.open(plan.grid) as scene:
        tiles = iter_boxes(
            scene,
            plan.tiles,
            predictor,
            batch_size=options.batch_size or _BATCH_SIZE,
            progress=progress,
        )
        stitched = stitch_boxes(plan.tiles, tiles)
        outlines = _outlines(stitched, thresholds.body)
        frames = georeference_outlines(outlines, plan.grid, thresholds.min_area_m2)
        write_footprints(path, frames, crs=plan.grid.crs, grid=plan.out_grid)


def _outlines(batches: Iterator[Boxes], least: float) -> Iterator[OutlineBatch]:
    for boxes in batches:
        yield outlines_of(boxes[boxes.scores >= least])
