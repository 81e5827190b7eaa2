"""Public data sets as they lie on the disk when downloaded."""

import json

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from shapely.geometry import box

from geoseg.errors import GridMismatchError, LabelError
from geoseg.grid import Grid
from geoseg.labels import labels_of
from geoseg.options import TileOptions
from geoseg.raster import write_array
from geoseg.tiles import plan_tiles, tile_scenes

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
            outline = box(*(transform @ (left, bottom)), *(transform @ (right, top)))
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
    assert labels_of(scene, tmp_path / pattern) == str(tmp_path / there)
    # The whole name comes before any part of it.
    whole = pattern.replace("{}", scene.split("/")[1].rsplit(".", 1)[0])
    (tmp_path / whole).parent.mkdir(exist_ok=True)
    (tmp_path / whole).touch()
    assert labels_of(scene, tmp_path / pattern) == str(tmp_path / whole)


def test_a_path_without_a_place_for_the_name_is_itself():
    assert labels_of("a/scene.tif", "b/all.gpkg") == "b/all.gpkg"


def test_a_scene_without_labels_is_named(tmp_path):
    with pytest.raises(LabelError, match=r"a_b\.tif: has no labels; there is none of .*a_b\.gpkg"):
        labels_of(tmp_path / "a_b.tif", tmp_path / "{}.gpkg")


def test_labels_that_all_lie_elsewhere(tmp_path):
    scenes = []
    for index in range(4):
        scenes.append(tmp_path / f"s{index}.tif")
        write_scene(scenes[-1], index, index)
        outline = box(600_000, 4_100_000 + index, 600_010, 4_100_010 + index)
        layer = gpd.GeoDataFrame(geometry=[outline], crs=UTM.to_wkt())
        layer.to_file(tmp_path / f"s{index}.gpkg")
    with pytest.raises(GridMismatchError, match=r"\{\}\.gpkg: its 4 footprints lie at longitude"):
        plan_tiles(scenes, tmp_path / "{}.gpkg", OPTIONS)
