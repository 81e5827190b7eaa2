"""Reading of reduced images from rasters without overviews."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rasterio.enums import Interleaving
from rasterio.windows import Window

# Centres this close to the next pixel count as being in it, as in GDAL.
_SAME_PX = 1e-10


def is_faster_by_rows(source: Any, bands: Sequence[int], width: int, columns: int) -> bool:
    """Return whether `read_reduced` decodes fewer blocks than GDAL does.

    GDAL decodes a block of interleaved bands once for each of them, but only blocks that hold a
    pixel of the result. Overviews, also those of the sources of a VRT, are better than both.

    Args:
        source: The open rasterio dataset.
        bands: Bands to read.
        width: Width of the window.
        columns: Columns of the result.
    """
    if source.driver == "VRT" or source.interleaving != Interleaving.pixel:
        return False
    if any(source.overviews(band) for band in bands):
        return False
    blocks = -(-width // source.block_shapes[0][1])
    return bool(blocks <= len(bands) * min(blocks, columns))


def read_reduced(
    read: Callable[[Window, tuple[int, int]], tuple[np.ndarray, np.ndarray]],
    window: Window,
    shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Read the nearest pixels of a window from whole rows of it.

    Args:
        read: Reads data (C, H, W) and valid (H, W) of a window in a shape.
        window: The window.
        shape: (height, width) of the result.

    Returns:
        Data (C, height, width) and valid (height, width), of the pixels that GDAL takes.
    """
    rows, columns = _nearest(window.height, shape[0]), _nearest(window.width, shape[1])
    values, validity = [], []
    for row in rows.tolist():
        whole = Window(window.col_off, window.row_off + row, window.width, 1)
        data, valid = read(whole, (1, window.width))
        values.append(data[..., columns])
        validity.append(valid[:, columns])
    return np.concatenate(values, axis=1), np.concatenate(validity)


def _nearest(length: int, count: int) -> np.ndarray:
    """Return the pixels (count,) of a side that are nearest to those of another one."""
    centres = (np.arange(count) + 0.5) * (length / count) + _SAME_PX
    return np.minimum(centres.astype(np.int64), length - 1)
