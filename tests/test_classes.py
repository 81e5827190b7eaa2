"""Exclusive classes of the ground, from labels to polygons and scores."""

import json
import re
import sqlite3
from contextlib import closing
from xml.etree import ElementTree

import geopandas as gpd
import matplotlib.image
import numpy as np
import pytest
import rasterio
import shapely
import torch
import yaml
from affine import Affine
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from layers import find_components, make_layer, vectorize
from rasterio.crs import CRS
from rasterio.features import rasterize
from scipy import ndimage
from torch import nn

from geoseg.api.predict import predict
from geoseg.cli import cli
from geoseg.data.tiles import TilesInfo
from geoseg.detection.box_learner import BOX_RECIPE
from geoseg.errors import ConfigError, GridMismatchError, SceneReadError
from geoseg.evaluation import evaluate_mask
from geoseg.evaluation.metrics import count_classes
from geoseg.geo.grid import Grid
from geoseg.geo.raster import CLASSES_TAG, Scene, describe_classes, write_array
from geoseg.geo.vector import read_footprints
from geoseg.networks.model_file import load_spec
from geoseg.options import (
    ClassOptions,
    ModelOptions,
    Thresholds,
    TrainOptions,
    VectorizeOptions,
    check_thresholds,
)
from geoseg.town import build_town, write_town
from geoseg.training import finishing
from geoseg.training.dataset import TileDataset
from geoseg.training.run import train
from geoseg.training.segmenter import Segmenter
from geoseg.vectorization.class_polygons import margin_px, simplify_coverage

UTM = CRS.from_epsg(32645)
NAMES = ("ground", "field", "water")
maps = nps.arrays(
    np.uint8, st.tuples(st.integers(1, 19), st.integers(2, 23)), elements=st.integers(0, 3)
)


def grid_of(shape, gsd_m=0.5):
    return Grid(UTM, Affine(gsd_m, 0, 300_000, 0, -gsd_m, 3_000_000), *shape)


def write_prob(path, classes, background=None, sure=0.8):
    """One-hot probabilities of a map of classes from 1; 0 is nodata."""
    prob = np.stack([np.where(classes == value, sure, 0.1) for value in (1, 2, 3)])
    write_array(
        path, grid_of(classes.shape), np.rint(255 * prob).astype(np.uint8), valid=classes > 0,
        descriptions=NAMES, tags={CLASSES_TAG: describe_classes(NAMES, background)},
    )  # fmt: skip
    return path


def polygons(path, **thresholds):
    chosen = Thresholds(**{"min_area_m2": 0, "simplify_m": 0} | thresholds)
    with Scene(path) as scene:
        grid = scene.grid
    return make_layer(path, path.parent, thresholds=chosen), grid


def burnt(frame, grid):
    values = frame["class"].map({name: i for i, name in enumerate(NAMES, start=1)})
    shapes = list(zip(frame.geometry, values, strict=True))
    return rasterize(shapes, grid.shape, transform=grid.transform, dtype="uint8")


def blobs(seed, shape=(57, 83)):
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in NAMES]
    classes = np.argmax(fields, axis=0).astype(np.uint8) + 1
    classes[:9, -14:] = 0
    return classes


@given(classes=maps)
def test_outlines_give_the_map_back(tmp_path_factory, classes):
    path = write_prob(tmp_path_factory.mktemp("prob") / "prob.tif", classes)
    if not classes.any():
        classes = classes + 0
    frame, grid = polygons(path)
    assert np.array_equal(burnt(frame, grid) if len(frame) else np.zeros_like(classes), classes)
    assert frame.geometry.is_valid.all()
    assert shapely.area(frame.geometry.values).sum() == pytest.approx((classes > 0).sum() * 0.25)
    assert frame["id"].tolist() == list(range(1, len(frame) + 1))
    assert frame["confidence"].tolist() == [0.8] * len(frame)


