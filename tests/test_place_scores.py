"""Scores of several places: each counts equally, in validation, tuning and calibration."""

import csv
import re
import shutil
import sys
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from conftest import write_scene
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import expit
from torch import nn

import geoseg.training.history
from geoseg.cli import main
from geoseg.data.tiles import TilesInfo, load_tiles_info, plan_tiles, tile_scenes
from geoseg.detection.box_arrays import Boxes
from geoseg.detection.box_dataset import BoxDataset
from geoseg.detection.scoring import build_areas, score_boxes
from geoseg.evaluation.metrics import AreaCounts, Confusion, Score
from geoseg.evaluation.place_scores import (
    mean_building_f1,
    mean_class_scores,
    mean_f1,
    mean_iou,
)
from geoseg.networks.model_file import load_spec
from geoseg.options import ModelOptions, Thresholds, TileOptions, TrainOptions
from geoseg.training.checkpoints import describe_run
from geoseg.training.dataset import TileDataset
from geoseg.training.figures import draw_curves
from geoseg.training.places import Places
from geoseg.training.run import train
from geoseg.training.score_names import is_place_column, list_place_columns, tracker_name
from geoseg.training.segmenter import Segmenter
from geoseg.training.state_file import COLUMNS, HistoryState
from geoseg.training.validation.area_choice import choose_by_place, extent_px, iter_groups
from geoseg.training.validation.areas import MOST_PIXELS, ValidationAreas
from geoseg.training.validation.calibration import calibrate, calibrate_counts, count_logits
from geoseg.training.validation.tuning import tune_thresholds

HOUSES = [(x, y, x + 12, y + 9) for y in range(6, 84, 22) for x in range(5, 300, 24)]

counts = st.builds(Score, st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))


# Means


def test_means_by_hand():
    places = [Score(8, 2, 2), Score(1, 3, 1)]
    assert mean_f1(places) == pytest.approx((0.8 + 2 / 6) / 2)
    assert mean_iou(places) == pytest.approx((8 / 12 + 1 / 5) / 2)
    # Six false buildings where there are none: half a false one per true one, 5 and 1.
    desert = [*places, Score(0, 6, 0)]
    assert mean_f1(desert) == pytest.approx((16 / (16 + 2 + 2 + 5) + 2 / (2 + 3 + 1 + 1)) / 2)
    # Of buildings, places of 10 and 2 have the weights 10 / 60 and 2 / 52.
    weighted = (0.8 * 10 / 60 + 2 / 6 * 2 / 52) / (10 / 60 + 2 / 52)
    assert mean_building_f1(places) == pytest.approx(weighted)
    for mean in (mean_f1, mean_iou, mean_building_f1):
        assert mean([]) == mean([Score(0, 3, 0)]) == mean([Score(0, 0, 0)]) == 0


def test_large_places_count_alike_and_a_few_buildings_hardly():
    towns = [Score(4000, 1000, 1000), Score(900, 300, 300)]
    assert mean_building_f1(towns) == pytest.approx(mean_f1(towns), abs=0.002)
    hamlets = [Score(4, 0, 0), Score(0, 4, 4)]
    scores = [mean_building_f1([*towns, hamlet]) for hamlet in hamlets]
    assert abs(scores[0] - scores[1]) < 0.04 < abs(mean_f1([towns[0], hamlets[0]]) - 0.8) / 2


@given(counts)
def test_a_single_place_has_its_own_scores(one):
    assert (mean_f1([one]), mean_iou([one])) == (one.f1, one.iou)
    assert mean_building_f1([one]) == pytest.approx(one.f1)
    confusion = Confusion(np.array([[9, one.fp], [one.fn, one.tp]]))
    assert mean_class_scores([confusion]) == (confusion.mean_iou, confusion.mean_f1)


@given(st.lists(counts, min_size=1, max_size=6), st.integers(1, 30))
def test_false_buildings_anywhere_lower_the_score_and_empty_places_do_not(places, more):
    for mean in (mean_f1, mean_iou, mean_building_f1):
        score = mean(places)
        assert mean([*places, Score(0, 0, 0)]) == pytest.approx(score)
        worse = mean([*places, Score(0, more, 0)])
        assert worse < score or score == worse == 0
        assert mean(places[::-1]) == pytest.approx(score)


