"""Logits and targets of a batch, in one form for both modes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossMode = Literal["binary", "multiclass"]


@dataclass(frozen=True)
class LossBatch:
    """Logits and targets of a batch, created by `build_batch`.

    Attributes:
        mode: `binary` (independent channels) or `multiclass` (exclusive classes).
        logits: float32 (N, C, H, W), 0 where not valid.
        target: float32 (N, C, H, W) in 0..1, one-hot for exclusive classes, 0 where not valid.
        valid: bool (N, C, H, W), or (N, 1, H, W) for exclusive classes.
        weight_map: Weights of pixels, (N, 1, H, W) or (N, C, H, W), or None.
    """

    mode: LossMode
    logits: Tensor
    target: Tensor
    valid: Tensor
    weight_map: Tensor | None = None

    @cached_property
    def prob(self) -> Tensor:
        """Probabilities (N, C, H, W), 0 where not valid."""
        prob = self.logits.sigmoid() if self.mode == "binary" else self.logits.softmax(dim=1)
        return prob * self.valid

    @cached_property
    def cross_entropy(self) -> Tensor:
        """Cross-entropy in the shape of `valid`, 0 where not valid."""
        if self.mode == "multiclass":
            return -(self.target * self.logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)
        loss = F.binary_cross_entropy_with_logits(self.logits, self.target, reduction="none")
        return loss * self.valid


def build_batch(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    mode: LossMode = "binary",
    weight_map: Tensor | None = None,
) -> LossBatch:
    """Build a `LossBatch` from logits and a target of either mode.

    Args:
        logits: (N, C, H, W), of any floating type.
        target: `binary`: (N, C, H, W) in 0..1. `multiclass`: (N, H, W), class indices.
        valid: bool, in the shape of the target.
        mode: `binary` or `multiclass`.
        weight_map: Weights of pixels, (N, 1, H, W) or (N, C, H, W), or None.
    """
    logits = logits.float()
    # Invalid pixels are replaced first: infinities times 0 would be NaN, also in the gradient.
    target = torch.where(valid, target, 0)
    if mode == "multiclass":
        valid = valid.unsqueeze(1)
        target = F.one_hot(target.long(), logits.shape[1]).movedim(-1, 1) * valid
    logits = torch.where(valid, logits, 0)
    return LossBatch(mode, logits, target.float(), valid, weight_map)
