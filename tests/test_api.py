"""The public API: its names, its results, and that calls leave the process as it was."""

import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.env import get_gdal_config

import geoseg
from geoseg.errors import ConfigError, GridMismatchError, InputShapeError, ModelFileError
from geoseg.networks.model_file import ModelSpec, load_spec, save_model
from geoseg.town import build_town, write_town

TILES = geoseg.TileOptions(size=64, gap=0, fractions=(0.6, 0.2, 0.2))
MODEL = geoseg.ModelOptions(arch="pixelwise")
TRAIN = geoseg.TrainOptions(epochs=1, batch_size=2, device="cpu", workers=0)
PREDICT = geoseg.PredictOptions(device="cpu")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    return write_town(build_town(160, 288, seed=3, density=1.2), folder)


@pytest.fixture(scope="module")
def tiles(town, tmp_path_factory):
    return geoseg.tile(*town, tmp_path_factory.mktemp("tiles") / "tiles", options=TILES)


@pytest.fixture(scope="module")
def run(tiles, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "run"
    return geoseg.train(tiles.folder, output, model=MODEL, options=TRAIN)


@pytest.fixture(scope="module")
def predicted(town, run, tmp_path_factory):
    output = tmp_path_factory.mktemp("predicted") / "out"
    return geoseg.predict(town[0], output, model=run.model, options=PREDICT)


def test_every_public_name_can_be_imported():
    for name in geoseg.__all__:
        assert getattr(geoseg, name) is not None, name
    assert set(geoseg.__all__) <= set(dir(geoseg))
    with pytest.raises(AttributeError, match="no attribute 'prediction_of'"):
        _ = geoseg.prediction_of
    assert (Path(geoseg.__file__).parent / "py.typed").is_file()


def test_importing_is_light_and_changes_nothing():
    code = """
import logging, os, sys, threading, warnings
before = dict(os.environ), list(warnings.filters), logging.root.level, threading.active_count()
import geoseg
assert before == (
    dict(os.environ), list(warnings.filters), logging.root.level, threading.active_count()
)
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "numpy", "rasterio", "geopandas", "pandas", "dask", "yaml", "pydantic"}
    assert set(result.stdout.split()) & heavy == set()


@contextmanager
def unchanged(capfd):
    """Check that what happens inside changes no global state and prints nothing."""

    def state():
        loggers = {
            name: (logger.level, logger.disabled, tuple(logger.handlers))
            for name, logger in logging.root.manager.loggerDict.items()
            # Clusters of other tests in this process keep handlers of their own.
            if isinstance(logger, logging.Logger) and not name.startswith("distributed")
        }
        signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        return {
            "environment": dict(os.environ),
            "warnings": list(warnings.filters),
            "root": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
            "loggers": loggers,
            "signals": signals,
            "threads": torch.get_num_threads(),
            "random": torch.random.get_rng_state().tolist(),
            "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
            "gdal": get_gdal_config("GDAL_CACHEMAX"),
            "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
            "grad": torch.is_grad_enabled(),
            "folder": Path.cwd(),
            "running": {thread.name for thread in threading.enumerate()},
        }

    capfd.readouterr()
    before = state()
    yield
    after = state()
    # Loggers that libraries make when they are imported are their own.
    after["loggers"] = {name: after["loggers"][name] for name in before["loggers"]}
    for name, value in before.items():
        assert after[name] == value, name
    assert capfd.readouterr() == ("", "")


def test_no_verb_changes_global_state(town, tiles, run, predicted, tmp_path, capfd):
    scene, truth = town
    # Whatever is imported for the first time has been imported by the fixtures.
    with unchanged(capfd):
        geoseg.tile(scene, truth, tmp_path / "tiles", options=TILES)
    with unchanged(capfd):
        geoseg.train(tiles.folder, tmp_path / "run", model=MODEL, options=TRAIN)
    with unchanged(capfd):
        geoseg.predict(scene, tmp_path / "out", model=run.model, options=PREDICT)
    with unchanged(capfd):
        geoseg.vectorize(predicted.prob_path, tmp_path / "layer.gpkg")
    with unchanged(capfd):
        geoseg.evaluate(predicted.footprints_path, truth, tmp_path / "report")
    with unchanged(capfd), rasterio.open(scene) as source:
        grid = geoseg.Grid(source.crs, source.transform, source.height, source.width)
        geoseg.load_model(run.model, device="cpu").predict(source.read(), grid)
    with unchanged(capfd), pytest.raises(geoseg.errors.GeosegError):
        geoseg.predict(scene, tmp_path / "out", model=run.model, options=PREDICT)


def test_results_say_where_things_are(town, tiles, run, predicted, tmp_path):
    assert tiles.counts["train"] > 0
    assert tiles.shared_pixels == 0
    assert tiles.report.splits["train"].tiles == tiles.counts["train"]
    assert run.model.is_file()
    assert predicted.files == (
        predicted.prob_path, predicted.mask_path, predicted.footprints_path,
    )  # fmt: skip
    assert predicted.count == len(predicted.footprints)
    layer = geoseg.vectorize(predicted.prob_path, tmp_path / "again.parquet")
    assert layer.footprints.drop(columns="geometry").equals(
        predicted.footprints.drop(columns="geometry")
    )
    only_rasters = geoseg.predict(town[0], tmp_path / "prob.tif", model=run.model, options=PREDICT)
    assert only_rasters.files == (tmp_path / "prob.tif",)
    assert only_rasters.count is None
    with pytest.raises(ConfigError, match="no layer of footprints was written"):
        _ = only_rasters.footprints


def test_the_default_model_has_a_name(town, tmp_path):
    by_name = geoseg.predict(town[0], tmp_path / "named.tif", model="buildings", options=PREDICT)
    by_default = geoseg.predict(town[0], tmp_path / "default.tif", options=PREDICT)
    assert by_name.prob_path.read_bytes() == by_default.prob_path.read_bytes()


def test_an_array_is_predicted_as_its_file(town, run, predicted):
    model = geoseg.load_model(run.model, device="cpu")
    assert "pixelwise" in repr(model)
    with rasterio.open(town[0]) as source:
        image, valid = source.read(), source.dataset_mask() > 0
        grid = geoseg.Grid(source.crs, source.transform, source.height, source.width)
    with rasterio.open(predicted.prob_path) as source:
        stored, seen = source.read(), source.dataset_mask() > 0
    prob = model.predict(image, grid, valid=valid)
    assert prob.grid == grid
    assert np.array_equal(prob.valid, seen)
    assert np.array_equal(np.rint(prob.data * 255).astype(np.uint8), stored)
    found = geoseg.Probabilities(stored, grid, prob.bands, seen, prob.thresholds).footprints()
    assert found.geometry.to_wkb().tolist() == predicted.footprints.geometry.to_wkb().tolist()


def test_an_array_of_other_pixels_comes_back_on_the_grid_of_the_model(run):
    model = geoseg.load_model(run.model, device="cpu")
    town = build_town(90, 140, seed=5, gsd_m=1.0)
    prob = model.predict(town.image, town.grid)
    assert prob.grid.gsd_m == pytest.approx(model.spec.gsd_m)
    assert prob.data.shape == (len(model.spec.outputs), *prob.grid.shape)
    assert prob.band("building").max() <= 1


def test_arrays_that_do_not_suit_the_model_are_refused(run):
    model, town = geoseg.load_model(run.model, device="cpu"), build_town(64, 96, seed=5)
    with pytest.raises(InputShapeError, match=r"has shape \(3, 64, 95\), but must be"):
        model.predict(town.image[:, :, 1:], town.grid)
    with pytest.raises(InputShapeError, match="has 2 bands, but the model needs 3"):
        model.predict(town.image[:2], town.grid)
    with pytest.raises(GridMismatchError, match="is uint16, but the model was trained on uint8"):
        model.predict(town.image.astype(np.uint16), town.grid)
    with pytest.raises(InputShapeError, match="2 bands on this grid need"):
        geoseg.Probabilities(np.zeros((1, 64, 96)), town.grid, ("building", "border"))


def test_classes_in_memory_become_polygons(town):
    grid = build_town(64, 96, seed=5).grid
    data = np.zeros((3, 64, 96), np.float32)
    data[0], data[1, 10:30, 20:60], data[2, 40:50, :50] = 0.4, 0.9, 0.8
    prob = geoseg.Probabilities(
        data, grid, ("grass", "water", "field"), exclusive=True, background="grass"
    )
    found = prob.footprints()
    assert sorted(found["class"]) == ["field", "water"]
    with pytest.raises(KeyError, match="no band 'roof'; the bands are grass, water, field"):
        prob.band("roof")


def test_a_model_of_boxes_is_not_applied_to_arrays(run, tmp_path):
    spec = load_spec(run.model).model_dump() | {"arch": "retinanet", "encoder": "resnet18"}
    path = tmp_path / "boxes.safetensors"
    save_model(path, {"a": torch.zeros(1)}, ModelSpec.model_validate(spec))
    with pytest.raises(ModelFileError, match="finds boxes, not probabilities"):
        geoseg.load_model(path)


def test_the_configuration_of_the_crf_belongs_to_its_verb(town, predicted, run, tmp_path):
    crf = geoseg.CRFOptions(iterations=1, bilateral_sigma=5)
    options = geoseg.VectorizeOptions(crf=crf)
    with pytest.raises(ConfigError, match=r"vectorize\.crf: needs the colours of a scene"):
        geoseg.vectorize(predicted.prob_path, tmp_path / "a.gpkg", options=options)
    with pytest.raises(ConfigError, match=r"vectorize\.crf: applies only to geoseg vectorize"):
        geoseg.predict(town[0], tmp_path / "a", model=run.model, vectorize=options)
    refined = geoseg.vectorize(
        predicted.prob_path, tmp_path / "b.gpkg", options=options, scene=town[0]
    )
    assert refined.path.is_file()