@pytest.mark.parametrize("seed", range(4))
def test_simplified_neighbours_share_their_lines(tmp_path, seed):
    classes = blobs(seed)
    path = write_prob(tmp_path / "prob.tif", classes)
    exact, grid = polygons(path)
    simple, _ = polygons(path, simplify_m=0.6)
    vertices = [shapely.get_num_coordinates(f.geometry.values).sum() for f in (exact, simple)]
    assert vertices[1] < 0.7 * vertices[0]
    assert len(simple) == len(exact)
    whole = shapely.union_all(simple.geometry.values)
    total = shapely.area(simple.geometry.values).sum()
    assert total == pytest.approx(whole.area, rel=1e-9)
    # What is not covered is along the scene's own nodata, nowhere between two classes.
    holes = [ring for part in shapely.get_parts(whole) for ring in part.interiors]
    assert holes == []
    assert (burnt(simple, grid) == classes).mean() > 0.97


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_blocks_change_nothing(tmp_path, rows):
    path = write_prob(tmp_path / "prob.tif", blobs(7), background="ground")
    chosen = Thresholds(min_area_m2=3, simplify_m=0.4)
    one, cut = (make_layer(path, tmp_path, thresholds=chosen, block_px=n) for n in (None, rows))
    assert set(one["class"]) == {"field", "water"}
    assert (one.area_m2 >= 3).all()
    assert cut.drop(columns="geometry").equals(one.drop(columns="geometry"))
    assert (
        shapely.to_wkb(cut.geometry.values).tolist() == shapely.to_wkb(one.geometry.values).tolist()
    )


@pytest.mark.parametrize(
    "option",
    [{"body": 0.4}, {"split_m": 1.0}, {"subpixel": False}, {"regularize": False},
     {"min_hole_m2": 3.0}, {"temperature": 2.0}],
)  # fmt: skip
def test_thresholds_of_buildings_are_refused_for_classes(tmp_path, option):
    path = write_prob(tmp_path / "prob.tif", blobs(3))
    problem = f"vectorize.{next(iter(option))}: applies only to building models"
    with pytest.raises(ConfigError, match=problem):
        check_thresholds(Thresholds(**option))
    own = Thresholds.model_validate(Thresholds().model_dump() | option)
    check_thresholds(own, own)
    check_thresholds(Thresholds(min_area_m2=3, simplify_m=1, min_confidence=0.2))
    assert [found.name for found in tmp_path.iterdir()] == ["prob.tif"]
    (name, value), *_ = option.items()
    if name != "temperature":  # which only a model sets
        with pytest.raises(ConfigError, match=problem):
            vectorize(path, tmp_path / "out.gpkg", thresholds=Thresholds(**option))
        words = ["vectorize", str(path), "-o", str(tmp_path / "x.gpkg"), "--set"]
        result = CliRunner().invoke(cli, [*words, f"vectorize.{name}={json.dumps(value)}"])
        assert result.exit_code == 1
        assert problem in str(result.exception)


@pytest.mark.parametrize("simplify_m", [0.0, 0.5, 3.0, 5.0])
def test_around_a_patch_all_is_seen_that_its_lines_depend_on(simplify_m):
    tolerance = simplify_m / grid_of((40, 60)).gsd_m
    margin = margin_px(grid_of((40, 60)), Thresholds(simplify_m=simplify_m))
    assert margin >= 2 + 2 * tolerance**2  # a triangle of that area on a pixel


@given(classes=maps, rows=st.integers(1, 9))
def test_components_are_of_one_value(classes, rows):
    found = find_components(classes, rows)
    expected = set()
    for value in range(1, 4):
        labels, count = ndimage.label(classes == value, structure=np.ones((3, 3)))
        for number in range(1, count + 1):
            pixels = np.argwhere(labels == number)
            expected.add((value, *pixels[0].tolist(), len(pixels)))
    assert {(one.value, *one.first, one.area) for one in found} == expected
    assert len(found) == len(expected)


def test_an_empty_map_is_an_empty_layer_with_its_columns(tmp_path):
    path = write_prob(tmp_path / "prob.tif", np.ones((9, 14), np.uint8), background="ground")
    assert vectorize(path, tmp_path / "empty.gpkg") == 0
    layer = read_footprints(tmp_path / "empty.gpkg")
    assert list(layer.columns) == [
        "id", "class", "area_m2", "perimeter_m", "confidence", "geometry",
    ]  # fmt: skip
    assert len(layer) == 0


