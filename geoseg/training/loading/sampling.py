"""Which ground each step of training sees: draws that seed and epoch alone decide."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

# Share of hard sampling's draws that are dealt evenly, so that no tile is starved.
_EVEN_SHARE = 0.5

# Share of a tile's mean loss that each new loss replaces.
_LEARNING_SHARE = 0.5


class Draw(NamedTuple):
    """A tile, and by how many pixels its centre is moved down and to the right."""

    tile: int
    dy: int = 0
    dx: int = 0


class DrawSampler(Sampler[Draw]):
    """Draws of an epoch, fixed by seed and epoch, the same whoever loads them.

    Several ranks share each global batch: of its `world * batch_size` draws the r-th part is
    rank r's, and what does not fill a global batch is left out.

    Args:
        tiles: How many there are.
        passes: Draws per epoch, in multiples of `tiles`.
        jitter_px: Draws are moved by up to this much, in both directions.
        batch_size: Of one rank.
        rank: Number of this process, from 0.
        world: Processes.
        seed: Seed.
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
        moves = generator.integers(-self.jitter_px, self.jitter_px + 1, (len(order), 2))
        draws = np.column_stack([order, moves])
        if self.world > 1:
            whole = len(self) * self.world
            parts = draws[:whole].reshape(-1, self.world, self.batch_size, 3)
            draws = parts[:, self.rank].reshape(-1, 3)
        yield from (Draw(*row) for row in draws.tolist())

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    @abstractmethod
    def _choose(self, generator: np.random.Generator) -> np.ndarray:
        """The tiles of an epoch, `tiles * passes` of them."""


class UniformSampler(DrawSampler):
    """Every tile once per pass, in a new random order."""

    def _choose(self, generator: np.random.Generator) -> np.ndarray:
        return np.concatenate([generator.permutation(self.tiles) for _ in range(self.passes)])


class WeightedSampler(DrawSampler):
    """Tiles as often as their shares say: each is drawn that often, rounded up or down."""

    def _choose(self, generator: np.random.Generator) -> np.ndarray:
        # Evenly spaced marks on the line of all shares, which lie in a new order each time.
        order = generator.permutation(self.tiles)
        ends = np.cumsum(self._shares()[order])
        count = self.tiles * self.passes
        marks = (np.arange(count) + generator.random()) * (ends[-1] / count)
        found = np.minimum(np.searchsorted(ends, marks, side="right"), self.tiles - 1)
        chosen: np.ndarray = generator.permutation(order[found])
        return chosen

    @abstractmethod
    def _shares(self) -> np.ndarray:
        """(tiles,) not negative, of any sum."""


class BalancedSampler(WeightedSampler):
    """What is rare is drawn as often as what is frequent.

    Of buildings, half of the draws are of tiles that have some. Of exclusive classes, each that
    is present has an equal part of the draws, which its tiles share by their pixels of it.

    Args:
        class_pixels: (tiles, values) pixels of each value of the mask, from 0.
        exclusive: Whether the values are classes of which each pixel has one.
        **given: As of `DrawSampler`.
    """

    def __init__(self, class_pixels: np.ndarray, *, exclusive: bool, **given: Any) -> None:
        super().__init__(len(class_pixels), **given)
        pixels = np.asarray(class_pixels, dtype=np.float64)
        if not exclusive:
            built = pixels[:, 1:].any(axis=1)
            pixels = np.column_stack([~built, built]).astype(np.float64)
        totals = pixels.sum(axis=0)
        self._balanced: np.ndarray = (pixels[:, totals > 0] / totals[totals > 0]).sum(axis=1)

    def _shares(self) -> np.ndarray:
        return self._balanced


class HardSampler(WeightedSampler):
    """Half of the draws go to tiles by their running mean loss, the other half evenly.

    Tiles that were not seen yet count as the mean of those that were. What `learn` is told
    decides the draws of the next epoch, not of one that has begun.
    """

    def __init__(self, tiles: int, **given: Any) -> None:
        super().__init__(tiles, **given)
        self._losses = np.full(tiles, np.nan)

    def learn(self, tiles: np.ndarray, losses: np.ndarray) -> None:
        """Takes note of losses.

        Args:
            tiles: (n,) indices, in the order in which they were seen.
            losses: (n,) not negative; those that are not finite are passed over.
        """
        for tile, loss in zip(np.asarray(tiles).tolist(), np.asarray(losses).tolist(), strict=True):
            if np.isfinite(loss):
                before = self._losses[tile]
                known = loss if np.isnan(before) else before
                self._losses[tile] = known + _LEARNING_SHARE * (loss - known)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {"losses": torch.from_numpy(self._losses.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint, if it is of as many tiles."""
        losses = state["losses"].numpy()
        if len(losses) == self.tiles:
            self._losses = losses.copy()

    def _shares(self) -> np.ndarray:
        even = np.full(self.tiles, 1 / self.tiles)
        seen = np.isfinite(self._losses)
        if not seen.any() or not self._losses[seen].any():
            return even
        losses = np.where(seen, self._losses, self._losses[seen].mean())
        shares: np.ndarray = _EVEN_SHARE * even + (1 - _EVEN_SHARE) * losses / losses.sum()
        return shares


class TileSampler(Sampler[int]):
    """The tiles of another sampler's draws, for data sets that know no windows.

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
        """Called by Lightning at the start of each epoch."""
        self.draws.set_epoch(epoch)
