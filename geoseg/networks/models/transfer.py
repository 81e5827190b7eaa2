"""Weights of a trained network in a network with other outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models.loading import build_untrained, load_network
from geoseg.networks.models.sketch import sketch_network


def transfer_weights(
    network: nn.Module, outputs: Sequence[str], spec: ModelSpec, weights: dict[str, Tensor]
) -> None:
    """Load the weights of a trained model into a network of the same architecture.

    Outputs are matched by name; those that the model does not have keep their initial weights.

    Args:
        network: The network to train, for the same bands.
        outputs: Names of its outputs.
        spec: Header of the model.
        weights: State dict of the model.

    Raises:
        ModelFileError: If the weights do not belong to the model's architecture or are not finite.
    """
    trained = dict(load_network(spec, weights).state_dict())
    if tuple(outputs) != spec.outputs:
        initial = network.state_dict()
        for name, axes in _find_output_axes(spec).items():
            trained[name] = _match(initial[name], outputs, trained[name], spec.outputs, axes)
    network.load_state_dict(trained)


def find_new_outputs(outputs: Sequence[str], spec: ModelSpec) -> list[str]:
    """Return the outputs that a model does not have."""
    return [name for name in outputs if name not in spec.outputs]


def _find_output_axes(spec: ModelSpec) -> dict[str, list[int]]:
    """Return the tensors that have an entry for each output, with the axes of the outputs."""
    shapes = _shapes(spec)
    more = _shapes(spec.model_copy(update={"outputs": (*spec.outputs, "one more")}))
    changed = {
        name: [axis for axis, side in enumerate(shape) if side != more[name][axis]]
        for name, shape in shapes.items()
    }
    return {name: axes for name, axes in changed.items() if axes}


def _shapes(spec: ModelSpec) -> dict[str, torch.Size]:
    network = sketch_network(spec) or build_untrained(spec)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _match(
    initial: Tensor,
    outputs: Sequence[str],
    trained: Tensor,
    before: Sequence[str],
    axes: Sequence[int],
) -> Tensor:
    """Return a tensor for the outputs, with trained values where the model has the outputs.

    A detection network has several entries for each output, one per anchor; the outputs vary
    fastest.
    """
    kept = [name for name in outputs if name in before]
    into, source = initial.clone(), trained
    for axis in axes:
        source = source.index_select(axis, _entries(kept, before, source.shape[axis]))
    positions = [
        _entries(kept, outputs, initial.shape[axis]) if axis in axes else torch.arange(side)
        for axis, side in enumerate(initial.shape)
    ]
    into[torch.meshgrid(*positions, indexing="ij")] = source
    return into


def _entries(names: Sequence[str], among: Sequence[str], length: int) -> Tensor:
    """Return the positions along an axis that belong to some of the outputs."""
    repeats = length // len(among)
    first = torch.tensor([list(among).index(name) for name in names], dtype=torch.long)
    return (torch.arange(repeats)[:, None] * len(among) + first).flatten()
