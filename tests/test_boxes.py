"""Buildings as boxes: targets, augmentation, stitching, prediction, and the whole job."""

import csv
import dataclasses
import json
import math
import re
from functools import partial

import geopandas as gpd
import numpy as np
import pytest
import shapely
import shapely.affinity
import torch
from click.testing import CliRunner
from conftest import write_scene
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from scipy import ndimage

import geoseg.training.loading.loaders
from geoseg.api.predict import plan_predict, predict
from geoseg.cli import cli
from geoseg.data.tiles import plan_tiles, tile_scenes, tile_window
from geoseg.detection import box_learner, box_prediction, detector
from geoseg.detection.box_arrays import LEAST_VISIBLE, Boxes, concatenate_boxes, valid_shares
from geoseg.detection.box_augmentation import augment_boxes, turn_boxes, turn_image
from geoseg.detection.box_dataset import BoxDataset
from geoseg.detection.box_learner import BOX_RECIPE
from geoseg.detection.detector import BoxPredictor
from geoseg.detection.merging import BoxMerger, merge_boxes
from geoseg.detection.scoring import BoxScore, build_areas, score_boxes, tune_boxes
from geoseg.errors import ConfigError, ModelFileError
from geoseg.evaluation import evaluate_layers
from geoseg.geo.raster import write_array
from geoseg.geo.tiling import TileGrid
from geoseg.geo.vector import FOOTPRINT_COLUMNS, read_footprints
from geoseg.jobs.manifest import MANIFEST_NAME
from geoseg.networks.model_file import ModelSpec, load_model, save_model
from geoseg.networks.models import build_model
from geoseg.options import (
    AUGMENT_PRESETS,
    ModelOptions,
    PredictOptions,
    Thresholds,
    TileOptions,
    TrainOptions,
    VectorizeOptions,
)
from geoseg.training.randomness import Randomness
from geoseg.training.run import train

SPEC = ModelSpec(
    arch="retinanet", encoder="resnet18", options={"channels": 32}, bands=("red", "green", "blue"),
    dtype="uint8", mean=(50.0,) * 3, std=(30.0,) * 3, gsd_m=0.5, outputs=("building",), size=64,
    overlap=24,
)  # fmt: skip
MODEL = ModelOptions(
    arch="retinanet", encoder="resnet18", encoder_weights=None, options={"channels": 32}
)
QUICK = TrainOptions(epochs=2, batch_size=2, precision="32-true", device="cpu", augment="light")


def boxes_of(corners, scores=None):
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    return Boxes(corners, np.full(len(corners), 0.9) if scores is None else np.asarray(scores))


def sorted_rows(corners):
    return sorted(map(tuple, np.asarray(corners).tolist()))


# Values


@settings(max_examples=50)
@given(
    seed=st.integers(0, 99), height=st.integers(1, 30), width=st.integers(1, 30),
    count=st.integers(0, 5),
)  # fmt: skip
def test_the_valid_share_of_a_box_is_counted_in_pixels(seed, height, width, count):
    rng = np.random.default_rng(seed)
    valid = rng.random((height, width)) < 0.6
    corners = rng.uniform(-5, 35, (count, 4)).round(1)
    for (left, top, right, bottom), share in zip(
        corners, valid_shares(corners, valid), strict=True
    ):
        rows = slice(*np.rint(np.clip([top, bottom], 0, height)).astype(int))
        columns = slice(*np.rint(np.clip([left, right], 0, width)).astype(int))
        part = valid[rows, columns]
        if left <= right and top <= bottom:
            assert share == pytest.approx(part.mean() if part.size else 0.0)


# Targets


@pytest.fixture
def tiles(make_scene, tmp_path):
    """A scene with buildings on tile edges and under nodata, and the folder of its tiles."""
    made = make_scene(nodata=0, holes=[(100, 0, 160, 18)], rotation=20.0)
    options = TileOptions(size=32, overlap=8, fractions=(0.6, 0.2, 0.2), gap=0)
    tile_scenes(plan_tiles([made.path], made.labels, options), tmp_path / "tiles")
    return made, tmp_path / "tiles"


