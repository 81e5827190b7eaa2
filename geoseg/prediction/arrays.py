"""Predicts images that are in memory."""

from __future__ import annotations

import numpy as np
import torch
from rasterio.io import MemoryFile

from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene
from geoseg.geo.tiling import TileGrid
from geoseg.jobs.workers import count_cores
from geoseg.options import PredictOptions
from geoseg.prediction.batch_choice import cpu_batch_size
from geoseg.prediction.batches import iter_batches
from geoseg.prediction.blocks import predict_batches
from geoseg.prediction.plan import check_gsd
from geoseg.prediction.predictor import Predictor
from geoseg.prediction.stitching import Stitcher, TileBlock
from geoseg.prediction.strip_writer import check_probabilities


def predict_array(
    predictor: Predictor,
    image: np.ndarray,
    grid: Grid,
    valid: np.ndarray | None,
    options: PredictOptions,
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Predict an image with overlapping tiles, stitched as those of a scene.

    Args:
        predictor: The networks.
        image: (C, H, W) in the units of the model's scenes.
        grid: CRS, transform and shape of the image.
        valid: Boolean (H, W), False on nodata; all valid when None.
        options: `overlap`, `blend` and `batch_size` are used.

    Returns:
        Probabilities float32 (outputs, h, w), 0 where not valid; valid (h, w); and their grid,
        which has the pixel size of the model.

    Raises:
        GridMismatchError: If the pixel size is too far from the model's.
        ModelFileError: If a probability is not a number.
    """
    spec = predictor.spec
    check_gsd("the image", grid, spec)
    model_grid = grid.resampled(spec.gsd_m)
    overlap = spec.overlap if options.overlap is None else options.overlap
    tiles = TileGrid(model_grid.height, model_grid.width, spec.size, overlap, options.blend)
    block = TileBlock.whole(tiles)
    batch_size = options.batch_size or cpu_batch_size(spec.size)
    batch_size = min(batch_size, len(tiles))
    prob = np.zeros((len(spec.outputs), *model_grid.shape), np.float32)
    seen = np.zeros(model_grid.shape, bool)
    with (
        torch.inference_mode(),
        MemoryFile() as file,
        _write(file, image, grid, valid, model_grid) as scene,
    ):
        stitcher = Stitcher(block, len(spec.outputs), predictor.device)
        batches = iter_batches(scene, block, batch_size=batch_size, margin=predictor.margin)
        for batch, found in predict_batches(predictor, batches, count_cores()):
            for row, valid_pixels in batch.strip_valid.items():
                seen[block.strip(row).toslices()] = valid_pixels
            for tile, index in batch.tiles:
                window, blended = stitcher.add(tile, None if index is None else found[index])
                prob[(slice(None), *window.toslices())] = blended.cpu().numpy()
    check_probabilities(float(prob.sum()))
    return prob * seen, seen, model_grid


def _write(
    file: MemoryFile, image: np.ndarray, grid: Grid, valid: np.ndarray | None, model_grid: Grid
) -> Scene:
    """Write the image into a GeoTIFF in memory and open it on the grid of the model."""
    with file.open(
        driver="GTiff", height=grid.height, width=grid.width, count=len(image),
        dtype=image.dtype.name, crs=grid.crs, transform=grid.transform, photometric="minisblack",
    ) as sink:  # fmt: skip
        sink.write(image)
        if valid is not None:
            sink.write_mask(valid)
    bands = list(range(1, len(image) + 1))
    return Scene(file.name, bands=bands, grid=model_grid)
