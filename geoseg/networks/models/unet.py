"""The original U-Net.

Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image Segmentation"
(MICCAI 2015, arXiv 1505.04597). `smp-unet` is the variant with a pretrained encoder, batch
normalization, and interpolation instead of up-convolutions.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.networks.models.layers import crop, pad_to_multiple

Padding = Literal["same", "valid"]

# A tile of 4096 pixels has no more poolings.
_MAX_DEPTH = 12


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions with ReLU; without padding each removes one pixel on every side."""

    def __init__(self, inputs: int, outputs: int, padding: Padding) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [
                nn.Conv2d(channels, outputs, 3, padding=int(padding == "same")),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """Contracting path, expanding path, and skip connections between them.

    Without padding (`valid`) the logits do not depend on invented values around the image, but are
    smaller than the image. `forward` mirrors the image at its edges, so that the logits have its
    size; `valid_logits` takes an image with its real surroundings instead.

    Args:
        bands: Number of channels of the image.
        classes: Number of channels of the logits.
        padding: `valid` as published; `same` pads every convolution with zeros.
        width: Number of channels of the first level; each deeper level has twice as many.
        depth: Number of poolings.
        dropout: Dropout probability at the end of the contracting path, as in the paper.

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
            raise ValueError(
                f"padding must be one of {', '.join(get_args(Padding))}, got {padding!r}"
            )
        if not 1 <= depth <= _MAX_DEPTH or width < 1:
            raise ValueError(
                f"depth must be 1 to {_MAX_DEPTH} and width at least 1, got {depth} and {width}"
            )
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
        """Number of poolings."""
        return len(self.ups)

    def margin(self, size: int) -> int:
        """Return the margin in pixels that `valid_logits` needs around an output of a size."""
        return (self._input_size(size) - size + 1) // 2 if self.padding == "valid" else 0

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        height, width = image.shape[2:]
        if self.padding == "same":
            return crop(self._logits(pad_to_multiple(image, self.size_multiple)), (height, width))
        rows, columns = self.margin(height), self.margin(width)
        return self.valid_logits(mirror(image, rows, columns), (height, width))

    def valid_logits(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute the logits of the centre of an image that includes a margin.

        Args:
            image: (N, bands, H + 2 margin(H), W + 2 margin(W)).
            size: (H, W).

        Returns:
            (N, classes, H, W).
        """
        # An odd total margin leaves one surplus row or column at the bottom or right.
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
        """The smallest input side that yields at least `size` and that is even at each pooling."""
        deepest = size
        for _ in range(self.depth):
            deepest = -(-(deepest + 4) // 2)
        side = deepest + 4
        for _ in range(self.depth):
            side = 2 * side + 4
        return side


def mirror(image: Tensor, rows: int, columns: int) -> Tensor:
    """Pad (N, C, H, W) by mirroring at its edges, repeatedly if the margin exceeds the image.

    Args:
        image: The image.
        rows: Margin above and below.
        columns: Margin left and right.

    Returns:
        (N, C, H + 2 rows, W + 2 columns).
    """
    height, width = image.shape[2:]
    down = _mirrored_indices(height, rows, image.device)
    across = _mirrored_indices(width, columns, image.device)
    return image.index_select(2, down).index_select(3, across)


def _mirrored_indices(length: int, margin: int, device: torch.device) -> Tensor:
    indices = torch.arange(-margin, length + margin, device=device) % (2 * length)
    return torch.where(indices < length, indices, 2 * length - 1 - indices)


def _centre(features: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Crop the centre of (N, C, h, w)."""
    height, width = size
    top, left = (features.shape[2] - height) // 2, (features.shape[3] - width) // 2
    return features[..., top : top + height, left : left + width]


def _init_he(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Initialize from N(0, 2/n), where n is the number of inputs of one output value."""
    inputs = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.in_channels
    nn.init.normal_(layer.weight, std=math.sqrt(2 / inputs))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
