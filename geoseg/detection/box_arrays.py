"""Arrays of boxes: corners in pixels and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import shapely

from geoseg.vectorization.footprint_frames import OutlineBatch

# A box is a training target, and a detection, only if at least this share of it is visible. Other
# boxes are ignored: they count neither as buildings nor as background.
LEAST_VISIBLE = 0.3


@dataclass(frozen=True, eq=False)
class Boxes:
    """Detected boxes.

    Attributes:
        corners: float64 (n, 4), left, top, right and bottom in pixels of a grid.
        scores: float64 (n,), confidence of the network, 0..1.
    """

    corners: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: np.ndarray) -> Self:
        return type(self)(self.corners[index], self.scores[index])

    def shifted(self, x: float, y: float) -> Self:
        """Return the boxes shifted by some pixels to the right and down."""
        return type(self)(self.corners + np.array([x, y, x, y], dtype=np.float64), self.scores)


def concatenate_boxes(parts: Sequence[Boxes]) -> Boxes:
    """Return all boxes of some parts, in order."""
    corners = [np.zeros((0, 4)), *(part.corners for part in parts)]
    scores = [np.zeros(0), *(part.scores for part in parts)]
    return Boxes(np.concatenate(corners), np.concatenate(scores))


def box_outlines(boxes: Boxes) -> OutlineBatch:
    """Return boxes as polygons in pixels, with their scores."""
    return OutlineBatch(shapely.box(*boxes.corners.T), {"confidence": boxes.scores})


def valid_shares(corners: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the share of valid pixels of each box.

    Args:
        corners: (n, 4) left, top, right, bottom in pixels.
        valid: (H, W) bool.

    Returns:
        (n,), 0 for boxes that cover no pixel.
    """
    height, width = valid.shape
    # Summed-area table: the count in any rectangle is a sum of four values.
    sums = np.zeros((height + 1, width + 1), dtype=np.int64)
    sums[1:, 1:] = valid.cumsum(axis=0).cumsum(axis=1)
    left, top = (corners[:, i].clip(0, (width, height)[i]).round().astype(int) for i in (0, 1))
    right, bottom = (
        corners[:, i].clip(0, (width, height)[i - 2]).round().astype(int) for i in (2, 3)
    )
    count = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    pixels = (right - left) * (bottom - top)
    shares: np.ndarray = np.divide(count, pixels, out=np.zeros(len(corners)), where=pixels > 0)
    return shares
