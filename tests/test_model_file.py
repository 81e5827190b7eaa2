"""A model is one file that says how to use it, and that nothing executes."""

import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file

from geoseg.errors import ModelFileError
from geoseg.networks.model_file import ModelSpec, load_model, load_spec, save_model
from geoseg.options import Thresholds

SPEC = ModelSpec(
    arch="deepglobe",
    encoder="resnet18",
    options={"aspp_channels": 32, "fusion": "add"},
    bands=("red", "nir"),
    dtype="uint16",
    mean=(100.25, 2000.5),
    std=(10.125, 1 / 3),
    gsd_m=0.3,
    size=256,
    overlap=64,
    thresholds=Thresholds(body=0.45, min_area_m2=7),
    provenance={"scenes": ["a.tif"], "minutes": 1.5, "häuser": "für"},
)
WEIGHTS = {
    "head.weight": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "turned": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
}


@pytest.fixture
def path(tmp_path):
    save_model(tmp_path / "model.safetensors", WEIGHTS, SPEC)
    return tmp_path / "model.safetensors"


def with_header(path, header):
    save_file({"a": torch.ones(1)}, path, metadata=header)
    return path


def test_what_is_saved_is_loaded(path):
    spec, weights = load_model(path)
    assert spec == load_spec(path) == SPEC
    assert spec.outputs == ("building", "border")
    assert weights.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], tensor)


@given(
    mean=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), gsd_m=st.floats(0.01, 100)
)  # fmt: skip
def test_numbers_come_back_to_the_last_bit(tmp_path_factory, mean, gsd_m):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    spec = SPEC.model_copy(update={"mean": tuple(mean), "gsd_m": gsd_m})
    save_model(path, {"a": torch.ones(1)}, spec)
    assert load_spec(path) == spec


def test_any_safetensors_reader_finds_header_and_weights(path):
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["geoseg"])
        assert header["bands"] == ["red", "nir"]
        assert header["format"] == 1
        assert file.get_tensor("head.weight").shape == (2, 3)


def test_parameters_that_need_a_gradient_are_saved_without(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    save_model(tmp_path / "m.safetensors", {"w": weight}, SPEC)
    assert not load_model(tmp_path / "m.safetensors")[1]["w"].requires_grad


def test_a_save_that_fails_leaves_the_earlier_model(path):
    shared = torch.ones(4)
    with pytest.raises(RuntimeError, match="share memory"):
        save_model(path, {"a": shared, "b": shared[:2]}, SPEC)
    assert load_spec(path) == SPEC
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_a_spec_does_not_change_and_takes_no_unknown_key():
    with pytest.raises(ValidationError):
        SPEC.size = 5
    with pytest.raises(ValidationError):
        ModelSpec(**(SPEC.model_dump() | {"colour": "red"}))


# Refusing


def test_a_model_that_is_not_there(tmp_path):
    for path, problem in (
        (tmp_path / "none.safetensors", r"no such model file; pass the model\.safetensors"),
        (tmp_path, r"is a folder without a model\.safetensors; pass a model file"),
    ):
        with pytest.raises(ModelFileError, match=problem):
            load_spec(path)


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({"a": 1}), b"\xff" * 64])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"m\.safetensors: is not a safetensors file or is"):
        load_model(path)


def test_a_file_that_was_cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelFileError, match="is damaged"):
        load_model(path)


@pytest.mark.parametrize("header", [None, {"format": "pt"}])
def test_weights_without_a_header(tmp_path, header):
    path = with_header(tmp_path / "m.safetensors", header)
    with pytest.raises(ModelFileError, match=r"no geoseg header; .*--set model\.encoder_weights="):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"format": 2}, "format"), ({"gsd_m": -1}, "gsd_m"), ({"bands": None}, "bands"),
     ({"future": 1}, "future"), ({"thresholds": {"body": 2}}, "thresholds.body"),
     ({"mean": [1.0]}, ""), ({"exclusive": True}, ""),
     ({"exclusive": True, "classes": ["building", "border"], "colours": ["#000000"]}, "")],
)  # fmt: skip
def test_a_header_of_another_version_names_the_key(tmp_path, change, problem):
    header = json.loads(SPEC.model_dump_json()) | change
    path = with_header(tmp_path / "m.safetensors", {"geoseg": json.dumps(header)})
    with pytest.raises(ModelFileError, match=rf"does not fit this version .*\({problem}.*retrain"):
        load_spec(path)


def test_a_header_that_is_no_json(tmp_path):
    path = with_header(tmp_path / "m.safetensors", {"geoseg": "{"})
    with pytest.raises(ModelFileError, match="its header does not fit"):
        load_spec(path)
