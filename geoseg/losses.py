"""Losses by name, each usable alone, and their weighted sum.

Every term takes logits (N, C, H, W), targets (N, C, H, W) in 0..1 and valid (N, C, H, W) bool;
pixels that are not valid count in none of them. Every channel is a binary problem of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.errors import ConfigError

Term = Callable[[Tensor, Tensor, Tensor], Tensor]

# Keeps the overlap losses finite on a batch without a building, and their gradient there
# pointing down on false positives.
_SMOOTH = 1.0


def bce_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy, mean over valid pixels."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean(loss, valid)


def focal_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Focal loss with γ = 2 and no α, mean over valid pixels (Lin et al. 2017, 1708.02002)."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean(loss * (1 - torch.exp(-loss)) ** 2, valid)


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - soft Dice over the batch, mean over channels."""
    overlap, total = _overlap(logits, target, valid)
    return (1 - (2 * overlap + _SMOOTH) / (total + _SMOOTH)).mean()


def jaccard_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - soft Jaccard over the batch, mean over channels."""
    overlap, total = _overlap(logits, target, valid)
    return (1 - (overlap + _SMOOTH) / (total - overlap + _SMOOTH)).mean()


LOSSES: dict[str, Term] = {
    "bce": bce_loss,
    "dice": dice_loss,
    "focal": focal_loss,
    "jaccard": jaccard_loss,
}


class CompositeLoss(nn.Module):
    """Weighted sum of named terms.

    Args:
        weights: Weight of each term by its name in `LOSSES`.

    Raises:
        ConfigError: If a name is unknown or no weight is positive.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        unknown = sorted(set(weights) - set(LOSSES))
        if unknown:
            raise ConfigError(
                f"train.loss: no loss is called {', '.join(unknown)}; choose from "
                f"{', '.join(sorted(LOSSES))}"
            )
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        if not self.weights:
            raise ConfigError("train.loss: no term has a positive weight")

    def forward(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The sum, a scalar in float32."""
        logits, target = logits.float(), target.float()
        terms = [w * LOSSES[name](logits, target, valid) for name, w in self.weights.items()]
        return torch.stack(terms).sum()


def _mean(loss: Tensor, valid: Tensor) -> Tensor:
    return (loss * valid).sum() / valid.sum().clamp(min=1)


def _overlap(logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    prob = logits.sigmoid() * valid
    target = target * valid
    axes = (0, 2, 3)
    return (prob * target).sum(axes), prob.sum(axes) + target.sum(axes)