def test_the_boxes_of_a_tile_are_the_buildings_in_it(tiles):
    made, folder = tiles
    learnt = unclear = 0
    for split in ("train", "val", "test"):
        dataset = BoxDataset(folder, split)
        for index, tile in enumerate(dataset.tiles.itertuples()):
            sample = dataset[index]
            assert sample["index"] == index
            window = tile_window(tile)
            expected = {}
            for left, top, right, bottom in made.boxes:
                seen = np.array(
                    [
                        max(left - window.col_off, 0), max(top - window.row_off, 0),
                        min(right - window.col_off, window.width),
                        min(bottom - window.row_off, window.height),
                    ]
                )  # fmt: skip
                width, height = seen[2] - seen[0], seen[3] - seen[1]
                if width <= 0 or height <= 0:
                    continue
                valid = sample["valid"][0, seen[1] : seen[3], seen[0] : seen[2]].float().mean()
                share = width * height / ((right - left) * (bottom - top)) * valid.item()
                expected[tuple(seen.tolist())] = share >= LEAST_VISIBLE and min(width, height) >= 2
            there = ~sample["boxes"].isnan().any(dim=1)
            found = sample["boxes"][there]
            assert len(found) == len(expected)
            for corners, is_learnt in zip(found, sample["is_target"][there].tolist(), strict=True):
                near = min(expected, key=lambda key: np.abs(corners.numpy() - key).max())
                np.testing.assert_allclose(corners, near, atol=1e-3)
                assert expected[near] == is_learnt
                learnt, unclear = learnt + is_learnt, unclear + (not is_learnt)
            assert not sample["is_target"][~there].any()
    assert learnt > 10
    assert unclear > 10


def test_all_tiles_of_a_split_have_the_same_number_of_rows(tiles):
    dataset = BoxDataset(tiles[1], "train")
    counts = [int((~dataset[i]["boxes"].isnan().any(dim=1)).sum()) for i in range(len(dataset))]
    assert {len(dataset[i]["boxes"]) for i in range(len(dataset))} == {max(counts)}
    assert min(counts) < max(counts)


# Augmentation


@given(
    turns=st.integers(0, 3), mirrored=st.booleans(), height=st.integers(3, 20),
    width=st.integers(3, 20), data=st.data(),
)  # fmt: skip
def test_a_box_is_rotated_with_its_pixels(turns, mirrored, height, width, data):
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = (
        data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    )  # fmt: skip
    image = torch.zeros(1, height, width)
    image[:, top:bottom, left:right] = 1
    turned = turn_image(image, turns, mirrored)[0]
    rows, columns = turned.nonzero().unbind(dim=1)
    boxes = torch.tensor([[left, top, right, bottom], [math.nan] * 4], dtype=torch.float32)
    found = turn_boxes(boxes, (height, width), turns, mirrored)
    assert found[0].tolist() == [
        columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    ]  # fmt: skip
    assert found[1].isnan().all()


@pytest.mark.parametrize("size", [(24, 24), (16, 28)])
@pytest.mark.parametrize("preset", ["light", "full"])
def test_augmented_boxes_enclose_the_same_pixels(size, preset):
    height, width = size
    corners = torch.tensor([[3.0, 2, 9, 6], [12, 8, 15, 15]])
    boxes = torch.stack([corners[i % 2] for i in range(96)])[:, None]
    valid = torch.zeros(96, 1, height, width, dtype=torch.bool)
    for index, (left, top, right, bottom) in enumerate(boxes[:, 0].int().tolist()):
        valid[index, :, top:bottom, left:right] = True
    image = torch.randn(96, 2, height, width)
    kept = image.clone()
    found, moved, mask = augment_boxes(
        image, boxes, valid, black=torch.tensor([-2.0, -3.0]), options=AUGMENT_PRESETS[preset],
        random=Randomness(torch.Generator().manual_seed(0), 96),
    )  # fmt: skip
    assert torch.equal(image, kept)
    assert found.shape == image.shape
    assert not torch.equal(found, image)
    assert (found[~mask.expand_as(found)] == 0).all()
    for (left, top, right, bottom), one in zip(moved[:, 0].int().tolist(), mask, strict=True):
        assert one[0, top:bottom, left:right].all()
        assert one.sum() == (bottom - top) * (right - left)
    views = {tuple(box) for box in moved[::2, 0].int().tolist()}
    assert len(views) == (8 if height == width else 4)


