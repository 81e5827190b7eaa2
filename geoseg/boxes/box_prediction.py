"""Scene → boxes as footprints, one row of tiles in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from geoseg.boxes.box_arrays import Boxes, outlines_of
from geoseg.boxes.detector import LEAST_SCORE, BoxPredictor
from geoseg.boxes.merging import stitch_boxes
from geoseg.errors import ConfigError
from geoseg.geo.raster import Scene
from geoseg.geo.tiling import Tile, TileGrid
from geoseg.geo.vector import WRITABLE_SUFFIXES, write_footprints
from geoseg.jobs.journal import claim_output
from geoseg.jobs.progress import Progress
from geoseg.options import PredictOptions, Thresholds
from geoseg.prediction.plan import PredictPlan
from geoseg.vectorization.footprint_frames import OutlineBatch, georeference_outlines

logger = logging.getLogger(__name__)

_LAYER_NAME = "footprints.gpkg"

# A tile with its data (C, h, w) and where that is valid (h, w).
_ReadTile = tuple[Tile, np.ndarray, np.ndarray]

# Tiles per step, unless it is said.
_BATCH_SIZE = 8

FindBoxes = Callable[[np.ndarray, np.ndarray], list[Boxes]]


def predict_boxes(
    plan: PredictPlan,
    weights: dict[str, Tensor],
    output: Path,
    options: PredictOptions,
    thresholds: Thresholds,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Predicts a scene by a model of boxes.

    Args:
        plan: What to predict, from `plan_prediction`.
        weights: State dict of the model.
        output: A folder for `footprints.gpkg`, or a file of footprints.
        options: How to predict.
        thresholds: `body` is the least score of a box; `min_area_m2` holds too.
        overwrite: Replace the output if it is there.
        progress: Told the finished and the total number of tiles.

    Returns:
        The file written.

    Raises:
        ConfigError: If probabilities per pixel are asked for.
    """
    is_folder = output.is_dir() or not output.suffix
    if not is_folder and output.suffix.lower() not in WRITABLE_SUFFIXES:
        raise ConfigError(
            f"{output}: cannot be written, {plan.spec.arch} finds boxes and has no probabilities "
            f"per pixel; use a folder or one of {', '.join(WRITABLE_SUFFIXES)}"
        )
    _refuse_pixel_options(plan.spec.arch, options)
    if plan.tiles.overlap == 0 and len(plan.tiles) > 1:
        logger.warning(
            "predict.overlap: 0 leaves no ground on which tiles could agree, a building between "
            "two of them is found twice; choose some pixels more than a building is wide"
        )
    least = min(LEAST_SCORE, thresholds.body)
    predictor = BoxPredictor(plan.spec, weights, options.device, least=least, iou=options.nms_iou)
    if not is_folder:
        _write(plan, predictor, output, options, thresholds, progress)
        return [output]
    with claim_output(output, overwrite=overwrite) as folder:
        _write(plan, predictor, folder / _LAYER_NAME, options, thresholds, progress)
    return [output / _LAYER_NAME]


def _refuse_pixel_options(arch: str, options: PredictOptions) -> None:
    """Refuses what only probabilities per pixel allow."""
    asked = {
        f"tta: {options.tta} averages": options.tta != "none",
        "crf: refines": options.crf is not None,
        "uncertainty: compares": options.uncertainty,
        "floats: stores": options.floats,
        "aoi: leaves out": options.aoi is not None,
    }
    for what, wanted in asked.items():
        if wanted:
            raise ConfigError(
                f"predict.{what} probabilities per pixel, which {arch} has none of; leave it out"
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
