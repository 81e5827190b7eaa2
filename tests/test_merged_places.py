"""Several places of which some have labels that merge touching buildings: they have no score."""

import csv
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import X, Y, write_scene

from geoseg.cli import main
from geoseg.cli.train import _describe_places
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.detection.box_arrays import Boxes
from geoseg.detection.box_dataset import BoxDataset
from geoseg.detection.scoring import build_areas, tune_boxes
from geoseg.evaluation.metrics import Score
from geoseg.evaluation.place_scores import mean_f1
from geoseg.networks.model_file import load_spec
from geoseg.options import Thresholds, TileOptions, TrainOptions
from geoseg.training.dataset import TileDataset
from geoseg.training.finishing import finish
from geoseg.training.segmenter import Segmenter
from geoseg.training.validation.areas import ValidationAreas
from geoseg.training.validation.merged_labels import (
    add_not_counted,
    count_buildings_in,
    describe_merged,
    list_counted_places,
    measure_merged_f1,
)
from geoseg.training.validation.tuning import Tuned
from tests.test_place_scores import HOUSES, Bright, validate


@pytest.fixture(autouse=True, scope="module")
def few_candidates():
    """Fewer thresholds to try."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geoseg.training.validation.tuning._CANDIDATES", {"body": (0.4, 0.6)})
        yield


@pytest.fixture(scope="module")
def partly_merged(tmp_path_factory):
    """Tiles of a town, of one with merged labels, of both kinds in one place, and of a desert.

    In the place with both kinds, the scene with separate labels has no buildings.
    """
    folder = tmp_path_factory.mktemp("merged")
    far = {"height": 96, "width": 320}
    made = [
        write_scene(folder, "rio", buildings=HOUSES, **far),
        write_scene(folder, "accra", buildings=HOUSES, seed=1, crs="EPSG:32644", **far),
        write_scene(folder, "lima", buildings=HOUSES, seed=2, crs="EPSG:32643", **far),
        write_scene(
            folder, "lima-b", buildings=(), seed=3, crs="EPSG:32643",
            origin=(X + 500, Y), **far,
        ),
        write_scene(folder, "desert", buildings=(), seed=4, crs="EPSG:32642", **far),
    ]  # fmt: skip
    options = TileOptions(
        size=32, gap=0, overlap=16, fractions=(0.4, 0.5, 0.1), merged=("accra.tif", "lima.tif")
    )
    plan = plan_tiles([one.path for one in made], str(folder / "{}.gpkg"), options)
    tile_scenes(plan, folder / "tiles")
    return folder / "tiles"


def bright(data, _valid):
    """A network that finds bright pixels: all buildings."""
    body = np.where(data[:, :1] > 79.5, 0.9, 0.1).astype(np.float32)
    return np.concatenate([body, np.full_like(body, 0.05)], axis=1)


def test_a_place_with_merged_labels_is_not_one_without_buildings(partly_merged, monkeypatch):
    tiles = TileDataset(partly_merged, "val")
    monkeypatch.setattr("geoseg.training.finishing.Predictor", lambda *_: bright)
    tuned = finish(SimpleNamespace(exclusive=False), {}, "cpu", tiles)
    assert list(tuned.places) == ["rio", "lima", "desert"]
    assert tuned.f1 == mean_f1(list(tuned.places.values())) == tuned.places["rio"].f1 == 1
    assert list(tuned.merged_places) == ["accra", "lima"]
    accra, lima = tuned.merged_places.values()
    assert accra.tp > 20
    assert accra.fn == lima.fn == 0
    assert tuned.merged_f1 == (accra.f1 + lima.f1) / 2
    assert tuned.describe_places() == {
        "val_f1_by_place": {"rio": 1.0, "desert": None},
        "val_f1_merged_by_place": {"accra": round(accra.f1, 4), "lima": round(lima.f1, 4)},
    }


def test_boxes_leave_out_the_same_places(partly_merged, monkeypatch):
    tiles = BoxDataset(partly_merged, "val")
    found = [
        tiles[index]["boxes"][tiles[index]["is_target"]].numpy() for index in range(len(tiles))
    ]
    given = iter(Boxes(one.astype(np.float64), np.full(len(one), 0.9)) for one in found)
    monkeypatch.setattr(
        "geoseg.detection.scoring.BoxPredictor",
        lambda *_: lambda data, _valid: [next(given) for _ in data],
    )
    tuned = tune_boxes(None, {}, "cpu", tiles)
    assert list(tuned.places) == ["rio", "lima", "desert"]
    assert list(tuned.merged_places) == ["accra", "lima"]
    accra, lima = tuned.merged_places.values()
    assert accra.tp > 20
    assert tuned.merged_f1 == (accra.f1 + lima.f1) / 2
    assert tuned.f1 == tuned.places["rio"].f1 > 0.6
    (note,) = tuned.notes
    assert note.startswith(f"building F1 {tuned.merged_f1:.3f} where labels merge")


def test_columns_of_merged_places(partly_merged):
    tiles = TileDataset(partly_merged, "val")
    info = tiles.info.model_copy(update={"mean": (60.0,) * 3, "std": (20.0,) * 3})
    module = Segmenter(
        Bright(), info, TrainOptions(), areas=ValidationAreas(tiles), places=tiles.places
    )
    logged = validate(module, tiles, list(range(len(tiles))))
    assert [name for name in logged if "[" in name] == [
        "val_iou[rio]", "val_iou[accra]", "val_iou[lima]", "val_f1[rio]"
    ]  # fmt: skip
    assert logged["val_f1"] == logged["val_f1[rio]"]
    ious = [logged[f"val_iou[{name}]"] for name in ("rio", "accra", "lima")]
    assert logged["val_iou"] == pytest.approx(sum(ious) / 3)


def area_with(merged, place, count):
    return SimpleNamespace(merged=merged, place=place, truth=[None] * count)


def test_merged_scores_by_hand():
    areas = [area_with(True, 1, 9), area_with(False, 0, 5), area_with(True, 1, 3),
             area_with(True, 2, 2)]  # fmt: skip
    scores = [Score(6, 1, 3), Score(5, 0, 0), Score(2, 1, 1), Score(1, 1, 1)]
    merged = add_not_counted(areas, scores)
    assert merged == {1: Score(8, 2, 4), 2: Score(1, 1, 1)}
    assert measure_merged_f1(merged) == pytest.approx(
        (16 / 22 * 12 / 62 + 0.5 * 2 / 52) / (12 / 62 + 2 / 52)
    )
    assert list_counted_places(areas) == [0]
    # Without separate buildings the merged ones count, and nothing is left out.
    areas[1] = area_with(False, 0, 0)
    assert add_not_counted(areas, scores) == {}
    assert list_counted_places(areas) == [0, 1, 2]
    (note,) = describe_merged(areas, None)
    assert note.startswith("all labelled buildings of the validation tiles are in scenes whose")


def test_merged_labels_without_buildings_have_no_score():
    areas = [area_with(False, 0, 5), area_with(True, 1, 0)]
    merged = add_not_counted(areas, [Score(5, 0, 0), Score(0, 3, 0)])
    assert measure_merged_f1(merged) is None
    assert describe_merged(areas, None) == ()
    tuned = Tuned(
        Thresholds(), 1.0, places={"rio": Score(5, 0, 0)}, merged_places={"accra": merged[1]}
    )
    assert tuned.describe_places()["val_f1_merged_by_place"] == {"accra": None}


@pytest.mark.parametrize(
    ("places", "merged", "text"),
    [
        ({}, {}, ""),
        (
            {"rio": Score(8, 2, 2)}, {"accra": Score(4, 0, 0), "kano": Score(0, 2, 0)},
            " (weighted mean of rio 0.800; accra, kano not counted, merged labels)",
        ),
        (
            {"rio": Score(8, 2, 2), "lima": Score(0, 3, 0), "desert": Score(0, 0, 0)},
            {"rio": Score(1, 0, 0), "lima": Score(4, 0, 0)},
            " (weighted mean of rio 0.800; false buildings where there are none: lima 3, desert 0; "
            "lima not counted, merged labels)",
        ),
        (
            {"rio": Score(8, 2, 2), "lima": Score(0, 0, 0)}, {"lima": Score(4, 0, 0)},
            " (weighted mean of rio 0.800; lima not counted, merged labels)",
        ),
    ],
)  # fmt: skip
def test_the_last_line_keeps_merged_places_apart(places, merged, text):
    assert _describe_places(places, merged) == text


def test_boxes_of_other_splits_do_not_hide_merged_labels(tmp_path):
    # The scene with separate labels has houses in the west, which is its training area.
    west = [box for box in HOUSES if box[2] < 96]
    far = {"height": 96, "width": 320}
    made = [
        write_scene(tmp_path, "rio", buildings=west, **far),
        write_scene(tmp_path, "accra", buildings=HOUSES, crs="EPSG:32644", **far),
    ]
    options = TileOptions(size=32, gap=0, fractions=(0.4, 0.5, 0.1), merged=("accra.tif",))
    plan = plan_tiles([one.path for one in made], str(tmp_path / "{}.gpkg"), options)
    tile_scenes(plan, tmp_path / "tiles")
    assert (
        not TileDataset(tmp_path / "tiles", "val")
        .tiles.query("scene.str.contains('rio') and building_fraction > 0")
        .size
    )
    rio, accra = build_areas(BoxDataset(tmp_path / "tiles", "val"))
    assert (len(rio.truth), accra.merged) == (0, True)
    assert count_buildings_in([rio, accra]) == [True, True]
    pixel_areas = ValidationAreas(TileDataset(tmp_path / "tiles", "val"))
    pixel_areas.predict(bright)
    assert sorted(len(one.truth) for one in pixel_areas.areas()) == [0, len(accra.truth)]


def test_a_run_keeps_merged_places_apart(partly_merged, tmp_path, capsys, monkeypatch):
    words = ["model.arch=pixelwise", "model.encoder_weights=none", "train.epochs=1"]
    settings = [part for word in [*words, "train.device=cpu"] for part in ("--set", word)]
    run = tmp_path / "run"
    monkeypatch.setattr(
        sys, "argv", ["geoseg", "train", str(partly_merged), "-o", str(run), *settings]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed = capsys.readouterr()
    assert re.search(
        r"val building F1 (\d\.\d{3}) \(weighted mean of rio \1; false buildings where there are "
        r"none: (lima \d+, )?desert \d+; accra, lima not counted, merged labels\) → ",
        printed.out.strip().splitlines()[-1],
    )
    provenance = load_spec(run / "model.safetensors").provenance
    assert list(provenance["val_f1_by_place"]) == ["rio", "desert"]
    merged = provenance["val_f1_merged_by_place"]
    assert list(merged) == ["accra", "lima"]
    assert provenance["val_f1_merged"] == pytest.approx(sum(merged.values()) / 2, abs=1e-4)
    with (run / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert [name for name in row if "[" in name] == [
        "val_iou[rio]", "val_iou[accra]", "val_iou[lima]", "val_f1[rio]"
    ]  # fmt: skip
    assert row["val_f1"] == row["val_f1[rio]"]
