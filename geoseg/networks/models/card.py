"""What a network is and costs, counted on the network itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from geoseg.networks.architectures import ARCHITECTURES, resolve_architecture
from geoseg.networks.models.building import build_model, choose_encoder

# Images of this side are what multiply-adds are stated for.
CARD_SIZE = 512


@dataclass(frozen=True)
class ModelCard:
    """A network in figures.

    Attributes:
        arch: Its name.
        encoder: Its encoder's, None where it has none to choose.
        paper: Where it was published.
        bands: Channels of the image.
        classes: Channels of the logits.
        options: Further arguments of the architecture.
        parameters: Values that its weights hold.
        encoder_parameters: Those of the encoder.
        multiply_adds: Of its convolutions and matrix products, for one 512 x 512 image.
        output_stride: Image pixels per pixel of its deepest map, along one axis.
    """

    arch: str
    encoder: str | None
    paper: str
    bands: int
    classes: int
    options: dict[str, Any]
    parameters: int
    encoder_parameters: int
    multiply_adds: int
    output_stride: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def make_card(
    arch: str,
    encoder: str | None = None,
    *,
    bands: int = 3,
    classes: int = 1,
    options: dict[str, Any] | None = None,
) -> ModelCard:
    """Counts a network without holding its weights.

    Args:
        arch: Architecture.
        encoder: Encoder; None for the architecture's own.
        bands: Channels of the image.
        classes: Channels of the logits.
        options: Further arguments of the architecture.

    Raises:
        UnknownArchitectureError: If no network or encoder goes by the name.
        ConfigError: If the network cannot be built so.
    """
    arch = resolve_architecture(arch)
    names = [f"band{index}" for index in range(1, bands + 1)]
    with torch.device("meta"):
        model = build_model(arch, encoder, bands=names, outputs=classes, options=options).eval()
        image = torch.empty(1, bands, CARD_SIZE, CARD_SIZE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return ModelCard(
        arch=arch,
        encoder=choose_encoder(arch, encoder),
        paper=ARCHITECTURES[arch].paper,
        bands=bands,
        classes=classes,
        options=dict(options or {}),
        parameters=_count(model),
        encoder_parameters=_count(cast(nn.Module, model.encoder)),
        multiply_adds=counter.get_total_flops() // 2,
        output_stride=int(cast(int, model.output_stride)),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
