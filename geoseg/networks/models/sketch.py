"""Networks without memory for their weights: shapes and sizes, before anything is allocated.

A header can describe a network of any size, and tiles for which no machine has the memory.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from geoseg.errors import GeosegError, InputShapeError, ModelFileError, one_line
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models.building import NETWORK_ERRORS, build_model

_FLOAT_BYTES = 4


def sketch_network(spec: ModelSpec) -> nn.Module | None:
    """Build the network of a header without memory for its weights; None if that is impossible."""
    options = json.dumps(spec.options, sort_keys=True)
    return _sketch(spec.arch, spec.encoder, spec.bands, len(spec.outputs), options)


@lru_cache(maxsize=2)
def _sketch(
    arch: str, encoder: str | None, bands: tuple[str, ...], outputs: int, options: str
) -> nn.Module | None:
    # Imported first: torch 2.6 cannot import its compiler, which timm does, while tensors are meta.
    importlib.import_module("timm")
    try:
        with torch.device("meta"):
            network = build_model(
                arch, encoder, bands=bands, outputs=outputs, options=json.loads(options)
            )
    except GeosegError:
        # Some networks, such as those on mit_b0, read values of tensors while they are built.
        return None
    return network.eval()


def check_shapes(spec: ModelSpec, weights: Mapping[str, Tensor], network: nn.Module) -> None:
    """Check that weights have the names and shapes of those of a network.

    Raises:
        ModelFileError: If they do not.
    """
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != wanted:
        raise ModelFileError(
            f"the weights do not fit {spec.arch} on {spec.encoder}; the file is damaged or was "
            "written by another version of geoseg"
        )


def check_side(spec: ModelSpec, side: int) -> None:
    """Check that a network does not insist on images of another size.

    Args:
        spec: Header of the model.
        side: Side of the image that the network gets.

    Raises:
        InputShapeError: If it does.
    """
    network = sketch_network(spec)
    if network is None:
        return
    try:
        _compute(network, len(spec.bands), side)
    except AssertionError as error:
        raise InputShapeError(
            f"tiles of {side} pixels do not fit this network ({one_line(error)}); choose another "
            "model.encoder, or cut them again with geoseg tile --size"
        ) from error
    except NETWORK_ERRORS:
        # Some networks read values of tensors, which a sketch does not have.
        return


def check_tile_memory(spec: ModelSpec, side: int) -> None:
    """Check that the memory of this machine suffices for one tile.

    Args:
        spec: Header of the model.
        side: Side of the image that the network gets.

    Raises:
        ModelFileError: If it does not.
    """
    needed, free = least_tile_bytes(spec, side), psutil.virtual_memory().available
    if needed > free:
        raise ModelFileError(
            f"one tile of {side} pixels needs at least {needed / 1e9:.1f} GB in this network, "
            f"{spec.arch}, but {free / 1e9:.1f} GB are free; use a model with smaller tiles"
        )


def least_tile_bytes(spec: ModelSpec, side: int) -> int:
    """Return the memory of the largest layer of a network for one tile, bytes.

    Args:
        spec: Header of the model.
        side: Side of the image that the network gets.
    """
    image = len(spec.bands) * side**2
    network = sketch_network(spec)
    return _FLOAT_BYTES * max(image, 0 if network is None else _measure(network, image, side))


def _measure(network: nn.Module, image: int, side: int) -> int:
    """Return the most values that go into and out of one module."""
    most = 0

    def note(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        nonlocal most
        # Some modules compute in place, and return what they were given.
        parts = {id(part): part.numel() for part in (*given, made) if isinstance(part, Tensor)}
        most = max(most, sum(parts.values()))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        _compute(network, image // side**2, side)
    except NETWORK_ERRORS:
        # Some networks read values of tensors; a layer that cannot compute fails later.
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return most


def _compute(network: nn.Module, bands: int, side: int) -> None:
    with torch.no_grad():
        network(torch.empty(1, bands, side, side, device="meta"))
