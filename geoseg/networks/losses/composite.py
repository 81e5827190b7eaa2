"""Table of the losses, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from geoseg.errors import ConfigError
from geoseg.networks.losses.loss_batch import LossBatch, LossMode, build_batch
from geoseg.networks.losses.lovasz import lovasz_hinge, lovasz_softmax
from geoseg.networks.losses.overlap_losses import dice_loss, jaccard_loss, tversky_loss
from geoseg.networks.losses.pixel_losses import bce_loss, cross_entropy_loss, focal_loss
from geoseg.options import BceOptions, CrossEntropyOptions, FocalOptions, LossOptions, TermOptions

# Functions of a batch and the options of the term that return a scalar. The names are the fields
# of `LossOptions`.
LOSSES: dict[str, Callable[[LossBatch, Any], Tensor]] = {
    "bce": bce_loss,
    "cross_entropy": cross_entropy_loss,
    "dice": dice_loss,
    "focal": focal_loss,
    "jaccard": jaccard_loss,
    "lovasz_hinge": lovasz_hinge,
    "lovasz_softmax": lovasz_softmax,
    "tversky": tversky_loss,
}

# Losses that support one mode only.
_ONLY: dict[str, LossMode] = {
    "bce": "binary",
    "lovasz_hinge": "binary",
    "cross_entropy": "multiclass",
    "lovasz_softmax": "multiclass",
}

_MEANING = {"binary": "independent channels", "multiclass": "exclusive classes"}


class CompositeLoss(nn.Module):
    """Weighted sum of losses, each with its parameters.

    Args:
        options: The losses with their weights and parameters.
        channels: Number of channels of the logits.
        mode: `binary` for independent channels, `multiclass` for exclusive classes.

    Raises:
        ConfigError: If a loss or a parameter does not support the mode or the number of channels.
    """

    def __init__(self, options: LossOptions, *, channels: int, mode: LossMode = "binary") -> None:
        super().__init__()
        for name, term in options.terms.items():
            _check_mode(name, term, mode)
            _check_channels(name, term, channels)
        self.terms, self.mode = options.terms, mode

    def forward(
        self, logits: Tensor, target: Tensor, valid: Tensor, weight_map: Tensor | None = None
    ) -> Tensor:
        """Compute the weighted sum, a scalar in float32.

        Args:
            logits: (N, C, H, W).
            target: (N, C, H, W) in 0..1, or (N, H, W) indices of exclusive classes.
            valid: bool, in the shape of the target.
            weight_map: Weights of pixels in the pixelwise losses, (N, 1 or C, H, W).
        """
        batch = build_batch(logits, target, valid, self.mode, weight_map)
        losses = [term.weight * LOSSES[name](batch, term) for name, term in self.terms.items()]
        return torch.stack(losses).sum()


def _check_mode(name: str, term: TermOptions, mode: LossMode) -> None:
    supported = [other for other in LOSSES if _ONLY.get(other, mode) == mode]
    if name not in supported:
        raise ConfigError(
            f"train.loss.{name}: is for {_MEANING[_ONLY[name]]}; for {_MEANING[mode]} use "
            f"{', '.join(supported)}"
        )
    if not isinstance(term, FocalOptions):
        return
    if mode == "multiclass" and term.alpha is not None:
        raise ConfigError(
            "train.loss.focal.alpha: is for independent channels; for exclusive classes "
            "use class_weights"
        )
    if mode == "binary" and term.class_weights is not None:
        raise ConfigError(
            "train.loss.focal.class_weights: is for exclusive classes; for independent channels "
            "use alpha"
        )


def _check_channels(name: str, term: TermOptions, channels: int) -> None:
    if isinstance(term, BceOptions) and len(term.pos_weight) not in (1, channels):
        raise ConfigError(
            f"train.loss.{name}.pos_weight: has {len(term.pos_weight)} values for {channels} "
            "channels; give one, or one per channel"
        )
    if isinstance(term, CrossEntropyOptions | FocalOptions):
        weights = term.class_weights
        if weights is not None and len(weights) != channels:
            raise ConfigError(
                f"train.loss.{name}.class_weights: has {len(weights)} values for {channels} "
                "classes; give one per class"
            )
