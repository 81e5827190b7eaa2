"""DeepLab v2.

Chen, Papandreou, Kokkinos, Murphy, Yuille: "DeepLab: Semantic Image Segmentation with Deep
Convolutional Nets, Atrous Convolution, and Fully Connected CRFs" (PAMI 2017, arXiv
1606.00915). The CRF of the paper is a step of prediction here, available for every network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.networks.models.encoders import EncoderFactory, build_atrous_vgg, channels_of
from geoseg.networks.models.layers import resize

Context = Literal["aspp", "largefov"]

_RATES: dict[str, tuple[int, ...]] = {"aspp": (6, 12, 18, 24), "largefov": (12,)}


class DeepLabV2(nn.Module):
    """Atrous encoder of output stride 8 and the sum of parallel atrous classifiers.

    On VGG each classifier consists of fc6 (3x3 atrous), fc7 and fc8; on a ResNet it is one 3x3
    convolution. The logits of a pixel are the maximum over `scales`.

    Args:
        encoder: Builds a VGG or an encoder that can be dilated.
        classes: Number of channels of the logits.
        context: `aspp` has four classifiers, `largefov` one.
        rates: Atrous rates; None for those of the paper, (6, 12, 18, 24) or (12,).
        width: Number of channels of fc6 and fc7 on VGG.
        scales: Factors by which the image is resized; (0.5, 0.75, 1) in the paper.

    Raises:
        ValueError: If an option is out of range or the encoder cannot be dilated.
    """

    output_stride = 8

    def __init__(
        self,
        encoder: EncoderFactory,
        classes: int,
        *,
        context: Context = "aspp",
        rates: Sequence[int] | None = None,
        width: int = 1024,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        if context not in get_args(Context):
            raise ValueError(
                f"context must be one of {', '.join(get_args(Context))}, got {context!r}"
            )
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive numbers, got {list(scales)}")
        self.scales = tuple(float(scale) for scale in scales)
        is_vgg = encoder.is_vgg
        self.encoder = build_atrous_vgg(encoder) if is_vgg else encoder(output_stride=8)
        inputs = channels_of(self.encoder)[-1]
        self.classifiers = nn.ModuleList(
            _vgg_classifier(inputs, width, classes, rate)
            if is_vgg
            else nn.Conv2d(inputs, classes, 3, padding=rate, dilation=rate)
            for rate in rates or _RATES[context]
        )
        for module in self.classifiers.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        return self.training_logits(image)[-1]

    def training_logits(self, image: Tensor) -> list[Tensor]:
        """Return the logits of each scale and, last, their maximum; the loss is summed over them.

        Args:
            image: (N, bands, H, W).

        Returns:
            Logits (N, classes, H, W) each; a single item if there is a single scale.
        """
        size = image.shape[2:]
        scores = [resize(self._score(_scaled(image, scale)), size) for scale in self.scales]
        if len(scores) == 1:
            return scores
        return [*scores, torch.stack(scores).amax(dim=0)]

    def _score(self, image: Tensor) -> Tensor:
        features = self.encoder(image)[-1]
        score: Tensor = sum(classifier(features) for classifier in self.classifiers)
        return score


def _scaled(image: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return image
    return F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)


def _vgg_classifier(inputs: int, width: int, classes: int, rate: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=rate, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Conv2d(width, width, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Conv2d(width, classes, 1),
    )
