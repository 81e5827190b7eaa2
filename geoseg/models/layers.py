"""Atrous spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, with batch normalisation and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ImagePooling(nn.Module):
    """Global average → 1x1 convolution → spread over the map again.

    Group normalisation takes the place of batch normalisation here: a pooled map has one
    value per image and channel, so that batch statistics do not exist for a batch of one.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        # Groups of at least 8 channels, else a pooled map has nothing to normalise over.
        groups = next(g for g in range(max(1, outputs // 8), 0, -1) if outputs % g == 0)
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H, W), constant over each image."""
        pooled = features.mean(dim=(2, 3), keepdim=True)
        return F.relu(self.norm(self.conv(pooled))).expand(-1, -1, *features.shape[2:])


class ASPP(nn.Module):
    """Parallel 1x1, atrous 3x3 and image-pooling branches, concatenated and projected.

    Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation"
    (arXiv 1706.05587).

    Args:
        inputs: Channels in.
        outputs: Channels of each branch and of the result.
        rates: Atrous rates of the 3x3 branches.
    """

    def __init__(self, inputs: int, outputs: int, rates: Sequence[int] = (6, 12, 18)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(inputs, outputs, 1),
                *(conv_bn_relu(inputs, outputs, 3, dilation=rate) for rate in rates),
                ImagePooling(inputs, outputs),
            ]
        )
        self.project = conv_bn_relu(outputs * len(self.branches), outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H, W)."""
        branches = [branch(features) for branch in self.branches]
        projected: Tensor = self.project(torch.cat(branches, dim=1))
        return projected
