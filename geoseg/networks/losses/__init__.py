"""Losses by name, each usable alone, and their weighted sum.

All of them compare logits (N, C, H, W) with the truth of one of two tasks:

- `binary`: every channel is a problem of its own (sigmoid); target (N, C, H, W) in 0..1,
  valid (N, C, H, W).
- `multiclass`: classes exclude each other (softmax); target (N, H, W), the index of each pixel's
  class, valid (N, H, W).

Pixels that are not valid count in none of them, whatever they hold. What a term does on ground
without a building is said in its docstring.
"""

from geoseg.networks.losses.composite import LOSSES, CompositeLoss
from geoseg.networks.losses.loss_batch import LossBatch, Task, build_batch
from geoseg.networks.losses.lovasz import lovasz_hinge, lovasz_softmax
from geoseg.networks.losses.overlap_losses import dice_loss, jaccard_loss, tversky_loss
from geoseg.networks.losses.pixel_losses import (
    bce_loss,
    cross_entropy_loss,
    focal_loss,
    sample_losses,
)
from geoseg.networks.losses.weight_map import WeightMap, burn_separation, separation_reach

__all__ = [
    "LOSSES",
    "CompositeLoss",
    "LossBatch",
    "Task",
    "WeightMap",
    "bce_loss",
    "build_batch",
    "burn_separation",
    "cross_entropy_loss",
    "dice_loss",
    "focal_loss",
    "jaccard_loss",
    "lovasz_hinge",
    "lovasz_softmax",
    "sample_losses",
    "separation_reach",
    "tversky_loss",
]
