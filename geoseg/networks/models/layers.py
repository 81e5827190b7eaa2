"""Layers that several networks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = Sequence[int] | torch.Size


def resize(features: Tensor, size: Size) -> Tensor:
    """Bilinear (N, C, h, w) → (N, C, *size), pixel centres kept in place."""
    if tuple(features.shape[2:]) == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


def pad_to_multiple(image: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Repeats the last row and column of (N, C, H, W) until both sides are multiples.

    Args:
        image: The image.
        multiple: What the sides must be a multiple of.
        least: What they must not be below.
    """
    bottom, right = (
        max(side, least) - side + -max(side, least) % multiple for side in image.shape[2:]
    )
    if not bottom and not right:
        return image
    return F.pad(image, (0, right, 0, bottom), mode="replicate")


def crop(features: Tensor, size: Size, offset: int = 0) -> Tensor:
    """The part of (N, C, h, w) of a size that begins `offset` pixels from the top and left."""
    height, width = size
    return features[..., offset : offset + height, offset : offset + width]


def conv_bn_relu(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, with batch normalisation and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class SeparableConv(nn.Sequential):
    """Depthwise 3x3, then pointwise 1x1, with batch normalisation and ReLU at the end.

    The papers differ in what lies between the two: nothing in Xception (Chollet 2017, arXiv
    1610.02357), which found that a non-linearity hurts there; batch normalisation and ReLU in
    the ASPP and decoder of DeepLabv3+ (arXiv 1802.02611).

    Args:
        inputs: Channels in.
        outputs: Channels out.
        dilation: Atrous rate of the depthwise convolution.
        inner: Batch normalisation and ReLU after the depthwise convolution too.
    """

    def __init__(self, inputs: int, outputs: int, *, dilation: int = 1, inner: bool = True) -> None:
        depthwise = nn.Conv2d(
            inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False
        )
        between = [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)] if inner else []
        super().__init__(depthwise, *between, *conv_bn_relu(inputs, outputs, 1))


class BilinearDeconv(nn.ConvTranspose2d):
    """A transposed convolution that begins as bilinear interpolation of each channel.

    Long et al. 2015 (arXiv 1411.4038). Its output is `stride` times as large as the input and
    `kernel - stride` pixels more, for the caller to crop.

    Args:
        channels: Channels in and out.
        stride: Upsampling factor; the kernel is twice as wide.
        learn: Whether training may change it.
    """

    def __init__(self, channels: int, stride: int, *, learn: bool = True) -> None:
        super().__init__(channels, channels, 2 * stride, stride=stride, bias=False)
        line = 1 - (torch.arange(2 * stride) - (stride - 0.5)).abs() / stride
        with torch.no_grad():
            self.weight.zero_()
            for channel in range(channels):
                self.weight[channel, channel] = torch.outer(line, line)
        self.weight.requires_grad_(learn)


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch normalisation for pooled maps, which trains on a batch of one too.

    Where a batch holds a single value per channel its variance does not exist; the running
    statistics, which it then leaves as they are, take its place.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def _group_norm(channels: int) -> nn.GroupNorm:
    # Groups of at least 8 channels, else a pooled map has nothing to normalise over.
    groups = next(g for g in range(max(1, channels // 8), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class ImagePooling(nn.Sequential):
    """Global average → 1x1 convolution → spread over the map again.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        norm: `batch` as in the papers, see `PooledBatchNorm`; `group` does not depend on what
            else lies in the batch, and so suits small ones.
    """

    def __init__(
        self, inputs: int, outputs: int, norm: Literal["batch", "group"] = "batch"
    ) -> None:
        normalise = PooledBatchNorm(outputs) if norm == "batch" else _group_norm(outputs)
        super().__init__(nn.Conv2d(inputs, outputs, 1, bias=False), normalise, nn.ReLU())

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H, W), constant over each image."""
        pooled = input.mean(dim=(2, 3), keepdim=True)
        for layer in self:
            pooled = layer(pooled)
        return pooled.expand(-1, -1, *input.shape[2:])


class ASPP(nn.Module):
    """Parallel 1x1, atrous 3x3 and image-pooling branches, concatenated and projected.

    Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation"
    (arXiv 1706.05587).

    Args:
        inputs: Channels in.
        outputs: Channels of each branch and of the result.
        rates: Atrous rates of the 3x3 branches.
        separable: Depthwise separable 3x3 convolutions, as in DeepLabv3+.
        norm: Of the image pooling, see `ImagePooling`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rates: Sequence[int] = (6, 12, 18),
        *,
        separable: bool = False,
        norm: Literal["batch", "group"] = "batch",
    ) -> None:
        super().__init__()
        atrous: Callable[..., nn.Module] = (
            partial(SeparableConv, inputs, outputs)
            if separable
            else partial(conv_bn_relu, inputs, outputs, 3)
        )
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(inputs, outputs, 1),
                *(atrous(dilation=rate) for rate in rates),
                ImagePooling(inputs, outputs, norm),
            ]
        )
        self.project = conv_bn_relu(outputs * len(self.branches), outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H, W)."""
        branches = [branch(features) for branch in self.branches]
        projected: Tensor = self.project(torch.cat(branches, dim=1))
        return projected
