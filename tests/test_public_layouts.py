"""Public data sets in the folders in which they are downloaded."""

import importlib
import json
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.crs import CRS
from shapely.geometry import box

from geoseg.config import load_config
from geoseg.data.labels import find_labels_path
from geoseg.data.tiles import list_scenes, plan_tiles, tile_scenes
from geoseg.errors import ConfigError, GridMismatchError, LabelError, MissingCRSError
from geoseg.evaluation.metrics import Confusion, count_classes
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, read_info, write_array
from geoseg.geo.raster.placeholder import placeholder_grid
from geoseg.options import TileOptions

# The tests read plain pictures with rasterio, too.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

UTM = CRS.from_epsg(32611)
OPTIONS = TileOptions(size=32, overlap=0, split="scenes", fractions=(0.5, 0.25, 0.25))


def scene_grid(place):
    return Grid(UTM, Affine(0.3, 0, 600_000 + 100 * place, 0, -0.3, 4_000_000), 64, 96)


def write_scene(path, place, seed):
    data = np.random.default_rng(seed).integers(1, 2000, (3, 64, 96)).astype(np.uint16)
    write_array(path, scene_grid(place), data, descriptions=("red", "green", "blue"))
    return data


def burnt(folder, scene_index):
    """The first target band of a scene's tiles, put together."""
    found = np.full((64, 96), 7, np.uint8)
    for path in sorted((folder / "targets").glob(f"{scene_index:03d}_*.tif")):
        _, row, column = map(int, path.stem.split("_"))
        with rasterio.open(path) as tile:
            found[row : row + 32, column : column + 32] = tile.read(1)
    return found


def test_spacenet_has_a_file_of_footprints_for_each_scene(tmp_path):
    folder = tmp_path / "AOI_2_Vegas_Train"
    (folder / "RGB-PanSharpen").mkdir(parents=True)
    (folder / "geojson" / "buildings").mkdir(parents=True)
    scenes, boxes = [], {1: (10, 20, 40, 50), 3: (0, 4, 9, 60), 10: (70, 30, 90, 44), 22: None}
    for index, (number, extent) in enumerate(boxes.items()):
        name = f"AOI_2_Vegas_img{number}"
        scene = folder / "RGB-PanSharpen" / f"RGB-PanSharpen_{name}.tif"
        write_scene(scene, index, number)
        labels = folder / "geojson" / "buildings" / f"buildings_{name}.geojson"
        if extent is None:  # as the contest writes scenes without a building
            labels.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
        else:
            left, top, right, bottom = extent
            transform = scene_grid(index).transform
            outline = box(*(transform * (left, bottom)), *(transform * (right, top)))
            layer = gpd.GeoDataFrame({"partialDec": [1.0]}, geometry=[outline], crs=UTM.to_wkt())
            layer.to_crs(4326).to_file(labels, driver="GeoJSON")
        scenes.append(scene)
    pattern = folder / "geojson" / "buildings" / "buildings_{}.geojson"
    info = tile_scenes(plan_tiles(scenes, pattern, OPTIONS), tmp_path / "tiles")
    assert info.labels == str(pattern)
    for index, extent in enumerate(boxes.values()):
        expected = np.zeros((64, 96), np.uint8)
        if extent is not None:
            left, top, right, bottom = extent
            expected[top:bottom, left:right] = 1
        assert np.array_equal(burnt(tmp_path / "tiles", index), expected)


def test_inria_has_a_mask_for_each_scene(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "gt").mkdir()
    masks, scenes = {}, []
    for index, name in enumerate(["austin1", "austin12", "vienna3", "vienna9"]):
        scenes.append(tmp_path / "images" / f"{name}.tif")
        write_scene(scenes[-1], index, index)
        masks[index] = np.random.default_rng(index).integers(0, 2, (1, 64, 96)).astype(np.uint8)
        write_array(tmp_path / "gt" / f"{name}.tif", scene_grid(index), masks[index] * 255)
    plan = plan_tiles(scenes, tmp_path / "gt" / "{}.tif", OPTIONS)
    assert plan.label_files == tuple(str(tmp_path / "gt" / s.name) for s in scenes)
    tile_scenes(plan, tmp_path / "tiles")
    for index, mask in masks.items():
        assert np.array_equal(burnt(tmp_path / "tiles", index), mask[0])


