"""Random parameters of the samples of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Randomness:
    """Per-sample random parameters.

    Numbers are drawn on the CPU. Processes that share a batch draw for all of its samples, and each
    uses those of its own samples: except for noise, augmentation does not depend on the number of
    processes.

    Attributes:
        generator: Random generator on the CPU, in the same state in every process.
        count: Number of samples of this process.
        rank: Number of this process, from 0; its samples follow those of the previous one.
        world: Number of processes.
    """

    generator: torch.Generator
    count: int
    rank: int = 0
    world: int = 1

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw (count, *shape) uniformly between two values."""
        values = torch.rand(self.world * self.count, *shape, generator=self.generator)
        return self._select(values) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Draw (count, *shape) from the standard normal distribution."""
        return self._select(torch.randn(self.world * self.count, *shape, generator=self.generator))

    def integers(self, limit: int) -> Tensor:
        """Draw (count,) integers from 0 to `limit` - 1."""
        values = torch.randint(limit, (self.world * self.count,), generator=self.generator)
        return self._select(values)

    def bernoulli(self, probability: float) -> Tensor:
        """Draw (count,) bool, True with this probability."""
        return self.uniform(0, 1) < probability

    def generator_on(self, device: torch.device) -> torch.Generator:
        """Return a generator on a device, with a seed of this process only."""
        seeds = torch.randint(2**62, (self.world,), generator=self.generator)
        return torch.Generator(device).manual_seed(int(seeds[self.rank]))

    def _select(self, values: Tensor) -> Tensor:
        return values[self.rank * self.count : (self.rank + 1) * self.count]
