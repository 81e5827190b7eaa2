"""Logistic regression of each pixel: the baseline that other networks must exceed."""

from __future__ import annotations

from torch import Tensor, nn


class Pixelwise(nn.Module):
    """Logistic regression of the bands of each pixel, as a 1x1 convolution.

    Args:
        bands: Number of channels of the image.
        classes: Number of channels of the logits.
    """

    output_stride = 1

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(bands, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W)."""
        logits: Tensor = self.encoder(image)
        return logits
