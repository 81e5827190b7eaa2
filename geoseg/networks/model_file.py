"""A model as one file: safetensors weights and a JSON header that says how to use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from geoseg.errors import ModelFileError
from geoseg.jobs.files import replace_file
from geoseg.options import Thresholds

if TYPE_CHECKING:
    import torch

HEADER_KEY = "geoseg"

# Models that come with geoseg, each beside its card; the first is what predict takes unasked.
_SHIPPED = Path(__file__).parents[1] / "pretrained"
DEFAULT_MODEL = "buildings"


class ModelSpec(BaseModel):
    """Everything that is needed to use a model's weights.

    Attributes:
        arch: Architecture name of `geoseg.networks.models`.
        encoder: Encoder name; None where the architecture has none to choose.
        options: Further arguments of the architecture.
        bands: Names of the input bands, in order.
        dtype: Data type of the tiles that the model was trained on.
        scene_dtypes: Data types of the scenes that they were cut from; `dtype` when empty.
        mean: Per band, in the scene's units.
        std: Per band, in the scene's units.
        gsd_m: Ground sampling distance, metres per pixel.
        classes: Class names.
        colours: Of exclusive classes, #rrggbb each.
        background: Of exclusive classes, that of ground where no label lies.
        exclusive: Whether each pixel is of one of the classes, and the outputs are theirs; else
            the outputs are independent of each other.
        outputs: What each channel of the logits means.
        size: Tile side.
        overlap: Pixels that neighbouring tiles share.
        thresholds: Tuned on validation data.
        provenance: How and on what the model was trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    arch: str
    encoder: str | None
    options: dict[str, Any] = {}
    bands: tuple[str, ...]
    dtype: str
    scene_dtypes: tuple[str, ...] = ()
    mean: tuple[float, ...]
    std: tuple[float, ...]
    gsd_m: float = Field(gt=0)
    classes: tuple[str, ...] = ("building",)
    colours: tuple[str, ...] = ()
    background: str | None = None
    exclusive: bool = False
    outputs: tuple[str, ...] = ("building", "border")
    size: int = Field(gt=0)
    overlap: int = Field(ge=0)
    thresholds: Thresholds = Thresholds()
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not len(self.mean) == len(self.std) == len(self.bands):
            raise ValueError("bands, mean and std must be as many")
        if self.exclusive and self.outputs != self.classes:
            raise ValueError("the outputs of exclusive classes must be these classes")
        if self.exclusive and len(self.colours) != len(self.classes):
            raise ValueError("each exclusive class must have a colour")
        return self


def shipped_models() -> dict[str, Path]:
    """The models that come with geoseg, by name."""
    return {file.stem: file for file in sorted(_SHIPPED.glob("*.safetensors"))}


def find_model(name: str | Path | None = None) -> Path:
    """A model file by its path, or one that comes with geoseg by its name.

    Args:
        name: A file goes before a name. When None the default model.
    """
    if name is None:
        return _SHIPPED / f"{DEFAULT_MODEL}.safetensors"
    shipped = shipped_models().get(str(name))
    return shipped if shipped and not Path(name).is_file() else Path(name)


def save_model(path: str | Path, weights: dict[str, torch.Tensor], spec: ModelSpec) -> None:
    """Writes a model file, which appears only when complete.

    Args:
        path: Final name, by convention `.safetensors`.
        weights: State dict.
        spec: Its header.
    """
    from safetensors.torch import save_file

    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with replace_file(path) as partial:
        partial.touch()  # with the permissions of any new file; safetensors keeps them
        permissions = partial.stat().st_mode
        save_file(tensors, partial, metadata={HEADER_KEY: spec.model_dump_json()})
        partial.chmod(permissions)


def load_spec(path: str | Path) -> ModelSpec:
    """Reads a model file's header.

    Raises:
        ModelFileError: If the file is absent, damaged, or not a geoseg model.
    """
    return _read(path)[0]


def load_model(path: str | Path) -> tuple[ModelSpec, dict[str, torch.Tensor]]:
    """Reads a model file: its header and its state dict. Raises as `load_spec` does."""
    return _read(path, tensors=True)


def _read(path: str | Path, *, tensors: bool = False) -> tuple[ModelSpec, dict[str, torch.Tensor]]:
    if Path(path).is_dir():
        inside = Path(path) / "model.safetensors"
        remedy = f"pass {inside}" if inside.is_file() else "pass the model.safetensors of a run"
        raise ModelFileError(f"{path}: is a folder, not a model file; {remedy}")
    if not Path(path).is_file():
        raise ModelFileError(
            f"{path}: no such model file; pass the model.safetensors that geoseg train wrote, or "
            f"a name of those that come with geoseg: {', '.join(shipped_models()) or 'none'}"
        )
    if Path(path).suffix == ".ckpt":
        raise ModelFileError(
            f"{path}: is a state of training; pass the model.safetensors that the run ends with"
        )
    try:
        # Who asks for the header alone need not wait for torch.
        with safe_open(path, framework="pt" if tensors else "np") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            names = file.keys() if tensors else []
            weights = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path}: is not a safetensors file or is damaged ({error}); pass the "
            "model.safetensors that geoseg train wrote"
        ) from error
    if header is None:
        raise ModelFileError(
            f"{path}: holds weights but no geoseg header; to start training from these weights "
            f"use --set model.encoder_weights={path}"
        )
    try:
        return ModelSpec.model_validate(json.loads(header)), weights
    except (ValidationError, ValueError) as error:
        raise ModelFileError(
            f"{path}: its header does not fit this version of geoseg "
            f"({_first_problem(error)}); retrain it or install the version that wrote it"
        ) from error


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
