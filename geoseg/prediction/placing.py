"""Resampling of probabilities from the grid of the tiles to the pixels of the scene."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Self

import numpy as np
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt

from geoseg.geo.raster import Scene
from geoseg.jobs.memory import resident_bytes
from geoseg.prediction.batches import within
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.memory import reading_bytes
from geoseg.prediction.plan import ScenePlan

# Height and width of the windows that are placed, in pixels of the scene.
WINDOW = (512, 4096)

# More threads would wait for the one that writes.
_MOST_THREADS = 4


def count_threads(
    plan: ScenePlan, encoding: OutputEncoding, threads: int, max_memory_gb: float
) -> int:
    """Return how many threads may place windows at the same time.

    Args:
        plan: Plan of the prediction.
        encoding: Bands of the probabilities.
        threads: Most threads of this process.
        max_memory_gb: Limit of the resident memory of the process.
    """
    scene, pixels = plan.scene, WINDOW[0] * WINDOW[1]
    # Values as they are warped, filled, cut to valid pixels and waiting; places of the filling.
    values = 4 * len(encoding.bands) * np.dtype(encoding.dtype).itemsize + 16
    each = reading_bytes(WINDOW, len(scene.bands), np.dtype(scene.dtype).itemsize)
    free = 1e9 * max_memory_gb - resident_bytes()
    return int(max(1, min(_MOST_THREADS, threads, free // (each + values * pixels))))


class Placer:
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
                scene = stack.enter_context(self._plan.scene.open(self._plan.out_grid))
                self._free.put((prob, scene))
            self._files = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def place(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Return the values (bands, h, w) of a window of the scene, and valid (h, w)."""
        prob, scene = self._free.get()
        try:
            data, known = prob.read(window)
            valid = scene.read_valid(window)
            if self._plan.aoi is not None:
                valid &= self._plan.aoi.covers(self._plan.out_grid, window)
            if (valid & ~known).any():
                around = self._plan.out_grid.widen(window, self._margin)
                data = _fill_invalid(*prob.read(around))[(..., *within(around, window))]
        finally:
            self._free.put((prob, scene))
        return data * valid, valid


def _fill_invalid(data: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Give invalid pixels the values of the nearest valid pixel.

    The coarser grid of the model has no value for some pixels at the edge of valid areas that are
    valid in the scene.
    """
    if not valid.any():
        return data
    rows, columns = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    filled: np.ndarray = data[:, rows, columns]
    return filled