COLOURS = {
    "urban": (0, 255, 255), "agriculture": (255, 255, 0), "rangeland": (255, 0, 255),
    "forest": (0, 255, 0), "water": (0, 0, 255), "barren": (255, 255, 255), "unknown": (0, 0, 0),
}  # fmt: skip


def write_plain(path, array):
    """An image without georeferencing."""
    Image.fromarray(array.transpose(1, 2, 0)).save(path)


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """Six scenes as DeepGlobe's land cover has them, and their masks as numbers."""
    folder = tmp_path_factory.mktemp("land") / "train"
    folder.mkdir()
    masks = {}
    for number in (6, 104, 105, 119, 998002, 998003):
        rng = np.random.default_rng(number)
        write_plain(folder / f"{number}_sat.jpg", rng.integers(0, 256, (3, 64, 96), np.uint8))
        mask = rng.integers(0, 7, (8, 12)).repeat(8, axis=0).repeat(8, axis=1)
        colours = np.array(list(COLOURS.values()), np.uint8)[mask]
        write_plain(folder / f"{number}_mask.png", colours.transpose(2, 0, 1))
        masks[number] = mask.astype(np.uint8)
    return folder, masks


def land_config(*overrides):
    return load_config(
        "land_cover",
        [
            *("tile.size=32", "train.epochs=1", "train.batch_size=2", "train.workers=0"),
            *("model.encoder=tu-tf_efficientnet_lite0", "train.device=cpu", "predict.tta=none"),
            *("train.precision=32-true", "predict.device=cpu", *overrides),
        ],
    )


def number_of(scene):
    return int(Path(scene).stem.split("_")[0])


def test_deepglobe_land_cover_has_pictures_without_a_place(land, tmp_path):
    folder, masks = land
    scenes = sorted(folder.glob("*_sat.jpg"))
    plan = plan_tiles(scenes, folder / "{}_mask.png", land_config().tile)
    assert {info.georeferenced_by for info in plan.scenes} == {"assumed"}
    assert [grid.gsd_m for grid in plan.grids] == pytest.approx([0.5] * 6, rel=1e-3)
    assert plan.shared_pixels == 0
    info = tile_scenes(plan, tmp_path / "tiles")
    assert info.classes == tuple(COLOURS)[:6]
    assert info.colours[0] == "#00ffff"
    assert info.background is None
    for index, scene in enumerate(scenes):
        expected = masks[number_of(scene)].copy()
        expected[expected == 6] = 255
        assert np.array_equal(burnt(tmp_path / "tiles", index), expected)
        with rasterio.open(scene) as picture:
            data = picture.read()
        for path in (tmp_path / "tiles" / "images").glob(f"{index:03d}_*.tif"):
            _, row, column = map(int, path.stem.split("_"))
            with rasterio.open(path) as tile:
                part = data[:, row : row + 32, column : column + 32]
                assert np.array_equal(tile.read(), part)


def test_a_place_is_the_names_and_no_others(land):
    folder, _ = land
    scenes = sorted(folder.glob("*_sat.jpg"))
    grids = [read_info(scene, assume_gsd_m=0.5).grid for scene in scenes]
    assert len({grid.bounds for grid in grids}) == len(scenes)
    elsewhere = folder.parent / "other"
    elsewhere.mkdir(exist_ok=True)
    shutil.copy(scenes[0], elsewhere / scenes[0].name)
    assert read_info(elsewhere / scenes[0].name, assume_gsd_m=0.5).grid == grids[0]
    twice = [scenes[0], elsewhere / scenes[0].name]
    with pytest.raises(ConfigError, match="were given the same placeholder location; rename one"):
        plan_tiles(twice, folder / "{}_mask.png", land_config().tile)


@given(number=st.integers(0, 4_000_000), step=st.integers(1, 1_000_000))
def test_a_series_shares_no_ground(number, step):
    one, other = (
        placeholder_grid(f"x/{n}_sat.jpg", 2448, 2300, 0.5) for n in (number, number + step)
    )
    assert not one.polygon.intersects(other.polygon)
    assert one.gsd_m == pytest.approx(0.5, rel=1e-3)


def test_what_says_nothing_is_refused_without_an_assumption(land):
    folder, _ = land
    with pytest.raises(MissingCRSError, match="or use --assume-gsd METRES"):
        plan_tiles([folder / "6_sat.jpg"], folder / "{}_mask.png", OPTIONS)
    with pytest.raises(ConfigError, match="check --assume-gsd"):
        placeholder_grid("a.jpg", 10, 60_000, 10.0)


