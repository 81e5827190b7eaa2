"""Blends overlapping tiles into rows of a scene, where their probabilities are.

Weights of tiles sum to 1, so what a pixel has got is final as soon as the last tile that covers
it is added, and nothing is divided. Between two rows of tiles only the pixels that both cover are
held, as sums in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from rasterio.windows import Window
from torch import Tensor

from geoseg.geo.tiling import Tile, TileGrid


@dataclass(frozen=True)
class TileBlock:
    """Some rows and columns of a plan's tiles, whose ground is stitched by itself.

    Attributes:
        plan: The plan.
        rows: First tile row, and the one after the last.
        columns: First tile column, and the one after the last.
    """

    plan: TileGrid
    rows: tuple[int, int]
    columns: tuple[int, int]

    @classmethod
    def whole(cls, plan: TileGrid) -> TileBlock:
        """All tiles of a plan."""
        return cls(plan, (0, len(plan.rows)), (0, len(plan.columns)))

    @property
    def tile_rows(self) -> range:
        """Rows of tiles to predict: those before that share pixels with the first, too."""
        return range(max(0, self.rows[0] - 1), self.rows[1])

    @property
    def tile_columns(self) -> range:
        """Columns of tiles to predict, as `tile_rows`."""
        return range(max(0, self.columns[0] - 1), self.columns[1])

    def __len__(self) -> int:
        return len(self.tile_rows) * len(self.tile_columns)

    def __iter__(self) -> Iterator[Tile]:
        for row in self.tile_rows:
            for column in self.tile_columns:
                yield self.plan.tile(row, column)

    def has(self, tile: Tile) -> bool:
        """Whether what a tile settles is of the block; else it is only blended with others."""
        return tile.row >= self.rows[0] and tile.column >= self.columns[0]

    def band(self, row: int) -> Window:
        """The pixels of the block that are settled by a row of tiles, and by none before it."""
        rows, columns = self.plan.rows, self.plan.columns
        top, left = rows.begin(row), columns.begin(self.columns[0])
        right = columns.settled(self.columns[1] - 1)
        return Window(left, top, right - left, rows.settled(row) - top)


class Stitcher:
    """Blends the tiles of a block in their order.

    Sums are taken in one order, across columns first and rows then, whatever the block.

    Args:
        block: The tiles.
        channels: Channels of the probabilities.
        device: Where the probabilities are.
    """

    def __init__(self, block: TileBlock, channels: int, device: torch.device | str = "cpu") -> None:
        self._block, self._device = block, device
        plan, columns = block.plan, block.tile_columns
        self._left = plan.columns.begin(columns[0])
        width = plan.columns.end(columns[-1]) - self._left
        # What the tile before and the row before have left to be blended.
        self._beside = torch.zeros((channels, plan.size, plan.overlap), device=device)
        self._below = torch.zeros((channels, plan.overlap, width), device=device)
        self._weights: dict[tuple[tuple[bool, bool], ...], Tensor] = {}

    def add(self, tile: Tile, prob: Tensor | None) -> tuple[Window, Tensor]:
        """Adds the next tile of the block.

        Args:
            tile: The tile.
            prob: float32 (C, size, size); None where there is nothing to see.

        Returns:
            What is settled by it: a window of the scene, and its values float32 (C, h, w), 0
            where no tile said anything.
        """
        share = self._blend_columns(tile, self._weigh(tile, prob))
        share = self._blend_rows(tile, share)
        rows, columns = self._block.plan.rows, self._block.plan.columns
        left, top = columns.begin(tile.column), rows.begin(tile.row)
        return Window(left, top, share.shape[2], share.shape[1]), share

    def _weigh(self, tile: Tile, prob: Tensor | None) -> Tensor:
        weights = self._weights_of(tile)
        if prob is None:
            return torch.zeros((len(self._below), *weights.shape), device=self._device)
        plan = self._block.plan
        top = plan.rows.begin(tile.row) - plan.rows.starts[tile.row]
        left = plan.columns.begin(tile.column) - plan.columns.starts[tile.column]
        height, width = weights.shape
        return prob[:, top : top + height, left : left + width] * weights

    def _weights_of(self, tile: Tile) -> Tensor:
        rows, columns = self._block.plan.rows, self._block.plan.columns
        # Tiles of a scene differ only where they have no neighbour.
        ends = (tile.row, len(rows) - 1), (tile.column, len(columns) - 1)
        kind = tuple((place == 0, place == last) for place, last in ends)
        if kind not in self._weights:
            outer = np.outer(rows.weights(tile.row), columns.weights(tile.column))
            self._weights[kind] = torch.from_numpy(outer).to(self._device)
        return self._weights[kind]

    def _blend_columns(self, tile: Tile, share: Tensor) -> Tensor:
        """Adds what the tile before has left, and leaves what the next one reaches."""
        columns, height = self._block.plan.columns, share.shape[1]
        if tile.column > self._block.tile_columns[0]:
            share[:, :, : self._block.plan.overlap] += self._beside[:, :height]
        settled = columns.settled(tile.column) - columns.begin(tile.column)
        if tile.column < len(columns) - 1:
            self._beside[:, :height] = share[:, :, settled:]
        return share[:, :, :settled]

    def _blend_rows(self, tile: Tile, share: Tensor) -> Tensor:
        """Adds what the row before has left, and leaves what the next one reaches."""
        rows = self._block.plan.rows
        left = self._block.plan.columns.begin(tile.column) - self._left
        below = self._below[:, :, left : left + share.shape[2]]
        if tile.row > self._block.tile_rows[0]:
            share[:, : self._block.plan.overlap] += below
        settled = rows.settled(tile.row) - rows.begin(tile.row)
        if tile.row < len(rows) - 1:
            below[:] = share[:, settled:]
        return share[:, :settled]