@given(st.lists(counts, min_size=2, max_size=5), st.integers(2, 1000))
def test_the_size_of_a_place_does_not_matter(places, times):
    # Where every place has buildings; false ones elsewhere are distributed by their number.
    places = [Score(one.tp + 1, one.fp, one.fn) for one in places]
    first = places[0]
    larger = Score(first.tp * times, first.fp * times, first.fn * times)
    assert mean_f1([larger, *places[1:]]) == pytest.approx(mean_f1(places))


def test_a_class_is_scored_where_it_occurs():
    # The second place has no class 2, and takes 2 of its pixels for it.
    one = Confusion(np.array([[6, 0, 2], [0, 0, 0], [1, 0, 7]]))
    two = Confusion(np.array([[8, 0, 2], [0, 0, 0], [0, 0, 0]]))
    iou, f1 = mean_class_scores([one, two])
    assert iou == pytest.approx(((6 / 9 + 8 / 10) / 2 + 7 / (8 + 2 + 2)) / 2)
    assert f1 == pytest.approx(((12 / 15 + 16 / 18) / 2 + 14 / (14 + 1 + 2 + 2)) / 2)


# Validation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiles of a town, of a village and of a desert."""
    folder = tmp_path_factory.mktemp("places")
    far = {"crs": "EPSG:32644", "height": 96, "width": 192}
    made = [
        write_scene(folder, "town", height=96, width=320, buildings=HOUSES),
        write_scene(folder, "village", buildings=HOUSES[::2], seed=1, **far),
        write_scene(folder, "desert", origin=(900_000.0, 1e6), height=64, width=96, buildings=()),
    ]
    options = TileOptions(size=32, gap=0, overlap=16, fractions=(0.4, 0.5, 0.1))
    plan = plan_tiles([one.path for one in made], str(folder / "{}.gpkg"), options)
    tile_scenes(plan, folder / "tiles")
    return folder / "tiles"


@pytest.fixture(scope="module")
def tiles(folder):
    return TileDataset(folder, "val")


def test_statistics_of_each_place_are_stored(folder):
    info = load_tiles_info(folder)
    table = pd.read_parquet(folder / "tiles.parquet")
    assert [one.name for one in info.place_bands] == ["town", "village", "desert"]
    for place in info.place_bands:
        scenes = [scene for scene, name in info.scene_places.items() if name == place.name]
        pixels = []
        for id_ in table.id[(table.split == "train") & table.scene.isin(scenes)]:
            with rasterio.open(folder / "images" / f"{id_}.tif") as image:
                pixels.append(image.read()[:, image.dataset_mask() > 0])
        used = np.concatenate(pixels, axis=1)
        assert place.mean == pytest.approx(used.mean(axis=1), abs=1e-5)
        assert place.std == pytest.approx(used.std(axis=1), abs=1e-3)


def good_in_town(tiles):
    """Predict buildings in the town, half of them in the village, and a false one in the desert."""

    def predict(data, _valid):
        prob = np.zeros((len(data), 2, 32, 32), np.float32) + 0.1
        for number, image in enumerate(data):
            index = next(i for i in range(len(tiles)) if (tiles[i]["image"].numpy() == image).all())
            place = tiles.places.names[tiles.places.of_tile[index]]
            found = image[0] > 79.5
            if place == "village":
                found &= np.arange(32)[:, None] + tiles.tiles.row_off[index] < 40
            if place == "desert":
                found = np.zeros_like(found)
                found[4:20, 6:26] = True
            prob[number, 0][found] = 0.9
        return prob

    return predict


@pytest.fixture(scope="module")
def areas(tiles):
    areas = ValidationAreas(tiles)
    areas.predict(good_in_town(tiles))
    return areas


THRESHOLDS = Thresholds(regularize=False)


def test_areas_are_counted_by_place(areas):
    assert areas.places.names == ("town", "village", "desert")
    places = areas.score_places(THRESHOLDS)
    by_hand = {place: [Score(0, 0, 0), AreaCounts(0.0, 0.0, 0.0)] for place in range(3)}
    for area in areas.areas():
        evaluation = area.evaluate(THRESHOLDS)
        by_hand[area.place][0] += evaluation.score
        by_hand[area.place][1] += evaluation.area / area.grid.pixel_area
    assert [tuple(one) for one in by_hand.values()] == places
    (town, _), (village, _), (desert, pixels) = places
    assert town.f1 == 1
    assert 0 < village.f1 < 1
    assert (desert.tp, desert.fn) == (0, 0)
    assert desert.fp > 0
    assert (pixels.tp, pixels.fn) == (0, 0)


