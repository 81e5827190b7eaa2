"""Networks by name: our own first, then everything that segmentation-models-pytorch builds.

Networks take (N, bands, H, W) of any H and W. Those of pixels return logits (N, outputs, H, W);
a building model has independent outputs, each through a sigmoid. Those of boxes say of each of
their anchors what it shows and where that is, see `geoseg.networks.models.retinanet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from geoseg.errors import ConfigError, InputShapeError, ModelFileError
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models.encoder_weights import load_encoder_weights
from geoseg.networks.models.encoders import MakeEncoder, check_encoder, list_encoders
from geoseg.networks.models.registry import (
    ARCHITECTURES,
    list_architectures,
    resolve_architecture,
    task_of,
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
    """Builds a network.

    Args:
        arch: A name of `list_architectures`; smp's work without their prefix too, where we
            have no network of that name.
        encoder: An encoder of smp, or `tu-NAME` for timm's; None for the architecture's own.
        bands: Names of the input bands.
        outputs: Channels of the logits.
        encoder_weights: `imagenet`, a local file, or None for random ones. Architectures
            without an encoder to choose begin from random ones.
        options: Further arguments of the architecture.

    Returns:
        A network whose encoder is its attribute `encoder`.

    Raises:
        UnknownArchitectureError: If no network or encoder goes by the name.
        WeightsError: If the initial weights cannot be had or do not fit.
        ConfigError: If an option is not the architecture's.
    """
    arch = resolve_architecture(arch)
    encoder = choose_encoder(arch, encoder)
    model = _build(arch, encoder, len(bands), outputs, dict(options or {}))
    if encoder is not None and encoder_weights is not None:
        load_encoder_weights(encoder_of(model), encoder, encoder_weights, bands)
    return model


def load_network(spec: ModelSpec, weights: dict[str, Tensor]) -> nn.Module:
    """Builds the network of a model file, its weights in it.

    Raises:
        ModelFileError: If the weights do not belong to the architecture.
    """
    network = build_model(
        spec.arch,
        spec.encoder,
        bands=spec.bands,
        outputs=len(spec.outputs),
        options=spec.options,
    )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFileError(
            f"the weights do not fit {spec.arch} on {spec.encoder}; the file is damaged or "
            "of another version of geoseg"
        ) from error
    return network


def choose_encoder(arch: str, encoder: str | None) -> str | None:
    """The encoder that a network is built with.

    Args:
        arch: A name of `list_architectures`.
        encoder: What the user asks for; None for the architecture's own.

    Returns:
        Its name, or None where the architecture has none to choose.

    Raises:
        UnknownArchitectureError: If no encoder goes by the name.
        ConfigError: If one is asked for where there is none to choose.
    """
    own = ARCHITECTURES[arch].encoder
    if encoder is None:
        return own
    if own is None:
        raise ConfigError(f"{arch} has no encoder to choose; leave model.encoder out")
    check_encoder(encoder)
    return encoder


def encoder_of(model: nn.Module) -> nn.Module:
    """The encoder of a network that `build_model` built."""
    return cast(nn.Module, model.encoder)


def check_tile_size(model: nn.Module, size: int) -> None:
    """Refuses a tile size that the network cannot take.

    Raises:
        InputShapeError: With the nearest sizes that would do.
    """
    stride = size_multiple(model)
    if size % stride:
        below, above = size // stride * stride, -(-size // stride) * stride
        fitting = " or ".join(str(s) for s in (below, above) if s > 0)
        raise InputShapeError(
            f"tiles of {size} pixels do not fit this network, whose size must be a multiple of "
            f"{stride}; cut them anew with geoseg tile --size {fitting}"
        )


def size_multiple(model: nn.Module) -> int:
    """What the sides of an image must be a multiple of, else the network pads it."""
    return int(cast(int, getattr(model, "size_multiple", 1)))


def _build(
    arch: str, encoder: str | None, bands: int, outputs: int, options: dict[str, Any]
) -> nn.Module:
    what = arch if encoder is None else f"{arch} on {encoder}"
    source = bands if encoder is None else MakeEncoder(encoder, bands)
    try:
        return ARCHITECTURES[arch].build(source, outputs, **options)
    except (TypeError, ValueError, KeyError, RuntimeError, ArithmeticError) as error:
        raise ConfigError(
            f"cannot build {what}: {_one_line(error)}; mend model.encoder or model.options, which "
            "a configuration sets for its own network (model.options={} for none)"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())[:200]


__all__ = [
    "ARCHITECTURES",
    "build_model",
    "check_tile_size",
    "choose_encoder",
    "encoder_of",
    "list_architectures",
    "list_encoders",
    "load_network",
    "resolve_architecture",
    "size_multiple",
    "task_of",
]
