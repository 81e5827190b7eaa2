"""Layers and functions shared by several networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = Sequence[int] | torch.Size


def resize(features: Tensor, size: Size) -> Tensor:
    """Resize (N, C, h, w) → (N, C, *size) bilinearly, with pixel centres kept in place."""
    if tuple(features.shape[2:]) == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


def pad_to_multiple(image: Tensor, multiple: int, smallest: int = 1) -> Tensor:
    """Pad (N, C, H, W) at the bottom and right by repeating the last row and column.

    Args:
        image: The image.
        multiple: Height and width of the result are multiples of this.
        smallest: Smallest height and width of the result.
    """
    bottom, right = (
        max(side, smallest) - side + -max(side, smallest) % multiple for side in image.shape[2:]
    )
    if not bottom and not right:
        return image
    return F.pad(image, (0, right, 0, bottom), mode="replicate")


def crop(features: Tensor, size: Size, offset: int = 0) -> Tensor:
    """Crop (N, C, h, w) to a size, starting `offset` pixels from the top and left."""
    height, width = size
    return features[..., offset : offset + height, offset : offset + width]


def conv_bn_relu(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Build a convolution that keeps the size, with batch normalization and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class SeparableConv(nn.Sequential):
    """Depthwise 3x3 convolution, pointwise 1x1 convolution, batch normalization, ReLU.

    Papers differ in the layers between the two convolutions: none in Xception (Chollet 2017,
    arXiv 1610.02357), which found a non-linearity harmful; batch normalization and ReLU in the
    ASPP and decoder of DeepLabv3+ (arXiv 1802.02611).

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        dilation: Atrous rate of the depthwise convolution.
        inner: Add batch normalization and ReLU after the depthwise convolution, too.
    """

    def __init__(self, inputs: int, outputs: int, *, dilation: int = 1, inner: bool = True) -> None:
        depthwise = nn.Conv2d(
            inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False
        )
        between = [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)] if inner else []
        super().__init__(depthwise, *between, *conv_bn_relu(inputs, outputs, 1))


class BilinearDeconv(nn.ConvTranspose2d):
    """Transposed convolution that is initialized as bilinear interpolation of each channel.

    Long et al. 2015 (arXiv 1411.4038). The output is `stride` times as large as the input plus
    `stride` pixels, which the caller crops.

    Args:
        channels: Number of input and output channels.
        stride: Upsampling factor; the kernel is twice as wide.
        learn: Whether the weights are trained.
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
    """Batch normalization for pooled maps that also trains on a batch of one.

    A batch with a single value per channel has no variance. The running statistics are used
    instead, and are not updated.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def _group_norm(channels: int) -> nn.GroupNorm:
    # With fewer than 8 channels per group, a pooled map has too few values to normalize.
    groups = next(g for g in range(max(1, channels // 8), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class ImagePooling(nn.Sequential):
    """Global average pooling, 1x1 convolution, and expansion to the size of the map.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        norm: `batch` as in the papers, see `PooledBatchNorm`; `group` does not depend on the
            other images of the batch, and so is better for small batches.
    """

    def __init__(
        self, inputs: int, outputs: int, norm: Literal["batch", "group"] = "batch"
    ) -> None:
        normalise = PooledBatchNorm(outputs) if norm == "batch" else _group_norm(outputs)
        super().__init__(nn.Conv2d(inputs, outputs, 1, bias=False), normalise, nn.ReLU())

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H, W), constant for each image."""
        pooled = input.mean(dim=(2, 3), keepdim=True)
        for layer in self:
            pooled = layer(pooled)
        return pooled.expand(-1, -1, *input.shape[2:])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, atrous 3x3 and image-pooling branches, projected.

    Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation"
    (arXiv 1706.05587).

    Args:
        inputs: Number of input channels.
        outputs: Number of channels of each branch and of the result.
        rates: Atrous rates of the 3x3 branches.
        separable: Use depthwise separable 3x3 convolutions, as in DeepLabv3+.
        norm: Normalization in the image pooling, see `ImagePooling`.
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
