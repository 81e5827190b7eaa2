"""Training to the very end, on tiles of several scenes, with every picture of a run."""

from pathlib import Path

import geopandas as gpd
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from conftest import write_scene

import geoseg.training.finishing
import geoseg.training.history
import geoseg.training.loading.loaders
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.detection.box_learner import BOX_RECIPE
from geoseg.networks.model_file import load_model
from geoseg.options import ClassOptions, ModelOptions, TileOptions, TrainOptions
from geoseg.training.dataset import TileDataset, tile_corners
from geoseg.training.finishing import separate_tiles
from geoseg.training.run import train

PIXELWISE = ModelOptions(arch="pixelwise", encoder_weights=None)
BOXES = ModelOptions(
    arch="retinanet", encoder="resnet18", encoder_weights=None, options={"channels": 8}
)
OPTIONS = TrainOptions(
    epochs=1, batch_size=2, precision="32-true", device="cpu", augment="none", lr=0.02
)
CLASSES = ClassOptions(attribute="label", values={"house": (1,), "shed": (2,)})


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(geoseg.training.loading.loaders, "_LEAST_STEPS", 2)


@pytest.fixture(scope="module")
def make_tiles(tmp_path_factory):
    """A function that tiles three scenes and validates on at least two of them."""
    folder, x = tmp_path_factory.mktemp("scenes"), 500_000.0
    made = [
        write_scene(folder, name, seed=seed, origin=(x + 500 * seed, 3_000_000.0))
        for seed, name in enumerate(("a", "b", "c"))
    ]

    labels = folder / "labels.gpkg"
    pd.concat([gpd.read_file(one.labels) for one in made]).to_file(labels)

    def make(name, **options):
        chosen = TileOptions(
            split="blocks", block=64, gap=0, overlap=0, fractions=(0.4, 0.4, 0.2), **options
        )
        plan = plan_tiles([one.path for one in made], labels, chosen)
        tile_scenes(plan, folder / name)
        tiles = TileDataset(folder / name, "val").tiles
        assert tiles.scene.nunique() > 1
        return folder / name

    return make


@pytest.mark.parametrize(
    ("model", "options", "pictures"),
    [
        (PIXELWISE, {"size": 32}, {"curves.png", "validation.png", "reliability.png"}),
        (PIXELWISE, {"size": 32, "classes": CLASSES}, {"curves.png", "validation.png"}),
        (BOXES, {"size": 64}, {"curves.png"}),
    ],
    ids=["buildings", "classes", "boxes"],
)
def test_a_run_on_several_scenes_reaches_its_end(
    make_tiles, tmp_path, request, model, options, pictures
):
    folder = make_tiles(request.node.callspec.id, **options)
    recipe = BOX_RECIPE if model is BOXES else None
    result = train(folder, tmp_path / "run", model=model, options=OPTIONS, recipe=recipe)
    spec, weights = load_model(result.model)
    assert weights
    assert sorted(spec.provenance["scenes"]) == ["a.tif", "b.tif", "c.tif"]
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == pictures
    for name in pictures:
        assert min(matplotlib.image.imread(tmp_path / "run" / name).shape[:2]) > 100


def test_pictures_that_fail_are_warnings_and_the_model_is_saved_first(
    make_tiles, tmp_path, monkeypatch, caplog
):
    model = tmp_path / "run" / "model.safetensors"
    existed = {}

    def fail(*given, **_):
        path = given[-1]
        existed[path.name] = model.is_file()
        raise ZeroDivisionError("no ink")

    monkeypatch.setattr(geoseg.training.history, "draw_curves", fail)
    for name in ("draw_outlined", "draw_reliability"):
        monkeypatch.setattr(geoseg.training.finishing, name, fail)
    result = train(make_tiles("ink", size=32), tmp_path / "run", model=PIXELWISE, options=OPTIONS)
    load_model(result.model)
    assert not list((tmp_path / "run").glob("*.png"))
    assert existed == {"curves.png": True, "validation.png": True, "reliability.png": True}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    # The curves are drawn after the first epoch, too.
    assert sorted(Path(line.split(": ")[0]).name for line in warnings) == [
        "curves.png", "curves.png", "reliability.png", "validation.png",
    ]  # fmt: skip
    assert all(line.endswith(": the picture was not drawn: no ink") for line in warnings)


def test_separate_tiles_of_several_scenes_are_rows_of_the_dataset(make_tiles):
    tiles = TileDataset(make_tiles("separate", size=32), "val")
    # Tiles that share no pixels are all separate, whatever their rows.
    assert separate_tiles(tiles, range(len(tiles))) == list(range(len(tiles)))
    some = list(range(1, len(tiles), 2))
    assert separate_tiles(tiles, some) == some


def test_corners_of_tiles_are_positions(make_tiles):
    tiles = TileDataset(make_tiles("corners", size=32), "val").tiles
    rows = tiles[tiles.scene == tiles.scene.iloc[-1]]
    assert rows.index[0] > 0
    corners = tile_corners(rows)
    assert isinstance(corners, np.ndarray)
    assert corners.shape == (len(rows), 4)
    assert (corners.min(axis=0)[:2] == 0).all()
    assert (corners[:, 2:] - corners[:, :2] == 32).all()
