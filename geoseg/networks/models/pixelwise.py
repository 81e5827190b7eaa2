"""Each pixel by its own colours alone: what a network of more than that must beat."""

from __future__ import annotations

from torch import Tensor, nn


class Pixelwise(nn.Module):
    """One 1x1 convolution: a logistic regression of a pixel's bands.

    Args:
        bands: Channels of the image.
        classes: Channels of the logits.
    """

    output_stride = 1

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(bands, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W)."""
        logits: Tensor = self.encoder(image)
        return logits
