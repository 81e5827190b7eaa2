"""Prediction of a scene by a model of boxes, one row of tiles in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from geoseg.credentials import get_logger
from geoseg.detection.box_arrays import Boxes, box_outlines
from geoseg.detection.detector import MIN_SCORE, BoxPredictor
from geoseg.detection.merging import merge_boxes
from geoseg.geo.raster import Scene
from geoseg.geo.tiling import Tile, TileGrid
from geoseg.geo.vector import write_footprints
from geoseg.jobs.progress import Progress
from geoseg.networks.model_file import load_model
from geoseg.options import PredictOptions, Thresholds
from geoseg.prediction.plan import ScenePlan
from geoseg.prediction.prediction_job import PredictionJob
from geoseg.vectorization.footprint_frames import OutlineBatch, georeference_outlines

logger = get_logger(__name__)

# A tile with its data (C, h, w) and valid (h, w).
_ReadTile = tuple[Tile, np.ndarray, np.ndarray]

# Default number of tiles per batch.
_BATCH_SIZE = 8

DetectBoxes = Callable[[np.ndarray, np.ndarray], list[Boxes]]


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
        thresholds: Uses `body`, the minimum score of a box, and `min_area_m2`.
        progress: Called with the finished and the total number of tiles.
    """
    plan, options = job.plan, job.options
    if plan.tiles.overlap == 0 and len(plan.tiles) > 1:
        logger.warning(
            "predict.overlap: without overlap, buildings on the edge of two tiles are detected "
            "twice; choose an overlap of some pixels more than the width of a building"
        )
    _, weights = load_model(job.models[0])
    predictor = BoxPredictor(
        plan.spec,
        weights,
        options.device,
        min_score=min(MIN_SCORE, thresholds.body),
        iou=options.nms_iou,
    )
    _write(plan, predictor, layer, options, thresholds, progress)


def iter_boxes(
    scene: Scene,
    plan: TileGrid,
    predictor: DetectBoxes,
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Iterator[tuple[Tile, Boxes]]:
    """Detect the boxes of tiles, in order; tiles without valid pixels are skipped.

    Args:
        scene: The scene on the grid of the tiles.
        plan: The tiles.
        predictor: (N, C, h, w), (N, h, w) → boxes in pixels of each of the N tiles.
        batch_size: Tiles per batch.
        progress: Called with the finished and the total number of tiles.
    """
    for batch in _iter_batches(scene, plan, batch_size):
        tiles, data, valid = zip(*batch, strict=True)
        yield from zip(tiles, predictor(np.stack(data), np.stack(valid)), strict=True)
        if progress:
            progress(tiles[-1].row * len(plan.columns) + tiles[-1].column + 1, len(plan), "tiles")
    if progress:
        progress(len(plan), len(plan), "tiles")


def _iter_batches(scene: Scene, plan: TileGrid, batch_size: int) -> Iterator[list[_ReadTile]]:
    """Read tiles in order, in batches; tiles without valid pixels are skipped."""
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
    plan: ScenePlan,
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
        merged = merge_boxes(plan.tiles, tiles)
        outlines = _iter_outlines(merged, thresholds.body)
        frames = georeference_outlines(outlines, plan.grid, thresholds.min_area_m2)
        write_footprints(path, frames, crs=plan.grid.crs, grid=plan.out_grid)


def _iter_outlines(batches: Iterator[Boxes], min_score: float) -> Iterator[OutlineBatch]:
    for boxes in batches:
        yield box_outlines(boxes[boxes.scores >= min_score])
