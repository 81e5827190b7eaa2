"""Export of models to ONNX (for QGIS), torch.export, and STAC items with the MLM extension."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.errors import ConfigError, ModelFileError
from geoseg.jobs.output import check_output, file_output
from geoseg.networks.architectures import task_of
from geoseg.networks.model_file import ModelSpec, load_model
from geoseg.networks.models import load_network
from geoseg.version import __version__

# Largest accepted difference of probabilities; one step of a probability as uint8 is 0.004.
TOLERANCE = 1e-3

# The QGIS plugin Deepness divides pixel values by this number, for every data type.
_DEEPNESS_SCALE = 255.0

# Versions of the file format and of the opset that onnxruntime 1.15 reads. Deepness permits up to
# 1.17, and older ones refuse newer versions.
_IR_VERSION, _OPSET = 8, 18

_STAC_EXTENSION = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"


class Deployable(nn.Module):
    """A network with the normalization of its input and the activation of its output.

    Args:
        network: (N, C, H, W) → logits.
        spec: The header of the model.
        scale: Factor from input pixel values to the units of the scene.
        channels: Number of outputs to return, counted from the first.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, spec: ModelSpec, *, scale: float = 1.0, channels: int
    ) -> None:
        super().__init__()
        self.network = network
        self.exclusive, self.channels = spec.exclusive, channels
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1) / scale)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1) / scale)

    def forward(self, image: Tensor) -> Tensor:
        """Pixels float32 (N, C, H, W) → probabilities (N, channels, H, W)."""
        logits = self.network((image - self.mean) / self.std)
        prob = logits.softmax(dim=1) if self.exclusive else logits.sigmoid()
        first: Tensor = prob[:, : self.channels]
        return first


def export(model: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Write a model in another format and compare its output with that of the original.

    - `.onnx`: pixel values divided by 255 → probabilities of buildings, or of each class. The
      file contains the metadata of the QGIS plugin Deepness, so that it runs in QGIS unchanged.
    - `.pt2`: a torch.export program; pixel values of the scene → probabilities of all outputs.
    - `.json`: a STAC item with the MLM extension that describes the model file.

    Args:
        model: A model file that `geoseg train` wrote.
        output: File to write; its suffix selects the format.
        overwrite: Replace the file if it exists.

    Returns:
        The output file.

    Raises:
        ConfigError: If the suffix is unknown, or a package is missing.
        ModelFileError: If the model cannot be read, detects boxes, or its outputs in the new
            format differ from the original.
        OutputExistsError: If the output exists.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite, inputs=[model], is_file=True)
    # The item is written elsewhere first, but names the model relative to its final place.
    folder = output.absolute().parent
    writers: dict[str, Callable[[Path, ModelSpec, dict[str, Tensor], Path], None]] = {
        ".onnx": _write_onnx, ".pt2": _write_program, ".json": partial(_write_item, folder),
    }  # fmt: skip
    if output.suffix.lower() not in writers:
        raise ConfigError(
            f"{output}: {output.suffix or 'no suffix'} is not the suffix of a known format; use "
            f"one of {', '.join(writers)}"
        )
    spec, weights = load_model(model)
    if task_of(spec.arch) == "boxes":
        raise ModelFileError(
            f"{model}: detects boxes, which cannot be exported; export a segmentation model"
        )
    with file_output(output, overwrite=overwrite, inputs=[model]) as work:
        writers[output.suffix.lower()](Path(model), spec, weights, work.result)
    return output


def _write_onnx(_: Path, spec: ModelSpec, weights: dict[str, Tensor], path: Path) -> None:
    onnx, runtime = _import_package("onnx"), _import_package("onnxruntime")
    _import_package("onnxscript")
    channels = len(spec.outputs) if spec.exclusive else 1
    deployable = _deployable(spec, weights, scale=_DEEPNESS_SCALE, channels=channels)
    example = _example(spec) / _DEEPNESS_SCALE
    with _muted():
        program = torch.onnx.export(
            deployable, (example,), input_names=["image"], output_names=["prob"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=64)}}, dynamo=True,
            opset_version=_OPSET, optimize=True, verbose=False,
        )  # fmt: skip
        assert program is not None
        document = program.model_proto
    # The nodes are of an opset that this version of the format has, too.
    document.ir_version = min(document.ir_version, _IR_VERSION)
    for key, value in deepness_metadata(spec).items():
        document.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(document, str(path))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    _compare(deployable, example, session.run(None, {"image": example.numpy()})[0])


def deepness_metadata(spec: ModelSpec) -> dict[str, Any]:
    """Return the metadata for the QGIS plugin Deepness, in centimetres and percent."""
    names = spec.classes if spec.exclusive else ("background", *spec.classes)
    return {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(names)),
        "resolution": round(100 * spec.gsd_m, 4),
        "tiles_size": spec.size,
        "tile_size": spec.size,  # Deepness documents the other name, and reads this one
        "tiles_overlap": round(100 * spec.overlap / spec.size),
        "seg_thresh": 0.0 if spec.exclusive else spec.thresholds.body,
        "seg_small_segment": 0,
    }