def test_bands_and_classes_must_agree(tmp_path):
    tags = {CLASSES_TAG: describe_classes(("a", "b"), None)}
    bands = np.zeros((3, 8, 9), np.uint8)
    write_array(tmp_path / "a.tif", grid_of((8, 9)), bands, tags=tags)
    with pytest.raises(SceneReadError, match="has 3 bands for 2 classes"):
        vectorize(tmp_path / "a.tif", tmp_path / "a.gpkg")
    write_array(tmp_path / "b.tif", grid_of((8, 9)), bands, tags={CLASSES_TAG: "{"})
    with pytest.raises(ConfigError, match="tag GEOSEG_CLASSES is damaged"):
        vectorize(tmp_path / "b.tif", tmp_path / "b.gpkg")


def test_confusion_by_hand():
    truth = np.array([[0, 0, 1], [2, 2, 9]])
    pred = np.array([[0, 1, 1], [2, 0, 0]])
    found = count_classes(pred, truth, truth != 9, 4)
    assert found.counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert [(one.tp, one.fp, one.fn, one.tn) for one in found.per_class] == [
        (1, 1, 1, 2), (1, 1, 0, 3), (1, 0, 1, 3), (0, 0, 0, 5),
    ]  # fmt: skip
    assert found.accuracy == pytest.approx(3 / 5)
    # The last class occurs nowhere and is no part of the mean.
    assert found.mean_iou == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert found.mean_f1 == pytest.approx((1 / 2 + 2 / 3 + 2 / 3) / 3)
    assert (found + found).counts.sum() == 10
    with pytest.raises(ValueError, match="classes are 0 to 3"):
        count_classes(pred, truth, truth >= 0, 4)


INFO = TilesInfo(
    bands=("red", "green", "blue"), dtype="uint8", gsd_m=0.3, nodata=None, size=32, overlap=0,
    mean=(0.0,) * 3, std=(1.0,) * 3, scenes=("a.tif",), labels="a.gpkg", where=None,
    split={}, tiles={"train": 2}, shared_pixels=0, classes=NAMES, targets=("class",),
    colours=("#000000",) * len(NAMES),
)  # fmt: skip


class Same(nn.Module):
    """Answers with its bands."""

    def forward(self, image):
        return image


def test_the_learner_scores_the_likeliest_class():
    module = Segmenter(Same(), INFO, TrainOptions())
    module.log_dict = lambda scores, **_: logged.update(scores)
    logged: dict[str, float] = {}
    image = torch.zeros(1, 3, 4, 6)
    image[0, 0, :, :3], image[0, 2, :, 3:] = 9.0, 9.0
    target = torch.zeros(1, 1, 4, 6, dtype=torch.uint8)
    target[..., 4:], target[:, :, 0] = 2, 255
    module.validation_step(
        {"image": image, "target": target, "valid": torch.ones(1, 1, 4, 6, dtype=torch.bool)}, 0
    )
    module.on_validation_epoch_end()
    # Three known rows: 9 pixels are right of class 0, 6 of class 2, 3 of class 0 taken for it.
    assert logged["val_iou"] == pytest.approx((9 / 12 + 6 / 9) / 2)
    assert logged["val_f1_pixel"] == pytest.approx((18 / 21 + 12 / 15) / 2)
    assert logged["val_loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(
            image[:, :, 1:], target[:, 0, 1:].long()
        ).item() + dice_by_hand(image[0, :, 1:], target[0, 0, 1:]), rel=1e-4,
    )  # fmt: skip


