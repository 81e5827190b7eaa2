"""The network of the DeepGlobe building solution.

Golovanov, Kurbanov, Artamonov, Davydow, Nikolenko: "Building Detection from Satellite Imagery
Using a Composite Loss Function" (CVPR Workshops 2018).

Published: an encoder pretrained on ImageNet (SE-ResNeXt-50), ASPP with image pooling on top of
it, and a decoder of four blocks (convolution, transposed convolution, convolution) with a skip
connection from the encoder at every level.

Not published, and chosen here: the atrous rates, the widths of the decoder, 1x1 outer convolutions
(as in LinkNet, which the paper cites), and concatenation of the skips as in U-Net. `fusion="add"`
adds the skips as in LinkNet. Small encoders have maps with few channels, and a decoder of the same
widths learns slowly: `kernel=3` and `widths` select 3x3 outer convolutions and wider blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from geoseg.networks.models.encoders import EncoderFactory, channels_of
from geoseg.networks.models.layers import ASPP, conv_bn_relu, crop, pad_to_multiple, resize

Fusion = Literal["concat", "add"]


class DecoderBlock(nn.Module):
    """Convolution, transposed convolution (factor 2), convolution.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels, without those of the skip.
        kernel: Kernel size of the outer convolutions.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__()
        middle = max(16, inputs // 4)
        self.reduce = conv_bn_relu(inputs, middle, kernel)
        self.deconv = nn.Sequential(
            nn.ConvTranspose2d(middle, middle, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
        )
        self.expand = conv_bn_relu(middle, outputs, kernel)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, 2H, 2W)."""
        expanded: Tensor = self.expand(self.deconv(self.reduce(features)))
        return expanded


class DeepGlobe(nn.Module):
    """Encoder, ASPP on its deepest map, four decoder blocks, and a head.

    Args:
        encoder: Builds an encoder with maps at strides 2, 4, 8, 16 and 32.
        classes: Number of channels of the logits.
        aspp_channels: Number of channels of ASPP.
        rates: Atrous rates of ASPP at stride 32.
        fusion: `concat` concatenates the skips, `add` adds them.
        kernel: Kernel size of the outer convolutions of the decoder, 1 or 3.
        widths: Number of channels of the four blocks without those of the skips, the deepest
            first; None for the number of channels of the skips.

    Raises:
        ValueError: If an option is out of range or the encoder lacks a map at stride 2.
    """

    output_stride = size_multiple = 32

    def __init__(
        self,
        encoder: EncoderFactory,
        classes: int,
        *,
        aspp_channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        fusion: Fusion = "concat",
        kernel: int = 1,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check_decoder(fusion, kernel, widths)
        if aspp_channels < 1:
            raise ValueError(f"aspp_channels must be at least 1, got {aspp_channels}")
        self.encoder = encoder()
        *skips, deepest = channels_of(self.encoder)[1:]
        if 0 in skips:
            raise ValueError("this encoder has no map at stride 2; use smp-unet, which needs none")
        self.fusion = fusion
        self.aspp = ASPP(deepest, aspp_channels, rates, norm="group")
        self.blocks = nn.ModuleList()
        channels = aspp_channels
        for skip, width in zip(reversed(skips), widths or reversed(skips), strict=True):
            self.blocks.append(DecoderBlock(channels, width, kernel))
            channels = width + skip if fusion == "concat" else skip
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


def _check_decoder(fusion: str, kernel: int, widths: Sequence[int] | None) -> None:
    if fusion not in get_args(Fusion):
        raise ValueError(f"fusion must be one of {', '.join(get_args(Fusion))}, got {fusion!r}")
    if kernel not in (1, 3):
        raise ValueError(f"kernel must be 1 or 3, got {kernel}")
    if widths is not None and (len(widths) != 4 or min(widths) < 1):
        raise ValueError(f"widths must be four channel numbers of at least 1, got {list(widths)}")
    if widths is not None and fusion == "add":
        raise ValueError("widths need fusion concat; fusion add takes the channels of the skips")
