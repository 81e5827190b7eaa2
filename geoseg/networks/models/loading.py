"""The network of a model file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from geoseg.errors import ModelFileError, one_line
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models.building import build_model
from geoseg.networks.models.sketch import check_shapes, sketch_network


def load_network(spec: ModelSpec, weights: dict[str, Tensor]) -> nn.Module:
    """Build the network of a model file and load its weights.

    Raises:
        ModelFileError: If the weights do not belong to the architecture or are not finite.
    """
    sketch = sketch_network(spec)
    if sketch is not None:
        check_shapes(spec, weights, sketch)
    network = build_untrained(spec)
    check_shapes(spec, weights, network)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:  # a data type that cannot be converted
        raise ModelFileError(
            f"the weights do not fit {spec.arch} on {spec.encoder} ({one_line(error)}); the file "
            "is damaged or was written by another version of geoseg"
        ) from error
    check_finite(network.state_dict())
    return network


def build_untrained(spec: ModelSpec) -> nn.Module:
    """Build the network of a header with initial weights, which are to be replaced.

    Drawing them does not advance the caller's generator.
    """
    with torch.random.fork_rng(devices=[]):
        return build_model(
            spec.arch,
            spec.encoder,
            bands=spec.bands,
            outputs=len(spec.outputs),
            options=spec.options,
        )


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Check that all weights are numbers.

    Raises:
        ModelFileError: If one is infinite or not a number.
    """
    for name, tensor in weights.items():
        # The sum needs no memory, and is finite in double precision if all values are.
        if not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise ModelFileError(
                f"the weights are not all finite ({name}); the file is damaged, or training "
                "diverged: train again with a lower train.lr"
            )
