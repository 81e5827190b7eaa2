"""Where tiles lie and how much each of them counts: plans in integers, no pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rasterio.windows import Window

from geoseg.errors import ConfigError


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """Starts of the tiles along one axis.

    A regular grid anchored at 0 with stride `size - overlap`; the last tile shifts inward so
    that it ends at `length`. An axis shorter than a tile has one tile, which reaches past it.
    """
    if length <= size:
        return [0]
    starts = list(range(0, length - size, size - overlap))
    return [*starts, length - size]


def blend_weights(starts: list[int], index: int, size: int, overlap: int) -> np.ndarray:
    """Weight of each pixel of a tile along one axis.

    Raised-cosine flanks ½(1-cos(π(i+½)/overlap)) on half-pixel centres, so that two flanks
    that meet sum to 1 and none reaches 0; the scene's outermost flanks are flat, because
    nothing else covers them.

    Args:
        starts: All starts of the axis, from `tile_starts`.
        index: Which of them.
        size: Tile side.
        overlap: Pixels shared with the neighbour.

    Returns:
        float32 (size,), in (0, 1].
    """
    weights = np.ones(size, dtype=np.float32)
    if overlap == 0:
        return weights
    flank = 0.5 * (1 - np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap))
    if index > 0:
        weights[:overlap] = flank
    if index < len(starts) - 1:
        weights[size - overlap :] = flank[::-1]
    return weights


@dataclass(frozen=True)
class Tile:
    """One tile of a plan.

    Attributes:
        row: Index of its tile row.
        column: Index of its tile column.
        window: Its pixels, cut at the scene's edge where the scene is smaller than a tile.
    """

    row: int
    column: int
    window: Window


@dataclass(frozen=True)
class TilePlan:
    """All tiles of a scene, row by row.

    Attributes:
        height: Rows of the scene.
        width: Columns of the scene.
        size: Tile side.
        overlap: Pixels shared with the neighbour, at most half the size.

    Raises:
        ConfigError: If size and overlap cannot make a grid.
    """

    height: int
    width: int
    size: int
    overlap: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"tile size must be at least 1 pixel, got {self.size}")
        if not 0 <= self.overlap <= self.size // 2:
            raise ConfigError(
                f"overlap must lie between 0 and half the tile size "
                f"({self.size // 2}), got {self.overlap}"
            )

    @cached_property
    def rows(self) -> list[int]:
        """First row of each tile row."""
        return tile_starts(self.height, self.size, self.overlap)

    @cached_property
    def columns(self) -> list[int]:
        """First column of each tile column."""
        return tile_starts(self.width, self.size, self.overlap)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        height, width = min(self.size, self.height), min(self.size, self.width)
        for row, top in enumerate(self.rows):
            for column, left in enumerate(self.columns):
                yield Tile(row, column, Window(left, top, width, height))

    def weights(self, tile: Tile) -> np.ndarray:
        """Blend weight of each pixel of the tile's window, float32 (h, w)."""
        rows = blend_weights(self.rows, tile.row, self.size, self.overlap)
        columns = blend_weights(self.columns, tile.column, self.size, self.overlap)
        return np.outer(rows[: tile.window.height], columns[: tile.window.width])
