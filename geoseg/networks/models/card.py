"""Model cards: parameters and multiply-adds of a network."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from geoseg.errors import ConfigError
from geoseg.networks.architectures import ARCHITECTURES, resolve_architecture
from geoseg.networks.models.building import build_model, choose_encoder

# Multiply-adds are counted for a square image of this side, in pixels.
CARD_SIZE = 512


@dataclass(frozen=True)
class ModelCard:
    """Key figures of a network.

    Attributes:
        arch: Name of the architecture.
        encoder: Name of the encoder; None if the architecture has a fixed encoder.
        paper: Reference of the publication.
        bands: Number of channels of the image.
        classes: Number of channels of the logits.
        options: Further arguments of the architecture.
        parameters: Number of parameters.
        encoder_parameters: Number of parameters of the encoder.
        multiply_adds: Number of multiply-adds of convolutions and matrix products for one image
            of 512 x 512 pixels.
        output_stride: Stride of the deepest map, in pixels of the image.
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
        """Return the figures as a dictionary for JSON."""
        return asdict(self)


def make_card(
    arch: str,
    encoder: str | None = None,
    *,
    bands: int = 3,
    classes: int = 1,
    options: dict[str, Any] | None = None,
) -> ModelCard:
    """Count the parameters and multiply-adds of a network, without allocating its weights.

    Args:
        arch: Name of the architecture.
        encoder: Name of the encoder; None for the default encoder of the architecture.
        bands: Number of channels of the image.
        classes: Number of channels of the logits.
        options: Further arguments of the architecture.

    Raises:
        UnknownArchitectureError: If the architecture or the encoder is unknown.
        ConfigError: If the network cannot be built with these options.
    """
    arch = resolve_architecture(arch)
    names = [f"band{index}" for index in range(1, bands + 1)]
    model, device = _build_cheaply(arch, encoder, names, classes, options)
    image = torch.empty(1, bands, CARD_SIZE, CARD_SIZE, device=device)
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


def _build_cheaply(
    arch: str,
    encoder: str | None,
    names: list[str],
    classes: int,
    options: dict[str, Any] | None,
) -> tuple[nn.Module, str]:
    """Build a network without memory for its weights if it allows that; return its device, too."""
    # Imported first: torch 2.6 cannot import its compiler, which timm does, while tensors are meta.
    importlib.import_module("timm")
    try:
        with torch.device("meta"):
            return build_model(
                arch, encoder, bands=names, outputs=classes, options=options
            ).eval(), "meta"
    except ConfigError:
        # Some networks of older versions of timm read values of tensors while they are built.
        model = build_model(arch, encoder, bands=names, outputs=classes, options=options)
        return model.eval(), "cpu"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
