"""Losses that are a mean over pixels, and so can weigh each of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geoseg.networks.losses.loss_batch import LossBatch
from geoseg.options import BceOptions, CrossEntropyOptions, FocalOptions


def bce_loss(batch: LossBatch, options: BceOptions) -> Tensor:
    """Binary cross-entropy of independent channels, mean over valid pixels.

    Without a building every pixel is pushed down, by σ(logit).

    Args:
        batch: Of the task `binary`.
        options: `pos_weight` multiplies the loss of positive pixels; the divisor stays the
            number of pixels.
    """
    positive = _per_channel(batch.logits, options.pos_weight)
    return _mean(batch.cross_entropy * (1 + (positive - 1) * batch.target), batch)


def cross_entropy_loss(batch: LossBatch, options: CrossEntropyOptions) -> Tensor:
    """Softmax cross-entropy of exclusive classes, mean over valid pixels.

    Where all is background, every other class is pushed down.

    Args:
        batch: Of the task `multiclass`.
        options: `class_weights` multiply the loss of each pixel by its class; the divisor stays
            the number of pixels.
    """
    return _mean(batch.cross_entropy * _class_weight(batch, options.class_weights), batch)


def focal_loss(batch: LossBatch, options: FocalOptions) -> Tensor:
    """Focal loss -α_t (1-p_t)^γ log p_t of either task (Lin et al. 2017, 1708.02002).

    Without a building every pixel is pushed down, sure ones less. With `normalise: positives`
    such a batch is divided by 1, and weighs as much as all its pixels together.

    Args:
        batch: Of either task.
        options: γ; α for independent channels, or `class_weights` for exclusive classes; and
            the divisor: the number of valid pixels, or per channel that of positive ones in
            the batch. Exclusive classes have a positive in every pixel, so both agree.
    """
    loss = batch.cross_entropy
    # Just above 0 the power of a γ below 1 has no gradient.
    missing = (-torch.expm1(-loss)).clamp(min=1e-12)
    loss = missing**options.gamma * loss
    if options.alpha is not None:
        loss = loss * (options.alpha * batch.target + (1 - options.alpha) * (1 - batch.target))
    loss = loss * _class_weight(batch, options.class_weights)
    if batch.task == "multiclass" or options.normalise == "pixels":
        return _mean(loss, batch)
    axes = (0, 2, 3)
    return (_weighed(loss, batch).sum(axes) / batch.target.sum(axes).clamp(min=1)).mean()


def sample_losses(batch: LossBatch) -> Tensor:
    """(N,) mean cross-entropy of each sample's valid pixels, unweighed; 0 where none is valid."""
    count = batch.valid.flatten(1).sum(dim=1).clamp(min=1)
    return batch.cross_entropy.flatten(1).sum(dim=1) / count


def _mean(loss: Tensor, batch: LossBatch) -> Tensor:
    return _weighed(loss, batch).sum() / batch.valid.sum().clamp(min=1)


def _weighed(loss: Tensor, batch: LossBatch) -> Tensor:
    return loss if batch.weight_map is None else loss * batch.weight_map


def _class_weight(batch: LossBatch, weights: Sequence[float] | None) -> Tensor:
    """The weight of each pixel's class, (N, 1, H, W); 1 where none are given."""
    if weights is None:
        return batch.logits.new_ones(1, 1, 1, 1)
    return (batch.target * _per_channel(batch.logits, weights)).sum(dim=1, keepdim=True)


def _per_channel(like: Tensor, values: Sequence[float]) -> Tensor | float:
    """One value for each channel, or one for all."""
    if len(values) == 1:
        return values[0]
    # Sent unasked, they would wait until a GPU has done all that it was told before.
    sent = torch.tensor(values).to(like.device, like.dtype, non_blocking=True)
    return sent.view(1, -1, 1, 1)
