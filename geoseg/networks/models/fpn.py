"""Feature pyramid network with the semantic head of Panoptic FPN.

Lin et al.: "Feature Pyramid Networks for Object Detection" (CVPR 2017, arXiv 1612.03144);
Kirillov et al.: "Panoptic Feature Pyramid Networks" (CVPR 2019, arXiv 1901.02446).

`smp-fpn` differs: it has no 3x3 convolution on the merged maps, has dropout of channels before the
last convolution, and aligns corners when it upsamples.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.networks.models.encoders import EncoderFactory, channels_of
from geoseg.networks.models.layers import resize


class Pyramid(nn.Module):
    """Maps of strides 4 to 32 with equal numbers of channels, merged from coarse to fine.

    Args:
        inputs: Numbers of channels of the encoder's maps, the shallowest first.
        channels: Number of channels of each map of the pyramid.
    """

    def __init__(self, inputs: list[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in inputs)
        # To remove the aliasing of the nearest-neighbour upsampling.
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (N, inputs[i], h, w) → maps (N, channels, h, w), the shallowest first."""
        merged: list[Tensor] = []
        for lateral, features in zip(reversed(self.laterals), reversed(maps), strict=True):
            features = lateral(features)
            if merged:
                features = features + F.interpolate(merged[-1], size=features.shape[2:])
            merged.append(features)
        return [
            conv(features) for conv, features in zip(self.smooth, reversed(merged), strict=True)
        ]


class SemanticHead(nn.Module):
    """Upsamples each map of a pyramid to stride 4 in steps of 2 with convolutions, and adds them.

    Args:
        inputs: Number of channels of the pyramid.
        channels: Number of channels of the sum.
        levels: Number of maps of the pyramid.
    """

    def __init__(self, inputs: int, channels: int, levels: int = 4) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for level in range(levels):
            stages = nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(channels if stage else inputs, channels, 3, padding=1, bias=False),
                    nn.GroupNorm(32 if channels % 32 == 0 else 1, channels),
                    nn.ReLU(inplace=True),
                )
                for stage in range(max(1, level))
            )
            self.branches.append(stages)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Maps (N, inputs, h, w), the finest first → (N, channels, H/4, W/4)."""
        total = None
        for level, (stages, features) in enumerate(zip(self.branches, pyramid, strict=True)):
            for stage, conv in enumerate(cast(nn.ModuleList, stages)):
                features = conv(features)
                if level:
                    features = resize(features, pyramid[level - 1 - stage].shape[2:])
            total = features if total is None else total + features
        assert total is not None
        return total


class FPN(nn.Module):
    """Encoder, pyramid, semantic head, and a 1x1 convolution.

    Args:
        encoder: Builds an encoder with maps at strides 4, 8, 16 and 32.
        classes: Number of channels of the logits.
        channels: Number of channels of the pyramid.
        head_channels: Number of channels of the head.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        classes: int,
        *,
        channels: int = 256,
        head_channels: int = 128,
    ) -> None:
        super().__init__()
        self.encoder = encoder()
        self.output_stride = 32
        self.pyramid = Pyramid(channels_of(self.encoder)[2:], channels)
        self.head = SemanticHead(channels, head_channels)
        self.predictor = nn.Conv2d(head_channels, classes, 1)
        for layer in (*self.pyramid.laterals, *self.pyramid.smooth):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        for module in self.head.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        maps = self.encoder(image)[2:]
        logits = self.predictor(self.head(self.pyramid(maps)))
        return resize(logits, image.shape[2:])
