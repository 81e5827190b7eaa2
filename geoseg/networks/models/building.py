"""Construction of networks by name.

Networks take images (N, bands, H, W) of any height and width. Segmentation networks return logits
(N, outputs, H, W). Detection networks return class logits and box offsets for each of their
anchors, see `geoseg.networks.models.retinanet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from geoseg.errors import ConfigError, InputShapeError
from geoseg.networks.architectures import ARCHITECTURES, resolve_architecture
from geoseg.networks.models.encoder_weights import load_encoder_weights
from geoseg.networks.models.encoders import EncoderFactory, check_encoder
from geoseg.networks.models.registry import find_builder

# What networks raise, while they are built and while they compute, if something does not fit them.
NETWORK_ERRORS = (
    *(TypeError, ValueError, LookupError, AttributeError),
    *(RuntimeError, ArithmeticError, AssertionError, MemoryError),
)


def build_model(
    arch: str,
    encoder: str | None = None,
    *,
    bands: Sequence[str],
    outputs: int,
    encoder_weights: str | None = None,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """Build a network.

    Args:
        arch: Name of an architecture, see `geoseg.networks.architectures.resolve_architecture`.
        encoder: Name of an encoder of segmentation-models-pytorch (smp), or `tu-NAME` for one of
            timm; None for the default encoder of the architecture.
        bands: Names of the input bands.
        outputs: Number of channels of the logits.
        encoder_weights: `imagenet`, a local file, or None for random weights. Ignored by
            architectures with a fixed encoder.
        options: Further arguments of the architecture.

    Returns:
        A network with its encoder in the attribute `encoder`.

    Raises:
        UnknownArchitectureError: If the architecture or the encoder is unknown.
        WeightsError: If the initial weights cannot be loaded or do not fit.
        ConfigError: If an option is wrong or unknown to the architecture.
    """
    arch = resolve_architecture(arch)
    encoder = choose_encoder(arch, encoder)
    model = _build(arch, encoder, len(bands), outputs, dict(options or {}))
    if encoder is not None and encoder_weights is not None:
        load_encoder_weights(encoder_of(model), encoder, encoder_weights, bands)
    return model


def choose_encoder(arch: str, encoder: str | None) -> str | None:
    """Return the name of the encoder that a network is built with.

    Args:
        arch: A name of `geoseg.networks.architectures.list_architectures`.
        encoder: The encoder that the user has chosen; None for the default.

    Returns:
        Its name, or None if the architecture has a fixed encoder.

    Raises:
        UnknownArchitectureError: If the encoder is unknown.
        ConfigError: If an encoder was chosen for an architecture with a fixed one.
    """
    default = ARCHITECTURES[arch].encoder
    if encoder is None:
        return default
    if default is None:
        raise ConfigError(f"{arch} has a fixed encoder; remove model.encoder")
    check_encoder(encoder)
    return encoder


def encoder_of(model: nn.Module) -> nn.Module:
    """Return the encoder of a network that `build_model` built."""
    return cast(nn.Module, model.encoder)


def check_tile_size(model: nn.Module, size: int) -> None:
    """Check that a network accepts tiles of a size without padding them.

    Raises:
        InputShapeError: If it does not; the message names the nearest sizes that fit.
    """
    multiple = size_multiple(model)
    if size % multiple:
        below, above = size // multiple * multiple, -(-size // multiple) * multiple
        fitting = " or ".join(str(s) for s in (below, above) if s > 0)
        raise InputShapeError(
            f"tiles of {size} pixels do not fit this network, which needs a multiple of "
            f"{multiple}; cut them again with geoseg tile --size {fitting}"
        )


def size_multiple(model: nn.Module) -> int:
    """Return the number that height and width should be multiples of to avoid padding."""
    return int(cast(int, getattr(model, "size_multiple", 1)))


def _build(
    arch: str, encoder: str | None, bands: int, outputs: int, options: dict[str, Any]
) -> nn.Module:
    name = arch if encoder is None else f"{arch} on {encoder}"
    source = bands if encoder is None else EncoderFactory(encoder, bands)
    builder = find_builder(arch)
    try:
        return builder(source, outputs, **options)
    except NETWORK_ERRORS as error:
        # Options come from the user as they are, so any of these can be their fault.
        raise ConfigError(
            f"cannot build {name}: {_one_line(error)}; change model.encoder or model.options "
            "(a configuration file may set options of another network; model.options={} removes "
            "them)"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())[:200]
