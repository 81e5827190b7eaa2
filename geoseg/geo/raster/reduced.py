"""Reduced images of rasters without overviews."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rasterio.windows import Window

# Centres this close to the next pixel count as being in it, as in GDAL.
_SAME_PX = 1e-10


def read_reduced(
    read: Callable[[Window, tuple[int, int]], tuple[np.ndarray, np.ndarray]],
    window: Window,
    shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Read the nearest pixels of a window from whole rows of it.

    GDAL itself would decode the blocks of a raster once for each band.

    Args:
        read: Reads data (C, H, W) and valid (H, W) of a window in a shape.
        window: The window.
        shape: (height, width) of the result.

    Returns:
        Data (C, height, width) and valid (height, width), of the pixels that GDAL takes.
    """
    rows, columns = _nearest(window.height, shape[0]), _nearest(window.width, shape[1])
    parts = [
        read(Window(window.col_off, window.row_off + row, window.width, 1), (1, window.width))
        for row in rows.tolist()
    ]
    data = np.concatenate([one[..., columns] for one, _ in parts], axis=1)
    return data, np.concatenate([valid[:, columns] for _, valid in parts])


def _nearest(length: int, count: int) -> np.ndarray:
    """Return the pixels (count,) of a side that are nearest to those of another one."""
    centres = (np.arange(count) + 0.5) * (length / count) + _SAME_PX
    return np.minimum(centres.astype(np.int64), length - 1)