class Fixed(nn.Module):
    """Answers the same, whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, _):
        return self.logits


def dice_by_hand(logits, target):
    prob = logits.softmax(dim=0)
    scores = [
        (2 * prob[i][target == i].sum() + 1) / (prob[i].sum() + (target == i).sum() + 1)
        for i in range(3)
    ]
    return 1 - sum(scores).item() / 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_map": {}}, "is for tiles of buildings"),
        ({"loss": {"bce": 1}}, "bce: is for independent channels; for exclusive classes use"),
        ({"loss": {"cross_entropy": {"class_weights": [1, 2]}}}, "has 2 values for 3 classes"),
    ],
)
def test_what_is_of_buildings_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Segmenter(Same(), INFO, TrainOptions.model_validate(options))


def test_a_graded_target_is_learnt_as_a_share():
    info = INFO.model_copy(update={"targets": ("building", "distance"), "classes": ("building",)})
    with pytest.raises(ConfigError, match="needs binary targets, but distance is graded"):
        Segmenter(Same(), info, TrainOptions.model_validate({"loss": {"lovasz_hinge": 1}}))
    module = Segmenter(Same(), info, TrainOptions.model_validate({"loss": {"bce": 1}}))
    target = torch.tensor([0, 60, 127, 247]).view(1, 1, 1, 4).repeat(1, 2, 1, 1)
    target[:, 0] = torch.tensor([0, 0, 1, 1])
    logits = torch.randn(1, 2, 1, 4)
    module.network = Fixed(logits)
    found, _ = module._loss(torch.zeros(1, 3, 1, 4), target.to(torch.uint8))
    shares = torch.stack([target[0, 0].float(), target[0, 1] / 247])[None]
    assert found.item() == pytest.approx(
        nn.functional.binary_cross_entropy_with_logits(logits, shares).item(), rel=1e-5
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A town whose kinds of buildings are classes, cut and learnt for two epochs."""
    folder = tmp_path_factory.mktemp("land")
    town = build_town(128, 320, seed=4, density=1.2)
    scene, labels = write_town(town, folder)
    values = {"house": ["house", "l_shape", "courtyard", "hall"], "row": ["#c04000", "row_house"]}
    config = {
        "tile": {
            "size": 64, "overlap": 0, "gap": 0,
            "classes": {"attribute": "kind", "values": values},
        },
        "model": {"arch": "smp-unet", "encoder": "resnet18", "encoder_weights": "none"},
        "train": {
            "epochs": 2, "batch_size": 2, "precision": "32-true", "device": "cpu",
            "loss": {"cross_entropy": 1, "lovasz_softmax": 1},
        },
        "predict": {"device": "cpu"},
    }  # fmt: skip
    path = folder / "land.yaml"
    path.write_text(yaml.safe_dump(config))
    run(f"tile {scene} --labels {labels} -o {folder}/tiles --config {path}")
    trained = run(f"train {folder}/tiles -o {folder}/run --config {path}")
    predicted = run(
        f"predict {scene} -m {folder}/run/model.safetensors -o {folder}/out --config {path}"
    )
    return folder, town, trained + predicted


def run(words):
    result = CliRunner().invoke(cli, words.split())
    if result.exception:
        raise result.exception
    return result.output


def test_a_run_of_classes_shows_what_it_finds(job):
    folder, _, _ = job
    height, width = matplotlib.image.imread(folder / "run" / "validation.png").shape[:2]
    assert height > 100
    assert width > 100
    assert not (folder / "run" / "reliability.png").exists()


def test_tiles_to_be_shown_are_few_and_known(job, monkeypatch):
    folder, _, _ = job
    tiles = TileDataset(folder / "tiles", "train")
    unknown, read, asked = 1, TileDataset.__getitem__, []

    def hide(self, index):
        sample = read(self, index)
        return sample | {"target": sample["target"] * 0 + 255} if index == unknown else sample

    def guess(data, _valid):
        asked.append(len(data))
        return np.stack([data[:, 0] < 90, data[:, 0] >= 90, data[:, 0] < 0], axis=1)

    monkeypatch.setattr(TileDataset, "__getitem__", hide)
    monkeypatch.setattr(finishing, "_CANDIDATES", 4)
    monkeypatch.setattr(
        finishing, "separate_tiles", lambda _, among: [0, unknown, *list(among)[2:]]
    )
    assert len(tiles) > 4
    shown = finishing._choose_masked(guess, tiles)
    assert 3 <= len(shown) <= 4
    assert all((tile.truth != 255).any() for tile in shown)
    assert [tile.iou for tile in shown] == sorted(tile.iou for tile in shown)
    assert sum(asked) <= 4 + len(shown)


