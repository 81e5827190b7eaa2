"""Backends give the probabilities of torch, with any number of threads."""

import importlib.util

import numpy as np
import pytest
import torch
from small_models import DEEPGLOBE, make_model

from geoseg.api.predict import predict
from geoseg.errors import ConfigError
from geoseg.geo.raster import Scene
from geoseg.jobs.workers import Workers
from geoseg.options import PredictOptions
from geoseg.town import build_town, write_town

CHANGES = {
    "deepglobe": {},
    # Valid convolutions: tiles inside the scene are read with context, those at the edge mirrored.
    "unet": {"arch": "unet", "encoder": None, "options": {"padding": "valid", "width": 4}},
    "pixelwise": {"arch": "pixelwise", "encoder": None, "options": {}},
}

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="no openvino is installed"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder, models = tmp_path_factory.mktemp("models"), {}
    for name, changes in CHANGES.items():
        path = folder / f"{name}.safetensors"
        models[name] = make_model(path, DEEPGLOBE.model_copy(update=changes))
    return models


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path, _ = write_town(build_town(150, 210, seed=3, gsd_m=0.5), tmp_path_factory.mktemp("town"))
    return path


def found(scene, model, path, workers=None, **options):
    options = PredictOptions(device="cpu", floats=True, batch_size=2, **options)
    predict(scene, path, model=model, options=options, workers=workers)
    with Scene(path) as raster:
        return raster.read()


@needs_openvino
@pytest.mark.parametrize(("name", "tta"), [("deepglobe", "none"), ("unet", "flips")])
def test_openvino_agrees_with_torch(scene, models, tmp_path, monkeypatch, name, tta):
    monkeypatch.setattr("geoseg.prediction.backends.computes_bf16", lambda _: False)
    wanted, valid = found(scene, models[name], tmp_path / "torch.tif", tta=tta)
    import openvino

    # Equal digits do not prove that OpenVINO computed them, so its calls are counted.
    compile_, compiled = openvino.Core.compile_model, []
    monkeypatch.setattr(
        openvino.Core, "compile_model", lambda *given: compiled.append(1) or compile_(*given)
    )
    data, known = found(scene, models[name], tmp_path / "ov.tif", tta=tta, backend="openvino")
    assert compiled
    assert (known == valid).all()
    assert wanted[:, valid].std() > 1e-3
    assert np.abs(data - wanted).max() < 1e-4


def test_a_compiled_network_agrees_with_torch(scene, models, tmp_path, monkeypatch):
    compile_, compiled = torch.compile, []

    def spy(module, **options):
        compiled.append(module)
        return compile_(module, **options)

    monkeypatch.setattr("torch.compile", spy)
    wanted, valid = found(scene, models["pixelwise"], tmp_path / "torch.tif")
    assert not compiled
    data, _ = found(scene, models["pixelwise"], tmp_path / "other.tif", backend="compile")
    assert len(compiled) == 1
    assert wanted[:, valid].std() > 1e-3
    assert np.abs(data - wanted).max() < 1e-2  # in bfloat16, where the machine computes in that


@needs_openvino
def test_openvino_gives_the_same_bytes_with_any_number_of_threads(scene, models, tmp_path):
    for threads in (1, 2, 3):
        found(scene, models["unet"], tmp_path / f"{threads}.tif",
              Workers(threads=threads), backend="openvino")  # fmt: skip
    one, *others = (tmp_path / f"{threads}.tif" for threads in (1, 2, 3))
    assert all(one.read_bytes() == other.read_bytes() for other in others)


def test_an_unavailable_backend_is_refused(scene, models, tmp_path, monkeypatch):
    options = PredictOptions(backend="openvino", device="gpu")
    with pytest.raises(ConfigError, match="openvino computes on the CPU"):
        predict(scene, tmp_path / "out", model=models["unet"], options=options)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    options = PredictOptions(backend="openvino")
    with pytest.raises(ConfigError, match=r"openvino is not installed; pip install 'geoseg\["):
        predict(scene, tmp_path / "out", model=models["unet"], options=options)
    assert not (tmp_path / "out").exists()
