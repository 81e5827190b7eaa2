"""Pixelwise losses: cross-entropy and focal loss, with optional weights of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geoseg.networks.losses.loss_batch import LossBatch
from geoseg.options import BceOptions, CrossEntropyOptions, FocalOptions


def bce_loss(batch: LossBatch, options: BceOptions) -> Tensor:
    """Binary cross-entropy of independent channels, mean over pixels that are valid in any channel.

    Without a building the gradient lowers every logit, by σ(logit).

    Args:
        batch: A batch in mode `binary`.
        options: `pos_weight` multiplies the loss of positive pixels; the divisor is still the
            number of pixels.
    """
    positive = _per_channel(batch.logits, options.pos_weight)
    return _mean(batch.cross_entropy * (1 + (positive - 1) * batch.target), batch)


def cross_entropy_loss(batch: LossBatch, options: CrossEntropyOptions) -> Tensor:
    """Softmax cross-entropy of exclusive classes, mean over valid pixels.

    If all pixels are background, the gradient lowers all other classes.

    Args:
        batch: A batch in mode `multiclass`.
        options: `class_weights` multiply the loss of each pixel by the weight of its class; the
            divisor is still the number of pixels.
    """
    return _mean(batch.cross_entropy * _class_weight(batch, options.class_weights), batch)


def focal_loss(batch: LossBatch, options: FocalOptions) -> Tensor:
    """Focal loss -α_t (1-p_t)^γ log p_t in either mode (Lin et al. 2017, arXiv 1708.02002).

    Without a building the gradient lowers every logit, confident ones less. With `normalise:
    positives` the divisor of such a batch is 1, so that its loss is the sum over its pixels.

    Args:
        batch: A batch in either mode.
        options: γ; α for independent channels, or `class_weights` for exclusive classes; and
            the divisor: the number of valid pixels, or the number of positive pixels of each
            channel in the batch. For exclusive classes both are equal.
    """
    loss = batch.cross_entropy
    # At 0 the gradient of a power with γ < 1 is infinite.
    missing = (-torch.expm1(-loss)).clamp(min=1e-12)
    loss = missing**options.gamma * loss
    if options.alpha is not None:
        loss = loss * (options.alpha * batch.target + (1 - options.alpha) * (1 - batch.target))
    loss = loss * _class_weight(batch, options.class_weights)
    if batch.mode == "multiclass" or options.normalise == "pixels":
        return _mean(loss, batch)
    axes = (0, 2, 3)
    return (_apply_weight_map(loss, batch).sum(axes) / batch.target.sum(axes).clamp(min=1)).mean()


def sample_losses(batch: LossBatch) -> Tensor:
    """Return the unweighted mean cross-entropy (N,) of the valid pixels of each sample.

    A sample without valid pixels has 0.
    """
    count = batch.valid.flatten(1).sum(dim=1).clamp(min=1)
    return batch.cross_entropy.flatten(1).sum(dim=1) / count


def _mean(loss: Tensor, batch: LossBatch) -> Tensor:
    # Pixels that are valid in one channel at least count for all, so that ignoring a pixel in one
    # channel changes neither the weight of its other pixels nor that of other channels.
    count = batch.valid.any(dim=1).sum() * batch.valid.shape[1]
    return _apply_weight_map(loss, batch).sum() / count.clamp(min=1)


def _apply_weight_map(loss: Tensor, batch: LossBatch) -> Tensor:
    return loss if batch.weight_map is None else loss * batch.weight_map


def _class_weight(batch: LossBatch, weights: Sequence[float] | None) -> Tensor:
    """Weight of the class of each pixel, (N, 1, H, W); 1 without class weights."""
    if weights is None:
        return batch.logits.new_ones(1, 1, 1, 1)
    return (batch.target * _per_channel(batch.logits, weights)).sum(dim=1, keepdim=True)


def _per_channel(like: Tensor, values: Sequence[float]) -> Tensor | float:
    """Values as a tensor with one value per channel, or the only value."""
    if len(values) == 1:
        return values[0]
    # A blocking copy would wait until the GPU has finished all earlier work.
    tensor = torch.tensor(values).to(like.device, like.dtype, non_blocking=True)
    return tensor.view(1, -1, 1, 1)
