"""Depthwise convolutions of mixed precision training on a CPU."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn


def compute_depthwise_in_float32(network: nn.Module) -> None:
    """Let depthwise convolutions on a CPU ignore mixed precision.

    Their gradients take several times longer in bfloat16 than in float32. On other devices, and
    without mixed precision, nothing changes.

    Args:
        network: Changed in place; names and values of its weights stay.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            # Not a method, which cannot be pickled. Copies get a function of their own module.
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _forward(module: nn.Conv2d, image: Tensor) -> Tensor:
    forward = type(module).forward
    if image.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return forward(module, image)
    with torch.autocast("cpu", enabled=False):
        return forward(module, image.float())
