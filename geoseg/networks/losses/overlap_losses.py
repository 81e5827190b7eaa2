"""Overlap losses: Dice, Jaccard and Tversky, from soft counts over the batch.

Each is the mean over channels (or classes) of (α·FP + β·FN) / (TP + α·FP + β·FN + smooth), that
is, of 1 - (TP + smooth) / (TP + α·FP + β·FN + smooth). The smoothing term keeps the quotient finite
and gives images without a building a gradient: their loss is FP / (FP + smooth/α), which lowers
every pixel, the less the more false positives there are. Without smoothing their loss is 1 for any
logits, with no gradient.
"""

from __future__ import annotations

from torch import Tensor

from geoseg.networks.losses.loss_batch import LossBatch
from geoseg.options import OverlapOptions, TverskyOptions

# Smaller than any relevant sum of probabilities; makes 0/0 become 0.
_TINY = 1e-12


def dice_loss(batch: LossBatch, options: OverlapOptions) -> Tensor:
    """1 - (2·TP + smooth) / (2·TP + FP + FN + smooth), in either mode.

    As in V-Net (Milletari et al. 2016, arXiv 1606.04797), but with sums instead of sums of squares.
    """
    return _tversky(batch, 0.5, 0.5, options.smooth / 2)


def jaccard_loss(batch: LossBatch, options: OverlapOptions) -> Tensor:
    """1 - (TP + smooth) / (TP + FP + FN + smooth), in either mode."""
    return _tversky(batch, 1, 1, options.smooth)


def tversky_loss(batch: LossBatch, options: TverskyOptions) -> Tensor:
    """1 - (TP + smooth) / (TP + α·FP + β·FN + smooth), in either mode.

    Salehi et al. 2017, arXiv 1706.05721.
    """
    return _tversky(batch, options.alpha, options.beta, options.smooth)


def _tversky(batch: LossBatch, alpha: float, beta: float, smooth: float) -> Tensor:
    axes = (0, 2, 3)
    prob, target = batch.prob, batch.target
    hits = (prob * target).sum(axes)
    errors = alpha * (prob * (1 - target)).sum(axes) + beta * (target * (1 - prob)).sum(axes)
    return (errors / (hits + errors + smooth).clamp(min=_TINY)).mean()
