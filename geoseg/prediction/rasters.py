"""Stitched bands → the rasters of a prediction, on the grid that the user wants."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt

from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, limited_block_cache, open_for_writing, write_cog, write_mosaic
from geoseg.jobs.progress import Progress
from geoseg.options import PredictOptions, Thresholds
from geoseg.prediction.batches import within
from geoseg.prediction.class_mask import write_mask
from geoseg.prediction.crf.refinement import refine_raster
from geoseg.prediction.encoding import ValuesKind
from geoseg.prediction.plan import PredictPlan

_WINDOW = (512, 4096)


class Rasters:
    """Makes the rasters of a prediction of its bands.

    Args:
        plan: What was predicted.
        folder: Where the rasters that lie between bands and results go.
        values: What the bands hold.
        tags: Of the rasters.
    """

    def __init__(
        self, plan: PredictPlan, folder: Path, values: ValuesKind, tags: dict[str, str]
    ) -> None:
        self._plan, self._folder, self._values, self._tags = plan, folder, values, tags

    @limited_block_cache()
    def join(
        self,
        bands: Iterable[tuple[Path, Window]],
        options: PredictOptions,
        progress: Progress | None = None,
    ) -> Path:
        """Joins the bands, refines them if wanted, and brings them to the grid of the outputs.

        Args:
            bands: Files with their windows on the plan's grid.
            options: How to predict.
            progress: Told the finished and the total number of the CRF's blocks.

        Returns:
            A raster of probabilities, not yet in its final form.
        """
        prob, values, scene = self._folder / "stitched.vrt", self._values, self._plan.scene
        stored = {"bands": values.bands, "dtype": values.dtype, "scales": values.scales}
        write_mosaic(prob, self._plan.grid, bands, tags=self._tags, **stored)  # type: ignore[arg-type]
        if options.crf:
            refined = self._folder / "refined.tif"
            refine_raster(
                prob, scene.path, refined, options=options.crf, bands=scene.indexes,
                assume_gsd_m=scene.assume_gsd_m, progress=progress,
            )  # fmt: skip
            prob = refined
        return prob if self._plan.out_grid == self._plan.grid else self._place(prob)

    @limited_block_cache()
    def write(self, prob: Path, path: Path, mask: Path | None, thresholds: Thresholds) -> None:
        """Writes probabilities and perhaps their mask as Cloud Optimized GeoTIFFs.

        Args:
            prob: From `join`.
            path: Of the probabilities.
            mask: Of the mask.
            thresholds: What makes a building.
        """
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(write_cog, prob, path, resampling="average")]
            if mask:
                jobs.append(pool.submit(write_mask, prob, mask, self._plan.spec, thresholds.body))
            for job in jobs:
                job.result()

    def _place(self, stitched: Path) -> Path:
        """Brings probabilities back to the scene's own pixels, and its own nodata to them."""
        placed, grid = self._folder / "placed.tif", self._plan.out_grid
        with (
            Scene(stitched, grid=grid) as prob,
            self._plan.scene.open() as scene,
            self._open(placed, grid) as sink,
        ):
            # So far from a window may lie what its pixels at an edge are filled from.
            margin = 2 + math.ceil(2 * self._plan.grid.gsd_m / grid.gsd_m)
            for window in grid.windows(*_WINDOW):
                around = grid.widen(window, margin)
                data = _fill(*prob.read(around))[(..., *within(around, window))]
                _, known = scene.read(window)
                if self._plan.aoi is not None:
                    known &= self._plan.aoi.covers(grid, window)
                sink.write(data * known, window=window)
                sink.write_mask(known, window=window)
        return placed

    def _open(self, path: Path, grid: Grid) -> Any:
        values = self._values
        return open_for_writing(
            path, grid, count=len(values.bands), dtype=values.dtype, descriptions=values.bands,
            scales=values.scales, tags=self._tags, scratch=True,
        )  # fmt: skip


def _fill(data: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Gives pixels that the model's coarser grid missed, at edges, the nearest one's values."""
    if seen.all() or not seen.any():
        return data
    rows, columns = distance_transform_edt(~seen, return_distances=False, return_indices=True)
    filled: np.ndarray = data[:, rows, columns]
    return filled
