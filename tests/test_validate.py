"""Validation areas: stitched tiles, their footprints, and figures of both."""

from types import SimpleNamespace

import geopandas as gpd
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import geoseg.training.segmenter
from geoseg.data.labels.polygon_labels import IGNORED_LAYER
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.detection.box_dataset import BoxDataset
from geoseg.detection.scoring import build_areas
from geoseg.errors import EmptyDatasetError
from geoseg.evaluation import evaluate_layers
from geoseg.evaluation.metrics import AreaCounts, Score
from geoseg.geo.raster import read_info, write_array
from geoseg.networks.normalization import normalise
from geoseg.options import Thresholds, TileOptions, TrainOptions
from geoseg.training.dataset import TileDataset
from geoseg.training.figures import (
    MaskedTile,
    OutlinedTile,
    draw_masked,
    draw_outlined,
    draw_reliability,
)
from geoseg.training.finishing import choose_tiles, finish, iter_outlined, separate_tiles
from geoseg.training.segmenter import Segmenter
from geoseg.training.validation.area_choice import (
    choose_evenly,
    extent_px,
    iter_groups,
    piece_side,
    split_group,
)
from geoseg.training.validation.areas import ValidationArea, ValidationAreas
from geoseg.training.validation.calibration import calibrate, calibrate_counts, count_logits
from geoseg.training.validation.tuning import tune_thresholds
from geoseg.vectorization.layer import vectorize_arrays


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Validation tiles that overlap, of a scene with a hole."""
    from tests.conftest import write_scene

    folder = tmp_path_factory.mktemp("areas")
    made = write_scene(
        folder, height=96, width=320, nodata=0, holes=[(200, 0, 230, 30)],
        buildings=[(x, y, x + 12, y + 9) for y in range(6, 84, 22) for x in range(5, 300, 24)],
    )  # fmt: skip
    options = TileOptions(size=32, gap=0, fractions=(0.4, 0.5, 0.1))
    tile_scenes(plan_tiles([made.path], made.labels, options), folder / "tiles")
    return TileDataset(folder / "tiles", "val")


def guess(data, _valid):
    """Probabilities of bright pixels, with noise that depends on the tile."""
    rng = np.random.default_rng(int(data.sum()) % 2**32)
    bright = (data[:, :1] > 79.5) * 0.6 + 0.2
    prob = np.concatenate([bright, 0.1 * bright], axis=1)
    return np.clip(prob + rng.normal(0, 0.05, prob.shape), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def areas(tiles):
    areas = ValidationAreas(tiles)
    areas.predict(guess)
    return areas


def test_the_area_is_that_of_the_tiles(areas, tiles):
    (whole,) = areas.areas()
    height, width = whole.grid.shape
    assert height != width
    assert sorted(areas.indices) == list(range(len(tiles)))
    seen = np.zeros(whole.grid.shape, bool)
    for index, window in whole.windows.items():
        sample, place = tiles[index], window.toslices()
        seen[place] |= sample["valid"][0].numpy()
        np.testing.assert_array_equal(whole.target[place], sample["target"][0].numpy())
    np.testing.assert_array_equal(whole.labelled, seen)
    assert not seen.all()
    assert whole.prob.shape == (2, height, width)
    assert whole.outline.area == pytest.approx(seen.sum() * whole.grid.transform.a**2)


def test_one_tile_keeps_its_probabilities(tiles):
    areas, prob = ValidationAreas(tiles), np.random.default_rng(0).random((1, 2, 32, 32))
    for index in areas.indices:
        areas.add([index], prob)
    (whole,) = areas.areas()
    corner = min(whole.windows, key=lambda i: whole.windows[i].col_off + whole.windows[i].row_off)
    assert (whole.windows[corner].col_off, whole.windows[corner].row_off) == (0, 0)
    # Tiles overlap by half, so that no other tile covers this quarter.
    np.testing.assert_allclose(whole.prob[:, :16, :16], prob[0, :, :16, :16], atol=2e-5)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_order_of_the_tiles_does_not_matter(areas, tiles, batch):
    again, order = ValidationAreas(tiles), np.random.default_rng(batch).permutation(len(tiles))
    again.add([0], np.ones((1, 2, 32, 32)))  # of an earlier prediction
    again.reset()
    for first in range(0, len(order), batch):
        part = order[first : first + batch].tolist()
        data = np.stack([tiles[index]["image"].numpy() for index in part])
        prob = np.concatenate([guess(one[None], None) for one in data])
        again.add(part, prob)
    # Some tiles are added twice, as by another process.
    again.add(part[:1], prob[:1])
    once = ValidationAreas(tiles)
    once.predict(guess, batch_size=1)
    assert again.predictions.keys() == once.predictions.keys()
    for one, other in zip(again.areas(), once.areas(), strict=True):
        np.testing.assert_array_equal(one.prob, other.prob)
        np.testing.assert_array_equal(one.labelled, other.labelled)


def test_a_missing_tile_is_an_error(areas, tiles):
    part = ValidationAreas(tiles)
    part.add(part.indices[1:], np.zeros((len(tiles) - 1, 2, 32, 32)))
    with pytest.raises(KeyError):
        part.areas()


@pytest.mark.parametrize("most_pixels", [1, 5_000, 12_000])
def test_large_areas_are_sampled_evenly(areas, tiles, most_pixels):
    small = ValidationAreas(tiles, most_pixels=most_pixels)
    assert 0 < len(small.indices) < len(tiles)
    assert len(set(small.indices)) == len(small.indices)
    covered = sum(one.grid.height * one.grid.width for one in _filled(small).areas())
    assert small.covered_mpx == pytest.approx(covered / 1e6)
    assert small.total_mpx == areas.total_mpx == areas.covered_mpx > small.covered_mpx
    assert small.covered_mpx * 1e6 <= max(most_pixels, 32**2)
    assert sorted(small.predictions) == sorted(small.indices)
    ((buildings, area),) = small.score_places(Thresholds())
    truths = sum(len(one.truth) for one in areas.areas())
    assert buildings.tp == buildings.fp == 0
    assert 0 < buildings.fn < truths
    assert area.tp == 0


def _filled(areas):
    count = len(areas.tiles)
    areas.add(range(count), np.zeros((count, 2, 32, 32)))
    return areas


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=12),
    st.sampled_from([16, 32]),
    st.floats(0.1, 0.9),
)
def test_scenes_are_sampled_in_proportion_to_their_area(scenes, stride, share):
    rows = pd.DataFrame(
        [
            (name, 32 + y * stride, x * stride, 32, 32)
            for name, (height, width) in enumerate(scenes)
            for y in range(height)
            for x in range(width)
        ],
        columns=["scene", "row_off", "col_off", "height", "width"],
    )
    groups = list(iter_groups(rows))
    assert len(groups) == len(scenes)
    total = sum(map(extent_px, groups))
    chosen = choose_evenly(groups, 32, int(share * total))
    assert chosen
    taken = pd.concat(chosen)
    assert taken.index.is_unique
    assert sum(map(extent_px, chosen)) <= max(share * total, 32**2)
    # Up to any scene, the sampled share is that of the pixels, within one piece.
    side = piece_side(32, int(share * total))
    pieces = [p for g in groups for p in split_group(g, 32, side)]
    real = int(share * total) / sum(map(extent_px, pieces))
    largest = max(map(extent_px, pieces))
    for name in range(len(scenes)):
        passed = sum(extent_px(p) for p in pieces if p.scene.iloc[0] <= name)
        kept = sum(extent_px(p) for p in chosen if p.scene.iloc[0] <= name)
        assert kept <= max(real * passed + 1e-6, largest)
        assert kept >= min(real, 1) * passed - largest - 1e-6
    whole = choose_evenly(groups, 32, total)
    assert whole is groups


def perfect(data, _valid):
    """Probabilities of a network that detects every building, and no border."""
    body = (data[:, :1] > 79.5).astype(np.float32)
    return np.concatenate([body, 0 * body], axis=1)


ROWS = [(x, y, x + 12, y + 9) for y in range(6, 84, 22) for x in range(5, 300, 24)]


def score_perfect(folder, made, labels=None, **options):
    """Score the default thresholds with a perfect network."""
    chosen = TileOptions(size=32, gap=0, fractions=(0.4, 0.5, 0.1), **options)
    tile_scenes(plan_tiles([made.path], labels or made.labels, chosen), folder / "tiles")
    areas = ValidationAreas(TileDataset(folder / "tiles", "val"))
    areas.predict(perfect)
    thresholds = Thresholds(regularize=False, subpixel=False, simplify_m=0)
    ((buildings, pixels),) = areas.score_places(thresholds)
    return areas, buildings, pixels


def test_each_connected_region_of_a_mask_is_a_building(tmp_path):
    from tests.conftest import write_scene

    made = write_scene(tmp_path, height=96, width=320, buildings=ROWS)
    _, buildings, pixels = score_perfect(tmp_path / "drawn", made)
    mask = tmp_path / "mask.tif"
    write_array(mask, read_info(made.path).grid, made.mask[None].astype(np.uint8) * 255)
    masked, same, pixels_too = score_perfect(tmp_path / "masked", made, mask)
    assert buildings == same
    assert (same.fp, same.fn) == (0, 0)
    assert same.tp == sum(len(one.truth) for one in masked.areas()) > 20
    assert pixels_too.tp == pytest.approx(pixels.tp, rel=1e-6)
    assert pixels_too.iou == pytest.approx(1)
    with pytest.raises(EmptyDatasetError, match=r"mask raster, with polygons of it"):
        BoxDataset(tmp_path / "masked" / "tiles", "val")


def test_unlabelled_pixels_are_ignored(tmp_path):
    from tests.conftest import write_scene

    made = write_scene(
        tmp_path, height=96, width=320, nodata=0, holes=[(155, 20, 200, 60)], buildings=ROWS
    )
    _, everything, _ = score_perfect(tmp_path / "all", made)
    assert (everything.fp, everything.fn) == (0, 0)
    layer = gpd.read_file(made.labels)
    labels = tmp_path / "half.gpkg"
    # Nothing is labelled south of a line that cuts through a row of houses.
    west, south, east, north = layer.total_bounds
    hidden = shapely.box(west - 9, south - 9, east + 9, south + 0.35 * (north - south))
    layer[~layer.within(hidden)].to_file(labels, layer="footprints")
    gpd.GeoDataFrame(geometry=[hidden], crs=layer.crs).to_file(labels, layer=IGNORED_LAYER)
    areas, known, pixels = score_perfect(tmp_path / "half", made, labels, layer="footprints")
    assert 10 < known.tp < everything.tp
    assert (known.fp, known.fn, pixels.iou) == (0, 0, pytest.approx(1))
    target = TileDataset(tmp_path / "half" / "tiles", "val")
    buildings = sum((one.target == 1).sum() for one in areas.areas())
    assert pixels.tp == pytest.approx(buildings, rel=1e-6)
    labelled_extent = gpd.read_file(tmp_path / "half" / "tiles" / "val.geojson").to_crs(layer.crs)
    whole = gpd.read_file(tmp_path / "all" / "tiles" / "val.geojson").to_crs(layer.crs)
    left = whole.difference(hidden.buffer(0.01)).area.sum()
    assert 0 < left <= labelled_extent.area.sum() == pytest.approx(left, rel=1e-2)
    boxes = BoxDataset(tmp_path / "half" / "tiles", "val")
    (box_area,) = build_areas(boxes)
    assert box_area.outline.equals(areas.areas()[0].outline)
    assert len(target) == len(boxes)


@pytest.mark.parametrize(
    ("crs", "gsd", "origin"),
    [("EPSG:32645", 0.5, (345000, 3057000)), ("EPSG:4326", (5e-6, 4.5e-6), (85.5, 27.6))],
)
def test_areas_are_counted_in_pixels_in_any_unit(tmp_path, crs, gsd, origin):
    from tests.conftest import write_scene

    made = write_scene(
        tmp_path, height=96, width=320, crs=crs, gsd=gsd, origin=origin, buildings=ROWS
    )
    areas, buildings, pixels = score_perfect(tmp_path, made)
    known = sum((one.target == 1).sum() for one in areas.areas())
    assert (buildings.fp, buildings.fn) == (0, 0)
    assert pixels.tp == pytest.approx(known, rel=1e-6)
    assert known > 1000


def areas_with_optimum(body, seed, border, contact, least):
    """Areas whose F1 and IoU are best at given, different thresholds."""

    def score(found):
        away = abs(found.seed - seed) + abs(found.border - border) + abs(found.contact - contact)
        f1 = 1 - 0.05 * away - 0.003 * abs(found.min_area_m2 - least)
        # F1 alone would prefer a body far from the best.
        f1 += 0.02 * abs(found.body - body)
        hits = round(1e6 * f1)
        share = 0.9 - 0.2 * abs(found.body - body)
        return [(Score(hits, 10**6 - hits, 10**6 - hits), AreaCounts(share, 1 - share, 0.0))]

    return SimpleNamespace(outputs=("building", "border", "contact"), score_places=score)


@pytest.mark.parametrize(
    "best",
    [
        {"body": 0.35, "seed": 0.85, "border": 2.0, "contact": 0.5, "min_area_m2": 12.0},
        {"body": 0.6, "seed": 0.4, "border": 0.7, "contact": 2.0, "min_area_m2": 20.0},
    ],
)
def test_the_best_thresholds_are_found(best):
    assert tune_thresholds(areas_with_optimum(*best.values())) == Thresholds(**best)


def test_buildings_are_not_lost_for_a_higher_iou():
    # A lower body threshold raises pixel IoU and lowers building F1.
    def score(found):
        hits = round(1e6 * max(0.05, 0.4 - 2 * abs(found.body - 0.5)))
        share = 0.9 - 0.5 * found.body
        return [(Score(hits, 10**6 - hits, 10**6 - hits), AreaCounts(share, 1 - share, 0.0))]

    areas = SimpleNamespace(outputs=("building",), score_places=score)
    assert tune_thresholds(areas) == Thresholds()


def test_gains_within_the_noise_keep_the_defaults():
    usual = Thresholds()
    near = areas_with_optimum(
        usual.body, usual.seed - 0.05, usual.border, usual.contact, usual.min_area_m2
    )
    assert tune_thresholds(near) == usual


def test_thresholds_of_missing_outputs_are_not_searched():
    tried = []

    def score(thresholds):
        tried.append(thresholds)
        return [(Score(1, 0, 0), AreaCounts(1.0, 0.0, 0.0))]

    best = tune_thresholds(SimpleNamespace(outputs=("building",), score_places=score))
    assert best == Thresholds()
    assert {(one.border, one.contact) for one in tried} == {(best.border, best.contact)}
    tried.clear()
    tune_thresholds(SimpleNamespace(outputs=("building", "border"), score_places=score))
    assert len({one.border for one in tried}) > 1


def test_footprints_are_regularized_once_at_the_end_of_a_run(tiles, monkeypatch):
    monkeypatch.setattr("geoseg.training.finishing.Predictor", lambda *_: guess)
    monkeypatch.setattr("geoseg.training.validation.tuning._CANDIDATES", {"body": (0.4,)})
    asked = []

    def find(one, thresholds, find=ValidationArea.find):
        asked.append(thresholds.regularize)
        return find(one, thresholds)

    monkeypatch.setattr(ValidationArea, "find", find)
    spec = SimpleNamespace(exclusive=False)
    tuned = finish(spec, {}, "cpu", tiles)
    assert asked.count(True) == len(ValidationAreas(tiles)._plans)
    assert tuned.thresholds.regularize
    assert 0.5 < tuned.f1 <= 1


class Bright(nn.Module):
    """Logits by brightness, for images normalised with mean 60 and deviation 20."""

    def forward(self, image):
        body = (image[:, :1] - 1) * 4
        return torch.cat([body, torch.full_like(body, -3.0)], dim=1)


def test_the_logged_f1_equals_that_of_vectorize_and_evaluate(tiles):
    info = tiles.info.model_copy(update={"mean": (60.0,) * 3, "std": (20.0,) * 3})
    areas = ValidationAreas(tiles)
    module = Segmenter(Bright(), info, TrainOptions(), areas=areas)
    logged: dict[str, float] = {}
    module.log_dict = lambda scores, **_: logged.update(scores)
    for seed in (0, 1):  # two epochs in different order give the same
        logged.clear()
        module.on_validation_epoch_start()
        order = np.random.default_rng(seed).permutation(len(tiles)).tolist()
        for first in range(0, len(order), 3):
            samples = [tiles[index] for index in order[first : first + 3]]
            batch = {name: torch.stack([one[name] for one in samples]) for name in samples[0]}
            module.validation_step(batch, 0)
        stitched = {index: prob.copy() for index, prob in areas.predictions.items()}
        module.on_validation_epoch_end()
        assert areas.predictions == {}  # nothing is kept during training
        areas.predictions = stitched
        thresholds = Thresholds(regularize=False)
        total = Score(0, 0, 0)
        for one in areas.areas():
            layer = vectorize_arrays(one.prob[0], one.prob[1], one.labelled, one.grid, thresholds)
            total += evaluate_layers(layer, one.truth, aoi=one.aoi).score
        assert logged["val_f1"] == total.f1
        assert 0.5 < total.f1 <= 1
        assert logged["val_score"] == pytest.approx((total.f1 + logged["val_iou"]) / 2)
        expected = torch.sigmoid(
            module.network(
                normalise(tiles[0]["image"][None], tiles[0]["valid"][None], module.mean, module.std)
            )
        )
        np.testing.assert_allclose(stitched[0] / 65535, expected[0], atol=1e-5)


def test_without_areas_only_pixels_are_scored(tiles):
    module = Segmenter(Bright(), tiles.info, TrainOptions())
    logged: dict[str, float] = {}
    module.log_dict = lambda scores, **_: logged.update(scores)
    for loss, count in ((0.5, 3), (1.5, 1)):  # the last batch is smaller
        module._add_loss(torch.tensor(loss), count)
    module.on_validation_epoch_end()
    assert set(logged) == {"val_loss", "val_iou", "val_f1_pixel", "val_score"}
    assert logged["val_loss"] == 0.75
    assert geoseg.training.segmenter._WHILE_TRAINING.regularize is False


def test_calibration_counts_the_labelled_pixels_of_all_areas(areas, tiles):
    (one,) = areas.areas()
    found, known = calibrate([one, one]), one.target != tiles.info.ignore
    assert 0 < known.sum() < known.size
    assert found.before.counts.sum() == 2 * known.sum()
    counts = count_logits(one.prob[0][known], one.target[known] == 1)
    assert found.temperature == calibrate_counts(counts).temperature


# Figures


def size_of(path):
    height, width = matplotlib.image.imread(path).shape[:2]
    return height, width


def test_tiles_on_the_sheet_hardly_overlap(tiles):
    chosen = separate_tiles(tiles, range(len(tiles)))
    rows = tiles.tiles.loc[chosen]
    assert len(tiles) > len(chosen) > 4
    covered = np.zeros((96, 320), int)
    for row in rows.itertuples():
        covered[row.row_off : row.row_off + row.height, row.col_off : row.col_off + row.width] += 1
    assert (covered > 1).mean() < 0.1


def test_the_worst_tiles_and_an_even_sample_are_shown():
    made = [SimpleNamespace(iou=value) for value in np.random.default_rng(0).permutation(100)]
    shown = [tile.iou for tile in choose_tiles(made)]
    assert shown[:8] == list(range(8))
    assert len(shown) == 24
    assert (shown[8], shown[-1]) == (8, 99)
    assert set(np.diff(shown[8:]).tolist()) <= {6, 7}
    assert [tile.iou for tile in choose_tiles(made[:5])] == sorted(tile.iou for tile in made[:5])


def test_outlines_are_inside_their_tiles(areas, tiles, tmp_path):
    found = [(one, one.evaluate(Thresholds())) for one in areas.areas()]
    shown = list(iter_outlined(tiles, found))
    by_index = dict(zip(separate_tiles(tiles, range(len(tiles))), shown, strict=True))
    for index, tile in by_index.items():
        truth = np.concatenate([tile.outlines["truth"], tile.outlines["missed"]])
        area = sum(polygon.area for polygon in truth)
        burnt = tiles[index]["target"][0].numpy() == 1
        hidden = (~tile.valid).sum()
        assert burnt.sum() - 1e-6 <= area <= burnt.sum() + hidden + 1e-6
        assert 0 <= tile.iou <= 1
    assert max(tile.iou for tile in shown) > 0.8
    draw_outlined(choose_tiles(shown), tmp_path / "sheet.png")
    height, width = size_of(tmp_path / "sheet.png")
    columns = min(6, len(shown))
    assert width == pytest.approx(columns * 2.2 * 110, abs=1)
    assert height != width


def test_figures_have_the_size_of_their_sheet(tmp_path):
    image, valid = np.random.default_rng(0).random((3, 20, 30)), np.ones((20, 30), bool)
    nothing = {name: np.array([], dtype=object) for name in ("truth", "found", "false", "missed")}
    draw_outlined([OutlinedTile(image, valid, 1.0, nothing)] * 8, tmp_path / "a.png")
    assert size_of(tmp_path / "a.png") == pytest.approx(
        (110 * (2 * (2.2 * 20 / 30 + 0.26) + 0.52), 110 * 6 * 2.2), abs=1
    )
    mask = np.zeros((20, 30), np.uint8)
    mask[:, 10:], mask[0] = 2, 255
    masked = [MaskedTile(image, valid, 0.5, mask, mask)] * 3
    draw_masked(masked, tmp_path / "b.png", ("a", "b", "c"), ("#000000", "#ff0000", "#00ff00"))
    assert size_of(tmp_path / "b.png") == pytest.approx(
        (110 * (2 * (2.2 * 20 / 30 + 0.26) + 0.52), 110 * 6 * 2.2), abs=1
    )
    draw_reliability(calibrate_counts(count_logits(np.zeros(0), np.zeros(0, bool))),
                     tmp_path / "c.png")  # fmt: skip
    assert size_of(tmp_path / "c.png") == pytest.approx((748, 572), abs=1)