# Merging


def seen_by(window, buildings, scores, least=4):
    """The boxes of buildings that a perfect network would detect in a tile."""
    left, top = window.col_off, window.row_off
    frame = np.array([left, top, left + window.width, top + window.height])
    low = np.maximum(buildings[:, :2], frame[:2])
    high = np.minimum(buildings[:, 2:], frame[2:])
    there = (high - low >= least).all(axis=1)
    return boxes_of(np.hstack([low, high])[there], scores[there]).shifted(-left, -top)


def stitched(plan, buildings, seed=0):
    rng = np.random.default_rng(seed)
    tiles = [
        (tile, seen_by(tile.window, buildings, rng.uniform(0.5, 1, len(buildings))))
        for tile in plan
    ]
    return concatenate_boxes(list(merge_boxes(plan, tiles))), tiles


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000), height=st.integers(40, 200), width=st.integers(40, 200),
    overlap=st.integers(8, 32), largest=st.integers(10, 64),
)  # fmt: skip
def test_every_building_is_found_once_across_tile_borders(seed, height, width, overlap, largest):
    rng = np.random.default_rng(seed)
    buildings, plan = [], TileGrid(height, width, 64, overlap)
    for _ in range(30):
        size = rng.integers(8, largest + 1, 2)
        left, top = (
            rng.integers(0, max(1, width - size[0])),
            rng.integers(0, max(1, height - size[1])),
        )
        box = shapely.box(left, top, min(left + size[0], width), min(top + size[1], height))
        if not any(box.intersects(other) for other in buildings):
            buildings.append(box)
    corners = shapely.bounds(np.array(buildings))
    found, tiles = stitched(plan, corners, seed)
    assert sorted_rows(found.corners) == sorted_rows(corners)
    # All tiles at once, in any order, give the same.
    merger = BoxMerger()
    for at in rng.permutation(len(tiles)):
        merger.add(tiles[at][0].window, tiles[at][1])
    assert sorted_rows(merger.flush().corners) == sorted_rows(corners)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), overlap=st.integers(24, 32))
def test_boxes_that_are_some_pixels_off_are_still_one_building(seed, overlap):
    rng = np.random.default_rng(seed)
    plan = TileGrid(150, 190, 64, overlap)
    places = [(x, y) for y in range(6, 120, 34) for x in range(5, 160, 34)]
    corners = np.array([[x, y, x + 22, y + 20] for x, y in places], dtype=float)
    corners += np.tile(rng.integers(-4, 5, (len(corners), 2)), 2)
    tiles = []
    for tile in plan:
        boxes = seen_by(tile.window, corners, rng.uniform(0.5, 1, len(corners)), least=6)
        off = boxes.corners + rng.uniform(-1.5, 1.5, boxes.corners.shape)
        tiles.append((tile, boxes_of(off.clip(0, 64), boxes.scores)))
    found = concatenate_boxes(list(merge_boxes(plan, tiles)))
    assert len(found) == len(corners)
    tree = shapely.STRtree(shapely.box(*corners.T))
    near = tree.nearest(shapely.box(*found.corners.T))
    assert sorted(near) == list(range(len(corners)))
    for box, index in zip(shapely.box(*found.corners.T), near, strict=True):
        truth = shapely.box(*corners[index])
        assert box.intersection(truth).area / box.union(truth).area > 0.5


def test_a_narrow_strip_at_a_border_is_no_separate_building():
    merger = BoxMerger((64, 104))
    merger.add(Window(0, 0, 64, 64), boxes_of([[20, 10, 43, 30]], [0.9]))
    merger.add(Window(40, 0, 64, 64), boxes_of([[0, 10, 6, 30]], [0.7]))
    assert merger.flush().corners.tolist() == [[20, 10, 43, 30]]


