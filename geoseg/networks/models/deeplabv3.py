"""DeepLab v3 and v3+.

Chen, Papandreou, Schroff, Adam: "Rethinking Atrous Convolution for Semantic Image Segmentation"
(2017, arXiv 1706.05587); Chen, Zhu, Papandreou, Schroff, Adam: "Encoder-Decoder with Atrous
Separable Convolution for Semantic Image Segmentation" (ECCV 2018, arXiv 1802.02611).

The reference implementation aligns corners when it resizes, for image sides of 16n + 1. Tiles have
even sides; pixel centres are kept in place instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geoseg.networks.models.encoders import EncoderFactory, build_atrous_resnet, channels_of
from geoseg.networks.models.layers import ASPP, SeparableConv, conv_bn_relu, resize

# Atrous rates of ASPP by output stride: maps of twice the resolution need doubled rates.
_RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (6, 12, 18)}

_MULTI_GRID = (1, 2, 4)


class DeepLabV3(nn.Module):
    """Atrous encoder, ASPP with image pooling, and a 1x1 convolution.

    Args:
        encoder: Builds an encoder that can be dilated.
        classes: Number of channels of the logits.
        output_stride: 8 or 16.
        multi_grid: Unit rates of the blocks of the last stage; None for (1, 2, 4) on a ResNet
            and no multi-grid on other encoders.
        rates: Atrous rates of ASPP; None for those of the paper.
        channels: Number of channels of ASPP.
        dropout: Dropout probability before the classifier.
        torchvision: Build the variant of torchvision: no multi-grid, and a further 3x3
            convolution after ASPP.

    Raises:
        ValueError: If an option is out of range or the encoder cannot be dilated.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        classes: int,
        *,
        output_stride: int = 16,
        multi_grid: Sequence[int] | None = None,
        rates: Sequence[int] | None = None,
        channels: int = 256,
        dropout: float = 0.1,
        torchvision: bool = False,
    ) -> None:
        super().__init__()
        _check_output_stride(output_stride)
        self.output_stride = output_stride
        if torchvision:
            self.encoder = build_atrous_resnet(encoder, output_stride, late=True)
        elif multi_grid or encoder.is_resnet:
            self.encoder = build_atrous_resnet(encoder, output_stride, multi_grid or _MULTI_GRID)
        else:
            self.encoder = encoder(output_stride=output_stride)
        deepest = channels_of(self.encoder)[-1]
        self.aspp = ASPP(deepest, channels, rates or _RATES[output_stride])
        self.dropout = nn.Dropout(dropout)
        self.smooth = conv_bn_relu(channels, channels, 3) if torchvision else nn.Identity()
        self.predictor = nn.Conv2d(channels, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        features = self.dropout(self.aspp(self.encoder(image)[-1]))
        return resize(self.predictor(self.smooth(features)), image.shape[2:])


class DeepLabV3Plus(nn.Module):
    """DeepLab v3 with separable convolutions and a decoder with a skip from the map of stride 4.

    With Xception-65 of timm the skip starts after a ReLU, as in the reference implementation.

    Args:
        encoder: Builds an encoder that can be dilated.
        classes: Number of channels of the logits.
        output_stride: 8 or 16.
        rates: Atrous rates of ASPP; None for those of the paper.
        channels: Number of channels of ASPP and decoder.
        skip_channels: Number of channels to which the map of stride 4 is projected.
        separable: Use depthwise separable 3x3 convolutions in ASPP and decoder.
        dropout: Dropout probability between ASPP and decoder.

    Raises:
        ValueError: If an option is out of range or the encoder cannot be dilated.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        classes: int,
        *,
        output_stride: int = 16,
        rates: Sequence[int] | None = None,
        channels: int = 256,
        skip_channels: int = 48,
        separable: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check_output_stride(output_stride)
        self.output_stride = output_stride
        self.encoder = encoder(output_stride=output_stride)
        _, _, shallow, *_, deepest = channels_of(self.encoder)
        self.aspp = ASPP(deepest, channels, rates or _RATES[output_stride], separable=separable)
        self.dropout = nn.Dropout(dropout)
        self.skip = conv_bn_relu(shallow, skip_channels, 1)
        joined = channels + skip_channels
        self.decoder = nn.Sequential(
            *(
                SeparableConv(inputs, channels) if separable else conv_bn_relu(inputs, channels, 3)
                for inputs in (joined, channels)
            )
        )
        self.predictor = nn.Conv2d(channels, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        _, _, shallow, *_, deepest = self.encoder(image)
        features = resize(self.dropout(self.aspp(deepest)), shallow.shape[2:])
        features = self.decoder(torch.cat([features, self.skip(shallow)], dim=1))
        return resize(self.predictor(features), image.shape[2:])


def _check_output_stride(output_stride: int) -> None:
    if output_stride not in (8, 16):
        raise ValueError(f"output_stride must be 8 or 16, got {output_stride}")
