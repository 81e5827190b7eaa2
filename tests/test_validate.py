"""Validation ground: tiles put together, footprints of them, pictures of both."""

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
from geoseg.boxes.box_dataset import BoxDataset
from geoseg.boxes.scoring import build_grounds
from geoseg.data.labels.polygon_labels import IGNORED_LAYER
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.errors import EmptyDatasetError
from geoseg.evaluation import evaluate_layers
from geoseg.evaluation.metrics import AreaCounts, Score
from geoseg.geo.raster import read_info, write_array
from geoseg.options import Thresholds, TileOptions, TrainOptions
from geoseg.training.dataset import TileDataset, normalise
from geoseg.training.figures import (
    MaskedTile,
    OutlinedTile,
    draw_masked,
    draw_outlined,
    draw_reliability,
)
from geoseg.training.finishing import choose_tiles, finish, iter_outlined, separate_tiles
from geoseg.training.segmenter import Segmenter
from geoseg.training.validation.areas import (
    ValidationArea,
    ValidationAreas,
    _choose_evenly,
    _cut,
    _extent,
    _iter_groups,
)
from geoseg.training.validation.calibration import calibrate, calibrate_counts, count_logits
from geoseg.training.validation.tuning import tune_thresholds
from geoseg.vectorization.layer import vectorize_arrays


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Validation tiles that overlap, of a scene with a hole."""
    from tests.conftest import write_scene

    folder = tmp_path_factory.mktemp("ground")
    made = write_scene(
        folder, height=96, width=320, nodata=0, holes=[(200, 0, 230, 30)],
        buildings=[(x, y, x + 12, y + 9) for y in range(6, 84, 22) for x in range(5, 300, 24)],
    )  # fmt: skip
    options = TileOptions(size=32, gap=0, fractions=(0.4, 0.5, 0.1))
    tile_scenes(plan_tiles([made.path], made.labels, options), folder / "tiles")
    return TileDataset(folder / "tiles", "val")


def guess(data, _valid):
    """Probabilities of what is bright, with some noise that depends on the tile."""
    rng = np.random.default_rng(int(data.sum()) % 2**32)
    bright = (data[:, :1] > 79.5) * 0.6 + 0.2
    prob = np.concatenate([bright, 0.1 * bright], axis=1)
    return np.clip(prob + rng.normal(0, 0.05, prob.shape), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def ground(tiles):
    found = ValidationAreas(tiles)
    found.predict(guess)
    return found


def test_the_ground_is_that_of_the_tiles(ground, tiles):
    (whole,) = ground.grounds()
    height, width = whole.grid.shape
    assert height != width
    assert sorted(ground.indices) == list(range(len(tiles)))
    seen = np.zeros(whole.grid.shape, bool)
    for index, window in whole.windows.items():
        sample, place = tiles[index], window.toslices()
        seen[place] |= sample["valid"][0].numpy()
        np.testing.assert_array_equal(whole.target[place], sample["target"][0].numpy())
    np.testing.assert_array_equal(whole.known, seen)
    assert not seen.all()
    assert whole.prob.shape == (2, height, width)
    assert whole.area.area == pytest.approx(seen.sum() * whole.grid.transform.a**2)


def test_one_tile_keeps_its_probabilities(tiles):
    ground, prob = ValidationAreas(tiles), np.random.default_rng(0).random((1, 2, 32, 32))
    for index in ground.indices:
        ground.add([index], prob)
    (whole,) = ground.grounds()
    corner = min(whole.windows, key=lambda i: whole.windows[i].col_off + whole.windows[i].row_off)
    assert (whole.windows[corner].col_off, whole.windows[corner].row_off) == (0, 0)
    # Nothing else covers the first half of the tile, as tiles overlap by half.
    np.testing.assert_allclose(whole.prob[:, :16, :16], prob[0, :, :16, :16], atol=2e-5)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_order_of_the_tiles_does_not_matter(ground, tiles, batch):
    again, order = ValidationAreas(tiles), np.random.default_rng(batch).permutation(len(tiles))
    again.add([0], np.ones((1, 2, 32, 32)))  # of an earlier prediction
    again.start()
    for first in range(0, len(order), batch):
        part = order[first : first + batch].tolist()
        data = np.stack([tiles[index]["image"].numpy() for index in part])
        prob = np.concatenate([guess(one[None], None) for one in data])
        again.add(part, prob)
    # As another process would: some tiles come twice.
    again.add(part[:1], prob[:1])
    once = ValidationAreas(tiles)
    once.predict(guess, batch_size=1)
    assert again.found.keys() == once.found.keys()
    for one, other in zip(again.grounds(), once.grounds(), strict=True):
        np.testing.assert_array_equal(one.prob, other.prob)
        np.testing.assert_array_equal(one.known, other.known)


def test_a_missing_tile_is_no_score(ground, tiles):
    part = ValidationAreas(tiles)
    part.add(part.indices[1:], np.zeros((len(tiles) - 1, 2, 32, 32)))
    with pytest.raises(KeyError):
        part.grounds()


@pytest.mark.parametrize("most_pixels", [1, 5_000, 12_000])
def test_of_much_ground_parts_are_taken_from_all_over_it(ground, tiles, most_pixels):
    small = ValidationAreas(tiles, most_pixels=most_pixels)
    assert 0 < len(small.indices) < len(tiles)
    assert len(set(small.indices)) == len(small.indices)
    covered = sum(one.grid.height * one.grid.width for one in _filled(small).grounds())
    assert small.covered_mpx == pytest.approx(covered / 1e6)
    assert small.total_mpx == ground.total_mpx == ground.covered_mpx > small.covered_mpx
    assert small.covered_mpx * 1e6 <= max(most_pixels, 64**2)
    assert sorted(small.found) == sorted(small.indices)
    buildings, area = small.score(Thresholds())
    truths = sum(len(one.truth) for one in ground.grounds())
    assert buildings.tp == buildings.fp == 0
    assert 0 < buildings.fn < truths
    assert area.tp == 0


def _filled(ground):
    count = len(ground.tiles)
    ground.add(range(count), np.zeros((count, 2, 32, 32)))
    return ground


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=12),
    st.sampled_from([16, 32]),
    st.floats(0.1, 0.9),
)
def test_no_scene_is_ahead_of_another_when_parts_are_taken(scenes, stride, share):
    rows = pd.DataFrame(
        [
            (name, 32 + y * stride, x * stride, 32, 32)
            for name, (height, width) in enumerate(scenes)
            for y in range(height)
            for x in range(width)
        ],
        columns=["scene", "row_off", "col_off", "height", "width"],
    )
    groups = list(_iter_groups(rows))
    assert len(groups) == len(scenes)
    total = sum(map(_extent, groups))
    chosen = _choose_evenly(groups, 32, int(share * total))
    assert chosen
    taken = pd.concat(chosen)
    assert taken.index.is_unique
    if len(chosen) > 1:
        assert sum(map(_extent, chosen)) <= share * total
    # What is taken up to any scene is in proportion to what there was, but for a piece.
    pieces = [p for g in groups for p in _cut(g, 32, int(share * total) // 16)]
    real = int(share * total) / sum(map(_extent, pieces))
    largest = max(map(_extent, pieces))
    for name in range(len(scenes)):
        passed = sum(_extent(p) for p in pieces if p.scene.iloc[0] <= name)
        kept = sum(_extent(p) for p in chosen if p.scene.iloc[0] <= name)
        assert kept <= max(real * passed + 1e-6, largest)
        assert kept >= min(real, 1) * passed - largest - 1e-6
    whole = _choose_evenly(groups, 32, total)
    assert whole is groups


def perfect(data, _valid):
    """Probabilities of a network that knows every building, and no border."""
    body = (data[:, :1] > 79.5).astype(np.float32)
    return np.concatenate([body, 0 * body], axis=1)


ROWS = [(x, y, x + 12, y + 9) for y in range(6, 84, 22) for x in range(5, 300, 24)]


def judged(folder, made, labels=None, **options):
    """What the thresholds as they are score with a perfect network."""
    chosen = TileOptions(size=32, gap=0, fractions=(0.4, 0.5, 0.1), **options)
    tile_scenes(plan_tiles([made.path], labels or made.labels, chosen), folder / "tiles")
    ground = ValidationAreas(TileDataset(folder / "tiles", "val"))
    ground.predict(perfect)
    return ground, *ground.score(Thresholds(regularize=False, subpixel=False, simplify_m=0))


def test_each_piece_of_a_mask_is_a_building(tmp_path):
    from tests.conftest import write_scene

    made = write_scene(tmp_path, height=96, width=320, buildings=ROWS)
    _, buildings, pixels = judged(tmp_path / "drawn", made)
    mask = tmp_path / "mask.tif"
    write_array(mask, read_info(made.path).grid, made.mask[None].astype(np.uint8) * 255)
    masked, same, pixels_too = judged(tmp_path / "masked", made, mask)
    assert buildings == same
    assert (same.fp, same.fn) == (0, 0)
    assert same.tp == sum(len(one.truth) for one in masked.grounds()) > 20
    assert pixels_too.tp == pytest.approx(pixels.tp, rel=1e-6)
    assert pixels_too.iou == pytest.approx(1)
    with pytest.raises(EmptyDatasetError, match=r"mask raster, with polygons of it"):
        BoxDataset(tmp_path / "masked" / "tiles", "val")


def test_ground_that_was_not_labelled_counts_for_nothing(tmp_path):
    from tests.conftest import write_scene

    made = write_scene(
        tmp_path, height=96, width=320, nodata=0, holes=[(155, 20, 200, 60)], buildings=ROWS
    )
    _, everything, _ = judged(tmp_path / "all", made)
    assert (everything.fp, everything.fn) == (0, 0)
    layer = gpd.read_file(made.labels)
    labels = tmp_path / "half.gpkg"
    # South of a line that cuts through a row of houses nobody looked.
    west, south, east, north = layer.total_bounds
    hidden = shapely.box(west - 9, south - 9, east + 9, south + 0.35 * (north - south))
    layer[~layer.within(hidden)].to_file(labels, layer="footprints")
    gpd.GeoDataFrame(geometry=[hidden], crs=layer.crs).to_file(labels, layer=IGNORED_LAYER)
    ground, known, pixels = judged(tmp_path / "half", made, labels, layer="footprints")
    assert 10 < known.tp < everything.tp
    assert (known.fp, known.fn, pixels.iou) == (0, 0, pytest.approx(1))
    target = TileDataset(tmp_path / "half" / "tiles", "val")
    buildings = sum((one.target == 1).sum() for one in ground.grounds())
    assert pixels.tp == pytest.approx(buildings, rel=1e-6)
    judged_on = gpd.read_file(tmp_path / "half" / "tiles" / "val.geojson").to_crs(layer.crs)
    whole = gpd.read_file(tmp_path / "all" / "tiles" / "val.geojson").to_crs(layer.crs)
    left = whole.difference(hidden.buffer(0.01)).area.sum()
    assert 0 < left <= judged_on.area.sum() == pytest.approx(left, rel=1e-2)
    boxes = BoxDataset(tmp_path / "half" / "tiles", "val")
    (box_ground,) = build_grounds(boxes)
    assert box_ground.area.equals(ground.grounds()[0].area)
    assert len(target) == len(boxes)


@pytest.mark.parametrize(
    ("crs", "gsd", "origin"),
    [("EPSG:32645", 0.5, (345000, 3057000)), ("EPSG:4326", (5e-6, 4.5e-6), (85.5, 27.6))],
)
def test_ground_is_counted_in_pixels_whatever_the_unit(tmp_path, crs, gsd, origin):
    from tests.conftest import write_scene

    made = write_scene(
        tmp_path, height=96, width=320, crs=crs, gsd=gsd, origin=origin, buildings=ROWS
    )
    ground, buildings, pixels = judged(tmp_path, made)
    known = sum((one.target == 1).sum() for one in ground.grounds())
    assert (buildings.fp, buildings.fn) == (0, 0)
    assert pixels.tp == pytest.approx(known, rel=1e-6)
    assert known > 1000


def hilly(body, seed, border, contact, least):
    """Ground whose scores are best at some thresholds, of F1 and of IoU at different ones."""

    def score(found):
        away = abs(found.seed - seed) + abs(found.border - border) + abs(found.contact - contact)
        f1 = 1 - 0.05 * away - 0.003 * abs(found.min_area_m2 - least)
        # By F1 alone, bodies far from the best would win.
        f1 += 0.02 * abs(found.body - body)
        hits = round(1e6 * f1)
        share = 0.9 - 0.2 * abs(found.body - body)
        return Score(hits, 10**6 - hits, 10**6 - hits), AreaCounts(share, 1 - share, 0.0)

    return SimpleNamespace(outputs=("building", "border", "contact"), score=score)


@pytest.mark.parametrize(
    "best",
    [
        {"body": 0.35, "seed": 0.85, "border": 2.0, "contact": 0.5, "min_area_m2": 12.0},
        {"body": 0.6, "seed": 0.4, "border": 0.7, "contact": 2.0, "min_area_m2": 20.0},
    ],
)
def test_the_thresholds_of_the_greatest_scores_are_found(best):
    assert tune_thresholds(hilly(*best.values())) == Thresholds(**best)


def test_buildings_are_not_given_up_for_ground():
    # The lower the threshold of the body, the more ground is found and the fewer buildings.
    def score(found):
        hits = round(1e6 * max(0.05, 0.4 - 2 * abs(found.body - 0.5)))
        share = 0.9 - 0.5 * found.body
        return Score(hits, 10**6 - hits, 10**6 - hits), AreaCounts(share, 1 - share, 0.0)

    ground = SimpleNamespace(outputs=("building",), score=score)
    assert tune_thresholds(ground) == Thresholds()


def test_a_gain_that_is_noise_leaves_the_defaults():
    usual = Thresholds()
    near = hilly(usual.body, usual.seed - 0.05, usual.border, usual.contact, usual.min_area_m2)
    assert tune_thresholds(near) == usual


def test_without_a_head_its_thresholds_are_not_tried():
    tried = []

    def score(thresholds):
        tried.append(thresholds)
        return Score(1, 0, 0), AreaCounts(1.0, 0.0, 0.0)

    best = tune_thresholds(SimpleNamespace(outputs=("building",), score=score))
    assert best == Thresholds()
    assert {(one.border, one.contact) for one in tried} == {(best.border, best.contact)}
    tried.clear()
    tune_thresholds(SimpleNamespace(outputs=("building", "border"), score=score))
    assert len({one.border for one in tried}) > 1


def test_right_angles_are_made_once_when_a_run_ends(tiles, monkeypatch):
    monkeypatch.setattr("geoseg.training.finishing.Predictor", lambda *_: guess)
    monkeypatch.setattr("geoseg.training.validation.tuning._CANDIDATES", {"body": (0.4,)})
    asked = []

    def evaluate(one, thresholds, evaluate=ValidationArea.evaluate):
        asked.append(thresholds.regularize)
        return evaluate(one, thresholds)

    monkeypatch.setattr(ValidationArea, "evaluate", evaluate)
    spec = SimpleNamespace(exclusive=False)
    tuned = finish(spec, {}, "cpu", tiles)
    assert asked.count(True) == len(ValidationAreas(tiles)._plots)
    assert tuned.thresholds.regularize
    assert 0.5 < tuned.f1 <= 1


class Bright(nn.Module):
    """Logits of brightness, of images that are normalised with mean 60 and deviation 20."""

    def forward(self, image):
        body = (image[:, :1] - 1) * 4
        return torch.cat([body, torch.full_like(body, -3.0)], dim=1)


def test_the_f1_that_is_logged_is_that_of_vectorize_and_evaluate(tiles):
    info = tiles.info.model_copy(update={"mean": (60.0,) * 3, "std": (20.0,) * 3})
    ground = ValidationAreas(tiles)
    module = Segmenter(Bright(), info, TrainOptions(), ground=ground)
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
        stitched = {index: prob.copy() for index, prob in ground.found.items()}
        module.on_validation_epoch_end()
        assert ground.found == {}  # nothing is held while training goes on
        ground.found = stitched
        thresholds = Thresholds(regularize=False)
        total = Score(0, 0, 0)
        for one in ground.grounds():
            layer = vectorize_arrays(one.prob[0], one.prob[1], one.known, one.grid, thresholds)
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


def test_without_ground_pixels_alone_are_scored(tiles):
    module = Segmenter(Bright(), tiles.info, TrainOptions())
    logged: dict[str, float] = {}
    module.log_dict = lambda scores, **_: logged.update(scores)
    for loss, count in ((0.5, 3), (1.5, 1)):  # the last batch is smaller
        module._add_loss(torch.tensor(loss), count)
    module.on_validation_epoch_end()
    assert set(logged) == {"val_loss", "val_iou", "val_f1_pixel", "val_score"}
    assert logged["val_loss"] == 0.75
    assert geoseg.training.segmenter._WHILE_TRAINING.regularize is False


def test_calibration_counts_the_known_pixels_of_all_ground(ground, tiles):
    (one,) = ground.grounds()
    found, known = calibrate([one, one]), one.target != tiles.info.ignore
    assert 0 < known.sum() < known.size
    assert found.before.pixels.sum() == 2 * known.sum()
    counts = count_logits(one.prob[0][known], one.target[known] == 1)
    assert found.temperature == calibrate_counts(counts).temperature


# Pictures


def size_of(path):
    height, width = matplotlib.image.imread(path).shape[:2]
    return height, width


def test_tiles_on_the_sheet_hardly_share_ground(tiles):
    chosen = separate_tiles(tiles, range(len(tiles)))
    rows = tiles.tiles.loc[chosen]
    assert len(tiles) > len(chosen) > 4
    covered = np.zeros((96, 320), int)
    for row in rows.itertuples():
        covered[row.row_off : row.row_off + row.height, row.col_off : row.col_off + row.width] += 1
    assert (covered > 1).mean() < 0.1


def test_the_worst_and_a_fair_sample_are_shown():
    made = [SimpleNamespace(iou=value) for value in np.random.default_rng(0).permutation(100)]
    shown = [tile.iou for tile in choose_tiles(made)]
    assert shown[:8] == list(range(8))
    assert len(shown) == 24
    assert (shown[8], shown[-1]) == (8, 99)
    assert set(np.diff(shown[8:]).tolist()) <= {6, 7}
    assert [tile.iou for tile in choose_tiles(made[:5])] == sorted(tile.iou for tile in made[:5])


def test_outlines_lie_in_their_tiles(ground, tiles, tmp_path):
    found = [(one, one.evaluate(Thresholds())) for one in ground.grounds()]
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


def test_pictures_have_the_size_of_their_sheet(tmp_path):
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