def _write_program(_: Path, spec: ModelSpec, weights: dict[str, Tensor], path: Path) -> None:
    deployable = _deployable(spec, weights, channels=len(spec.outputs))
    example = _example(spec)
    shapes = {"image": {0: torch.export.Dim("batch", min=1, max=64)}}
    with _muted():
        program = torch.export.export(deployable, (example,), dynamic_shapes=shapes)
        with path.open("wb") as file:
            torch.export.save(program, file, extra_files={"geoseg.json": spec.model_dump_json()})
        with path.open("rb") as file:
            loaded = torch.export.load(file).module()
    with torch.inference_mode():
        _compare(deployable, example, loaded(example).numpy())


def _write_item(
    folder: Path, model: Path, spec: ModelSpec, weights: dict[str, Tensor], path: Path
) -> None:
    parameters = sum(tensor.numel() for tensor in weights.values())
    item = stac_item(model, spec, parameters=parameters, folder=folder)
    path.write_text(json.dumps(item, indent=2) + "\n")


def stac_item(model: Path, spec: ModelSpec, *, parameters: int, folder: Path) -> dict[str, Any]:
    """Return a STAC item with the MLM extension, version 1.5.

    Args:
        model: The model file.
        spec: The header of the model.
        parameters: Number of parameters of the network.
        folder: Folder of the item, to which the path of the model is relative.
    """
    bands = [{"name": name} for name in spec.bands]
    href = Path(os.path.relpath(model.absolute(), folder)).as_posix()
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [_STAC_EXTENSION],
        "id": f"{spec.arch}-{_digest(model)}",
        # The model file does not contain the location of the training data.
        "geometry": None,
        "properties": {
            "datetime": None,
            "start_datetime": "1900-01-01T00:00:00Z",
            "end_datetime": "9999-12-31T23:59:59Z",
            "bands": bands,
            "mlm:name": f"geoseg {spec.arch}",
            "mlm:architecture": spec.arch,
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:framework": "PyTorch",
            "mlm:framework_version": torch.__version__.split("+")[0],
            "mlm:total_parameters": parameters,
            "mlm:input": [_stac_input(spec)],
            "mlm:output": [_stac_output(spec)],
            "geoseg:version": __version__,
            "geoseg:gsd_m": spec.gsd_m,
            "geoseg:overlap": spec.overlap,
            "geoseg:thresholds": spec.thresholds.model_dump(),
        },
        "links": [],
        "assets": {
            "weights": {
                "href": quote(href),
                "type": "application/octet-stream; framework=pytorch; profile=safetensors",
                "title": "Weights and header of geoseg",
                "roles": ["mlm:model", "mlm:weights", "data"],
                "mlm:artifact_type": "safetensors",
                "bands": bands,
            }
        },
    }


def _stac_input(spec: ModelSpec) -> dict[str, Any]:
    scaling = [
        {"type": "z-score", "mean": mean, "stddev": std}
        for mean, std in zip(spec.mean, spec.std, strict=True)
    ]
    shape = [-1, len(spec.bands), spec.size, spec.size]
    return {
        "name": "scene",
        "bands": list(spec.bands),
        "input": {
            "shape": shape,
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": scaling,
        "resize_type": None,
    }


def _stac_output(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": "logits",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, len(spec.outputs), spec.size, spec.size],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": [
            {"value": value, "name": name, "description": f"logit of {name}"}
            for value, name in enumerate(spec.outputs)
        ],
        "post_processing_function": {
            "format": "python",
            "expression": "torch.softmax" if spec.exclusive else "torch.sigmoid",
        },
    }


def _digest(model: Path) -> str:
    """First digits of the SHA-256 hash of a file."""
    return hashlib.sha256(model.read_bytes()).hexdigest()[:12]


def _deployable(
    spec: ModelSpec, weights: dict[str, Tensor], *, scale: float = 1.0, channels: int
) -> Deployable:
    return Deployable(load_network(spec, weights), spec, scale=scale, channels=channels).eval()


def _example(spec: ModelSpec) -> Tensor:
    """Two tiles of noise in the units of the scene."""
    noise = np.random.default_rng(0).normal(size=(2, len(spec.bands), spec.size, spec.size))
    mean, std = (np.array(values)[:, None, None] for values in (spec.mean, spec.std))
    return torch.from_numpy((noise * std + mean).astype(np.float32))


def _compare(deployable: Deployable, example: Tensor, exported: np.ndarray) -> None:
    with torch.inference_mode():
        original = deployable(example).numpy()
    difference = float(np.abs(exported - original).max())
    if not difference <= TOLERANCE:  # NaN must fail, too
        raise ModelFileError(
            f"the outputs differ by {difference:.3g} from the original, so the file was removed; "
            "choose another format and report this network"
        )


def _import_package(package: str) -> Any:
    try:
        return __import__(package)
    except ImportError as error:
        raise ConfigError(
            f"{package} is not installed, but needed for ONNX; pip install 'geoseg[export]'"
        ) from error


@contextmanager
def _muted() -> Iterator[None]:
    """Mute messages of the exporters for the time of a call; the result is compared anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
