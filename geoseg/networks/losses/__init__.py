"""Loss functions and their weighted sum.

All of them compare logits (N, C, H, W) with a target, in one of two modes:

- `binary`: independent channels (sigmoid); target (N, C, H, W) in 0..1, valid (N, C, H, W).
- `multiclass`: exclusive classes (softmax); target (N, H, W) with class indices, valid (N, H, W).

Pixels that are not valid are ignored, whatever their value. The docstring of each loss describes
its value and gradient on images without a building.
"""

from geoseg.networks.losses.composite import LOSSES, CompositeLoss
from geoseg.networks.losses.loss_batch import LossBatch, LossMode, build_batch
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
    "LossMode",
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
