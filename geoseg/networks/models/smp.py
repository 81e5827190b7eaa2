"""Networks of segmentation-models-pytorch, made to take any size and a batch of one."""

from __future__ import annotations

from typing import Any, cast

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from geoseg.networks.models.encoders import MakeEncoder
from geoseg.networks.models.layers import PooledBatchNorm, crop, pad_to_multiple


class SMPNetwork(nn.Module):
    """A network that segmentation-models-pytorch builds.

    Args:
        name: Its name there.
        encoder: Says which encoder.
        classes: Channels of the logits.
        **options: Further arguments, as smp names them.
    """

    def __init__(self, name: str, encoder: MakeEncoder, classes: int, **options: Any) -> None:
        super().__init__()
        if name == "DPT":
            options = {"dynamic_img_size": True, **options}
        self.network = smp.create_model(
            name,
            encoder_name=encoder.name,
            encoder_weights=None,
            in_channels=encoder.bands,
            classes=classes,
            **options,
        )
        for module in self.network.modules():
            if type(module) is nn.BatchNorm2d:  # some see pooled maps of one pixel
                module.__class__ = PooledBatchNorm
        # Of all smp's networks Unet alone pads what it halves.
        self.size_multiple = 1 if name == "Unet" else 32
        # PAN halves its deepest map three times more.
        self.least_size = 128 if name == "PAN" else 1
        self.output_stride = int(getattr(self.encoder, "output_stride", 32))

    @property
    def encoder(self) -> nn.Module:
        """The encoder inside."""
        return cast(nn.Module, self.network.encoder)

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        logits: Tensor = self.network(pad_to_multiple(image, self.size_multiple, self.least_size))
        return crop(logits, image.shape[2:])