class Bright(nn.Module):
    """Logits by brightness, for images normalised with mean 60 and deviation 20."""

    def forward(self, image):
        body = (image[:, :1] - 1) * 4
        return torch.cat([body, torch.full_like(body, -3.0)], dim=1)


def validate(module, tiles, order):
    logged: dict[str, float] = {}
    module.log_dict = lambda scores, **_: logged.update(scores)
    module.on_validation_epoch_start()
    for first in range(0, len(order), 3):
        samples = [tiles[index] for index in order[first : first + 3]]
        module.validation_step(
            {name: torch.stack([one[name] for one in samples]) for name in samples[0]}, 0
        )
    module.on_validation_epoch_end()
    return logged


def test_logged_scores_are_means_over_places(tiles, monkeypatch):
    info = tiles.info.model_copy(update={"mean": (60.0,) * 3, "std": (20.0,) * 3})
    order = np.random.default_rng(0).permutation(len(tiles)).tolist()
    areas, scored = ValidationAreas(tiles), []
    score_places = areas.score_places
    monkeypatch.setattr(
        areas, "score_places", lambda _: scored.append(score_places(_)) or scored[-1]
    )
    module = Segmenter(Bright(), info, TrainOptions(), areas=areas, places=tiles.places)
    logged = validate(module, tiles, order)
    of_place = {}
    for place, name in enumerate(tiles.places.names):
        rows = [index for index in order if tiles.places.of_tile[index] == place]
        alone = validate(Segmenter(Bright(), info, TrainOptions()), tiles, rows)
        of_place[name] = alone["val_iou"]
    assert logged["val_iou[town]"] == of_place["town"] != of_place["village"]
    assert logged["val_iou[village]"] == of_place["village"]
    # The network finds nothing in the desert, which then has no score.
    assert logged["val_iou"] == pytest.approx((of_place["town"] + of_place["village"]) / 2)
    ((town, _), (village, _), _) = scored[0]
    weights = [(one.tp + one.fn) / (one.tp + one.fn + 50) for one in (town, village)]
    weighted = logged["val_f1[town]"] * weights[0] + logged["val_f1[village]"] * weights[1]
    assert logged["val_f1"] == pytest.approx(weighted / sum(weights))
    assert logged["val_score"] == pytest.approx((logged["val_iou"] + logged["val_f1"]) / 2)
    assert [name for name in logged if "[" in name] == [
        "val_iou[town]", "val_iou[village]", "val_f1[town]", "val_f1[village]"
    ]  # fmt: skip
    total = validate(Segmenter(Bright(), info, TrainOptions()), tiles, order)
    assert logged["val_loss"] == pytest.approx(total["val_loss"])
    counted = sum(one.counts.sum() for one in module._findings()[0])
    assert counted == sum((tiles[i]["target"][0] < 255).sum() for i in order)


def test_classes_are_means_over_places():
    info = TilesInfo(
        bands=("a", "b"), dtype="uint8", gsd_m=1, nodata=None, size=4, overlap=0, labels="",
        mean=(0.0,) * 2, std=(1.0,) * 2, scenes=("x",), where=None, split={}, tiles={},
        shared_pixels=0, classes=("land", "water"), targets=("class",), colours=("#000000",) * 2,
    )  # fmt: skip
    module = Segmenter(
        nn.Identity(), info, TrainOptions(), places=Places(("p", "q"), np.array([0, 1, 1]))
    )
    image = torch.zeros(3, 2, 4, 4)
    image[:, 0] = 9.0
    image[0, 1, :2] = 99.0  # the first half of the first tile is water
    target = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    target[0, :, :1] = 1  # of which half is really
    batch = {"image": image, "target": target, "valid": torch.ones(3, 1, 4, 4, dtype=torch.bool)}
    logged = {}
    module.log_dict = lambda scores, **_: logged.update(scores)
    module.on_validation_epoch_start()
    module.validation_step(batch | {"index": torch.tensor([0, 1, 2])}, 0)
    module.on_validation_epoch_end()
    assert logged["val_iou[p]"] == pytest.approx((8 / 12 + 4 / 8) / 2)
    assert logged["val_iou[q]"] == 1
    assert logged["val_iou"] == logged["val_score"] == pytest.approx(((8 / 12 + 1) / 2 + 4 / 8) / 2)