def test_the_edge_of_the_scene_does_not_cut_boxes():
    merger = BoxMerger((64, 104))
    merger.add(Window(0, 0, 64, 64), boxes_of([[46, 0, 60, 12]], [0.95]))
    merger.add(Window(40, 0, 64, 64), boxes_of([[6, 5, 20, 12]], [0.06]))
    found = merger.flush()
    assert found.corners.tolist() == [[46, 0, 60, 12]]
    assert found.scores.tolist() == [0.95]


def test_the_box_of_the_tile_with_the_whole_building_is_kept():
    merger = BoxMerger()
    merger.add(Window(0, 0, 64, 48), boxes_of([[50, 10, 64, 30]], [0.95]))  # cut on its right
    merger.add(Window(40, 0, 64, 48), boxes_of([[9.5, 10.5, 31, 30]], [0.6]))
    found = merger.flush()
    assert found.corners.tolist() == [[49.5, 10.5, 71, 30]]
    assert found.scores.tolist() == [0.95]


def test_a_building_wider_than_the_overlap_is_joined_from_its_parts():
    merger = BoxMerger()
    merger.add(Window(0, 0, 64, 48), boxes_of([[30, 10, 63, 30]], [0.8]))
    merger.add(Window(48, 0, 64, 48), boxes_of([[0.5, 11, 64, 30]], [0.7]))
    merger.add(Window(96, 0, 64, 48), boxes_of([[0, 10, 24, 31]], [0.9]))
    found = merger.flush()
    # Sides that are not cut come from the part with the fewest cuts and the highest score.
    assert found.corners.tolist() == [[30.0, 10.0, 120.0, 31.0]]
    assert found.scores.tolist() == [0.9]


def test_touching_houses_at_a_border_stay_separate():
    row = np.array([[left, 10, left + 12, 30] for left in range(4, 150, 12)], dtype=float)
    found, _ = stitched(TileGrid(48, 160, 64, 16), row)
    assert sorted_rows(found.corners) == sorted_rows(row)


def test_flushed_buildings_are_not_changed_by_later_tiles():
    plan = TileGrid(400, 64, 64, 16)
    rows = np.arange(5, 380, 20)
    buildings = np.stack([np.full(len(rows), 10), rows, np.full(len(rows), 40), rows + 12], axis=1)
    scores = np.ones(len(rows))
    held, merger, flushed = [], BoxMerger(), []
    for tile in plan:
        flushed.append(merger.flush(tile.window.row_off))
        merger.add(tile.window, seen_by(tile.window, buildings, scores))
        held.append(len(merger._boxes))
    flushed.append(merger.flush())
    assert max(held) <= 8
    assert sorted_rows(concatenate_boxes(flushed).corners) == sorted_rows(buildings)
    tops = np.concatenate([part.corners[:, 1] for part in flushed])
    assert (np.diff(tops) > 0).all()


def test_of_two_boxes_on_one_building_the_more_confident_one_is_kept():
    merger = BoxMerger()
    merger.add(Window(0, 0, 64, 48), boxes_of([[40, 10, 58, 30]], [0.6]))
    merger.add(Window(32, 0, 64, 48), boxes_of([[9, 11, 27, 30]], [0.8]))
    assert merger.flush().corners.tolist() == [[41, 11, 59, 30]]
    assert len(merger.flush()) == 0


# Scenes


def bright(data, valid):
    """Finds the bright rectangles of `make_scene`, to the pixel, as a perfect network would."""
    found = []
    for image, mask in zip(data, valid, strict=True):
        slices = ndimage.find_objects(ndimage.label((image[0] >= 80) & mask)[0])
        corners = [[c.start, r.start, c.stop, r.stop] for r, c in slices]
        found.append(boxes_of(corners))
    return found


