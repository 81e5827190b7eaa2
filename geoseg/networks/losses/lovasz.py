"""Lovász losses: the convex extension of the Jaccard loss (Berman et al. 2018, 1705.08790).

Errors of pixels are sorted, and each is weighted by how much the Jaccard loss grows when its
pixel joins the wrong ones. They refine a network that a pixelwise term has brought on its way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geoseg.networks.losses.loss_batch import LossBatch
from geoseg.options import LovaszHingeOptions, LovaszSoftmaxOptions


def lovasz_hinge(batch: LossBatch, options: LovaszHingeOptions) -> Tensor:
    """Lovász hinge of independent channels, mean over channels.

    Without a building the loss is the hinge of the highest logit alone: only the worst false
    alarm is pushed down (of each tile where `per_image`), and none below a logit of -1.

    Args:
        batch: Of the task `binary`; targets from 0.5 count as 1.
        options: `per_image`: mean over tiles instead of the batch as one.
    """
    truth = batch.target >= 0.5
    errors = 1 - torch.where(truth, batch.logits, -batch.logits)
    errors = torch.where(batch.valid, errors, 0)
    losses = _extend(*(_rows(values, options.per_image) for values in (errors, truth)))
    return _mean(losses, _rows(batch.valid, options.per_image).any(dim=-1))


def lovasz_softmax(batch: LossBatch, options: LovaszSoftmaxOptions) -> Tensor:
    """Lovász-Softmax of exclusive classes, mean over classes.

    Where all is background, the loss is the mean of 1 - p of the background, so that every
    other class is pushed down. `all` adds the highest probability of each class that is absent.

    Args:
        batch: Of the task `multiclass`.
        options: `classes`: those that are present in the truth, or all. `per_image`: mean over
            tiles instead of the batch as one.
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
        errors: float (..., P); what is not positive counts for nothing.
        truth: bool (..., P).

    Returns:
        (...).
    """
    errors, order = errors.relu().sort(dim=-1, descending=True)
    # In doubles: steps between neighbours are finer than single precision tells apart.
    found = truth.gather(-1, order).double()
    total = found.sum(dim=-1, keepdim=True)
    left = total - found.cumsum(dim=-1)
    union = total + (1 - found).cumsum(dim=-1)
    jaccard = 1 - left / union
    steps = torch.diff(jaccard, dim=-1, prepend=torch.zeros_like(total))
    return (errors * steps.to(errors.dtype)).sum(dim=-1)


def _rows(values: Tensor, per_image: bool) -> Tensor:
    """(N, C, H, W) → (N, C, H·W), or (1, C, N·H·W) of the batch as one."""
    if per_image:
        return values.flatten(2)
    return values.transpose(0, 1).flatten(1).unsqueeze(0)


def _mean(losses: Tensor, counted: Tensor) -> Tensor:
    """Mean over the classes that count, then over the images that have any."""
    classes = counted.sum(dim=-1)
    per_image = (losses * counted).sum(dim=-1) / classes.clamp(min=1)
    return per_image.sum() / (classes > 0).sum().clamp(min=1)
