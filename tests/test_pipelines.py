"""The recipes, run on a small town and started twice."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

from geoseg.api.predict import predict_scenes
from geoseg.config import load_config
from geoseg.errors import ConfigError
from geoseg.jobs.workers import Workers
from geoseg.networks.model_file import load_spec
from geoseg.options import PredictOptions
from geoseg.town import build_town, write_town

PIPELINES = Path(__file__).parents[1] / "pipelines"

QUICK = (
    "tile.size=64", "tile.split=stripes", "tile.gap=0", "train.epochs=1", "train.batch_size=2",
    "train.workers=0", "train.precision=32-true", "predict.device=cpu", "train.device=cpu",
)  # fmt: skip


@pytest.fixture(params=["deepglobe_buildings", "land_cover"])
def recipe(request, monkeypatch):
    monkeypatch.syspath_prepend(str(PIPELINES))
    yield importlib.import_module(request.param)
    sys.modules.pop(request.param)


def settings(recipe):
    if recipe.__name__ == "deepglobe_buildings":
        return load_config(
            "deepglobe",
            [
                *QUICK, "tile.gsd_m=null", "model.encoder=tu-tf_efficientnet_lite0",
                "model.options={aspp_channels: 16, fusion: add}",
            ],
        )  # fmt: skip
    classes = (
        "{attribute: kind, values: {house: [house, l_shape, courtyard, hall], row: row_house}}"
    )
    return load_config(
        "land_cover",
        [
            *QUICK, f"tile.classes={classes}", "model.encoder=tu-tf_efficientnet_lite0",
            "predict.tta=none",
        ],
    )  # fmt: skip


def test_a_recipe_runs_on_workers_and_restarts(recipe, tmp_path):
    scene, labels = write_town(build_town(128, 320, seed=4, density=1.2), tmp_path / "town")
    other, _ = write_town(build_town(70, 90, seed=5), tmp_path / "other")
    other = other.rename(other.with_name("other.tif"))
    config, work = settings(recipe), tmp_path / "work"
    score = recipe.run([scene], labels, [other], work, config, workers=Workers(2))
    assert 0 <= score <= 1
    made = {path: path.stat().st_mtime_ns for path in (work / "scenes").rglob("[!.]*.*")}
    assert {path.parent.name for path in made} == {"scene", "other"}
    assert len(made) == 10  # three files and two styles of each scene
    spec = load_spec(work / "run" / "model.safetensors")
    assert spec.arch == config.model.arch
    assert spec.provenance["train"]["loss"] == (
        config.train.loss and config.train.loss.model_dump(mode="json")
    )
    model = (work / "run" / "model.safetensors").read_bytes()
    shutil.rmtree(work / "reports" / "scene")
    assert recipe.run([scene], labels, [other], work, config) == score
    assert (work / "reports" / "scene" / "report.json").is_file()
    assert (work / "run" / "model.safetensors").read_bytes() == model
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_only_predicted_scenes_are_left_as_they_are(tmp_path):
    scene, _ = write_town(build_town(70, 90, seed=5), tmp_path / "town")
    (tmp_path / "out" / "scene").mkdir(parents=True)  # empty, so nothing was predicted
    options = PredictOptions(device="cpu", footprints=False)
    for _ in range(2):
        (result,) = predict_scenes([scene], tmp_path / "out", options=options)
        assert [path.name for path in result.files] == ["prob.tif", "mask.tif"]
        assert all(path.is_file() for path in result.files)
        assert result.footprints_path is None
    (tmp_path / "out" / "scene" / "notes.txt").write_text("mine")
    predict_scenes([scene], tmp_path / "out", options=options)
    assert (tmp_path / "out" / "scene" / "notes.txt").read_text() == "mine"


def test_two_scenes_of_one_name_are_refused(tmp_path):
    scenes = [tmp_path / "a" / "scene.tif", tmp_path / "b" / "scene.tif"]
    with pytest.raises(ConfigError, match="two scenes are called scene, and their results"):
        predict_scenes(scenes, tmp_path / "out")
    assert not (tmp_path / "out").exists()
