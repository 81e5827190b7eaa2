"""The recipes, run on a small town and started twice."""

import sys
from pathlib import Path

import pytest

from geoseg.config import load_config
from geoseg.errors import ConfigError
from geoseg.town import build_town, write_town

PIPELINES = Path(__file__).parents[1] / "pipelines"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(PIPELINES))
    import deepglobe_buildings

    yield deepglobe_buildings
    sys.modules.pop("deepglobe_buildings")


def test_deepglobe_buildings_runs_and_restarts(recipe, tmp_path):
    scene, labels = write_town(build_town(128, 320, seed=4), tmp_path / "town")
    config = load_config(
        "small",
        [
            *("tile.size=64", "train.epochs=1", "train.batch_size=2", "train.max_minutes=null"),
            *("model.options.aspp_channels=16", "train.precision=32-true"),
        ],
    )
    work = tmp_path / "work"
    f1 = recipe.run(scene, labels, [], work, config)
    outputs = {path: path.stat().st_mtime_ns for path in (work / "scenes").rglob("*.tif")}
    assert len(outputs) == 2
    model = (work / "run" / "model.safetensors").read_bytes()
    assert recipe.run(scene, labels, [], work, config) == f1
    assert (work / "run" / "model.safetensors").read_bytes() == model
    assert {path: path.stat().st_mtime_ns for path in outputs} == outputs


def test_two_scenes_of_one_name_are_refused(recipe, tmp_path):
    with pytest.raises(ConfigError, match="two scenes have one name"):
        recipe.run(
            tmp_path / "a" / "scene.tif", tmp_path / "truth.gpkg",
            [tmp_path / "b" / "scene.tif"], tmp_path / "work", load_config("small"),
        )  # fmt: skip
    assert not (tmp_path / "work").exists()