@pytest.fixture
def perfect(monkeypatch):
    """Replace the model's network by a perfect one."""
    monkeypatch.setattr(box_prediction, "BoxPredictor", lambda *_, **__: bright)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    network = build_model(
        "retinanet", "resnet18", bands=SPEC.bands, outputs=1, options=SPEC.options
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, network.state_dict(), SPEC)
    return path


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb", ".parquet"])
def test_boxes_become_footprints_in_every_format(make_scene, model, perfect, tmp_path, suffix):
    made = make_scene(rotation=-15.0, height=100, width=210)
    path = tmp_path / f"boxes{suffix}"
    assert predict(made.path, path, model=model).files == (path,)
    layer = gpd.read_parquet(path) if suffix == ".parquet" else read_footprints(path)
    names = [name for name in FOOTPRINT_COLUMNS if name != "perimeter_m" or suffix != ".shp"]
    assert set(names) <= set(layer.columns)
    assert sorted(layer.id) == list(range(1, len(made.boxes) + 1))
    layer = layer.to_crs(made.grid.crs.to_wkt())
    # GeoJSON keeps seven decimals of a degree.
    atol = 0.02 if suffix == ".geojson" else 1e-6
    for polygon in made.polygons:
        hit = layer[layer.intersects(polygon.centroid)]
        assert len(hit) == 1
        assert hit.geometry.iloc[0].hausdorff_distance(polygon) < atol
        assert hit.area_m2.iloc[0] == pytest.approx(polygon.area / 0.9996**2, rel=1e-3)
        assert hit.confidence.iloc[0] == 0.9


def test_batches_do_not_change_the_boxes(make_scene, model, perfect, tmp_path):
    made = make_scene(height=150, width=230)
    layers = []
    for batch_size in (1, 3, 8):
        path = tmp_path / f"{batch_size}.gpkg"
        predict(made.path, path, model=model, options=PredictOptions(batch_size=batch_size))
        layers.append(read_footprints(path))
    assert len(layers[0]) == len(made.boxes)
    assert layers[0].equals(layers[1])
    assert layers[0].equals(layers[2])


def test_a_folder_gets_footprints_only(make_scene, model, perfect, tmp_path):
    made = make_scene(nodata=0, holes=[(0, 0, 64, 40)])
    steps = []
    files = predict(
        made.path,
        tmp_path / "out",
        model=model,
        progress=lambda done, total, what: steps.append((done, total)),
    ).files
    assert files == (tmp_path / "out" / "footprints.gpkg",)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"footprints.gpkg", MANIFEST_NAME}
    found = read_footprints(files[0])
    hole = made.grid.window_polygon(Window(0, 0, 64, 40))
    assert 0 < len(found) < len(made.boxes)
    assert found.intersection(hole).area.max() == pytest.approx(0, abs=1e-6)
    assert steps[-1][0] == steps[-1][1] == len(TileGrid(96, 160, 64, 24))
    assert steps == sorted(steps)


def test_a_scene_of_other_pixels_and_one_smaller_than_a_tile(make_scene, model, perfect, tmp_path):
    fine = make_scene("fine", gsd=0.25, height=130, width=200,
                      buildings=[(20, 20, 60, 52), (100, 80, 148, 110)])  # fmt: skip
    predict(fine.path, tmp_path / "boxes.gpkg", model=model)
    found = read_footprints(tmp_path / "boxes.gpkg")
    assert len(found) == 2
    for polygon in fine.polygons:
        overlap = found.intersection(polygon).area / found.union(polygon).area
        assert overlap.max() > 0.85
    small = make_scene("small", height=40, width=50)
    predict(small.path, tmp_path / "boxes.gpkg", model=model, overwrite=True)
    assert len(read_footprints(tmp_path / "boxes.gpkg")) == len(small.boxes)


def test_prediction_without_overlap_warns(make_scene, model, perfect, tmp_path, caplog):
    made = make_scene()
    predict(made.path, tmp_path / "a.gpkg", model=model)
    assert "detected twice" not in caplog.text
    predict(made.path, tmp_path / "b.gpkg", model=model, options=PredictOptions(overlap=0))
    assert "buildings on the edge of two tiles are detected twice" in caplog.text


