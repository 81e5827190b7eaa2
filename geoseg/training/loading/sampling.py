"""Samplers of training tiles; their draws depend on seed and epoch only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

# Share of hard sampling's draws that is uniform, so that every tile is drawn now and then.
_UNIFORM_SHARE = 0.5

# Places are drawn in proportion to this power of their area. With 1 the largest place decides what
# is learnt; with 0 the few tiles of a small place are repeated until they are overfitted. The
# square root is halfway between: of two places with 1 % and 99 % of the area, the small one gets
# 9 % of the draws, so that its tiles are drawn ten times as often as those of the large one.
_PLACE_EXPONENT = 0.5

# Weight of a new loss in a tile's moving average.
_UPDATE_SHARE = 0.5


class Draw(NamedTuple):
    """A tile, and the shift of its centre in pixels, down and to the right."""

    tile: int
    dy: int = 0
    dx: int = 0


class DrawSampler(Sampler[Draw]):
    """Draws of an epoch, determined by seed and epoch, whatever process loads them.

    With several processes, each global batch has `world * batch_size` draws, of which process r
    takes the r-th part; draws that do not fill a global batch are left out.

    Args:
        tiles: Number of tiles.
        passes: Draws per epoch, in multiples of `tiles`.
        jitter_px: Largest random shift of a draw, in both directions.
        batch_size: Batch size of one process.
        rank: Number of this process, from 0.
        world: Number of processes.
        seed: Random seed.
    """

    def __init__(
        self,
        tiles: int,
        *,
        passes: int = 1,
        jitter_px: int = 0,
        batch_size: int = 1,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
    ) -> None:
        self.tiles, self.passes, self.jitter_px = tiles, passes, jitter_px
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        total = self.tiles * self.passes
        if self.world == 1:
            return total
        return total // (self.batch_size * self.world) * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = self._choose(generator)
        shifts = generator.integers(-self.jitter_px, self.jitter_px + 1, (len(order), 2))
        draws = np.column_stack([order, shifts])
        if self.world > 1:
            complete = len(self) * self.world
            parts = draws[:complete].reshape(-1, self.world, self.batch_size, 3)
            draws = parts[:, self.rank].reshape(-1, 3)
        yield from (Draw(*row) for row in draws.tolist())

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this at the start of each one."""
        self.epoch = epoch

    @abstractmethod
    def _choose(self, generator: np.random.Generator) -> np.ndarray:
        """Return the `tiles * passes` tiles of an epoch."""


class UniformSampler(DrawSampler):
    """Every tile once per pass, in a new random order."""

    def _choose(self, generator: np.random.Generator) -> np.ndarray:
        return np.concatenate([generator.permutation(self.tiles) for _ in range(self.passes)])


class WeightedSampler(DrawSampler):
    """Tiles in proportion to weights: each as often as expected, rounded up or down."""

    def _choose(self, generator: np.random.Generator) -> np.ndarray:
        # Systematic sampling: equidistant marks on the cumulative weights, in a new random order.
        order = self._order(generator)
        ends = np.cumsum(self._weights()[order])
        count = self.tiles * self.passes
        marks = (np.arange(count) + generator.random()) * (ends[-1] / count)
        positions = np.minimum(np.searchsorted(ends, marks, side="right"), self.tiles - 1)
        chosen: np.ndarray = generator.permutation(order[positions])
        return chosen

    def _order(self, generator: np.random.Generator) -> np.ndarray:
        """Return the tiles in the order of their cumulative weights."""
        return generator.permutation(self.tiles)

    @abstractmethod
    def _weights(self) -> np.ndarray:
        """Return (tiles,) weights, not negative, of any sum."""


