"""Output rasters from stitched strips, on the grid of the model or of the scene."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.geo.raster import (
    limited_block_cache,
    open_for_writing,
    without_georeferencing_warnings,
    write_cog,
    write_mosaic,
)
from geoseg.geo.styles import prob_style, write_raster_style
from geoseg.jobs.progress import Progress
from geoseg.jobs.threads import map_in_order
from geoseg.jobs.workers import Workers, count_cores
from geoseg.options import PredictOptions, Thresholds
from geoseg.prediction.class_mask import write_mask
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.placing import WINDOW, Placer, count_threads
from geoseg.prediction.plan import ScenePlan


class OutputRasters:
    """Writes the rasters of a prediction.

    Args:
        plan: Plan of the prediction.
        folder: Folder for intermediate rasters.
        encoding: Bands of the strips.
        tags: Dataset tags of the rasters.
        workers: Limits of threads and memory; the bytes do not depend on them.
    """

    def __init__(
        self,
        plan: ScenePlan,
        folder: Path,
        encoding: OutputEncoding,
        tags: dict[str, str],
        workers: Workers,
    ) -> None:
        self._plan, self._folder, self._encoding, self._tags = plan, folder, encoding, tags
        self._workers = workers

    @limited_block_cache()
    def stitch(
        self,
        strips: Iterable[tuple[Path, Window]],
        options: PredictOptions,
        progress: Progress | None = None,
    ) -> Path:
        """Join strips, and refine them by the CRF if it is enabled.

        Args:
            strips: Files with their windows on the grid of the tiles.
            options: Options of the prediction.
            progress: Receives the number of finished and of all CRF blocks.

        Returns:
            An intermediate raster of probabilities on the grid of the tiles.
        """
        prob, scene = self._folder / "stitched.vrt", self._plan.scene
        write_mosaic(prob, self._plan.grid, strips, tags=self._tags, **self._stored)
        if options.crf:
            refined = self._folder / "refined.tif"
            if not refined.exists():  # complete, from an interrupted run
                from geoseg.prediction.crf.refinement import refine_raster  # slow to load

                refine_raster(
                    prob, scene.path, refined, options=options.crf, bands=scene.indexes,
                    assume_gsd_m=scene.assume_gsd_m, progress=progress,
                )  # fmt: skip
            prob = refined
        return prob

    @limited_block_cache()
    def cut(self, stitched: Path, area: Window | None = None) -> Path:
        """Warp probabilities to the output grid, where it is not that of the tiles.

        Args:
            stitched: Raster from `stitch`.
            area: Pixels of the output grid; all when None.

        Returns:
            An intermediate raster of probabilities, to be passed to `write`.
        """
        if self._plan.out_grid != self._plan.grid:
            return self._warp_to_output_grid(stitched, area or self._plan.out_grid.window)
        if area is None or area == self._plan.out_grid.window:
            return stitched
        path = self._folder / "cut.vrt"
        grid = self._plan.out_grid.window_grid(area)
        whole = Window(-area.col_off, -area.row_off, self._plan.grid.width, self._plan.grid.height)
        write_mosaic(path, grid, [(stitched, whole)], tags=self._tags, **self._stored)
        return path

    @property
    def _stored(self) -> dict[str, Any]:
        encoding = self._encoding
        return {"bands": encoding.bands, "dtype": encoding.dtype, "scales": encoding.scales}

    @limited_block_cache()
    def write(
        self,
        prob: Path,
        path: Path,
        mask: Path | None,
        thresholds: Thresholds,
        threads: int | None = None,
    ) -> None:
        """Write probabilities and optionally their mask as Cloud Optimized GeoTIFFs with styles.

        Args:
            prob: Raster from `cut`.
            path: Output path of the probabilities.
            mask: Output path of the mask; None to write no mask.
            thresholds: Thresholds of a building.
            threads: Threads that compress; all cores when None.
        """
        threads = max(1, (threads or count_cores()) // (2 if mask else 1))
        with without_georeferencing_warnings(), ThreadPoolExecutor(2) as pool:
            writes = [pool.submit(write_cog, prob, path, resampling="average", threads=threads)]
            if mask:
                task = (prob, mask, self._plan.spec, thresholds.body, threads)
                writes.append(pool.submit(write_mask, *task))
            for write in writes:
                write.result()
        spec = self._plan.spec
        write_raster_style(path, prob_style(spec.outputs, spec.background))

    def _warp_to_output_grid(self, stitched: Path, area: Window) -> Path:
        """Warp probabilities to the pixels of the scene, and apply the scene's own nodata."""
        warped, workers = self._folder / "placed.tif", self._workers
        grid = self._plan.out_grid.window_grid(area)
        threads = count_threads(
            self._plan, self._encoding, workers.local_threads, workers.max_memory_gb
        )

        def place(window: Window) -> tuple[np.ndarray, np.ndarray]:
            left, top = area.col_off + window.col_off, area.row_off + window.row_off
            return placer.place(Window(left, top, window.width, window.height))

        with (
            self._open(warped, grid) as sink,
            without_georeferencing_warnings(),
            Placer(self._plan, stitched, threads) as placer,
            ThreadPoolExecutor(threads) as pool,
        ):
            windows = list(grid.windows(*WINDOW))
            placed = map_in_order(pool, place, windows, ahead=threads - 1)
            for window, (data, valid) in zip(windows, placed, strict=True):
                sink.write(data, window=window)
                sink.write_mask(valid, window=window)
        return warped

    def _open(self, path: Path, grid: Grid) -> Any:
        encoding = self._encoding
        return open_for_writing(
            path, grid, count=len(encoding.bands), dtype=encoding.dtype,
            descriptions=encoding.bands, scales=encoding.scales, tags=self._tags, scratch=True,
        )  # fmt: skip