def test_thresholds_of_boxes(make_scene, model, perfect, tmp_path):
    made = make_scene()
    for name, thresholds in (
        ("score", VectorizeOptions(body=0.95)),
        ("area", VectorizeOptions(min_area_m2=30)),
    ):
        path = tmp_path / f"{name}.gpkg"
        predict(made.path, path, model=model, vectorize=thresholds)
        assert len(read_footprints(path)) == 0
        assert list(read_footprints(path).columns) == [*FOOTPRINT_COLUMNS, "geometry"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("prob.tif", {}, r"prob\.tif: .*retinanet predicts boxes, not probabilities per pixel"),
        (
            "boxes.gpkg",
            {"tta": "flips"},
            r"predict\.tta: needs probabilities per pixel, but retinanet predicts boxes",
        ),
        ("boxes.gpkg", {"crf": {}}, r"predict\.crf: needs probabilities per pixel"),
        ("boxes.png", {}, r"boxes\.png: unknown suffix \.png"),
    ],
)
def test_options_that_need_pixel_probabilities_are_refused(
    make_scene, model, tmp_path, name, options, message
):
    made = make_scene()
    before = sorted(tmp_path.rglob("*"))
    for verb in (plan_predict, predict):  # a dry run refuses the same
        with pytest.raises(ConfigError, match=message):
            verb(made.path, tmp_path / name, model=model, options=PredictOptions(**options))
    assert sorted(tmp_path.rglob("*")) == before


def test_training_boxes_without_their_recipe_is_refused(tiles, tmp_path):
    _, folder = tiles
    message = "retinanet predicts boxes, but the recipe trains networks that predict pixels"
    with pytest.raises(ConfigError, match=message):
        train(folder, tmp_path / "run", model=MODEL)
    assert not (tmp_path / "run").exists()


def test_hard_sampling_of_boxes_is_refused(tmp_path):
    options = TrainOptions(sampling="hard")
    with pytest.raises(
        ConfigError, match=r"train\.sampling: hard applies only to networks that predict pixels"
    ):
        BOX_RECIPE.datasets(tmp_path, options)


def test_weights_of_another_network_are_refused(make_scene, model, tmp_path):
    made = make_scene()
    spec, weights = load_model(model)
    other = spec.model_copy(update={"options": {"channels": 64}})
    save_model(tmp_path / "other.safetensors", weights, other)
    with pytest.raises(ModelFileError, match="the weights do not fit retinanet on resnet18"):
        predict(made.path, tmp_path / "boxes.gpkg", model=tmp_path / "other.safetensors")


def test_a_model_file_gives_the_same_boxes(model):
    spec, weights = load_model(model)
    data = np.random.default_rng(0).integers(0, 255, (2, 3, 64, 96)).astype(np.uint8)
    valid = np.ones((2, 64, 96), dtype=bool)
    network = build_model(
        "retinanet", "resnet18", bands=SPEC.bands, outputs=1, options=SPEC.options
    )
    network.load_state_dict(weights)
    one = BoxPredictor(spec, weights, "cpu", min_score=0.009)(data, valid)
    again = BoxPredictor(spec, network.state_dict(), "cpu", min_score=0.009)(data, valid)
    assert min(len(boxes) for boxes in one) > 5
    for boxes, same in zip(one, again, strict=True):
        assert np.array_equal(boxes.corners, same.corners)
        assert np.array_equal(boxes.scores, same.scores)
    nowhere = BoxPredictor(spec, weights, "cpu", min_score=0.009)(data, valid & False)
    assert [len(boxes) for boxes in nowhere] == [0, 0]


# Scoring


def test_the_threshold_separates_true_boxes_from_false(tiles):
    _, folder = tiles
    dataset = BoxDataset(folder, "train")
    rng = np.random.default_rng(0)
    found = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        true = sample["boxes"][sample["is_target"]].numpy()
        false = np.array([[2.0, 2.0, 8.0, 9.0]])
        scores = np.concatenate([rng.uniform(0.62, 1, len(true)), rng.uniform(0.1, 0.48, 1)])
        found[index] = boxes_of(np.concatenate([true, false]), scores)
    areas = build_areas(dataset)
    score = score_boxes(areas, found)
    assert 0.48 <= score.threshold <= 0.62
    best = [
        evaluate_layers(layer[layer.confidence >= score.threshold], area.truth, aoi=area.aoi)
        for area in areas
        for layer in [area.merge(found)]
    ]
    assert score.f1 == pytest.approx(best[0].score.f1)
    assert score.iou == pytest.approx(best[0].area.iou)
    assert score.f1 > 0.6


