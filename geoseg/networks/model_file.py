"""Model files: safetensors weights with a JSON header that describes their use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator
from safetensors import SafetensorError, safe_open

from geoseg.errors import ModelFileError, one_line
from geoseg.jobs.files import replace_file
from geoseg.options import Thresholds
from geoseg.options.headers import (
    Arguments,
    ClassNames,
    Colour,
    Deviation,
    Mean,
    Name,
    Names,
    Overlap,
    PixelSize,
    PixelType,
    Places,
    TileSide,
    check_classes,
    check_lengths,
    first_problem,
)

if TYPE_CHECKING:
    import torch

HEADER_KEY = "geoseg"

# Name of the model file in the folder of a run.
MODEL_NAME = "model.safetensors"

# Longest header in bytes: small objects in JSON take 30 times as much memory.
_MAX_HEADER = 10_000_000

# Folder of the models that are installed with geoseg, each next to its model card.
_SHIPPED = Path(__file__).parents[1] / "pretrained"
# The model that `predict` uses if none is chosen.
DEFAULT_MODEL = "buildings"


class ModelSpec(BaseModel):
    """Header of a model file: everything that is needed to use its weights.

    Attributes:
        arch: Name of the architecture, see `geoseg.networks.architectures`.
        encoder: Name of the encoder; None if the architecture has a fixed encoder.
        options: Further arguments of the architecture.
        bands: Names of the input bands, in order.
        dtype: Data type of the tiles that the model was trained on.
        scene_dtypes: Data types of the scenes that the tiles were cut from; `dtype` if empty.
        mean: Mean of each band, in the units of the scene.
        std: Standard deviation of each band, in the units of the scene.
        places: Mean and standard deviation of the bands in each place of the training tiles; empty
            if there is only one place.
        gsd_m: Ground sampling distance, metres per pixel.
        classes: Class names.
        colours: Colour of each class as #rrggbb; exclusive classes only.
        background: Class of unlabelled pixels; exclusive classes only.
        exclusive: Whether each pixel has exactly one class (softmax over the outputs, one per
            class). Otherwise the outputs are independent of each other (sigmoid).
        outputs: Name of each channel of the logits.
        size: Tile side in pixels.
        overlap: Pixels shared by neighbouring tiles.
        thresholds: Thresholds tuned on validation data.
        provenance: Training data and settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    arch: Name
    encoder: Name | None
    options: Arguments = {}
    bands: Names
    dtype: PixelType
    scene_dtypes: tuple[PixelType, ...] = ()
    mean: tuple[Mean, ...]
    std: tuple[Deviation, ...]
    places: Places = ()
    gsd_m: PixelSize
    classes: ClassNames = ("building",)
    colours: tuple[Colour, ...] = ()
    background: Name | None = None
    exclusive: bool = False
    outputs: ClassNames = ("building", "border")
    size: TileSide
    overlap: Overlap
    thresholds: Thresholds = Thresholds()
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_lengths(self.bands, self.mean, self.std, self.size, self.overlap, self.places)
        check_classes(self.classes, self.colours, self.background, self.outputs, self.exclusive)
        return self


def shipped_models() -> dict[str, Path]:
    """Return the models that are installed with geoseg, by name."""
    return {file.stem: file for file in sorted(_SHIPPED.glob("*.safetensors"))}


def find_model(name: str | Path | None = None) -> Path:
    """Return the path of a model file.

    Args:
        name: A path of a model file or of the folder of a finished run, or the name of a model
            that is installed with geoseg; None for the default model. An existing file or run
            takes precedence over a model of the same name.
    """
    if name is None:
        return _SHIPPED / f"{DEFAULT_MODEL}.safetensors"
    path = Path(name)
    if path.is_file():
        return path
    if (path / MODEL_NAME).is_file():
        return path / MODEL_NAME
    return shipped_models().get(str(name), path)


def save_model(path: str | Path, weights: dict[str, torch.Tensor], spec: ModelSpec) -> None:
    """Write a model file, which appears under its name only when it is complete.

    Args:
        path: File name, by convention with the suffix `.safetensors`.
        weights: State dict of the network.
        spec: The header.
    """
    from safetensors.torch import save_file

    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with replace_file(path) as partial:
        partial.touch()  # with the usual permissions, which safetensors replaces
        permissions = partial.stat().st_mode
        save_file(tensors, partial, metadata={HEADER_KEY: spec.model_dump_json()})
        partial.chmod(permissions)


def load_spec(path: str | Path) -> ModelSpec:
    """Read the header of a model file, without importing torch.

    Raises:
        ModelFileError: If the file does not exist, is damaged, or is not a geoseg model.
    """
    return _read(path)[0]


def load_model(path: str | Path) -> tuple[ModelSpec, dict[str, torch.Tensor]]:
    """Read the header and the state dict of a model file.

    Raises:
        ModelFileError: As `load_spec`.
    """
    return _read(path, tensors=True)


def _read(path: str | Path, *, tensors: bool = False) -> tuple[ModelSpec, dict[str, torch.Tensor]]:
    _check_file(Path(path))
    try:
        # The framework numpy avoids the import of torch if only the header is read.
        with safe_open(path, framework="pt" if tensors else "np") as file:
            spec = _parse((file.metadata() or {}).get(HEADER_KEY), path)
            names = file.keys() if tensors else []
            return spec, {name: file.get_tensor(name) for name in names}
    except ModelFileError:
        raise
    # The last two are raised for data types that torch does not have.
    except (SafetensorError, OSError, RuntimeError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{path}: is not a safetensors file or is damaged ({one_line(error)}); pass the "
            "model.safetensors that geoseg train wrote"
        ) from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ModelFileError(
            f"{path}: is a folder without a {MODEL_NAME}; pass a model file, or the folder of a "
            "finished training run"
        )
    if not path.is_file():
        names = ", ".join(shipped_models()) or "none"
        raise ModelFileError(
            f"{path}: no such model file; pass the model.safetensors that geoseg train wrote, or "
            f"the name of a model that is installed with geoseg: {names}"
        )
    if path.suffix == ".ckpt":
        raise ModelFileError(
            f"{path}: is a training checkpoint; pass the model.safetensors of a finished run"
        )


def _parse(header: str | None, path: str | Path) -> ModelSpec:
    if header is None:
        raise ModelFileError(
            f"{path}: contains weights but no geoseg header; to start training from these weights "
            f"use --set model.encoder_weights={path}"
        )
    try:
        if len(header) > _MAX_HEADER:
            raise ValueError(f"it has {len(header) / 1e6:.0f} MB")
        return ModelSpec.model_validate_json(header)
    except ValueError as error:
        raise ModelFileError(
            f"{path}: its header does not fit this version of geoseg "
            f"({first_problem(error)}); retrain the model or install the version that wrote it"
        ) from error
