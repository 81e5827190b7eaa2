"""Networks of segmentation-models-pytorch (smp), for images of any size and batches of one."""

from __future__ import annotations

from typing import Any, cast

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from geoseg.networks.models.encoders import EncoderFactory
from geoseg.networks.models.layers import PooledBatchNorm, crop, pad_to_multiple


class SMPNetwork(nn.Module):
    """A network that segmentation-models-pytorch builds.

    Args:
        encoder: Name of the encoder and number of bands.
        classes: Number of channels of the logits.
        name: Class name of the network in smp.
        **options: Further arguments of that class.
    """

    def __init__(self, encoder: EncoderFactory, classes: int, *, name: str, **options: Any) -> None:
        super().__init__()
        if "aux_params" in options:
            raise ValueError(
                "aux_params is not supported: it adds an output that geoseg has no use for"
            )
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
            if type(module) is nn.BatchNorm2d:  # some get pooled maps of one pixel
                module.__class__ = PooledBatchNorm
        # Unet is the only network of smp that accepts maps of odd size.
        self.size_multiple = 1 if name == "Unet" else 32
        # PAN halves its deepest map three more times.
        self.min_size = 128 if name == "PAN" else 1
        self.output_stride = int(getattr(self.encoder, "output_stride", 32))

    @property
    def encoder(self) -> nn.Module:
        """The encoder of the network."""
        return cast(nn.Module, self.network.encoder)

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) → logits (N, classes, H, W), any H and W."""
        logits: Tensor = self.network(pad_to_multiple(image, self.size_multiple, self.min_size))
        return crop(logits, image.shape[2:])
