"""What a dry run promises is what the run then takes; time and memory are only estimates."""

import numpy as np
import pytest
import rasterio

from geoseg.cli import progress
from geoseg.data.forecast import forecast_tiles
from geoseg.data.label_report import write_label_report
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.errors import SceneReadError
from geoseg.options import ClassOptions, TileOptions
from geoseg.town import build_town, write_town


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    write_town(build_town(700, 900, seed=5), folder)
    return folder / "scene.tif", folder / "footprints.gpkg"


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "options",
    [
        {"size": 64},
        {"size": 96, "overlap": 0, "keep_empty": 0.2, "split": "blocks", "block": 200},
        {"size": 256, "overlap": 64, "gap": 0},
    ],
)
def test_disk_is_forecast_within_30_percent(town, tmp_path, options):
    plan = plan_tiles([town[0]], town[1], TileOptions(seed=2, **options))
    forecast = forecast_tiles(plan)
    info = tile_scenes(plan, tmp_path / "tiles", finish=write_label_report)
    assert forecast.bytes == pytest.approx(size_of(tmp_path / "tiles"), rel=0.3)
    assert sum(forecast.tiles.values()) == pytest.approx(sum(info.tiles.values()), rel=0.3)
    assert set(forecast.tiles) == set(info.tiles)
    assert 0 < forecast.report_seconds < forecast.seconds
    assert forecast.memory is None or forecast.memory > 50e6


def test_no_tile_is_empty_where_the_first_class_is_learnt(town, tmp_path):
    with rasterio.open(town[0]) as scene:
        profile = scene.profile | {"count": 1}
    profile.pop("photometric", None)
    with rasterio.open(tmp_path / "mask.tif", "w", **profile | {"nodata": None}) as mask:
        mask.write(np.ones((1, *mask.shape), np.uint8))
    values = {"meadow": [1], "wood": [2]}
    options = TileOptions(size=64, keep_empty=0, classes=ClassOptions(values=values), gap=0)
    plan = plan_tiles([town[0]], tmp_path / "mask.tif", options)
    assert sum(forecast_tiles(plan).tiles.values()) > 0.8 * len(plan.tiles)


def test_a_scene_that_cannot_be_cut_is_told_of(town, tmp_path):
    scene = tmp_path / "scene.tif"
    scene.write_bytes(town[0].read_bytes())
    plan = plan_tiles([scene], town[1], TileOptions(size=64))
    scene.write_bytes(scene.read_bytes()[:5000])
    with pytest.raises(SceneReadError, match=r"scene\.tif"):
        forecast_tiles(plan)


def test_lines_say_how_fast_and_how_long(monkeypatch, capsys):
    clock = iter([100.0, 105.0, 112.0, 113.0, 150.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress_bar() as show:
        for done in (40, 60, 64, 66, 90):  # 40 were there when it began
            show(done, 100, "tiles")
    assert capsys.readouterr().err.splitlines() == [
        "tiles: 64/100, 2.0/s, 18 s left",
        "tiles: 90/100, 1.0/s, 10 s left",
    ]