def test_a_mask_of_another_size_is_not_laid_on_a_scene(land, tmp_path):
    folder, _ = land
    write_plain(tmp_path / "6_mask.png", np.zeros((3, 30, 96), np.uint8))
    with pytest.raises(MissingCRSError, match="30 x 96 pixels are not the scene's 64 x 96"):
        plan_tiles([folder / "6_sat.jpg"], tmp_path / "{}_mask.png", land_config().tile)


def test_a_plain_picture_is_resampled_as_a_placed_one(land, tmp_path):
    folder, _ = land
    own = read_info(folder / "6_sat.jpg", assume_gsd_m=0.5).grid
    with rasterio.open(folder / "6_sat.jpg") as picture:
        data = picture.read()
    write_array(tmp_path / "6.tif", own, data, descriptions=("red", "green", "blue"))
    coarse = own.resampled(0.8)
    with (
        Scene(folder / "6_sat.jpg", grid=coarse, assume_gsd_m=0.5) as plain,
        Scene(tmp_path / "6.tif", grid=coarse) as placed,
    ):
        for found, expected in zip(plain.read(), placed.read(), strict=True):
            assert np.array_equal(found, expected)


def test_land_cover_from_pictures_to_scores(land, tmp_path, monkeypatch):
    folder, masks = land
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "pipelines"))
    recipe = importlib.import_module("land_cover")
    scenes = sorted(folder.glob("*_sat.jpg"))
    score = recipe.run(scenes, folder / "{}_mask.png", [], tmp_path / "work", land_config())
    tested = list_scenes(tmp_path / "work" / "tiles", "test")
    assert len(tested) >= 1
    hits = np.zeros((6, 6), dtype=np.int64)
    for scene in map(Path, tested):
        with rasterio.open(tmp_path / "work" / "scenes" / scene.stem / "mask.tif") as mask:
            found = mask.read(1)
        truth = masks[number_of(scene)]
        hits += count_classes(found, truth, truth < 6, 6).counts
    assert score == Confusion(hits).mean_iou


@pytest.mark.parametrize(
    ("scene", "pattern", "there"),
    [
        ("a/RGB-PanSharpen_AOI_2_Vegas_img1.tif", "b_{}.geojson", "b_AOI_2_Vegas_img1.geojson"),
        ("a/104_sat.jpg", "{}_mask.png", "104_mask.png"),
        ("a/22678915_15.tiff", "{}.tif", "22678915_15.tif"),
        ("a/x_y_z.tif", "{}/{}.gpkg", "y_z/y_z.gpkg"),
    ],
)
def test_a_name_or_its_longest_part(tmp_path, scene, pattern, there):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    assert find_labels_path(scene, tmp_path / pattern) == str(tmp_path / there)
    # The whole name comes before any part of it.
    whole = pattern.replace("{}", scene.split("/")[1].rsplit(".", 1)[0])
    (tmp_path / whole).parent.mkdir(exist_ok=True)
    (tmp_path / whole).touch()
    assert find_labels_path(scene, tmp_path / pattern) == str(tmp_path / whole)


def test_a_path_without_a_place_for_the_name_is_itself():
    assert find_labels_path("a/scene.tif", "b/all.gpkg") == "b/all.gpkg"


def test_a_scene_without_labels_is_named(tmp_path):
    with pytest.raises(LabelError, match=r"a_b\.tif: has no labels, none of .*a_b\.gpkg"):
        find_labels_path(tmp_path / "a_b.tif", tmp_path / "{}.gpkg")


def test_labels_that_all_lie_elsewhere(tmp_path):
    scenes = []
    for index in range(4):
        scenes.append(tmp_path / f"s{index}.tif")
        write_scene(scenes[-1], index, index)
        outline = box(600_000, 4_100_000 + index, 600_010, 4_100_010 + index)
        layer = gpd.GeoDataFrame(geometry=[outline], crs=UTM.to_wkt())
        layer.to_file(tmp_path / f"s{index}.gpkg")
    with pytest.raises(GridMismatchError, match=r"\{\}\.gpkg: its 4 footprints are at longitude"):
        plan_tiles(scenes, tmp_path / "{}.gpkg", OPTIONS)
