"""Positions and blending weights of the tiles of a scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rasterio.windows import Window

from geoseg.errors import ConfigError


def _cosine(overlap: int) -> np.ndarray:
    """Return ½(1-cos(π(i+½)/overlap)): at half-pixel centres it never reaches 0."""
    return 0.5 * (1 - np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap))


def _crop(overlap: int) -> np.ndarray:
    """Return a step in the middle: each pixel belongs to the tile whose edge is further away."""
    return 0.5 * (1 + np.sign(2 * np.arange(overlap) + 1 - overlap))


def _mean(overlap: int) -> np.ndarray:
    """Return equal weights for both tiles."""
    return np.full(overlap, 0.5)


# Weights are multiples of 1 / _STEPS: their products are then exact in float32, and the weights of
# all tiles that cover a pixel sum to exactly 1.
_STEPS = 2**12

# Weights of a tile over the pixels that it shares with the previous tile, from the first to the
# last; the previous tile has the remainder to 1.
BLENDS: dict[str, Callable[[int], np.ndarray]] = {"cosine": _cosine, "crop": _crop, "mean": _mean}


def blend_weights(
    length: int, overlap: int, *, blend: str = "cosine", rises: bool = True, falls: bool = True
) -> np.ndarray:
    """Return weights of a tile's pixels along one axis: 1 in its core, less where tiles overlap.

    Args:
        length: Pixels.
        overlap: Pixels shared with each neighbour, at most half the length if it has two.
        blend: Shape of the weights in an overlap, a key of `BLENDS`.
        rises: Whether there is a previous tile.
        falls: Whether there is a next tile.

    Returns:
        float32 (length,).
    """
    weights = np.ones(length, dtype=np.float32)
    rising = np.rint(BLENDS[blend](overlap) * _STEPS) / _STEPS
    if rises and overlap:
        weights[:overlap] = rising
    if falls and overlap:
        weights[length - overlap :] = 1 - rising
    return weights


@dataclass(frozen=True)
class Axis:
    """Tiles along one side of a scene.

    A regular grid anchored at 0 with stride `size - overlap`; the last tile shifts inward so
    that it ends at `length`; it overlaps its neighbour by more pixels than are blended. A side
    shorter than a tile has one tile, which extends beyond it.

    Attributes:
        length: Pixels of the scene.
        size: Pixels of a tile.
        overlap: Pixels in which two neighbours are blended.
        blend: Blending method, a key of `BLENDS`.
    """

    length: int
    size: int
    overlap: int
    blend: str = "cosine"

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First pixel of each tile."""
        if self.length <= self.size:
            return (0,)
        stride = self.size - self.overlap
        return (*range(0, self.length - self.size, stride), self.length - self.size)

    def __len__(self) -> int:
        return len(self.starts)

    def begin(self, index: int) -> int:
        """Return the first pixel to which a tile contributes."""
        return 0 if index == 0 else self.starts[index - 1] + self.size - self.overlap

    def end(self, index: int) -> int:
        """Return the end of a tile: its last pixel + 1."""
        return min(self.starts[index] + self.size, self.length)

    def complete_until(self, index: int) -> int:
        """Return the first pixel to which later tiles contribute; those before it are complete."""
        return self.length if index == len(self) - 1 else self.begin(index + 1)

    def weights(self, index: int) -> np.ndarray:
        """Return a tile's float32 weights from `begin` to `end`; those of all tiles sum to 1.

        At the edges of the scene they are 1, because no other tile covers these pixels.
        """
        return blend_weights(
            self.end(index) - self.begin(index),
            self.overlap,
            blend=self.blend,
            rises=index > 0,
            falls=index < len(self) - 1,
        )


@dataclass(frozen=True)
class Tile:
    """One tile of a scene.

    Attributes:
        row: Index of its tile row.
        column: Index of its tile column.
        window: Its pixels, clipped at the scene's edge where the scene is smaller than a tile.
    """

    row: int
    column: int
    window: Window


@dataclass(frozen=True)
class TileGrid:
    """All tiles of a scene, row by row.

    Attributes:
        height: Rows of the scene.
        width: Columns of the scene.
        size: Tile side.
        overlap: Pixels shared with the neighbour, at most half the size.
        blend: Blending method, a key of `BLENDS`.

    Raises:
        ConfigError: If size and overlap cannot make a grid.
    """

    height: int
    width: int
    size: int
    overlap: int
    blend: str = "cosine"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"tile size must be at least 1 pixel, got {self.size}")
        if not 0 <= self.overlap <= self.size // 2:
            raise ConfigError(
                f"overlap must be between 0 and half the tile size "
                f"({self.size // 2}), got {self.overlap}"
            )

    @cached_property
    def rows(self) -> Axis:
        """Tiles from top to bottom."""
        return Axis(self.height, self.size, self.overlap, self.blend)

    @cached_property
    def columns(self) -> Axis:
        """Tiles from left to right."""
        return Axis(self.width, self.size, self.overlap, self.blend)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        for row in range(len(self.rows)):
            for column in range(len(self.columns)):
                yield self.tile(row, column)

    def tile(self, row: int, column: int) -> Tile:
        """Return the tile of a row and a column."""
        top, left = self.rows.starts[row], self.columns.starts[column]
        height, width = self.rows.end(row) - top, self.columns.end(column) - left
        return Tile(row, column, Window(left, top, width, height))
