"""The U-Net as it was published.

Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image Segmentation"
(MICCAI 2015, arXiv 1505.04597). `smp-unet` is the other thing that goes by the name: a
pretrained encoder, batch normalisation, interpolation instead of up-convolutions.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.networks.models.layers import crop, pad_to_multiple

Padding = Literal["same", "valid"]


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with ReLU; without padding each costs a pixel on every side."""

    def __init__(self, inputs: int, outputs: int, padding: Padding) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [
                nn.Conv2d(channels, outputs, 3, padding=int(padding == "same")),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """Contracting path, expanding path, and the copies that join them.

    Without padding no pixel of the logits has seen anything but the image. `forward` mirrors
    what lies beyond the image, so that logits have its size all the same; where the real
    surroundings are known, `valid_logits` takes them instead.

    Args:
        bands: Channels of the image.
        classes: Channels of the logits.
        padding: `valid` as published, `same` pads every convolution with zeros.
        width: Channels of the first level; each level below has twice as many.
        depth: Poolings.
        dropout: At the end of the contracting path, where the paper has it.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        bands: int,
        classes: int,
        *,
        padding: Padding = "same",
        width: int = 64,
        depth: int = 4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if padding not in get_args(Padding):
            raise ValueError(f"padding {padding!r} is none of {', '.join(get_args(Padding))}")
        if depth < 1 or width < 1:
            raise ValueError(f"depth and width must be at least 1, got {depth} and {width}")
        self.padding: Padding = padding
        self.output_stride = 2**depth
        self.size_multiple = self.output_stride if padding == "same" else 1
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            DoubleConv(inputs, outputs, padding)
            for inputs, outputs in zip([bands, *widths], widths, strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for outputs in reversed(widths[:-1]):
            self.ups.append(nn.ConvTranspose2d(2 * outputs, outputs, 2, stride=2))
            self.decoder.append(DoubleConv(2 * outputs, outputs, padding))
        self.head = nn.Conv2d(width, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                _init_he(module)

    @property
    def depth(self) -> int:
        """Poolings."""
        return len(self.ups)

    def margin(self, size: int) -> int:
        """Pixels on each side that `valid_logits` must see around an output of a size."""
        return (self._input_size(size) - size + 1) // 2 if self.padding == "valid" else 0

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        height, width = image.shape[2:]
        if self.padding == "same":
            return crop(self._logits(pad_to_multiple(image, self.size_multiple)), (height, width))
        rows, columns = self.margin(height), self.margin(width)
        return self.valid_logits(mirror(image, rows, columns), (height, width))

    def valid_logits(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits of the middle of an image that shows `margin` pixels around it.

        Args:
            image: (N, bands, H + 2 margin(H), W + 2 margin(W)).
            size: (H, W).

        Returns:
            (N, classes, H, W).
        """
        # An odd sum of margins leaves one row or column too many at the far side.
        height, width = (self._input_size(side) for side in size)
        return _centre(self._logits(image[..., :height, :width]), size)

    def _logits(self, features: Tensor) -> Tensor:
        copies = []
        for level, block in enumerate(self.encoder):
            features = block(F.max_pool2d(features, 2) if level else features)
            copies.append(features)
        features = self.dropout(copies.pop())
        for up, block in zip(self.ups, self.decoder, strict=True):
            features = up(features)
            copy = _centre(copies.pop(), features.shape[2:])
            features = block(torch.cat([copy, features], dim=1))
        logits: Tensor = self.head(features)
        return logits

    def _input_size(self, size: int) -> int:
        """The least input side that gives at least `size` and that every pooling halves."""
        deepest = size
        for _ in range(self.depth):
            deepest = -(-(deepest + 4) // 2)
        given = deepest + 4
        for _ in range(self.depth):
            given = 2 * given + 4
        return given


def mirror(image: Tensor, rows: int, columns: int) -> Tensor:
    """Mirrors (N, C, H, W) at its edges, more than once where the margin is wider than it.

    Args:
        image: The image.
        rows: Margin above and below.
        columns: Margin left and right.

    Returns:
        (N, C, H + 2 rows, W + 2 columns).
    """
    height, width = image.shape[2:]
    down = _mirrored(height, rows, image.device)
    across = _mirrored(width, columns, image.device)
    return image.index_select(2, down).index_select(3, across)


def _mirrored(length: int, margin: int, device: torch.device) -> Tensor:
    places = torch.arange(-margin, length + margin, device=device) % (2 * length)
    return torch.where(places < length, places, 2 * length - 1 - places)


def _centre(features: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    height, width = size
    top, left = (features.shape[2] - height) // 2, (features.shape[3] - width) // 2
    return features[..., top : top + height, left : left + width]


def _init_he(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """N(0, 2/N), N the number of values that one output is computed from."""
    seen = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.in_channels
    nn.init.normal_(layer.weight, std=math.sqrt(2 / seen))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
