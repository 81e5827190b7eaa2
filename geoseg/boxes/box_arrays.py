"""Boxes as values: corners in pixels and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import shapely

from geoseg.vectorization.footprint_frames import OutlineBatch

# A building counts where at least this share of it is to be seen: it is learnt there, and
# found. Less of it is neither a building nor none.
LEAST_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes that a network found.

    Attributes:
        corners: float64 (n, 4), left, top, right and bottom in pixels of some grid.
        scores: float64 (n,), how sure the network is, 0..1.
    """

    corners: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: np.ndarray) -> Self:
        return type(self)(self.corners[chosen], self.scores[chosen])

    def moved(self, x: float, y: float) -> Self:
        """The boxes some pixels further right and down."""
        return type(self)(self.corners + np.array([x, y, x, y], dtype=np.float64), self.scores)


def join_boxes(parts: Sequence[Boxes]) -> Boxes:
    """All boxes of some parts, in their order."""
    corners = [np.zeros((0, 4)), *(part.corners for part in parts)]
    scores = [np.zeros(0), *(part.scores for part in parts)]
    return Boxes(np.concatenate(corners), np.concatenate(scores))


def outlines_of(boxes: Boxes) -> OutlineBatch:
    """Each box as a polygon in pixels, with its score."""
    return OutlineBatch(shapely.box(*boxes.corners.T), {"confidence": boxes.scores})


def valid_shares(corners: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Share of the pixels of each box that hold data.

    Args:
        corners: (n, 4) left, top, right, bottom in pixels.
        valid: (H, W) bool.

    Returns:
        (n,), 0 where a box covers no pixel.
    """
    height, width = valid.shape
    sums = np.zeros((height + 1, width + 1), dtype=np.int64)
    sums[1:, 1:] = valid.cumsum(axis=0).cumsum(axis=1)
    left, top = (corners[:, i].clip(0, (width, height)[i]).round().astype(int) for i in (0, 1))
    right, bottom = (
        corners[:, i].clip(0, (width, height)[i - 2]).round().astype(int) for i in (2, 3)
    )
    seen = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    pixels = (right - left) * (bottom - top)
    shares: np.ndarray = np.divide(seen, pixels, out=np.zeros(len(corners)), where=pixels > 0)
    return shares
