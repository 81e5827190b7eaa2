"""Dense CRF over scenes of any size, block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rasterio.windows import Window

from geoseg.options import CRFOptions
from geoseg.prediction.crf.mean_field import refine

# Side of a block. With the default halo of 90 pixels and 3 bands it takes 1 to 1.7 GB.
BLOCK = 1024

# Window → prob (C, h, w), image (bands, h, w), valid (h, w): the arguments of `refine`.
Read = Callable[[Window], tuple[np.ndarray, np.ndarray, np.ndarray]]


def block_windows(shape: tuple[int, int], block: int = BLOCK) -> list[Window]:
    """Return the blocks of a scene of (height, width), row by row from the top left."""
    height, width = shape
    return [
        Window(left, top, min(block, width - left), min(block, height - top))
        for top in range(0, height, block)
        for left in range(0, width, block)
    ]


def refine_block(
    read: Read, core: Window, shape: tuple[int, int], options: CRFOptions | None = None
) -> np.ndarray:
    """Refine a block of a scene, with a halo of three sigmas around it.

    Pixels outside the halo are ignored. Their weight is small, but not 0: blocks agree with the
    whole scene closely, not exactly.

    Args:
        read: Reads a window of the scene.
        core: The block, without the halo.
        shape: (height, width) of the scene.
        options: Kernels and number of iterations.

    Returns:
        float32 (C, h, w) of the block, without the halo.
    """
    options = options or CRFOptions()
    height, width = shape
    top, left = max(core.row_off - options.halo, 0), max(core.col_off - options.halo, 0)
    bottom = min(core.row_off + core.height + options.halo, height)
    right = min(core.col_off + core.width + options.halo, width)
    prob, image, valid = read(Window(left, top, right - left, bottom - top))
    rows = slice(core.row_off - top, core.row_off - top + core.height)
    columns = slice(core.col_off - left, core.col_off - left + core.width)
    if valid[rows, columns].any():
        prob = refine(prob, image, valid, options, origin=(top, left))
    inside: np.ndarray = prob[:, rows, columns]
    return inside