def test_without_boxes_the_score_is_0_and_the_threshold_in_the_middle(tiles):
    dataset = BoxDataset(tiles[1], "val")
    score = score_boxes(build_areas(dataset), {i: boxes_of([], []) for i in range(len(dataset))})
    assert (score.threshold, score.f1, score.iou) == (0.5, 0.0, 0.0)


# Training


@pytest.fixture(scope="module")
def quick_tiles(tmp_path_factory):
    """Few small tiles, on half of which there is no building."""
    folder = tmp_path_factory.mktemp("quick")
    houses = [(x, y, x + 14, y + 12) for y in (8, 40) for x in (6, 32, 140, 200)]
    made = write_scene(folder, height=64, width=256, buildings=houses)
    options = TileOptions(size=64, overlap=0, fractions=(0.5, 0.25, 0.25), gap=0)
    tile_scenes(plan_tiles([made.path], made.labels, options), folder / "tiles")
    return folder / "tiles"


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(quick_tiles, tmp_path, monkeypatch):
    """Trains for a few steps per epoch."""
    monkeypatch.setattr(geoseg.training.loading.loaders, "_LEAST_STEPS", 4)
    return partial(train, quick_tiles, model=MODEL, options=QUICK, recipe=BOX_RECIPE)


def test_a_resumed_run_equals_an_uninterrupted_one(run, quick_tiles, tmp_path):
    dataset = BoxDataset(quick_tiles, "train")
    assert [int(dataset[i]["is_target"].sum()) for i in range(len(dataset))] == [4, 0]

    def pull_the_plug(line):
        if line.startswith("epoch 2"):
            raise RuntimeError("no power")

    result = run(tmp_path / "a")
    with pytest.raises(RuntimeError, match="no power"):
        run(tmp_path / "b", report=pull_the_plug)
    assert not (tmp_path / "b" / "model.safetensors").exists()
    run(tmp_path / "b", resume=True)
    whole, resumed = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert [row["epoch"] for row in resumed] == ["1", "2"]
    for key in ("train_loss", "val_loss", "val_iou", "val_f1"):
        values = [float(row[key]) for row in whole]
        assert np.isfinite(values).all()
        assert [float(row[key]) for row in resumed] == pytest.approx(values, rel=1e-4)
    again = load_model(tmp_path / "b" / "model.safetensors")[1]
    for name, tensor in load_model(result.model)[1].items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "a" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_the_best_epoch_is_that_of_the_best_building_f1(run, quick_tiles, tmp_path, monkeypatch):
    # Building F1 and IoU of each epoch, as if the network had them.
    box_scores = iter([BoxScore(0.4, 0.3, 0.5), BoxScore(0.6, 0.7, 0.2), BoxScore(0.5, 0.1, 0.9)])
    monkeypatch.setattr(box_learner, "score_boxes", lambda *_: next(box_scores))
    result = run(tmp_path / "a", options=QUICK.model_copy(update={"epochs": 3, "augment": None}))
    assert torch.load(tmp_path / "a" / "best.ckpt", weights_only=True)["epoch"] == 1
    assert result.val_iou == pytest.approx(0.2)
    scores = [float(row["val_f1"]) for row in rows(tmp_path / "a")]
    assert scores == pytest.approx([0.3, 0.7, 0.1])
    spec, weights = load_model(result.model)
    assert spec.outputs == ("building",)
    assert spec.provenance["val_f1"] == pytest.approx(result.val_f1, abs=1e-4)
    tuned = tune_boxes(spec, weights, "cpu", BoxDataset(quick_tiles, "val"))
    assert (tuned.thresholds, tuned.f1) == (result.thresholds, result.val_f1)
    assert spec.thresholds == tuned.thresholds == Thresholds(body=tuned.thresholds.body)