def test_the_model_knows_its_classes(job):
    folder, _, said = job
    spec = load_spec(folder / "run" / "model.safetensors")
    assert spec.exclusive
    assert spec.background == "background"
    assert spec.outputs == spec.classes == ("background", "house", "row")
    assert spec.colours[2] == "#c04000"
    assert "building F1" not in said
    assert spec.provenance["val_f1"] is None


def test_mask_and_probabilities_agree(job):
    folder, town, _ = job
    with rasterio.open(folder / "out" / "prob.tif") as prob, \
            rasterio.open(folder / "out" / "mask.tif") as mask:  # fmt: skip
        assert prob.descriptions == ("background", "house", "row")
        data, valid = prob.read(), prob.dataset_mask() > 0
        assert np.array_equal(valid, town.valid)
        # Probabilities of exclusive classes sum to 1, but for the rounding of each band.
        assert abs(data[:, valid].astype(int).sum(axis=0) - 255).max() <= 2
        values = mask.read(1)
        assert np.array_equal(values[valid], data[:, valid].argmax(axis=0))
        assert (values[~valid] == 255).all()
        assert mask.colormap(1)[2] == (0xC0, 0x40, 0x00, 255)
        assert mask.colormap(1)[0][:3] == (0, 0, 0)
        assert mask.tags()["CLASS_1"] == "house"


def test_styles_name_the_classes(job):
    folder, _, _ = job
    mask = ElementTree.parse(folder / "out" / "mask.qml").getroot()
    entries = {
        one.get("value"): (one.get("label"), one.get("color"), one.get("alpha"))
        for one in mask.iter("paletteEntry")
    }
    spec = load_spec(folder / "run" / "model.safetensors")
    assert entries == {
        "0": ("background", "#ffffff", "0"), "1": ("house", spec.colours[1], "255"),
        "2": ("row", "#c04000", "255"), "255": ("nodata", "#ffffff", "0"),
    }  # fmt: skip
    with closing(sqlite3.connect(folder / "out" / "footprints.gpkg")) as database:
        (text,) = database.execute(
            "SELECT styleQML FROM layer_styles WHERE f_table_name = 'footprints'"
        ).fetchone()
    layer = ElementTree.fromstring(text)
    assert layer.find("renderer-v2").get("attr") == "class"
    labels = [one.get("label") for one in layer.iter("category")]
    fills = [one.get("v") for one in layer.iter("prop") if one.get("k") == "color"]
    assert labels == ["house", "row"]
    assert fills[1].startswith("192,64,0,")


def test_polygons_are_those_of_the_mask(job):
    folder, town, _ = job
    run(f"vectorize {folder}/out/prob.tif -o {folder}/exact.gpkg --min-area-m2 0 --simplify-m 0")
    layer = read_footprints(folder / "exact.gpkg")
    names = ("background", "house", "row")
    assert set(layer["class"]) <= set(names[1:])
    with rasterio.open(folder / "out" / "mask.tif") as mask:
        values = mask.read(1)
    values[values == 255] = 0
    shapes = [(g, names.index(c)) for g, c in zip(layer.geometry, layer["class"], strict=True)]
    found = (
        rasterize(shapes, town.grid.shape, transform=town.grid.transform, dtype="uint8")
        if shapes
        else np.zeros_like(values)
    )
    assert np.array_equal(found, values)


