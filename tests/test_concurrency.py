"""Two jobs on the same output at the same time: one finishes, the other is refused in one line."""

import multiprocessing
from functools import partial

import geopandas as gpd
import numpy as np
import pytest
import torch
from small_models import PIXELWISE

import geoseg
from geoseg.errors import GeosegError, OutputExistsError, OutputLockedError
from geoseg.geo.raster import Scene
from geoseg.jobs.manifest import find_foreign_file
from geoseg.networks.model_file import save_model
from geoseg.town import build_town, write_town

PAIRS = 10

# Processes that are forked from one that has imported everything, so that they start at once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        f"geoseg.api.{verb}"
        for verb in ("tile", "predict", "vectorize", "evaluate", "export", "train")
    ]
    + ["geoseg.prediction.scene_prediction", "geoseg.training.run", "small_models"]
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
    elif verb == "evaluate":
        geoseg.evaluate(inputs["footprints"], inputs["truth"], output)
    elif verb == "export":
        geoseg.export(inputs["model"], output)
    else:
        options = geoseg.TrainOptions(epochs=1, device="cpu", workers=0)
        model = geoseg.ModelOptions(arch="pixelwise")
        geoseg.train(inputs["tiles"], output, model=model, options=options)


def try_verb(verb, inputs, output, start, outcomes):
    start.wait()
    try:
        run_verb(verb, inputs, output)
        outcomes.put("finished")
    except (OutputLockedError, OutputExistsError) as error:
        outcomes.put(f"refused: {error}")
    except (GeosegError, OSError) as error:
        outcomes.put(f"failed: {error!r}")


def run_pair(verb, inputs, output):
    """Start two jobs at the same moment, and return how they ended."""
    start, outcomes = CONTEXT.Barrier(2), CONTEXT.SimpleQueue()
    pair = [
        CONTEXT.Process(target=try_verb, args=(verb, inputs, output, start, outcomes))
        for _ in range(2)
    ]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    return sorted(outcomes.get() for _ in pair)


def pixels(path):
    with Scene(path) as scene:
        return scene.read()[0]


def rows(path):
    layer = gpd.read_file(path)
    return layer.geometry.to_wkb().tolist(), layer.drop(columns="geometry").to_csv()


NAMES = {
    "tile": "tiles", "predict": "prob.tif", "vectorize": "layer.fgb", "evaluate": "report",
    "export": "model.json", "train": "run",
}  # fmt: skip


@pytest.mark.parametrize("verb", NAMES)
def test_of_two_jobs_one_finishes_and_one_is_refused(verb, inputs, tmp_path):
    name = NAMES[verb]
    run_verb(verb, inputs, tmp_path / name)
    ends = [run_pair(verb, inputs, tmp_path / f"{n}" / name) for n in range(PAIRS)]
    assert [[end.split(":")[0] for end in pair] for pair in ends] == [
        ["finished", "refused"]
    ] * PAIRS, ends
    assert all(len(pair[1].splitlines()) == 1 for pair in ends)
    for n in range(PAIRS):
        check_same(verb, tmp_path / name, tmp_path / f"{n}" / name)
        assert [path.name for path in (tmp_path / f"{n}").iterdir()] == [name]


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
    elif verb == "vectorize":
        assert rows(output) == rows(expected)
    elif verb == "evaluate":
        assert (output / "report.json").read_text() == (expected / "report.json").read_text()
    elif verb == "export":
        assert output.read_text() == expected.read_text()
    else:
        assert (output / "model.safetensors").stat().st_size > 0


def test_jobs_on_different_outputs_do_not_hinder_each_other(inputs, tmp_path):
    start, outcomes = CONTEXT.Barrier(2), CONTEXT.SimpleQueue()
    target = partial(try_verb, "vectorize", inputs)
    pair = [
        CONTEXT.Process(target=target, args=(tmp_path / f"{n}.fgb", start, outcomes))
        for n in range(2)
    ]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [outcomes.get() for _ in pair] == ["finished", "finished"]
