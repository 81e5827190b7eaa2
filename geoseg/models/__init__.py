"""Networks by name: our own first, then everything that segmentation-models-pytorch builds.

All networks take (N, bands, H, W) and return logits (N, outputs, H, W). A building model has
independent outputs, each through a sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders import encoders, get_encoder
from torch import nn

from geoseg.errors import ConfigError, InputShapeError, UnknownArchitectureError
from geoseg.models.deepglobe import DeepGlobe
from geoseg.models.weights import load_encoder_weights

Builder = Callable[..., nn.Module]

# Our own networks: called with a built encoder and the number of outputs.
ARCHITECTURES: dict[str, Builder] = {
    "deepglobe": DeepGlobe,
}

_SMP_PREFIX = "smp-"
_SMP = {
    name.lower(): name
    for name in (
        "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet",
        "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer", "DPT",
    )
    if hasattr(smp, name)
}  # fmt: skip


def list_architectures() -> list[str]:
    """All architecture names: ours, then `smp-NAME` for each of smp's."""
    return [*sorted(ARCHITECTURES), *(_SMP_PREFIX + name for name in sorted(_SMP))]


def list_encoders() -> list[str]:
    """Encoder names of smp; `tu-NAME` reaches any timm network besides."""
    return sorted(encoders)


def build_model(
    arch: str,
    encoder: str,
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
        encoder: An encoder of smp, or `tu-NAME` for timm's.
        bands: Names of the input bands.
        outputs: Channels of the logits.
        encoder_weights: `imagenet`, a local file, or None for random ones.
        options: Further arguments of the architecture.

    Returns:
        A network whose encoder is its attribute `encoder`.

    Raises:
        UnknownArchitectureError: If no network or encoder goes by the name.
        WeightsError: If the initial weights cannot be had or do not fit.
        ConfigError: If an option is not the architecture's.
    """
    arch = resolve_architecture(arch)
    model = _build(arch, encoder, len(bands), outputs, dict(options or {}))
    if encoder_weights is not None:
        load_encoder_weights(encoder_of(model), encoder, encoder_weights, bands)
    return model


def encoder_of(model: nn.Module) -> nn.Module:
    """The encoder of a network that `build_model` built."""
    return cast(nn.Module, model.encoder)


def resolve_architecture(arch: str) -> str:
    """The full name of an architecture.

    Raises:
        UnknownArchitectureError: If there is none; lists the choices.
    """
    if arch in ARCHITECTURES:
        return arch
    name = arch.lower().removeprefix(_SMP_PREFIX)
    if name in _SMP:
        return _SMP_PREFIX + name
    raise UnknownArchitectureError(
        f"no architecture is called {arch!r}; choose from {', '.join(list_architectures())}"
    )


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
    """What the height and the width of a tile must be a multiple of."""
    if isinstance(model, smp.Unet):
        return 1  # it pads what it halves
    return int(getattr(encoder_of(model), "output_stride", 32))


def _build(
    arch: str, encoder: str, in_channels: int, outputs: int, options: dict[str, Any]
) -> nn.Module:
    _check_encoder(encoder)
    try:
        if arch in ARCHITECTURES:
            built = get_encoder(encoder, in_channels=in_channels, depth=5, weights=None)
            return ARCHITECTURES[arch](built, outputs, **options)
        return cast(
            nn.Module,
            smp.create_model(
                arch.removeprefix(_SMP_PREFIX),
                encoder_name=encoder,
                encoder_weights=None,
                in_channels=in_channels,
                classes=outputs,
                **options,
            ),
        )
    except (TypeError, ValueError, KeyError, RuntimeError, ArithmeticError) as error:
        raise ConfigError(
            f"cannot build {arch} on {encoder}: {_one_line(error)}; mend model.encoder or "
            "model.options"
        ) from error


def _check_encoder(encoder: str) -> None:
    known = encoder in encoders
    if encoder.startswith("tu-"):
        import timm

        known = encoder[3:].split(".")[0] in timm.list_models()
    if not known:
        near = [name for name in list_encoders() if name[:4] == encoder[:4]] or list_encoders()
        raise UnknownArchitectureError(
            f"no encoder is called {encoder!r}; choose from {', '.join(near[:24])} or tu-NAME "
            "for any network of timm"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())[:200]


__all__ = [
    "ARCHITECTURES",
    "DeepGlobe",
    "build_model",
    "check_tile_size",
    "encoder_of",
    "list_architectures",
    "list_encoders",
    "resolve_architecture",
    "size_multiple",
]
