"""Lovász losses: the convex extension of the Jaccard loss (Berman et al. 2018, arXiv 1705.08790).

The errors of pixels are sorted in descending order, and each is weighted by the increase of the
Jaccard loss when its pixel is added to the wrong ones. These losses are meant to refine a network
that was first trained with a pixelwise loss, or to be combined with one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geoseg.networks.losses.loss_batch import LossBatch
from geoseg.options import LovaszHingeOptions, LovaszSoftmaxOptions


def lovasz_hinge(batch: LossBatch, options: LovaszHingeOptions) -> Tensor:
    """Lovász hinge of independent channels, mean over channels.

    Without a building the loss is the hinge of the highest logit: only the worst false positive
    has a gradient (one per tile with `per_image`), and none at a logit of -1 or less.

    Args:
        batch: A batch in mode `binary`; targets of 0.5 or more count as 1.
        options: `per_image`: mean over tiles instead of one loss over the batch.
    """
    truth = batch.target >= 0.5
    errors = 1 - torch.where(truth, batch.logits, -batch.logits)
    errors = torch.where(batch.valid, errors, 0)
    losses = _extend(*(_rows(values, options.per_image) for values in (errors, truth)))
    return _mean(losses, _rows(batch.valid, options.per_image).any(dim=-1))


def lovasz_softmax(batch: LossBatch, options: LovaszSoftmaxOptions) -> Tensor:
    """Lovász-Softmax of exclusive classes, mean over classes.

    If all pixels are background, the loss is the mean of 1 - p of the background, whose gradient
    lowers all other classes. `all` adds the highest probability of each absent class.

    Args:
        batch: A batch in mode `multiclass`.
        options: `classes`: the classes that are present in the target, or all. `per_image`: mean
            over tiles instead of one loss over the batch.
    """
    errors = (batch.target - batch.prob).abs()
    errors, truth = (_rows(x, options.per_image) for x in (errors, batch.target > 0))
    if options.classes == "present":
        counted = truth.any(dim=-1)
    else:
        counted = _rows(batch.valid.expand_as(batch.target), options.per_image).any(dim=-1)
    return _mean(_extend(errors, truth), counted)


def _extend(errors: Tensor, truth: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss along the last axis.

    Args:
        errors: float (..., P); errors of 0 or less are ignored.
        truth: bool (..., P).

    Returns:
        (...).
    """
    errors, order = errors.relu().sort(dim=-1, descending=True)
    # In double precision: differences between neighbours are below the resolution of float32.
    positive = truth.gather(-1, order).double()
    total = positive.sum(dim=-1, keepdim=True)
    left = total - positive.cumsum(dim=-1)
    union = total + (1 - positive).cumsum(dim=-1)
    jaccard = 1 - left / union
    steps = torch.diff(jaccard, dim=-1, prepend=torch.zeros_like(total))
    return (errors * steps.to(errors.dtype)).sum(dim=-1)


def _rows(values: Tensor, per_image: bool) -> Tensor:
    """(N, C, H, W) → (N, C, H·W), or (1, C, N·H·W) for one loss over the batch."""
    if per_image:
        return values.flatten(2)
    return values.transpose(0, 1).flatten(1).unsqueeze(0)


def _mean(losses: Tensor, counted: Tensor) -> Tensor:
    """Mean over the counted classes, then over the images that have any."""
    classes = counted.sum(dim=-1)
    per_image = (losses * counted).sum(dim=-1) / classes.clamp(min=1)
    return per_image.sum() / (classes > 0).sum().clamp(min=1)
