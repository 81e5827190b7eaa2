"""Fully convolutional networks.

Long, Shelhamer, Darrell: "Fully Convolutional Networks for Semantic Segmentation" (CVPR 2015,
arXiv 1411.4038).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.networks.models.encoders import EncoderFactory, build_vgg, channels_of
from geoseg.networks.models.layers import BilinearDeconv, crop

Padding = Literal["same", "paper"]

# Zeros around the image. The first convolution pads by 1 more, which makes 100 as in the reference
# implementation.
_MARGIN = 99

# Offset of a coarser map in a finer one with this margin, computed by tracing the first pixel of
# each layer back to the image.
_PAPER_OFFSETS = {"pool4": 5, "pool3": 9, 8: 31, 16: 27, 32: 19}


class FCN(nn.Module):
    """VGG with a convolutional classifier, and scores of shallow maps added during upsampling.

    The last upsampling is bilinear and fixed; the others are initialized as bilinear and trained.
    The scores of shallow maps start at zero, as in the paper, so that training starts with the
    predictions of stride 32. All strides are trained at once. The reference implementation scales
    the shallow maps down by 0.01 and 0.0001 for that; with AdamW, whose steps do not grow with the
    gradients, they would never count. The deepest score starts from N(0, 0.01): zeros would give
    the encoder no gradient in the first step.

    Args:
        encoder: Builds a VGG encoder.
        classes: Number of channels of the logits.
        stride: 32 scores only the deepest map, 16 adds pool4, 8 adds pool3.
        padding: `paper` pads the image by 100 pixels, as the reference implementation; `same`
            pads the 7x7 convolution instead, which is much cheaper.
        width: Number of channels of the two classifier layers, 4096 in the paper.

    Raises:
        ValueError: If an option is out of range or the encoder is not a VGG.
    """

    output_stride = 32

    def __init__(
        self,
        encoder: EncoderFactory,
        classes: int,
        *,
        stride: Literal[8, 16, 32] = 8,
        padding: Padding = "same",
        width: int = 4096,
    ) -> None:
        super().__init__()
        if padding not in get_args(Padding):
            raise ValueError(
                f"padding must be one of {', '.join(get_args(Padding))}, got {padding!r}"
            )
        self.encoder = build_vgg(encoder)
        for module in self.encoder.modules():
            if isinstance(module, nn.MaxPool2d):
                module.ceil_mode = True
        self.stride, self.padding = stride, padding
        pool3, pool4, pool5 = channels_of(self.encoder)[2], *channels_of(self.encoder)[3:5]
        self.fc6 = nn.Conv2d(pool5, width, 7, padding=3 if padding == "same" else 0)
        self.fc7 = nn.Conv2d(width, width, 1)
        self.score = nn.Conv2d(width, classes, 1)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        if stride <= 16:
            self.up_score = BilinearDeconv(classes, 2)
            self.skip_pool4 = _build_skip(pool4, classes)
        if stride == 8:
            self.up_pool4 = BilinearDeconv(classes, 2)
            self.skip_pool3 = _build_skip(pool3, classes)
        self.up = BilinearDeconv(classes, stride, learn=False)

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        paper = self.padding == "paper"
        maps = self.encoder(F.pad(image, [_MARGIN] * 4) if paper else image)
        pool3, pool4 = (F.max_pool2d(f, 2, ceil_mode=True) for f in maps[2:4])
        features = F.dropout(F.relu(self.fc6(maps[5])), training=self.training)
        features = F.dropout(F.relu(self.fc7(features)), training=self.training)
        score: Tensor = self.score(features)
        if self.stride <= 16:
            skip = self.skip_pool4(pool4)
            score = self._join(self.up_score(score), skip, _PAPER_OFFSETS["pool4"])
        if self.stride == 8:
            skip = self.skip_pool3(pool3)
            score = self._join(self.up_pool4(score), skip, _PAPER_OFFSETS["pool3"])
        offset = _PAPER_OFFSETS[self.stride] if paper else self.stride // 2
        return crop(self.up(score), image.shape[2:], offset)

    def _join(self, upsampled: Tensor, skip: Tensor, offset: int) -> Tensor:
        """Add the upsampled map and the skip, with the larger of the two cropped."""
        if self.padding == "paper":
            return upsampled + crop(skip, upsampled.shape[2:], offset)
        return crop(upsampled, skip.shape[2:], 1) + skip


def _build_skip(channels: int, classes: int) -> nn.Conv2d:
    """Build a convolution that scores every pixel 0 until it is trained."""
    layer = nn.Conv2d(channels, classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
