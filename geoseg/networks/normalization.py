"""Normalization of images to what a network was trained on."""

from __future__ import annotations

import torch
from torch import Tensor


def normalise(image: Tensor, valid: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scale bands to mean 0 and standard deviation 1; nodata becomes 0, the mean.

    Args:
        image: (N, C, H, W) in the scene's units.
        valid: (N, 1, H, W) bool.
        mean: (C,), mean of each band.
        std: (C,), standard deviation of each band.

    Returns:
        float32 (N, C, H, W).
    """
    # In place, since on a CPU allocating memory takes longer than the arithmetic.
    scaled = image.to(torch.float32, copy=True)
    return scaled.sub_(mean.view(1, -1, 1, 1)).div_(std.view(1, -1, 1, 1)).mul_(valid)
