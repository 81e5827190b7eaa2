"""The four neighbours of each pixel of an array."""

from __future__ import annotations

import numpy as np


def four_neighbours(padded: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the values above, below, left and right of each pixel, as views (H, W).

    Args:
        padded: (H + 2, W + 2), the array with one pixel around it.
    """
    return padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
