"""Exported models predict the same as the original."""

import json
import logging
import warnings
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_models import DEEPGLOBE, make_model

from geoseg.errors import ConfigError, ModelFileError, OutputExistsError
from geoseg.networks.export import export
from geoseg.networks.model_file import ModelSpec, load_model, save_model
from geoseg.options import Thresholds
from geoseg.prediction.predictor import Predictor

SCHEMAS = Path(__file__).parents[2] / "shared" / "fixtures" / "stac"

SPEC = DEEPGLOBE.model_copy(
    update={
        "mean": (110.0, 105.0, 100.0),
        "std": (40.0, 41.0, 42.0),
        "gsd_m": 0.31,
        "thresholds": Thresholds(body=0.45),
    }
)
LAND = SPEC.model_copy(
    update={
        "exclusive": True, "classes": ("ground", "field", "water"),
        "outputs": ("ground", "field", "water"), "colours": ("#000000", "#00ff00", "#0000ff"),
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "buildings": make_model(folder / "buildings.safetensors", SPEC),
        "land": make_model(folder / "land.safetensors", LAND),
    }


@pytest.fixture(scope="module")
def documents(models, tmp_path_factory):
    """The models as ONNX."""
    folder = tmp_path_factory.mktemp("onnx")
    return {name: export(model, folder / f"{name}.onnx") for name, model in models.items()}


def tiles(count=3):
    return np.random.default_rng(3).integers(0, 256, (count, 3, 64, 64)).astype(np.uint8)


def said_by(model, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geoseg.prediction.backends.computes_bf16", lambda _: False)
        predictor = Predictor(*load_model(model), "cpu")
    return predictor(data, np.ones((len(data), 64, 64), bool))


@pytest.mark.parametrize(("name", "channels"), [("buildings", 1), ("land", 3)])
def test_onnx_says_what_the_model_says_of_pixels_as_deepness_gives_them(
    models, documents, name, channels
):
    data = tiles()
    session = onnxruntime.InferenceSession(str(documents[name]), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": np.float32(data * 1.0 / 255.0)})
    assert found.shape == (3, channels, 64, 64)
    np.testing.assert_allclose(found, said_by(models[name], data)[:, :channels], atol=1e-3)
    assert session.get_inputs()[0].shape[1:] == [3, 64, 64]


def test_onnx_can_be_read_by_the_runtime_of_deepness(documents):
    for path in documents.values():
        document = onnx.load(str(path))
        assert document.ir_version <= 8
        assert max(one.version for one in document.opset_import if one.domain == "") <= 18


def test_onnx_carries_what_deepness_reads(documents):
    metadata = {
        name: {p.key: json.loads(p.value) for p in onnx.load(path).metadata_props}
        for name, path in documents.items()
    }
    buildings = metadata["buildings"]
    assert buildings["model_type"] == "Segmentor"
    assert buildings["class_names"] == {"0": "background", "1": "building"}
    assert buildings["resolution"] == 31
    assert buildings["tiles_size"] == buildings["tile_size"] == 64
    assert buildings["tiles_overlap"] == 25
    assert buildings["seg_thresh"] == 0.45
    assert metadata["land"]["class_names"] == {"0": "ground", "1": "field", "2": "water"}


def test_a_program_says_what_the_model_says_of_the_scenes_pixels(models, tmp_path):
    path = export(models["buildings"], tmp_path / "model.pt2")
    more = {"geoseg.json": ""}
    program = torch.export.load(str(path), extra_files=more).module()
    data = tiles(4)
    found = program(torch.from_numpy(data).float()).detach().numpy()
    np.testing.assert_allclose(found, said_by(models["buildings"], data), atol=1e-3)
    assert ModelSpec.model_validate_json(more["geoseg.json"]) == SPEC


def test_a_stac_item_describes_the_model(models, tmp_path):
    item = json.loads(export(models["buildings"], tmp_path / "model.json").read_text())
    told = item["properties"]
    assert item["type"] == "Feature"
    assert item["stac_extensions"] == ["https://stac-extensions.github.io/mlm/v1.5.0/schema.json"]
    assert told["mlm:input"][0]["bands"] == ["red", "green", "blue"]
    assert told["mlm:input"][0]["input"]["shape"] == [-1, 3, 64, 64]
    assert [s["mean"] for s in told["mlm:input"][0]["value_scaling"]] == [110, 105, 100]
    assert told["mlm:output"][0]["result"]["shape"] == [-1, 2, 64, 64]
    weights = load_model(models["buildings"])[1]
    assert told["mlm:total_parameters"] == sum(tensor.numel() for tensor in weights.values())
    href = item["assets"]["weights"]["href"]
    assert not href.startswith(("/", "file:"))
    assert (tmp_path / unquote(href)).resolve() == Path(models["buildings"]).resolve()


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="the schemas of STAC extensions are not there")
@pytest.mark.parametrize("name", ["buildings", "land"])
def test_a_stac_item_is_valid(models, tmp_path, name):
    referencing = pytest.importorskip("referencing")
    jsonschema = pytest.importorskip("jsonschema")
    contents = [json.loads(file.read_text()) for file in SCHEMAS.glob("*.json")]
    found = {one["$id"].rstrip("#"): one for one in contents if "$id" in one}
    processing = "https://stac-extensions.github.io/processing"
    found[f"{processing}/v1.1.0/schema.json"] = found[f"{processing}/v1.0.0/schema.json"]
    draft = pytest.importorskip("referencing.jsonschema").DRAFT7
    registry = referencing.Registry().with_resources(
        (address, referencing.Resource.from_contents(one, default_specification=draft))
        for address, one in found.items()
    )
    schema = found["https://stac-extensions.github.io/mlm/v1.5.0/schema.json"]
    validator = jsonschema.validators.validator_for(schema)(schema, registry=registry)
    example = json.loads((SCHEMAS / "ex_unet.json").read_text())
    assert [error.message for error in validator.iter_errors(example)] == []
    item = json.loads(export(models[name], tmp_path / "model.json").read_text())
    assert [error.message for error in validator.iter_errors(item)] == []
    item["properties"]["mlm:input"][0]["input"]["dim_order"][1] = "channel"
    assert list(validator.iter_errors(item)) != []


def global_state():
    return list(warnings.filters), logging.root.manager.disable, torch.is_grad_enabled()


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_an_export_prints_nothing_and_changes_no_global_state(models, tmp_path, capfd, suffix):
    before = global_state()
    export(models["buildings"], tmp_path / f"model.{suffix}")
    assert global_state() == before
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_exported(models, tmp_path, monkeypatch):
    message = r"is not the suffix of a known format; use one of \.onnx, \.pt2, \.json"
    with pytest.raises(ConfigError, match=message):
        export(models["land"], tmp_path / "model.tflite")
    boxes = make_boxes(tmp_path / "boxes.safetensors")
    with pytest.raises(ModelFileError, match="detects boxes"):
        export(boxes, tmp_path / "model.onnx")
    (tmp_path / "there.json").write_text("mine")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        export(models["land"], tmp_path / "there.json")
    monkeypatch.setattr("geoseg.networks.export.TOLERANCE", -1.0)
    with pytest.raises(ModelFileError, match=r"the outputs differ by .* from the original"):
        export(models["land"], tmp_path / "model.pt2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["boxes.safetensors", "there.json"]


def make_boxes(path):
    spec = SPEC.model_copy(
        update={"arch": "retinanet", "encoder": "resnet18", "options": {}, "outputs": ("building",)}
    )
    save_model(path, {}, spec)
    return path
