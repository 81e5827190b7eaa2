"""Encoding of output bands (uint8 or float32)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geoseg.geo.raster import SPREAD

# Standard deviations of values in 0..1 are at most 0.5, which is stored as 255.
_MAX_DEVIATION = 0.5


@dataclass(frozen=True)
class OutputEncoding:
    """Bands of a probability raster and how their values are stored.

    Attributes:
        outputs: Names of the probability channels.
        uncertainty: Whether to add a band with the standard deviation of each pixel's probability
            over all tiles, views and models that cover it; of several channels, the largest.
        floats: Whether values are float32 in 0..1 instead of uint8.
    """

    outputs: tuple[str, ...]
    uncertainty: bool = False
    floats: bool = False

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return (*self.outputs, SPREAD) if self.uncertainty else self.outputs

    @property
    def channels(self) -> int:
        """Number of channels to blend: the probabilities and, for uncertainty, their squares."""
        return len(self.outputs) * (2 if self.uncertainty else 1)

    @property
    def dtype(self) -> str:
        """Data type of the bands."""
        return "float32" if self.floats else "uint8"

    @property
    def scales(self) -> tuple[float, ...]:
        """Factor of each band from stored values to probabilities or deviations."""
        if self.floats:
            return (1.0,) * len(self.bands)
        return (1 / 255,) * len(self.outputs) + (_MAX_DEVIATION / 255,) * self.uncertainty

    def encode(self, blended: Tensor) -> Tensor:
        """Convert blended channels to stored bands.

        Args:
            blended: float32 (C, h, w): the probabilities and, for uncertainty, their squares.

        Returns:
            (bands, h, w) of `dtype`. The conversion to bytes is monotone, 0 → 0 and 1 → 255.
        """
        prob = blended[: len(self.outputs)]
        parts = [prob.clamp(0, 1)]
        if self.uncertainty:
            # Var(p) = E(p²) - E(p)²; rounding can make it slightly negative.
            variance = blended[len(self.outputs) :] - prob.square()
            deviation = variance.clamp_(min=0).sqrt_().amax(dim=0, keepdim=True)
            parts.append(deviation if self.floats else (deviation / _MAX_DEVIATION).clamp_(0, 1))
        values = torch.cat(parts) if len(parts) > 1 else parts[0]
        return values if self.floats else (values * 255).round_().to(torch.uint8)
