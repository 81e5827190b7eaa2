"""Two jobs on the same output at the same time: one finishes, the other is refused in one line."""

import json
import multiprocessing
import sys

import geopandas as gpd
import numpy as np
import pytest
import torch
from small_models import PIXELWISE

import geoseg
from geoseg.errors import OutputExistsError, OutputLockedError
from geoseg.geo.raster import Scene
from geoseg.jobs.manifest import find_foreign_file
from geoseg.networks.model_file import save_model
from geoseg.town import build_town, write_town

# The output of each verb.
NAMES = {
    "tile": "tiles", "predict": "prob.tif", "vectorize": "layer.fgb", "align": "aligned.fgb",
    "evaluate": "report", "export": "model.json", "train": "run",
}  # fmt: skip

# Processes that are forked from one that has imported everything, so that they start at once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        f"geoseg.api.{verb}"
        for verb in ("tile", "predict", "vectorize", "align", "evaluate", "export", "train")
    ]
    + ["geopandas", "geoseg.prediction.scene_prediction", "geoseg.town", "geoseg.training.run"]
    + ["geoseg.networks.export", "geoseg.vectorization.layer"]
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A scene, its footprints, a model, its probabilities, and tiles."""
    folder = tmp_path_factory.mktemp("inputs")
    scene, truth = write_town(build_town(200, 330, seed=6, density=1.2), folder)
    model = folder / "model.safetensors"
    weights = {
        "encoder.weight": torch.full((len(PIXELWISE.outputs), 3, 1, 1), 0.3),
        "encoder.bias": torch.linspace(0.2, 0.4, len(PIXELWISE.outputs)),
    }
    save_model(model, weights, PIXELWISE)
    options = geoseg.PredictOptions(device="cpu")
    predicted = geoseg.predict(scene, folder / "out", model=model, options=options)
    tiles = geoseg.tile(
        scene, truth, folder / "tiles",
        options=geoseg.TileOptions(size=64, gap=0, fractions=(0.6, 0.2, 0.2)),
    )  # fmt: skip
    return {
        "scene": str(scene), "truth": str(truth), "model": str(model),
        "prob": str(predicted.prob_path), "footprints": str(predicted.footprints_path),
        "tiles": str(tiles.folder),
    }  # fmt: skip


def run_verb(verb, inputs, output):
    """Run a verb with small inputs."""
    if verb == "tile":
        options = geoseg.TileOptions(size=64, gap=0, fractions=(0.6, 0.2, 0.2))
        geoseg.tile(inputs["scene"], inputs["truth"], output, options=options)
    elif verb == "predict":
        options = geoseg.PredictOptions(device="cpu")
        geoseg.predict(inputs["scene"], output, model=inputs["model"], options=options)
    elif verb == "vectorize":
        geoseg.vectorize(inputs["prob"], output)
    elif verb == "align":
        geoseg.align(inputs["truth"], output, prob=inputs["prob"])
    elif verb == "evaluate":
        geoseg.evaluate(inputs["footprints"], inputs["truth"], output)
    elif verb == "export":
        geoseg.export(inputs["model"], output)
    else:
        options = geoseg.TrainOptions(epochs=1, device="cpu", workers=0)
        model = geoseg.ModelOptions(arch="pixelwise")
        geoseg.train(inputs["tiles"], output, model=model, options=options)


def try_verb(verb, inputs, output, start):
    """Run a verb; the exit code is 0, or 2 if the output is locked or exists."""
    start.wait(timeout=120)
    try:
        run_verb(verb, inputs, output)
    except (OutputLockedError, OutputExistsError):
        sys.exit(2)


def run_pair(*jobs):
    """Start jobs at the same moment, and return their exit codes in order."""
    start = CONTEXT.Barrier(len(jobs))
    processes = [CONTEXT.Process(target=try_verb, args=(*job, start)) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    return sorted(process.exitcode for process in processes)


def pixels(path):
    with Scene(path) as scene:
        return scene.read()[0]


def rows(path):
    layer = gpd.read_file(path)
    return layer.geometry.to_wkb().tolist(), layer.drop(columns="geometry").to_csv()


@pytest.mark.parametrize(
    "pairs", [1, pytest.param(10, marks=pytest.mark.slow(reason="a minute per verb"))]
)
@pytest.mark.parametrize("verb", NAMES)
def test_of_two_jobs_one_finishes_and_one_is_refused(verb, inputs, tmp_path, pairs):
    name = NAMES[verb]
    run_verb(verb, inputs, tmp_path / name)
    codes = []
    for n in range(pairs):
        job = (verb, inputs, tmp_path / f"{n}" / name)
        codes.append(run_pair(job, job))
    assert codes == [[0, 2]] * pairs
    for n in range(pairs):
        check_same(verb, tmp_path / name, tmp_path / f"{n}" / name)
        style = {"prob.qml"} if verb == "predict" else set()
        assert {path.name for path in (tmp_path / f"{n}").iterdir()} == {name} | style


def check_same(verb, expected, output):
    """Check that an output is complete, and that of a job that ran alone."""
    if output.is_dir():
        assert find_foreign_file(output) is None
        files = {path.name for path in expected.iterdir()}
        assert {path.name for path in output.iterdir()} == files
    if verb == "tile":
        for tile in (expected / "images").iterdir():
            assert (output / "images" / tile.name).read_bytes() == tile.read_bytes()
    elif verb == "predict":
        assert np.array_equal(pixels(output), pixels(expected))
    elif verb in ("vectorize", "align"):
        assert rows(output) == rows(expected)
    elif verb == "evaluate":
        assert (output / "report.json").read_text() == (expected / "report.json").read_text()
    elif verb == "export":
        made, alone = (json.loads(path.read_text()) for path in (output, expected))
        for item, path in ((made, output), (alone, expected)):  # paths are relative to the item
            weights = item["assets"]["weights"]
            weights["href"] = str((path.parent / weights["href"]).resolve())
        assert made == alone
    else:
        assert (output / "model.safetensors").stat().st_size > 0


def test_jobs_on_different_outputs_do_not_hinder_each_other(inputs, tmp_path):
    jobs = [("vectorize", inputs, tmp_path / f"{n}.fgb") for n in range(2)]
    assert run_pair(*jobs) == [0, 0]
