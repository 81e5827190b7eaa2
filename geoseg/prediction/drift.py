"""How far a scene's pixels are from those that a model was trained on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.geo.raster import SceneInfo
from geoseg.networks.model_file import ModelSpec

logger = logging.getLogger(__name__)

# So many windows of so many pixels along each side of a scene are looked at.
_WINDOWS, _SIDE = 8, 64

# A band's mean may lie this many of the model's deviations away, its deviation be larger or
# smaller by this factor. Scenes of one town and one camera differ by a tenth of it.
_MOST_SHIFT, _MOST_FACTOR = 0.75, 2.0

# Pixels may be wider by this factor than the model's before that is said.
_MOST_COARSE = 1.5


def warn_of_drift(scene: SceneInfo, spec: ModelSpec) -> None:
    """Warns if a scene is coarser than the model's, brighter, darker, flatter or harsher."""
    if scene.grid.gsd_m > _MOST_COARSE * spec.gsd_m:
        logger.warning(
            "%s: its pixels of %.3g m are coarser than those that the model was trained on, of "
            "%.3g m; what it cannot see there it will not find, so judge the result with care",
            scene.path,
            scene.grid.gsd_m,
            spec.gsd_m,
        )
    found = _measure(scene)
    if found is None:
        return
    mean, std = found
    shift = np.abs(mean - spec.mean) / spec.std
    factor = np.maximum(std, 1e-9) / spec.std
    worst = int(np.argmax(np.maximum(shift / _MOST_SHIFT, np.abs(np.log2(factor)))))
    if shift[worst] <= _MOST_SHIFT and 1 / _MOST_FACTOR <= factor[worst] <= _MOST_FACTOR:
        return
    logger.warning(
        "%s: is unlike what the model was trained on: band %s has mean %.4g and deviation %.4g, "
        "there it was %.4g and %.4g; judge the result with care, or train on such scenes, too",
        scene.path,
        spec.bands[worst],
        mean[worst],
        std[worst],
        spec.mean[worst],
        spec.std[worst],
    )


def _measure(scene: SceneInfo) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and deviation of each band over some windows; None where all of them are nodata."""
    pixels = []
    with scene.open() as source:
        for window in _spread_windows(scene.grid):
            data, valid = source.read(window)
            pixels.append(data[:, valid].astype(np.float64))
    together = np.concatenate(pixels, axis=1)
    if together.shape[1] == 0:
        return None
    return together.mean(axis=1), together.std(axis=1)


def _spread_windows(grid: Grid) -> Iterator[Window]:
    for top in _spread(grid.height):
        for left in _spread(grid.width):
            yield Window(left, top, min(_SIDE, grid.width), min(_SIDE, grid.height))


def _spread(length: int) -> list[int]:
    last = max(0, length - _SIDE)
    return sorted({round(last * step / (_WINDOWS - 1)) for step in range(_WINDOWS)})
