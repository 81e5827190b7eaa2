"""The examples of docs/python.md, run in their order."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import rasterio

from geoseg.town import build_town, write_town

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The names that the examples define, and the folder that they ran in."""
    mpl.use("Agg")
    folder = tmp_path_factory.mktemp("examples")
    town = build_town(192, 320, seed=11, gsd_m=0.3, density=1.2)
    scene, footprints = write_town(town, folder)
    footprints.rename(folder / "buildings.gpkg")
    scene.rename(folder / "scene.tif")
    (folder / "scenes").mkdir()
    with rasterio.open(folder / "scene.tif") as source:
        for name, left in (("east", 140), ("west", 0)):
            window = rasterio.windows.Window(left, 0, 180, source.height)
            profile = source.profile | {
                "width": 180, "transform": source.window_transform(window),
            }  # fmt: skip
            with rasterio.open(folder / "scenes" / f"{name}.tif", "w", **profile) as sink:
                sink.write(source.read(window=window))
                sink.descriptions = source.descriptions
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert len(examples) == 10
    defined = {"__name__": "examples", "folder": folder}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, example in enumerate(examples):
            exec(compile(example, f"example {number}", "exec"), defined)
    return defined


def test_a_scene_becomes_footprints(names):
    folder, result = names["folder"], names["result"]
    assert (folder / "out" / "footprints.gpkg").is_file()
    assert (folder / result.prob_path).is_file()
    assert names["tiles"].shared_pixels == 0
    assert 0 <= names["report"].f1 <= 1
    assert names["layer"].count == len(names["layer"].footprints)
    assert names["aligned"].summary.polygons == len(names["aligned"].footprints)


def test_arrays_give_the_same_probabilities_as_files(names):
    with rasterio.open(names["folder"] / "out" / "prob.tif") as source:
        stored = source.read(1).astype(int)
    prob = names["prob"]
    assert prob.grid == names["grid"]
    assert np.abs(np.rint(prob.band("building") * 255).astype(int) - stored).max() <= 1
    assert len(prob.footprints()) > 0
    assert names["own"].footprints().area_m2.min() > 0


def test_processes_write_the_same_bytes(names):
    folder = names["folder"]
    alone = names["geoseg"].predict(folder / "scene.tif", folder / "alone.tif")
    assert alone.prob_path.read_bytes() == (folder / "two_processes.tif").read_bytes()


def test_scenes_and_shards_give_one_layer(names, monkeypatch):
    monkeypatch.chdir(names["folder"])
    folder, town, merged = names["folder"], names["town"], names["merged"]
    alone = names["geoseg"].predict(folder / "scene.tif", folder / "alone.gpkg")
    assert town.left_out == {}
    assert set(town.footprints["scene"]) <= {"east", "west"}
    assert len(town.footprints) > 0
    for many in (town, merged):
        assert many.footprints.geometry.to_wkb().tolist() == (
            alone.footprints.geometry.to_wkb().tolist()
        )


def test_errors_are_one_line_and_nothing_is_written(names, tmp_path):
    geoseg = names["geoseg"]
    with pytest.raises(geoseg.errors.GeosegError) as caught:
        geoseg.predict(tmp_path / "missing.tif", tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert not (names["folder"] / "nothing").exists()