# The whole job


def write_thrice(folder):
    """A tile of nine houses, three times side by side: to train on, to validate on, to test."""
    rng = np.random.default_rng(3)
    houses = []
    for top in (5, 35, 65):
        for left in (5, 36, 67):
            x, y = np.array([left, top]) + rng.integers(0, 5, 2)
            width, height = rng.integers(12, 23, 2)
            houses.append((x, y, x + width, y + height))
    one = write_scene(folder, "one", height=96, width=96, buildings=houses)
    grid = dataclasses.replace(one.grid, width=288)
    scene, labels = folder / "scene.tif", folder / "labels.gpkg"
    write_array(scene, grid, np.tile(one.data, 3), descriptions=SPEC.bands)
    polygons = [
        shapely.affinity.translate(polygon, times * 96 * 0.5)
        for times in range(3)
        for polygon in one.polygons
    ]
    gpd.GeoDataFrame(geometry=polygons, crs=grid.crs.to_wkt()).to_file(labels)
    return scene, labels


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A run that overfits one tile of houses, by the command line."""
    folder = tmp_path_factory.mktemp("job")
    scene, labels = write_thrice(folder)
    model = f"{folder}/run/model.safetensors"
    words = (
        f"tile {scene} --labels {labels} -o {folder}/tiles --size 96 --overlap 0 --gap 0 "
        "--set tile.fractions=[0.3334,0.3333,0.3333]",
        f"train {folder}/tiles -o {folder}/run --set model.arch=retinanet "
        "--set model.encoder=tu-tf_efficientnet_lite0 --set model.options.channels=32 "
        "--set train.epochs=7 --set train.lr=0.002 --set train.augment=none "
        "--set train.precision=32-true --set train.device=cpu",
        f"predict {scene} -m {model} -o {folder}/boxes.gpkg --overlap 0",
        f"evaluate {folder}/boxes.gpkg --truth {labels} --aoi {folder}/tiles/train.geojson "
        f"-o {folder}/report",
        f"info {model}",
    )
    said = {}
    for line in words:
        result = CliRunner().invoke(cli, line.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        said[line.split()[0]] = result.output
    return folder, scene, said


def test_a_network_overfits_one_tile(job):
    folder, _, said = job
    assert "1 train, 1 val, 1 test" in said["tile"]
    report = json.loads((folder / "report" / "report.json").read_text())
    assert report["tp"] + report["fn"] == 9
    assert report["f1"] >= 0.9
    assert max(float(row["val_f1"]) for row in rows(folder / "run")) >= 0.9
    for line in (r"network +retinanet", r"output +boxes of building\n"):
        assert re.search(line, said["info"])


def test_boxes_of_a_scene_do_not_depend_on_the_batch_size(job, tmp_path, monkeypatch):
    folder, scene, _ = job
    # bf16 kernels of different batch sizes round differently.
    monkeypatch.setattr(detector, "computes_bf16", lambda _: False)
    layers = []
    for size in (1, 2, 5):
        path, options = tmp_path / f"{size}.gpkg", PredictOptions(batch_size=size, overlap=32)
        predict(scene, path, model=folder / "run" / "model.safetensors", options=options)
        layers.append(read_footprints(path))
    assert len(layers[0]) > 20
    for layer in layers[1:]:
        assert len(layer) == len(layers[0])
        np.testing.assert_allclose(layer.bounds, layers[0].bounds, atol=0.01)
        np.testing.assert_allclose(layer.confidence, layers[0].confidence, atol=2e-3)


def test_the_command_line_describes_networks_of_boxes(tmp_path):
    def geoseg(line):
        return CliRunner().invoke(cli, line.split(), catch_exceptions=False).output

    card = json.loads(geoseg("models retinanet --encoder resnet18 --json"))
    assert card["arch"] == "retinanet"
    assert card["paper"] == "Lin et al. 2017, arXiv 1708.02002"
    paper = geoseg("models retinanet --classes 91")
    assert "parameters        34,068,119\n" in paper
