"""A trained model as the starting point of training: its network and what it fits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import ConfigError
from geoseg.networks.architectures import resolve_architecture
from geoseg.networks.model_file import ModelSpec, find_model, load_model, load_spec
from geoseg.options import ModelOptions

if TYPE_CHECKING:
    from torch import Tensor

# Longest chain of models that were trained one from the other, in a header.
_MAX_CHAIN = 20


@dataclass(frozen=True)
class StartingModel:
    """The model that training continues from.

    Attributes:
        name: The name that the user gave.
        path: Its file.
        spec: Its header.
    """

    name: str
    path: Path
    spec: ModelSpec

    @property
    def digest(self) -> str:
        """Hash of the header, by which a resumed run recognises the model."""
        return hashlib.sha256(self.spec.model_dump_json().encode()).hexdigest()

    def load_weights(self) -> dict[str, Tensor]:
        """Read its state dict.

        Raises:
            ModelFileError: If the file is damaged.
        """
        return load_model(self.path)[1]

    def describe_origin(self) -> dict[str, Any]:
        """Return its name, outputs and provenance, for the header of the new model.

        The provenance contains that of its own starting model, and so on. Training areas are left
        out, since that of the new model includes them.
        """
        origin = _drop_areas(self.spec.provenance, _MAX_CHAIN)
        return {"model": self.path.name, "outputs": list(self.spec.outputs), "provenance": origin}


def find_start(model: ModelOptions) -> StartingModel | None:
    """Return the model that training continues from; None if it starts anew.

    Raises:
        ModelFileError: If there is no such model, or it is damaged.
    """
    if model.start_from is None:
        return None
    path = find_model(model.start_from)
    return StartingModel(model.start_from, path, load_spec(path))


def use_network(model: ModelOptions, start: StartingModel | None) -> ModelOptions:
    """Return the options of the network that is trained: those of the starting model, if any.

    Raises:
        ConfigError: If the options name another network.
    """
    if start is None:
        return model
    spec = start.spec
    own = {"arch": spec.arch, "encoder": spec.encoder, "options": spec.options}
    for name in own.keys() & model.model_fields_set:
        given = getattr(model, name)
        if name == "arch":
            given = resolve_architecture(given)
        if name == "encoder" and given is None:
            continue
        if json.dumps(given, sort_keys=True) != json.dumps(own[name], sort_keys=True):
            raise ConfigError(
                f"model.{name}: is {_text(given)}, but {start.name} has {_text(own[name])}, and a "
                "trained model keeps its network; leave the setting out, or train without --from"
            )
    return model.model_copy(update=own | {"encoder_weights": None})


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _drop_areas(provenance: dict[str, Any], depth: int) -> dict[str, Any]:
    kept = {key: value for key, value in provenance.items() if key != "training_area"}
    before = kept.get("start")
    if isinstance(before, dict):
        inner = before.get("provenance")
        if depth and isinstance(inner, dict):
            kept["start"] = before | {"provenance": _drop_areas(inner, depth - 1)}
        else:
            kept["start"] = {key: value for key, value in before.items() if key != "provenance"}
    return kept