def test_thresholds_are_chosen_by_the_mean_over_places():
    def score(thresholds):
        # The large place is best at 0.4, the small one at 0.6, by more.
        large = 0.9 - 0.2 * abs(thresholds.body - 0.4)
        small = 0.9 - 0.8 * abs(thresholds.body - 0.6)
        return [
            (Score(50, 50, 50), AreaCounts(1000 * large, 1000 * (1 - large), 0.0)),
            (Score(5, 5, 5), AreaCounts(small, 1 - small, 0.0)),
        ]

    areas = SimpleNamespace(outputs=("building",), score_places=score)
    assert tune_thresholds(areas).body == 0.6


def test_places_are_calibrated_with_equal_weights():
    def area(place, pixels, temperature):
        rng = np.random.default_rng(place)
        logits = rng.normal(0, 3, (1, pixels, 40))
        target = rng.random(logits.shape[1:]) < expit(logits[0] / temperature)
        labelled = rng.random(target.shape) < 0.9
        return SimpleNamespace(
            prob=expit(logits), target=target.astype(int), labelled=labelled, place=place
        )

    town, more, village = area(0, 2000, 1.0), area(0, 1000, 1.0), area(1, 100, 3.0)
    counted = [
        count_logits(one.prob[0][one.labelled], one.target[one.labelled] > 0)
        for one in (town, more, village)
    ]
    large, small = counted[0] + counted[1], counted[2]
    found = calibrate([town, village, more])
    expected = calibrate_counts(large / large.sum() + small / small.sum())
    assert found.temperature == pytest.approx(expected.temperature, abs=2e-3)
    assert found.temperature > calibrate_counts(large + small).temperature + 0.2
    np.testing.assert_allclose(found.before.observed, expected.before.observed)
    assert found.before.counts.sum() == pytest.approx(large.sum() + small.sum(), abs=15)
    assert calibrate([town, more]).temperature == calibrate_counts(large).temperature


def test_boxes_are_scored_by_place(folder):
    dataset = BoxDataset(folder, "val")
    found = {}
    for index in range(len(dataset)):
        sample, place = dataset[index], dataset.places.of_tile[index]
        true = sample["boxes"][sample["is_target"]].numpy() if place == 0 else np.zeros((0, 4))
        found[index] = Boxes(true.astype(np.float64), np.full(len(true), 0.9))
    areas = build_areas(dataset)
    assert [area.place for area in areas] == [0, 1, 2]
    score = score_boxes(areas, found)
    town, village, desert = score.buildings
    assert (village.tp, village.fp) == (0, 0)
    assert village.fn > 0
    assert desert == Score(0, 0, 0)
    assert town.f1 > 0.6
    assert score.f1 == mean_building_f1([town, village]) < town.f1
    assert score.iou == pytest.approx(score.pixels[0].iou / 2)
    assert sum(score.buildings, Score(0, 0, 0)).f1 > score.f1


# Sampling of areas


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(0, 3), st.booleans()),
        min_size=1, max_size=8,
    ),
    st.sampled_from([16, 21, 32]),
    st.floats(0, 0.9),
)  # fmt: skip
def test_each_place_keeps_an_equal_part_of_the_sample(scenes, stride, share):
    rows = lay_out(scenes, 32, stride)
    groups, places, merged = list(iter_groups(rows)), rows.place.to_numpy(), rows.merged.to_numpy()
    total = {p: sum(extent_px(g) for g in groups if g.place.iloc[0] == p) for p in set(places)}
    most = int(share * sum(total.values()))
    chosen = choose_by_place(groups, places, merged, 32, most)
    assert pd.concat(chosen).index.is_unique
    kept = {p: sum(extent_px(g) for g in chosen if g.place.iloc[0] == p) for p in total}
    assert min(kept.values()) > 0
    equal = most / len(total)
    for place, pixels in kept.items():
        if total[place] <= equal:
            assert pixels == total[place]
        else:
            smallest_other = most - sum(min(total[p], equal) for p in total if p != place)
            assert pixels <= max(smallest_other, 32**2)
    # The limit holds unless a tile of each place is more.
    assert sum(kept.values()) <= max(most, 32**2 * len(total))
    whole = choose_by_place(groups, places, merged, 32, sum(total.values()))
    assert [len(one) for one in whole] == [len(one) for one in groups]


