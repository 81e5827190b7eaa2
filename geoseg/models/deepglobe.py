"""The network of the DeepGlobe building solution.

Golovanov, Kurbanov, Artamonov, Davydow, Nikolenko: "Building Detection from Satellite Imagery
Using a Composite Loss Function" (CVPR Workshops 2018).

Known from the authors: an encoder pretrained on ImageNet (SE-ResNeXt-50), ASPP with image
pooling on top of it, a decoder of four blocks, each convolution → transposed convolution →
convolution, with a skip connection from the encoder at every level. Not published, and so
our choice: the atrous rates, the widths of the decoder, 1x1 outer convolutions (as in
LinkNet, which the paper names), and joining skips by concatenation as in U-Net; `fusion="add"`
adds them as in LinkNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from geoseg.models.encoders import MakeEncoder, channels_of
from geoseg.models.layers import ASPP, conv_bn_relu, crop, pad_to_multiple, resize

Fusion = Literal["concat", "add"]


class DecoderBlock(nn.Module):
    """Convolution → transposed convolution ×2 → convolution, then the skip joins.

    Args:
        inputs: Channels in.
        outputs: Channels out, before the skip joins.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = max(16, inputs // 4)
        self.reduce = conv_bn_relu(inputs, middle, 1)
        self.deconv = nn.Sequential(
            nn.ConvTranspose2d(middle, middle, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
        )
        self.expand = conv_bn_relu(middle, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, 2H, 2W)."""
        expanded: Tensor = self.expand(self.deconv(self.reduce(features)))
        return expanded


class DeepGlobe(nn.Module):
    """Encoder, ASPP on its deepest map, four decoder blocks, one head.

    Args:
        encoder: Makes an encoder with maps at strides 2, 4, 8, 16 and 32.
        classes: Channels of the logits.
        aspp_channels: Width of ASPP.
        rates: Atrous rates of ASPP at stride 32.
        fusion: How a skip joins: `concat` or `add`.

    Raises:
        ValueError: If an option is out of range or the encoder lacks a map at stride 2.
    """

    output_stride = size_multiple = 32

    def __init__(
        self,
        encoder: MakeEncoder,
        classes: int,
        *,
        aspp_channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        fusion: Fusion = "concat",
    ) -> None:
        super().__init__()
        if fusion not in get_args(Fusion):
            raise ValueError(f"fusion {fusion!r} is none of {', '.join(get_args(Fusion))}")
        if aspp_channels < 1:
            raise ValueError(f"aspp_channels must be at least 1, got {aspp_channels}")
        self.encoder = encoder()
        *skips, deepest = channels_of(self.encoder)[1:]
        if 0 in skips:
            raise ValueError("this encoder has no map at stride 2, which smp-unet can do without")
        self.fusion = fusion
        self.aspp = ASPP(deepest, aspp_channels, rates, norm="group")
        self.blocks = nn.ModuleList()
        channels = aspp_channels
        for skip in reversed(skips):
            self.blocks.append(DecoderBlock(channels, skip))
            channels = 2 * skip if fusion == "concat" else skip
        self.head = nn.Sequential(
            conv_bn_relu(channels, max(32, skips[0]), 3),
            nn.Conv2d(max(32, skips[0]), classes, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        *skips, deepest = self.encoder(pad_to_multiple(image, self.size_multiple))[1:]
        features = self.aspp(deepest)
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            features = block(features)
            joined = (features, skip)
            features = torch.cat(joined, dim=1) if self.fusion == "concat" else sum(joined)
        logits = self.head(features)
        return crop(resize(logits, [2 * side for side in logits.shape[2:]]), image.shape[2:])