class BalancedSampler(WeightedSampler):
    """Draws that balance rare and frequent classes.

    For buildings, half of the draws are tiles that contain some. For exclusive classes, each class
    that is present gets an equal number of draws, split among its tiles by their pixels of it.

    Args:
        class_pixels: (tiles, values), number of pixels of each mask value, from 0.
        exclusive: Whether the mask values are exclusive classes.
        **settings: Arguments of `DrawSampler`.
    """

    def __init__(self, class_pixels: np.ndarray, *, exclusive: bool, **settings: Any) -> None:
        super().__init__(len(class_pixels), **settings)
        pixels = np.asarray(class_pixels, dtype=np.float64)
        if not exclusive:
            has_building = pixels[:, 1:].any(axis=1)
            pixels = np.column_stack([~has_building, has_building]).astype(np.float64)
        totals = pixels.sum(axis=0)
        self._balanced: np.ndarray = (pixels[:, totals > 0] / totals[totals > 0]).sum(axis=1)

    def _weights(self) -> np.ndarray:
        return self._balanced


class PlaceSampler(WeightedSampler):
    """Draws of places in proportion to the square root of their valid pixels.

    Within a place all tiles are drawn equally often. In each epoch the draws of a place, and those
    of a tile, are as many as expected, rounded up or down.

    Args:
        places: (tiles,), number of each tile's place, from 0.
        valid_pixels: (tiles,), number of valid pixels of each tile, in any unit.
        **settings: Arguments of `DrawSampler`.
    """

    def __init__(self, places: np.ndarray, valid_pixels: np.ndarray, **settings: Any) -> None:
        super().__init__(len(places), **settings)
        self._places = np.asarray(places)
        counts = np.bincount(self._places)
        pixels = np.bincount(self._places, np.asarray(valid_pixels, dtype=np.float64))
        self._by_place: np.ndarray = (pixels**_PLACE_EXPONENT / np.maximum(counts, 1))[self._places]

    def _order(self, generator: np.random.Generator) -> np.ndarray:
        # The tiles of a place follow each other, so that rounding concerns whole places, too.
        tiles = super()._order(generator)
        ranks = generator.permutation(self._places.max() + 1)
        return tiles[np.argsort(ranks[self._places[tiles]], kind="stable")]

    def _weights(self) -> np.ndarray:
        return self._by_place


class HardSampler(WeightedSampler):
    """Draws of which half are weighted by the moving average of each tile's loss.

    The other half is uniform. Tiles without a loss yet get the mean of the others. Losses passed
    to `update` affect the draws of the next epoch, not of one that has begun.
    """

    def __init__(self, tiles: int, **settings: Any) -> None:
        super().__init__(tiles, **settings)
        self._losses = np.full(tiles, np.nan)

    def update(self, tiles: np.ndarray, losses: np.ndarray) -> None:
        """Update the moving averages.

        Args:
            tiles: (n,) indices, in the order of training.
            losses: (n,), not negative; values that are not finite are ignored.
        """
        for tile, loss in zip(np.asarray(tiles).tolist(), np.asarray(losses).tolist(), strict=True):
            if np.isfinite(loss):
                previous = self._losses[tile]
                mean = loss if np.isnan(previous) else previous
                self._losses[tile] = mean + _UPDATE_SHARE * (loss - mean)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"losses": torch.from_numpy(self._losses.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint, if it has as many tiles."""
        losses = state["losses"].numpy()
        if len(losses) == self.tiles:
            self._losses = losses.copy()

    def _weights(self) -> np.ndarray:
        uniform = np.full(self.tiles, 1 / self.tiles)
        known = np.isfinite(self._losses)
        if not known.any() or not self._losses[known].any():
            return uniform
        losses = np.where(known, self._losses, self._losses[known].mean())
        weights: np.ndarray = (
            _UNIFORM_SHARE * uniform + (1 - _UNIFORM_SHARE) * losses / losses.sum()
        )
        return weights


class TileSampler(Sampler[int]):
    """The tiles of another sampler's draws, without their shifts, for datasets of whole tiles.

    Args:
        draws: The sampler.
    """

    def __init__(self, draws: DrawSampler) -> None:
        self.draws = draws

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[int]:
        yield from (draw.tile for draw in self.draws)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this at the start of each one."""
        self.draws.set_epoch(epoch)
