"""Output rasters from stitched strips, on the grid of the model or of the scene."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt

from geoseg.geo.grid import Grid
from geoseg.geo.raster import (
    Scene,
    limited_block_cache,
    open_for_writing,
    without_georeferencing_warnings,
    write_cog,
    write_mosaic,
)
from geoseg.geo.styles import prob_style, write_raster_style
from geoseg.jobs.progress import Progress
from geoseg.jobs.threads import map_in_order
from geoseg.jobs.workers import count_cores
from geoseg.options import PredictOptions, Thresholds
from geoseg.prediction.batches import within
from geoseg.prediction.class_mask import write_mask
from geoseg.prediction.crf.refinement import refine_raster
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.plan import ScenePlan

_WINDOW = (512, 4096)

# Threads that read windows at the same time; each takes some tens of megabytes.
_MOST_THREADS = 4


class OutputRasters:
    """Writes the rasters of a prediction.

    Args:
        plan: Plan of the prediction.
        folder: Folder for intermediate rasters.
        encoding: Bands of the strips.
        tags: Dataset tags of the rasters.
    """

    def __init__(
        self, plan: ScenePlan, folder: Path, encoding: OutputEncoding, tags: dict[str, str]
    ) -> None:
        self._plan, self._folder, self._encoding, self._tags = plan, folder, encoding, tags

    @limited_block_cache()
    def assemble(
        self,
        strips: Iterable[tuple[Path, Window]],
        options: PredictOptions,
        progress: Progress | None = None,
    ) -> Path:
        """Join strips, refine them by the CRF if enabled, and warp them to the output grid.

        Args:
            strips: Files with their windows on the grid of the tiles.
            options: Options of the prediction.
            progress: Receives the number of finished and of all CRF blocks.

        Returns:
            An intermediate raster of probabilities, to be passed to `write`.
        """
        prob, encoding, scene = self._folder / "stitched.vrt", self._encoding, self._plan.scene
        stored = {"bands": encoding.bands, "dtype": encoding.dtype, "scales": encoding.scales}
        write_mosaic(prob, self._plan.grid, strips, tags=self._tags, **stored)  # type: ignore[arg-type]
        if options.crf:
            refined = self._folder / "refined.tif"
            if not refined.exists():  # complete, from an interrupted run
                refine_raster(
                    prob, scene.path, refined, options=options.crf, bands=scene.indexes,
                    assume_gsd_m=scene.assume_gsd_m, progress=progress,
                )  # fmt: skip
            prob = refined
        same_grid = self._plan.out_grid == self._plan.grid
        return prob if same_grid else self._warp_to_output_grid(prob)

    @limited_block_cache()
    def write(self, prob: Path, path: Path, mask: Path | None, thresholds: Thresholds) -> None:
        """Write probabilities and optionally their mask as Cloud Optimized GeoTIFFs with styles.

        Args:
            prob: Raster from `assemble`.
            path: Output path of the probabilities.
            mask: Output path of the mask; None to write no mask.
            thresholds: Thresholds of a building.
        """
        threads = max(1, count_cores() // (2 if mask else 1))
        with without_georeferencing_warnings(), ThreadPoolExecutor(2) as pool:
            writes = [pool.submit(write_cog, prob, path, resampling="average", threads=threads)]
            if mask:
                task = (prob, mask, self._plan.spec, thresholds.body, threads)
                writes.append(pool.submit(write_mask, *task))
            for write in writes:
                write.result()
        spec = self._plan.spec
        write_raster_style(path, prob_style(spec.outputs, spec.background))

    def _warp_to_output_grid(self, stitched: Path) -> Path:
        """Warp probabilities to the pixels of the scene, and apply the scene's own nodata."""
        warped, grid = self._folder / "placed.tif", self._plan.out_grid
        threads = min(_MOST_THREADS, count_cores())
        with (
            self._open(warped, grid) as sink,
            _Placer(self._plan, stitched, threads) as placer,
            ThreadPoolExecutor(threads) as pool,
        ):
            windows = list(grid.windows(*_WINDOW))
            placed = map_in_order(pool, placer.place, windows, ahead=threads)
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


class _Placer:
    """Reads stitched probabilities on the pixels of the scene, by several threads.

    Args:
        plan: Plan of the prediction.
        stitched: Probabilities on the grid of the tiles.
        threads: Number of threads that read at the same time.
    """

    def __init__(self, plan: ScenePlan, stitched: Path, threads: int) -> None:
        self._plan, self._stitched, self._threads = plan, stitched, threads
        # Pixels at an edge may be filled from neighbours this far outside the window.
        self._margin = 2 + math.ceil(2 * plan.grid.gsd_m / plan.out_grid.gsd_m)
        # A file may be read by one thread at a time.
        self._free: SimpleQueue[tuple[Scene, Scene]] = SimpleQueue()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for _ in range(self._threads):
                prob = stack.enter_context(Scene(self._stitched, grid=self._plan.out_grid))
                self._free.put((prob, stack.enter_context(self._plan.scene.open())))
            self._files = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def place(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Return the values (bands, h, w) of a window of the scene, and valid (h, w)."""
        prob, scene = self._free.get()
        try:
            around = self._plan.out_grid.widen(window, self._margin)
            data = _fill_invalid(*prob.read(around))[(..., *within(around, window))]
            valid = scene.read_valid(window)
        finally:
            self._free.put((prob, scene))
        if self._plan.aoi is not None:
            valid &= self._plan.aoi.covers(self._plan.out_grid, window)
        return data * valid, valid


def _fill_invalid(data: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Give invalid pixels the values of the nearest valid pixel.

    The coarser grid of the model has no value for some pixels at the edge of valid areas that are
    valid in the scene.
    """
    if valid.all() or not valid.any():
        return data
    rows, columns = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    filled: np.ndarray = data[:, rows, columns]
    return filled
