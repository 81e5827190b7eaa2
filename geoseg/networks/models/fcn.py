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

# Zeros around the image in the reference release, whose first convolution pads by 100.
_MARGIN = 99

# Where, after that margin, a coarser map begins in a finer one: found by following each
# layer's first pixel to the image.
_PAPER_OFFSETS = {"pool4": 5, "pool3": 9, 8: 31, 16: 27, 32: 19}

# Scores of shallow maps begin small, so that all strides can be trained at once, as the
# "at once" nets of the reference release do.
_POOL4_SCALE, _POOL3_SCALE = 0.01, 0.0001


class FCN(nn.Module):
    """VGG-16 whose classifier is convolutions, scores of shallow maps added on the way up.

    The final upsampling is fixed to bilinear, the others begin so and are learnt. The scores
    begin from N(0, 0.01): the paper's zeros, which it found to be no better, would keep the
    first step from the encoder.

    Args:
        encoder: Makes a VGG encoder.
        classes: Channels of the logits.
        stride: 32 scores the deepest map alone, 16 adds pool4, 8 adds pool3.
        padding: `paper` surrounds the image with 100 pixels of nothing, as the reference
            release does; `same` pads the 7x7 convolution instead, which costs a fraction.
        width: Channels of the two classifier layers, 4096 in the paper.

    Raises:
        ValueError: If an option is out of range or the encoder is no VGG.
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
            raise ValueError(f"padding {padding!r} is none of {', '.join(get_args(Padding))}")
        self.encoder = build_vgg(encoder)
        for module in self.encoder.modules():
            if isinstance(module, nn.MaxPool2d):
                module.ceil_mode = True
        self.stride, self.padding = stride, padding
        pool3, pool4, pool5 = channels_of(self.encoder)[2], *channels_of(self.encoder)[3:5]
        self.fc6 = nn.Conv2d(pool5, width, 7, padding=3 if padding == "same" else 0)
        self.fc7 = nn.Conv2d(width, width, 1)
        self.score = nn.Conv2d(width, classes, 1)
        scores = [self.score]
        if stride <= 16:
            self.up_score = BilinearDeconv(classes, 2)
            self.score_pool4 = nn.Conv2d(pool4, classes, 1)
            scores.append(self.score_pool4)
        if stride == 8:
            self.up_pool4 = BilinearDeconv(classes, 2)
            self.score_pool3 = nn.Conv2d(pool3, classes, 1)
            scores.append(self.score_pool3)
        self.up = BilinearDeconv(classes, stride, learn=False)
        for layer in scores:
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        paper = self.padding == "paper"
        maps = self.encoder(F.pad(image, [_MARGIN] * 4) if paper else image)
        pool3, pool4 = (F.max_pool2d(f, 2, ceil_mode=True) for f in maps[2:4])
        features = F.dropout(F.relu(self.fc6(maps[5])), training=self.training)
        features = F.dropout(F.relu(self.fc7(features)), training=self.training)
        score: Tensor = self.score(features)
        if self.stride <= 16:
            skip = self.score_pool4(pool4 * _POOL4_SCALE)
            score = self._join(self.up_score(score), skip, _PAPER_OFFSETS["pool4"])
        if self.stride == 8:
            skip = self.score_pool3(pool3 * _POOL3_SCALE)
            score = self._join(self.up_pool4(score), skip, _PAPER_OFFSETS["pool3"])
        offset = _PAPER_OFFSETS[self.stride] if paper else self.stride // 2
        return crop(self.up(score), image.shape[2:], offset)

    def _join(self, upsampled: Tensor, skip: Tensor, offset: int) -> Tensor:
        """Lays the upsampled map on the skip; the larger of the two is cropped."""
        if self.padding == "paper":
            return upsampled + crop(skip, upsampled.shape[2:], offset)
        return crop(upsampled, skip.shape[2:], 1) + skip