def lay_out(scenes, size, stride):
    """Tiles of scenes (rows of tiles, columns of tiles, place, merged), each in one piece."""
    return pd.DataFrame(
        [
            (name, y * stride, x * stride, size, size, place, merged)
            for name, (height, width, place, merged) in enumerate(scenes)
            for y in range(height)
            for x in range(width)
        ],
        columns=["scene", "row_off", "col_off", "height", "width", "place", "merged"],
    )


@pytest.mark.parametrize(
    ("size", "stride", "kinds", "least", "most"),
    [
        (1024, 512, 1, 50 * 1024**2, 50 * 1024**2),  # one tile each is more than the limit
        (1024, 924, 2, 50 * 1024**2, 50 * 1024**2),
        (512, 256, 1, 50 * 512**2, MOST_PIXELS),
        (512, 412, 2, 50 * 512**2, MOST_PIXELS),
        (256, 128, 1, MOST_PIXELS // 2, MOST_PIXELS),
        (256, 128, 2, MOST_PIXELS // 2, MOST_PIXELS),
        (256, 200, 2, MOST_PIXELS // 4, MOST_PIXELS),
    ],
)
def test_the_limit_holds_with_many_places_and_both_kinds_of_labels(
    size, stride, kinds, least, most
):
    scenes = [(9, 7 + place % 4, place, kind == 1) for place in range(50) for kind in range(kinds)]
    rows = lay_out(scenes, size, stride)
    places, merged = rows.place.to_numpy(), rows.merged.to_numpy()
    chosen = choose_by_place(list(iter_groups(rows)), places, merged, size, MOST_PIXELS)
    assert least <= sum(map(extent_px, chosen)) <= most
    taken = pd.concat(chosen)
    assert sorted(taken.place.unique()) == list(range(50))
    pairs = taken.groupby(["place", "merged"]).ngroups
    # Both kinds if there is room for two tiles, else separate buildings.
    assert pairs == (50 * kinds if 100 * size**2 <= MOST_PIXELS else 50)
    assert not (pairs == 50 and taken.merged.any())
    per_place = [sum(extent_px(g) for g in chosen if g.place.iloc[0] == p) for p in range(50)]
    assert max(per_place) <= max(size**2, MOST_PIXELS // 50)


# Runs

MODEL = ModelOptions(arch="pixelwise", encoder_weights=None)
OPTIONS = TrainOptions(
    epochs=2, batch_size=4, precision="32-true", device="cpu", augment="none", sampling="places",
    schedule="constant", warmup=0,
)  # fmt: skip
PLACE_COLUMNS = ["val_iou[town]", "val_iou[village]", "val_f1[town]", "val_f1[village]"]


def rows_of(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


class Tracker:
    """An experiment logger that keeps its rows."""

    def __init__(self):
        self.rows = []

    def log_hyperparams(self, _):
        pass

    def log_metrics(self, row, step):
        self.rows.append(row)

    def finalize(self, _):
        pass


@pytest.fixture(autouse=True, scope="module")
def few_candidates():
    """Fewer thresholds to try."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geoseg.training.validation.tuning._CANDIDATES", {"body": (0.4, 0.6)})
        yield


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A run of two epochs, its result, its lines, and what an experiment tracker got."""
    tracker, lines = Tracker(), []
    output = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geoseg.training.history, "open_loggers", lambda *_: [tracker])
        result = train(folder, output, model=MODEL, options=OPTIONS, report=lines.append)
    return output, result, lines, tracker


def test_a_run_has_columns_for_places_and_one_line_per_epoch(run):
    output, result, lines, tracker = run
    for row in rows_of(output):
        assert list(row) == [*COLUMNS, *PLACE_COLUMNS]
        assert all(0 <= float(row[name]) <= 1 for name in PLACE_COLUMNS)
    assert any(re.search(r" validation tiles in 3 places$", line) for line in lines)
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 2
    assert not any("town" in line or "\n" in line for line in epochs)
    assert list(result.places) == ["town", "village", "desert"]
    assert result.val_f1 == mean_building_f1(list(result.places.values()))
    assert load_spec(result.model).provenance["val_f1_by_place"] == {
        "town": round(result.places["town"].f1, 4),
        "village": round(result.places["village"].f1, 4),
        "desert": None,
    }
    names = {name.replace("[", "_by_place/").rstrip("]") for name in [*COLUMNS, *PLACE_COLUMNS]}
    assert [set(row) for row in tracker.rows] == [names, names]


def test_a_run_of_several_places_is_resumed(folder, run, tmp_path):
    copy = shutil.copytree(run[0], tmp_path / "run")
    longer = OPTIONS.model_copy(update={"epochs": 3})
    train(folder, copy, model=MODEL, options=longer, resume=True)
    whole = train(folder, tmp_path / "whole", model=MODEL, options=longer)
    assert len(rows_of(copy)) == 3
    for one, other in zip(rows_of(copy), rows_of(tmp_path / "whole"), strict=True):
        assert one | {"minutes": 0} == other | {"minutes": 0}
    assert load_spec(copy / "model.safetensors").provenance["val_f1_by_place"].keys() == (
        whole.places.keys()
    )


def test_the_command_lists_the_places_at_the_end(folder, tmp_path, capsys, monkeypatch):
    words = ["model.arch=pixelwise", "model.encoder_weights=none", "train.epochs=1"]
    settings = [part for word in [*words, "train.device=cpu"] for part in ("--set", word)]
    monkeypatch.setattr(
        sys, "argv", ["geoseg", "train", str(folder), "-o", str(tmp_path / "run"), *settings]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert re.search(
        r"val building F1 \d\.\d{3} \(weighted mean of town \d\.\d{3}, village \d\.\d{3}; "
        r"false buildings where there are none: desert \d+\) → ",
        capsys.readouterr().out.strip().splitlines()[-1],
    )


def test_curves_of_places_are_drawn(tmp_path):
    rows = [
        {"epoch": epoch, "val_f1": 0.4, "val_iou": 0.5, "val_score": 0.45, "val_f1[a]": value}
        for epoch, value in enumerate((0.2, 0.6, 0.8, 0.7, 0.9), start=1)
    ]
    draw_curves(rows, tmp_path / "with.png")
    draw_curves([{k: v for k, v in row.items() if "[" not in k} for row in rows],
                tmp_path / "without.png")  # fmt: skip
    pictures = [matplotlib.image.imread(tmp_path / f"{n}.png") for n in ("with", "without")]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any(axis=2).sum() > 300


def test_names_of_columns():
    assert is_place_column("val_f1[rio_a]")
    assert not any(map(is_place_column, ["val_f1", "val_f1[]", "val_f1[a b]", "lr[a]", "val_f1[a"]))
    columns = ["val_iou[b]", "epoch", "val_f1[b]", "val_iou[a]", "val_f1[b]"]
    assert list_place_columns(columns) == ["val_iou[b]", "val_f1[b]", "val_iou[a]"]
    assert list_place_columns(columns, "val_f1") == ["val_f1[b]"]
    assert tracker_name("val_f1[rio_a]") == "val_f1_by_place/rio_a"
    assert tracker_name("val_iou[día (2)]") == "val_iou[día (2)]"
    assert tracker_name("val_iou[día_(2)]") == "val_iou_by_place/dxeda__2_"
    assert tracker_name("val_score") == "val_score"


def test_rows_of_a_state_may_have_places_and_nothing_else():
    row = {"epoch": 1, "step": 2, "minutes": 0.1, "lr": 0.1}
    HistoryState(minutes=1.0, rows=[row | {"val_f1[a]": 0.5}])
    with pytest.raises(ValidationError, match="unknown column"):
        HistoryState(minutes=1.0, rows=[row | {"val_f1[a,b]": 0.5}])


def test_places_are_part_of_the_tiles_of_a_run(folder):
    info = load_tiles_info(folder)
    assert info.places == ("town", "village", "desert")
    old = info.model_copy(update={"places": ()})
    joined = info.model_copy(update={"places": ("town", "town", "desert")})
    hashes = [describe_run(one, MODEL, OPTIONS)["tiles"] for one in (info, old, joined)]
    # Each scene is its own place, as in folders without places.
    assert hashes[0] == hashes[1] != hashes[2]
