"""Checks before a prediction, and what a job depends on."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import small_models
import torch
from affine import Affine
from pools import WorkersOf
from small_models import PIXELWISE

from geoseg.api.predict import plan_predict, predict
from geoseg.errors import ConfigError, GridMismatchError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, list_files, write_array
from geoseg.networks.model_file import save_model
from geoseg.options import PredictOptions, Thresholds
from geoseg.prediction.memory import plan_memory
from geoseg.prediction.prediction_job import plan_job
from geoseg.vectorization.tasks import run_trace_task


def make_model(path, **changes):
    spec = PIXELWISE.model_copy(update=changes)
    weights = {
        "encoder.weight": torch.full((len(spec.outputs), 3, 1, 1), 0.3),
        "encoder.bias": torch.linspace(1.0, 1.5, len(spec.outputs)),
    }
    save_model(path, weights, spec)
    return path


def make_scene(path, height, width, gsd_m=0.5, seed=0):
    data = np.random.default_rng(seed).integers(60, 160, (3, height, width)).astype(np.uint8)
    grid = Grid(rasterio.CRS.from_epsg(32633), Affine(gsd_m, 0, 5e5, 0, -gsd_m, 5e6), height, width)
    write_array(path, grid, data, descriptions=("red", "green", "blue"))
    return path


@pytest.mark.parametrize("gsd_m", [0.7, 1.3])
def test_a_single_row_of_pixels_at_the_edge_is_filled(tmp_path, gsd_m):
    scene = make_scene(tmp_path / "scene.tif", 513, 100)
    model = make_model(tmp_path / "m.safetensors", gsd_m=gsd_m)
    predict(scene, tmp_path / "prob.tif", model=model, options=PredictOptions(device="cpu"))
    with Scene(tmp_path / "prob.tif") as prob:
        data, valid = prob.read()
    assert valid.all()
    assert data[0].min() > 100
    assert np.abs(data[:, -1].astype(int) - data[:, -2]).max() < 30


@pytest.mark.parametrize(
    ("changes", "what"), [({"dtype": "uint16"}, "dtype"), ({"classes": ("roof",)}, "classes")]
)
def test_models_of_other_data_types_or_classes_are_not_averaged(tmp_path, changes, what):
    scene = make_scene(tmp_path / "scene.tif", 70, 90)
    one = make_model(tmp_path / "one.safetensors")
    other = make_model(tmp_path / "other.safetensors", **changes)
    with pytest.raises(GridMismatchError, match=rf"other.safetensors: has {what} .*must agree"):
        plan_job(scene, [one, other])


def test_a_layer_without_footprints_is_refused(tmp_path):
    scene = make_scene(tmp_path / "scene.tif", 60, 90)
    model = make_model(tmp_path / "model.safetensors")
    options = PredictOptions(device="cpu", footprints=False)
    with pytest.raises(ConfigError, match=r"a\.gpkg: --rasters-only writes no footprints; use a f"):
        plan_predict(scene, tmp_path / "a.gpkg", model=model, options=options)
    for name in ("out", "prob.tif"):
        plan_predict(scene, tmp_path / name, model=model, options=options)


def test_an_assumed_pixel_size_without_effect_is_named(tmp_path, caplog):
    scene = make_scene(tmp_path / "scene.tif", 60, 90)
    model = make_model(tmp_path / "model.safetensors")
    options = PredictOptions(device="cpu", assume_gsd_m=0.2)
    job = plan_job(scene, [model], options)
    assert job.plan.grid.gsd_m == pytest.approx(0.5, rel=1e-3)
    assert "--assume-gsd has no effect, because the file has georeferencing" in caplog.text


def test_a_job_depends_on_the_sources_of_a_vrt(tmp_path):
    scene = make_scene(tmp_path / "scene.tif", 70, 90)
    vrt = tmp_path / "scene.vrt"
    with rasterio.open(scene) as source:
        rasterio.shutil.copy(source, vrt, driver="VRT")
    assert list_files(vrt) == [str(scene), str(vrt)]
    model = make_model(tmp_path / "m.safetensors")

    def name():
        return plan_predict(vrt, tmp_path / "out", model=model).key

    before = name()
    assert name() == before
    make_scene(scene, 70, 90, seed=1)
    assert name() != before


def test_batches_have_no_more_tiles_than_the_scene(tmp_path, monkeypatch):
    scene = make_scene(tmp_path / "scene.tif", 70, 90)
    model = make_model(tmp_path / "m.safetensors")
    sizes = []

    def spy(task, count=None):
        sizes.append(task.batch_size)
        return block(task, count)

    from geoseg.prediction.blocks import predict_block as block

    monkeypatch.setattr("geoseg.prediction.strips.predict_block", spy)
    options = PredictOptions(device="cpu", batch_size=500)
    predict(scene, tmp_path / "prob.tif", model=model, options=options)
    assert sizes == [4]


@pytest.mark.slow(reason="compiles a network in a process of its own")
def test_a_missing_compiler_is_reported(tmp_path):
    scene = make_scene(tmp_path / "scene.tif", 70, 90)
    # A network with layers that the compiler joins into kernels of its own.
    model = small_models.make_model(tmp_path / "m.safetensors", small_models.DEEPGLOBE)
    # A process of its own, because torch reads these variables when it is imported.
    empty = {name: str(tmp_path / "none") for name in ("PATH", "CXX", "TORCHINDUCTOR_CACHE_DIR")}
    words = ["predict", scene, "-m", model, "-o", tmp_path / "prob.tif", "--backend", "compile"]
    result = subprocess.run(
        [sys.executable, "-m", "geoseg", *map(str, words), "--device", "cpu"],
        capture_output=True, text=True, check=False, env=os.environ | empty,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert re.search(r"torch cannot compile here .* leave out --backend", result.stderr)
    assert not (tmp_path / "prob.tif").exists()


def test_interrupted_footprints_are_resumed(tmp_path, monkeypatch):
    # A limit below the process's own memory, so that footprints need several tasks.
    monkeypatch.setattr(
        "geoseg.prediction.blocks.plan_memory",
        lambda needs, limit, **most: plan_memory(needs, None, **most),
    )
    scene = make_scene(tmp_path / "scene.tif", 190, 260)
    model = make_model(tmp_path / "m.safetensors", thresholds=Thresholds(body=0.8, min_area_m2=0))
    done = []

    def run(function, tasks):
        for task in tasks:
            if function is run_trace_task and len(done) == 1:
                raise KeyboardInterrupt
            done.extend([task] if function is run_trace_task else [])
            yield function(task)

    def footprints(name, run):
        options = PredictOptions(device="cpu")
        output = tmp_path / name
        predict(
            scene,
            output,
            model=model,
            options=options,
            workers=WorkersOf(max_memory_gb=0.1, run=run),
        )
        return output.read_bytes()

    with pytest.raises(KeyboardInterrupt):
        footprints("cut.parquet", run)
    assert not (tmp_path / "cut.parquet").exists()
    first = done.copy()
    done[:] = [None, None]
    cut = footprints("cut.parquet", run)
    assert cut == footprints("whole.parquet", map)
    traced = [task.output.name for task in done[2:]]
    assert len(traced) >= 1
    assert first[0].output.name not in traced