def test_a_mask_is_scored_by_class(job, caplog):
    folder, town, _ = job
    config = yaml.safe_load((folder / "land.yaml").read_text())
    classes = ClassOptions.model_validate(config["tile"]["classes"])
    report = evaluate_mask(
        folder / "out" / "mask.tif", folder / "footprints.gpkg", folder / "report",
        classes=classes, aoi=folder / "tiles" / "test.geojson",
    )  # fmt: skip
    with rasterio.open(folder / "out" / "mask.tif") as mask:
        found = mask.read(1)
    places = {kind: i for i, kinds in enumerate(config["tile"]["classes"]["values"].values(), 1)
              for kind in kinds}  # fmt: skip
    kinds = town.footprints.kind.map(places)
    truth = rasterize(
        list(zip(town.footprints.geometry, kinds, strict=True)), found.shape,
        transform=town.grid.transform, dtype="uint8",
    )  # fmt: skip
    area = gpd.read_file(folder / "tiles" / "test.geojson").to_crs(town.grid.crs.to_wkt())
    inside = rasterize(area.geometry, found.shape, transform=town.grid.transform) == 1
    expected = count_classes(found, truth, inside & (found < 3), 3)
    assert report.confusion == tuple(map(tuple, expected.counts.tolist()))
    assert report.mean_iou == expected.mean_iou
    written = json.loads((folder / "report" / "report.json").read_text())
    assert written["classes"][1]["class"] == "house"
    said = run(
        f"evaluate {folder}/out/mask.tif --truth {folder}/footprints.gpkg -o {folder}/again "
        f"--config {folder}/land.yaml --aoi {folder}/tiles/test.geojson"
    )
    assert f"mean IoU {expected.mean_iou:.3f}" in said
    assert "training and validation" not in caplog.text
    evaluate_mask(folder / "out" / "mask.tif", folder / "footprints.gpkg", classes=classes)
    assert re.search(r"mask\.tif: \d\d% of the area is inside the training and val", caplog.text)


def test_a_mask_of_other_classes_is_refused(job, tmp_path):
    folder, town, _ = job
    with pytest.raises(ConfigError, match="has the classes background, house, row, but"):
        evaluate_mask(folder / "out" / "mask.tif", folder / "footprints.gpkg")
    with pytest.raises(SceneReadError, match="has no class names for its values"):
        evaluate_mask(folder / "scene.tif", folder / "footprints.gpkg")
    beside = Grid(
        town.grid.crs, town.grid.transform * Affine.translation(9000, 0), *town.grid.shape
    )
    tags = {"CLASS_0": "background", "CLASS_1": "building"}
    nothing = np.full((1, *beside.shape), 255, np.uint8)
    write_array(tmp_path / "mask.tif", beside, nothing, nodata=255, tags=tags)
    with pytest.raises(GridMismatchError, match="no pixel has a class in both"):
        evaluate_mask(tmp_path / "mask.tif", folder / "footprints.gpkg")


def test_predict_refuses_thresholds_of_buildings_for_classes(job, tmp_path):
    folder, _, _ = job
    model = folder / "run" / "model.safetensors"
    with pytest.raises(ConfigError, match="applies only to building models"):
        predict(
            folder / "scene.tif",
            tmp_path / "out",
            model=model,
            vectorize=VectorizeOptions(body=0.4),
        )
    result = CliRunner().invoke(
        cli,
        ["vectorize", f"{folder}/out/prob.tif", "-o", f"{tmp_path}/a.gpkg", "--threshold", "0.4"],
    )
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "a.gpkg").exists()


def test_boxes_cannot_learn_classes(job, tmp_path):
    folder, _, _ = job
    boxes = ModelOptions(arch="retinanet")
    with pytest.raises(ConfigError, match="exclusive classes, but networks of boxes detect build"):
        train(folder / "tiles", tmp_path / "run", model=boxes, recipe=BOX_RECIPE)
    assert not (tmp_path / "run").exists()


def test_class_polygons_survive_when_simplification_would_break_them(monkeypatch):
    bowtie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    outlines = np.array([shapely.box(0, 0, 3, 2), shapely.box(3, 0, 5, 2)], dtype=object)
    monkeypatch.setattr(shapely, "coverage_simplify", lambda p, _: np.array([bowtie, p[1]]))
    assert shapely.equals(simplify_coverage(outlines, 1.0), outlines).all()
