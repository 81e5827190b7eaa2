"""Blends overlapping tiles into whole rows of a scene, holding one tile row in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from geoseg.tiling import Tile, TilePlan


class RollingBand:
    """Accumulators for as many rows as a tile is high, moved down the scene.

    Args:
        channels: Channels of the probabilities.
        height: Rows held.
        width: Columns of the scene.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self._sum = np.zeros((channels, height, width), dtype=np.float32)
        self._weight = np.zeros((height, width), dtype=np.float32)

    def add(self, prob: np.ndarray, weight: np.ndarray, column: int) -> None:
        """Adds a tile at the band's first row.

        Args:
            prob: float32 (C, h, w).
            weight: float32 (h, w).
            column: First column of the tile.
        """
        height, width = weight.shape
        self._sum[:, :height, column : column + width] += prob * weight
        self._weight[:height, column : column + width] += weight

    def advance(self, rows: int) -> np.ndarray:
        """Takes the first `rows` finished rows out and moves the band down by as many.

        Returns:
            float32 (C, rows, W); 0 where no tile was added.
        """
        weight = self._weight[:rows]
        covered = weight > 0
        done = np.divide(
            self._sum[:, :rows], weight, out=np.zeros_like(self._sum[:, :rows]), where=covered
        )
        for array in (self._sum, self._weight[None]):
            kept = array.shape[1] - rows
            array[:, :kept] = array[:, rows:].copy()
            array[:, kept:] = 0
        return done


def stitch_rows(
    plan: TilePlan, tiles: Iterable[tuple[Tile, np.ndarray]], channels: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Blends tiles into finished rows.

    Args:
        plan: The plan that the tiles come from.
        tiles: Tiles with their probabilities (C, h, w), in the plan's order; tiles may be
            left out, their ground is 0 where no neighbour covers it.
        channels: Channels of the probabilities.

    Yields:
        (first row, float32 (C, rows, W)), from the top of the scene to its bottom.
    """
    band = RollingBand(channels, min(plan.size, plan.height), plan.width)
    row = 0
    for tile, prob in tiles:
        while row < tile.row:
            yield plan.rows[row], band.advance(plan.rows[row + 1] - plan.rows[row])
            row += 1
        band.add(prob, plan.weights(tile), tile.window.col_off)
    ends = [*plan.rows[1:], plan.height]
    for last in range(row, len(plan.rows)):
        yield plan.rows[last], band.advance(ends[last] - plan.rows[last])
