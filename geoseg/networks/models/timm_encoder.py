"""Encoders of timm, with the interface of the encoders of segmentation-models-pytorch.

Modules have the same names as in `TimmUniversalEncoder` of segmentation-models-pytorch (smp), so
that the state dicts are interchangeable. This class exists because importing smp means importing
each of its networks and encoders, which takes seconds.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

# Feature maps of an encoder, without the image itself.
_DEPTH = 5


class TimmEncoder(nn.Module):
    """A network of timm that returns its feature maps.

    Args:
        name: Name in timm.
        bands: Number of channels of the image.
        output_stride: Stride of the deepest map.
        pretrained: Load the weights that timm knows for this name.

    Attributes:
        out_channels: Channels of the maps, the shallowest first. A network that starts at
            stride 4 has 0 channels at stride 2.
        output_stride: Stride of the deepest map.

    Raises:
        ValueError: If the strides of its maps are unusual.
    """

    def __init__(
        self, name: str, bands: int, *, output_stride: int = 32, pretrained: bool = False
    ) -> None:
        super().__init__()
        first = _first_stride(name)
        if first not in (1, 2, 4):
            raise ValueError(f"{name} has no maps at strides 4, 8, 16 and 32")
        self.starts_at_stride_4 = first == 4
        self.includes_stride_1 = first == 1
        arguments: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        self.model = timm.create_model(
            name,
            features_only=True,
            in_chans=bands,
            pretrained=pretrained,
            out_indices=_out_indices(name, first),
            **arguments,
        )
        self.channels_last = getattr(self.model, "output_fmt", None) == "NHWC"
        channels = [int(count) for count in self.model.feature_info.channels()]
        above = {1: [], 2: [bands], 4: [bands, 0]}[first]
        self.out_channels = [*above, *channels]
        self.output_stride = output_stride

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, bands, H, W) → maps (N, C, h, w), the shallowest first."""
        maps: list[Tensor] = self.model(image)
        if self.channels_last:
            maps = [features.permute(0, 3, 1, 2).contiguous() for features in maps]
        if self.includes_stride_1:
            return maps
        if self.starts_at_stride_4:
            height, width = image.shape[2:]
            maps = [image.new_empty(len(image), 0, height // 2, width // 2), *maps]
        return [image, *maps]


def _first_stride(name: str) -> int:
    """Stride of the first map; 0 if the maps do not each have twice the stride of the last."""
    try:
        with torch.device("meta"):
            network = timm.create_model(name, features_only=True)
    except RuntimeError:  # some networks compute with their weights while they are built
        network = timm.create_model(name, features_only=True)
    strides = [int(stride) for stride in network.feature_info.reduction()]
    doubled = [strides[0] * 2**level for level in range(len(strides))]
    return strides[0] if strides == doubled else 0


def _out_indices(name: str, first: int) -> tuple[int, ...]:
    """Numbers of the maps that timm returns, down to stride 32."""
    if first == 1:
        return tuple(range(_DEPTH + 1))
    count = _DEPTH - 1 if first == 4 else _DEPTH
    # These count a map that they do not return, or that is the image's size, as the first.
    skipped = 1 if (first == 4 and "tresnet" in name) or (first == 2 and "dla" in name) else 0
    return tuple(range(skipped, skipped + count))
