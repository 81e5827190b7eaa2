"""What of blended probabilities is kept, and as which numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geoseg.geo.raster import SPREAD

# A deviation of probabilities is 0.5 at the most.
_SPREAD_FULL = 0.5


@dataclass(frozen=True)
class ValuesKind:
    """How probabilities are stored.

    Attributes:
        outputs: Names of the channels.
        spread: Whether the uncertainty is stored besides: the standard deviation of a pixel's
            probability over all tiles, views and models that saw it; of several channels the
            greatest.
        floats: Whether they are float32 in 0..1 instead of bytes.
    """

    outputs: tuple[str, ...]
    spread: bool = False
    floats: bool = False

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return (*self.outputs, SPREAD) if self.spread else self.outputs

    @property
    def dtype(self) -> str:
        """Data type of the bands."""
        return "float32" if self.floats else "uint8"

    @property
    def scales(self) -> tuple[float, ...]:
        """What each band's numbers are multiplied by to be probabilities or deviations."""
        if self.floats:
            return (1.0,) * len(self.bands)
        return (1 / 255,) * len(self.outputs) + (_SPREAD_FULL / 255,) * self.spread

    def encode(self, share: Tensor) -> Tensor:
        """Blended channels as bands.

        Args:
            share: float32 (C, h, w): the probabilities and, for the uncertainty, their squares.

        Returns:
            (bands, h, w) of `dtype`. Bytes are monotone, 0 → 0 and 1 → 255.
        """
        prob = share[: len(self.outputs)]
        parts = [prob.clamp(0, 1)]
        if self.spread:
            variance = share[len(self.outputs) :] - prob.square()
            spread = variance.clamp_(min=0).sqrt_().amax(dim=0, keepdim=True)
            parts.append(spread if self.floats else (spread / _SPREAD_FULL).clamp_(0, 1))
        values = torch.cat(parts) if len(parts) > 1 else parts[0]
        return values if self.floats else (values * 255).round_().to(torch.uint8)
