"""Blending of overlapping tiles into strips of a scene, on the device of the probabilities.

The weights of all tiles sum to 1 at every pixel. A pixel is therefore final as soon as the last
tile that covers it is added, and no division is needed. Between two rows of tiles, only the pixels
that both rows cover are kept, as float32 sums.
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
    """A rectangle of tiles that is predicted and stitched by one task.

    Attributes:
        tiles: All tiles of the scene.
        rows: First tile row of the block, and the row after the last.
        columns: First tile column of the block, and the column after the last.
    """

    tiles: TileGrid
    rows: tuple[int, int]
    columns: tuple[int, int]

    @classmethod
    def whole(cls, tiles: TileGrid) -> TileBlock:
        """Return a block of all tiles of a scene."""
        return cls(tiles, (0, len(tiles.rows)), (0, len(tiles.columns)))

    @property
    def tile_rows(self) -> range:
        """Rows of tiles to predict, including the row before the block, which overlaps it."""
        return range(max(0, self.rows[0] - 1), self.rows[1])

    @property
    def tile_columns(self) -> range:
        """Columns of tiles to predict, including the column before the block."""
        return range(max(0, self.columns[0] - 1), self.columns[1])

    def __len__(self) -> int:
        return len(self.tile_rows) * len(self.tile_columns)

    def __iter__(self) -> Iterator[Tile]:
        for row in self.tile_rows:
            for column in self.tile_columns:
                yield self.tiles.tile(row, column)

    def contains(self, tile: Tile) -> bool:
        """Whether a tile belongs to the block; others are predicted only to blend with it."""
        return tile.row >= self.rows[0] and tile.column >= self.columns[0]

    def strip(self, row: int) -> Window:
        """Return the pixels of the block that become final with one row of tiles."""
        rows, columns = self.tiles.rows, self.tiles.columns
        top, left = rows.begin(row), columns.begin(self.columns[0])
        right = columns.complete_until(self.columns[1] - 1)
        return Window(left, top, right - left, rows.complete_until(row) - top)


class Stitcher:
    """Blends the tiles of a block, which are added row by row.

    Sums are always taken across columns first, then across rows. The bytes therefore do not depend
    on how the scene is split into blocks.

    Args:
        block: The tiles.
        channels: Number of probability channels.
        device: Device of the probabilities.
    """

    def __init__(self, block: TileBlock, channels: int, device: torch.device | str = "cpu") -> None:
        self._block, self._device = block, device
        tiles, columns = block.tiles, block.tile_columns
        self._left = tiles.columns.begin(columns[0])
        width = tiles.columns.end(columns[-1]) - self._left
        # Weighted sums of pixels that the next tile, or the next row of tiles, also covers.
        self._beside = torch.zeros((channels, tiles.size, tiles.overlap), device=device)
        self._below = torch.zeros((channels, tiles.overlap, width), device=device)
        self._weights: dict[tuple[tuple[bool, bool], ...], Tensor] = {}

    def add(self, tile: Tile, prob: Tensor | None) -> tuple[Window, Tensor]:
        """Add the next tile of the block.

        Args:
            tile: The tile.
            prob: float32 (C, size, size); None for a tile without valid pixels.

        Returns:
            The window of the scene that becomes final with this tile, and its blended values,
            float32 (C, h, w); 0 where no tile had a prediction.
        """
        blended = self._blend_columns(tile, self._weigh(tile, prob))
        blended = self._blend_rows(tile, blended)
        rows, columns = self._block.tiles.rows, self._block.tiles.columns
        left, top = columns.begin(tile.column), rows.begin(tile.row)
        return Window(left, top, blended.shape[2], blended.shape[1]), blended

    def _weigh(self, tile: Tile, prob: Tensor | None) -> Tensor:
        weights = self._weights_of(tile)
        if prob is None:
            return torch.zeros((len(self._below), *weights.shape), device=self._device)
        rows, columns = self._block.tiles.rows, self._block.tiles.columns
        top = rows.begin(tile.row) - rows.starts[tile.row]
        left = columns.begin(tile.column) - columns.starts[tile.column]
        height, width = weights.shape
        return prob[:, top : top + height, left : left + width] * weights

    def _weights_of(self, tile: Tile) -> Tensor:
        rows, columns = self._block.tiles.rows, self._block.tiles.columns
        # Only tiles at the edge of the scene have other weights: at most nine kinds exist.
        ends = (tile.row, len(rows) - 1), (tile.column, len(columns) - 1)
        kind = tuple((index == 0, index == last) for index, last in ends)
        if kind not in self._weights:
            outer = np.outer(rows.weights(tile.row), columns.weights(tile.column))
            self._weights[kind] = torch.from_numpy(outer).to(self._device)
        return self._weights[kind]

    def _blend_columns(self, tile: Tile, weighted: Tensor) -> Tensor:
        """Add the sums of the tile before, and keep those that the next tile will complete."""
        columns, height = self._block.tiles.columns, weighted.shape[1]
        if tile.column > self._block.tile_columns[0]:
            weighted[:, :, : self._block.tiles.overlap] += self._beside[:, :height]
        final = columns.complete_until(tile.column) - columns.begin(tile.column)
        if tile.column < len(columns) - 1:
            self._beside[:, :height] = weighted[:, :, final:]
        return weighted[:, :, :final]

    def _blend_rows(self, tile: Tile, weighted: Tensor) -> Tensor:
        """Add the sums of the row before, and keep those that the next row will complete."""
        rows = self._block.tiles.rows
        left = self._block.tiles.columns.begin(tile.column) - self._left
        below = self._below[:, :, left : left + weighted.shape[2]]
        if tile.row > self._block.tile_rows[0]:
            weighted[:, : self._block.tiles.overlap] += below
        final = rows.complete_until(tile.row) - rows.begin(tile.row)
        if tile.row < len(rows) - 1:
            below[:] = weighted[:, final:]
        return weighted[:, :final]
