"""What a loss compares: logits and truth, of either task in one form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Task = Literal["binary", "multiclass"]


@dataclass(frozen=True)
class LossBatch:
    """Logits beside the truth, made by `build_batch`.

    Attributes:
        task: `binary` (independent channels) or `multiclass` (exclusive classes).
        logits: float32 (N, C, H, W), 0 where not valid.
        target: float32 (N, C, H, W) in 0..1, one-hot for exclusive classes, 0 where not valid.
        valid: bool (N, C, H, W), or (N, 1, H, W) for exclusive classes.
        weight_map: Weights of pixels, (N, 1, H, W) or (N, C, H, W), or None.
    """

    task: Task
    logits: Tensor
    target: Tensor
    valid: Tensor
    weight_map: Tensor | None = None

    @cached_property
    def prob(self) -> Tensor:
        """Probabilities (N, C, H, W), 0 where not valid."""
        prob = self.logits.sigmoid() if self.task == "binary" else self.logits.softmax(dim=1)
        return prob * self.valid

    @cached_property
    def cross_entropy(self) -> Tensor:
        """-log of the truth's probability, of the shape of `valid`, 0 where not valid."""
        if self.task == "multiclass":
            return -(self.target * self.logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)
        loss = F.binary_cross_entropy_with_logits(self.logits, self.target, reduction="none")
        return loss * self.valid


def build_batch(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    task: Task = "binary",
    weight_map: Tensor | None = None,
) -> LossBatch:
    """Brings either task to the form of a `Batch`.

    Args:
        logits: (N, C, H, W), of any floating type.
        target: `binary`: (N, C, H, W) in 0..1. `multiclass`: (N, H, W), indices of classes.
        valid: bool, of the target's shape.
        task: `binary` or `multiclass`.
        weight_map: Weights of pixels, (N, 1, H, W) or (N, C, H, W), or None.
    """
    logits = logits.float()
    # What is not valid is replaced before anything is computed of it: a product with 0 would
    # let infinities through, into the gradient too.
    target = torch.where(valid, target, 0)
    if task == "multiclass":
        valid = valid.unsqueeze(1)
        target = F.one_hot(target.long(), logits.shape[1]).movedim(-1, 1) * valid
    logits = torch.where(valid, logits, 0)
    return LossBatch(task, logits, target.float(), valid, weight_map)
