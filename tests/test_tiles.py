"""Tiles folders: complete, without leaks between splits, and absent if a job fails."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
import warnings
import zipfile

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from pools import WorkersOf
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import geometry_mask
from rasterio.io import MemoryFile
from rasterio.windows import Window
from scipy.ndimage import binary_dilation
from shapely.geometry import Polygon

from geoseg.data.labels import IGNORE
from geoseg.data.splits import count_shared_pixels
from geoseg.data.tiles import (
    build_row_task,
    cut_tile_row,
    load_tiles_info,
    plan_tiles,
    read_tiles,
    tile_scenes,
    tile_window,
)
from geoseg.errors import (
    ConfigError,
    EmptyDatasetError,
    GridMismatchError,
    LabelError,
    OutputExistsError,
    SceneReadError,
    VectorReadError,
    WorkerLostError,
)
from geoseg.geo.raster import Scene, read_info, write_array
from geoseg.jobs.manifest import MANIFEST_NAME
from geoseg.jobs.pool import Failure
from geoseg.jobs.workers import Workers
from geoseg.options import ClassOptions, TileOptions

SMALL = {"size": 32, "overlap": 8, "fractions": (0.6, 0.2, 0.2), "gap": 0}


def cut(scenes, labels, output, *, run=map, overwrite=False, **options):
    scenes = scenes if isinstance(scenes, list) else [scenes]
    plan = plan_tiles(scenes, labels, TileOptions(**(SMALL | options)))
    return tile_scenes(plan, output, workers=WorkersOf(run=run), overwrite=overwrite)


def read(path):
    with Scene(path) as scene:
        return scene.read()


def listing(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


# The folder


def test_contents_of_the_folder(make_scene, tmp_path):
    made = make_scene(descriptions=["red", "green", "blue"])
    info = cut(made.path, made.labels, tmp_path / "tiles")
    folder, tiles = tmp_path / "tiles", read_tiles(tmp_path / "tiles")
    assert listing(folder) == sorted(
        [f"{kind}/{id_}.tif" for id_ in tiles.id for kind in ("images", "targets")]
        + ["tiles.parquet", "footprints.parquet", "tiles.json", MANIFEST_NAME]
        + ["train.geojson", "val.geojson", "test.geojson"]
    )
    assert info == load_tiles_info(folder)
    assert (info.bands, info.dtype, info.nodata) == (("red", "green", "blue"), "uint8", None)
    assert (info.size, info.overlap, info.ignore) == (32, 8, 255)
    assert (info.classes, info.targets) == (("building",), ("building", "border"))
    assert info.gsd_m == pytest.approx(0.5 / 0.9996, abs=1e-6)
    assert info.scenes == (str(made.path),)
    assert info.labels == str(made.labels)
    assert info.split == {
        "by": "stripes",
        "gap": 0,
        "fractions": [0.6, 0.2, 0.2],
        "seed": 0,
    }
    # 96 rows in 4 tiles; stripes of 96, 32 and 32 columns in 4, 1 and 1.
    assert info.tiles == {"train": 16, "val": 4, "test": 4}
    assert info.tiles == {split: sum(tiles.split == split) for split in info.tiles}
    assert len(gpd.read_parquet(folder / "footprints.parquet")) == len(made.polygons)


def test_any_description_of_a_band_becomes_a_name(make_scene, tmp_path):
    made = make_scene(descriptions=["near\ninfrared", "r\xe9d " * 80, "\t"])
    info = cut(made.path, made.labels, tmp_path / "tiles")
    assert info.bands == ("near infrared", ("r\xe9d " * 80)[:200], "band3")
    assert load_tiles_info(tmp_path / "tiles") == info
    chosen = cut(made.path, made.labels, tmp_path / "chosen", bands=("band3", "near\ninfrared"))
    assert chosen.bands == ("band3", "near infrared")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["house\nrow", "road"], r"tile.classes: 'house\\nrow' cannot be the name of a class"),
        (["house", "r" * 201], "give a name of 1 to 200 characters without line breaks"),
        (["", "road"], "tile.classes: '' cannot be the name of a class"),
        ([f"class {number}" for number in range(255)], "has 256 classes, background included"),
    ],
)
def test_classes_that_cannot_be_stored_are_refused_before_anything_is_read(tmp_path, names, reason):
    classes = ClassOptions(attribute="kind", values={name: (f"is {name}",) for name in names})
    with pytest.raises(ConfigError, match=reason):
        plan_tiles([tmp_path / "none.tif"], tmp_path / "none.gpkg", TileOptions(classes=classes))


@pytest.mark.parametrize("gsd_m", [1e-7, 1e7])
def test_a_pixel_size_that_cannot_be_stored_is_refused_in_planning(make_scene, gsd_m):
    made = make_scene()
    with pytest.raises(ConfigError, match=r"between 1e-06 and 1e\+06 m"):
        plan_tiles([made.path], made.labels, TileOptions(gsd_m=gsd_m))


@pytest.mark.parametrize("rotation", [0, 33])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiles_have_the_pixels_of_the_scene(make_scene, tmp_path, dtype, rotation):
    made = make_scene(dtype=dtype, rotation=rotation, bands=4, width=150, height=100)
    cut(made.path, made.labels, tmp_path / "tiles")
    for tile in read_tiles(tmp_path / "tiles").itertuples():
        rows, columns = tile_window(tile).toslices()
        height, width = tile.height, tile.width
        data, valid = read(tmp_path / "tiles" / "images" / f"{tile.id}.tif")
        target, _ = read(tmp_path / "tiles" / "targets" / f"{tile.id}.tif")
        assert data.shape == (4, 32, 32)
        assert data.dtype == dtype
        np.testing.assert_array_equal(data[:, :height, :width], made.data[:, rows, columns])
        np.testing.assert_array_equal(target[0, :height, :width], made.mask[rows, columns])
        assert valid[:height, :width].all()
        assert not valid[height:].any()
        assert not valid[:, width:].any()
        assert tile.building_fraction == pytest.approx(made.mask[rows, columns].mean())
        assert tile.valid_fraction == pytest.approx(height * width / 32**2)


def test_tiles_are_georeferenced(make_scene, tmp_path):
    made = make_scene(rotation=20)
    cut(made.path, made.labels, tmp_path / "tiles")
    tiles = read_tiles(tmp_path / "tiles")
    projected = tiles.to_crs(32645)
    for tile, place in zip(tiles.itertuples(), projected.geometry, strict=True):
        grid = read_info(tmp_path / "tiles" / "images" / f"{tile.id}.tif").grid
        assert grid.transform.almost_equals(made.grid.window_transform(tile_window(tile)), 1e-6)
        assert place.equals_exact(made.grid.window_polygon(tile_window(tile)), 1e-3)


@pytest.mark.parametrize("split", ["stripes", "blocks"])
def test_splits_share_no_pixel(make_scene, tmp_path, split):
    made = make_scene(height=200, width=230)
    info = cut(made.path, made.labels, tmp_path / "tiles", split=split)
    tiles = read_tiles(tmp_path / "tiles")
    owner = {split: np.zeros((200, 230), dtype=bool) for split in info.tiles}
    for tile in tiles.itertuples():
        owner[tile.split][tile_window(tile).toslices()] = True
    assert sum(mask.astype(int) for mask in owner.values()).max() == 1
    assert all(mask.any() for mask in owner.values())
    assert info.shared_pixels == 0
    for name, mask in owner.items():
        region = gpd.read_file(tmp_path / "tiles" / f"{name}.geojson").to_crs(32645)
        assert region.area.sum() == pytest.approx(mask.sum() * 0.25, rel=1e-3)


@pytest.mark.parametrize("split", ["stripes", "blocks", "kfold"])
def test_splits_are_separated_by_the_gap(make_scene, tmp_path, split):
    made = make_scene(height=300, width=420, buildings=((5, 5, 20, 20), (300, 250, 320, 280)))
    info = cut(
        made.path,
        made.labels,
        tmp_path / "tiles",
        split=split,
        gap=24,
        block=96,
        fold=int(split == "kfold"),
    )
    tiles = read_tiles(tmp_path / "tiles")
    owned = {name: np.zeros((300, 420), dtype=bool) for name in info.tiles}
    for tile in tiles.itertuples():
        owned[tile.split][tile_window(tile).toslices()] = True
    for name, mask in owned.items():
        others = np.any([other for key, other in owned.items() if key != name], axis=0)
        # Within 24 pixels of a tile there is no tile of another split.
        assert not (binary_dilation(mask, np.ones((47, 47))) & others).any()
        assert mask.any()
    assert info.split["gap"] == 24
    assert info.shared_pixels == 0


def test_a_fraction_of_empty_training_tiles_is_kept(make_scene, tmp_path):
    made = make_scene(height=160, width=400, buildings=((5, 5, 20, 20), (300, 70, 320, 90)))
    counts = {}
    for share in (1.0, 0.25, 0.0):
        folder = tmp_path / f"tiles_{share}"
        info = cut(made.path, made.labels, folder, overlap=0, keep_empty=share)
        tiles = read_tiles(folder)
        train = tiles[tiles.split == "train"]
        counts[share] = (int((train.building_fraction == 0).sum()), info.tiles)
        assert (train.building_fraction > 0).any()
        assert len(list((folder / "images").iterdir())) == len(tiles)
    assert counts[0.25][0] == round(counts[1.0][0] / 4) > 3
    assert counts[0.0][0] == 0
    for split in ("val", "test"):
        assert counts[0.0][1][split] == counts[1.0][1][split] > 0


def write_areas(made, path, **areas):
    """Write polygons, in metres from the corner of a scene, with their names as splits."""
    left, top = made.grid.transform * (0, 0)
    layer = gpd.GeoDataFrame(geometry=list(areas.values()), crs=made.grid.crs.to_wkt())
    layer.geometry = layer.geometry.translate(left, top)
    if "area" not in areas:
        layer["split"] = list(areas)
    layer.to_file(path)
    return layer


def check_labels_of(folder, layer):
    """Check that pixels are labelled where they are inside an area, and nowhere else."""
    area = layer.geometry.union_all()
    tiles = read_tiles(folder)
    for id_, height, width in zip(tiles.id, tiles.height, tiles.width, strict=True):
        with rasterio.open(folder / "targets" / f"{id_}.tif") as target:
            known = target.read(1) != IGNORE
            inside = ~geometry_mask([area], target.shape, target.transform)
            # Tiles at the end of an area are cut short, and padded.
            inside[height:], inside[:, width:] = False, False
        assert not (known & ~inside).any()
        # The bounds of an area that is divided are whole pixels.
        assert (inside & ~known).sum() <= max(known.shape)
    return tiles


def test_tiles_are_completely_inside_areas_of_a_split(make_scene, tmp_path):
    made = make_scene(height=160, width=300)
    layer = write_areas(
        made, tmp_path / "areas.gpkg",
        train=Polygon([(0, 0), (100, 0), (60, -80), (0, -80)]),
        test=Polygon([(110, 0), (150, 0), (150, -80), (110, -80)]),
    )  # fmt: skip
    options = {"split": "areas", "areas": str(tmp_path / "areas.gpkg")}
    info = cut(made.path, made.labels, tmp_path / "tiles", **options)
    tiles = read_tiles(tmp_path / "tiles").to_crs(layer.crs)
    assert info.tiles["val"] == 0
    assert min(info.tiles["train"], info.tiles["test"]) > 5
    for split, area in layer.set_index("split").geometry.items():
        assert tiles[tiles.split == split].within(area.buffer(0.01)).all()
        region = gpd.read_file(tmp_path / "tiles" / f"{split}.geojson").to_crs(layer.crs)
        assert region.area.sum() == pytest.approx(area.area, rel=1e-3)


def test_areas_of_a_split_without_a_tile_inside_are_refused(make_scene, tmp_path):
    made = make_scene(height=160, width=300)
    write_areas(made, tmp_path / "areas.gpkg", train=Polygon([(0, 0), (10, 0), (0, -10)]))
    with pytest.raises(EmptyDatasetError, match="no tile of 32 pixels is completely inside"):
        cut(
            made.path, made.labels, tmp_path / "tiles", split="areas",
            areas=str(tmp_path / "areas.gpkg"),
        )  # fmt: skip


CORRIDOR = shapely.affinity.rotate(shapely.box(10, -42, 140, -34), 2)
FLAT = shapely.box(20, -30, 120, -25)
CORNER = Polygon([(5, -5), (145, -5), (145, -12), (12, -12), (12, -75), (5, -75)])


@pytest.mark.parametrize(
    "area",
    [
        *(
            shapely.affinity.rotate(shapely.box(30, -15 - height, 30 + width, -15), 3)
            for width, height in [(5, 4), (14, 40), (40, 15), (20, 20), (70, 50), (75, 12)]
        ),
        *(CORRIDOR, FLAT, CORNER),
        shapely.MultiPolygon([shapely.box(5, -15, 15, -5), shapely.box(60, -34, 69, -25)]),
    ],
)
def test_a_labelled_area_of_any_size_and_shape_is_used(make_scene, tmp_path, area):
    made = make_scene(height=160, width=300)
    layer = write_areas(made, tmp_path / "areas.gpkg", area=area)
    options = {"split": "areas", "areas": str(tmp_path / "areas.gpkg")}
    info = cut(made.path, made.labels, tmp_path / "tiles", **options)
    assert min(info.tiles["train"], info.tiles["val"]) > 0
    assert info.shared_pixels == 0
    check_labels_of(tmp_path / "tiles", layer)
    tiles = read_tiles(tmp_path / "tiles").to_crs(layer.crs)
    assert tiles.id.is_unique
    regions = [gpd.read_file(tmp_path / "tiles" / f"{s}.geojson") for s in ("train", "val")]
    used = pd.concat(regions).to_crs(layer.crs).geometry.union_all()
    assert tiles.union_all().intersection(used).area > 0.7 * used.area


def test_labelled_areas_near_each_other_share_neither_tiles_nor_labels(make_scene, tmp_path):
    made = make_scene(height=160, width=300)
    left, right = Polygon([(0, 0), (80, 0), (0, -60)]), Polygon([(80, -2), (80, -62), (2, -62)])
    layer = write_areas(
        made, tmp_path / "areas.gpkg", area=left, b=right, c=Polygon([(0, -61), (2, -63), (0, -80)])
    )
    options = {"split": "areas", "areas": str(tmp_path / "areas.gpkg")}
    info = cut(made.path, made.labels, tmp_path / "tiles", **options)
    check_labels_of(tmp_path / "tiles", layer)
    tiles = read_tiles(tmp_path / "tiles").to_crs(layer.crs)
    assert info.shared_pixels == 0
    assert tiles.id.is_unique
    for split in ("train", "val"):
        other = gpd.read_file(tmp_path / "tiles" / f"{split}.geojson").to_crs(layer.crs)
        apart = tiles[tiles.split != split].union_all().intersection(other.union_all())
        assert apart.area < 1


def test_areas_without_validation_are_warned_of(make_scene, tmp_path, caplog):
    made = make_scene(height=160, width=300)
    options = {"split": "areas", "areas": str(tmp_path / "areas.gpkg")}
    write_areas(made, tmp_path / "areas.gpkg", train=shapely.box(0, -80, 100, 0))
    cut(made.path, made.labels, tmp_path / "one", **options)
    assert "areas.gpkg: leaves no tile for validation" in caplog.text
    caplog.clear()
    write_areas(made, tmp_path / "areas.gpkg", area=shapely.box(0, -80, 100, 0))
    cut(made.path, made.labels, tmp_path / "two", **options)
    assert "leaves no tile" not in caplog.text


def test_the_attribute_split_may_have_capitals(make_scene, tmp_path):
    made = make_scene(height=160, width=300)
    path = tmp_path / "areas.gpkg"
    parts = {"train": shapely.box(0, -80, 60, 0), "val": shapely.box(90, -80, 150, 0)}
    layer = write_areas(made, path, **parts)
    layer.rename(columns={"split": "Split"}).to_file(path)
    options = {"split": "areas", "areas": str(path)}
    info = cut(made.path, made.labels, tmp_path / "tiles", **options)
    drawn = gpd.read_file(tmp_path / "tiles" / "val.geojson").to_crs(layer.crs).union_all()
    wanted = layer.geometry[1]
    assert drawn.symmetric_difference(wanted).area < 0.02 * wanted.area
    assert info.tiles["test"] == 0
    layer.assign(Split=["train", None]).drop(columns="split").to_file(path)
    with pytest.raises(VectorReadError, match=r"area without a value in Split; write train, val"):
        cut(made.path, made.labels, tmp_path / "none", **options)


def test_areas_that_are_too_small_are_warned_of(make_scene, tmp_path, caplog):
    made = make_scene(height=160, width=300)
    path = tmp_path / "areas.gpkg"
    options = {"split": "areas", "areas": str(path)}
    write_areas(made, path, area=shapely.box(0, -80, 100, 0))
    options["fractions"] = (0.7, 0.15, 0.15)
    cut(made.path, made.labels, tmp_path / "one", **options)
    assert "areas.gpkg: its areas are too small to divide off a part for testing" in caplog.text
    caplog.clear()
    cut(made.path, made.labels, tmp_path / "two", **options | {"fractions": (0.8, 0.2, 0)})
    assert "for testing" not in caplog.text
    write_areas(
        made, path, train=shapely.box(0, -80, 60, 0), val=shapely.box(90, -80, 100, 0),
        test=shapely.box(130, -80, 140, -60),
    )  # fmt: skip
    cut(made.path, made.labels, tmp_path / "three", **options)
    assert f"areas.gpkg: 2 areas are smaller than a tile of {SMALL['size']} pixels" in caplog.text
    assert "for testing" not in caplog.text


@pytest.mark.parametrize("crossing", [True, False])
def test_an_area_whose_edge_no_building_crosses_is_warned_of(
    make_scene, tmp_path, caplog, crossing
):
    made = make_scene(height=160, width=300)
    area = shapely.box(1, -79, 149, -1)
    write_areas(made, tmp_path / "areas.gpkg", area=area)
    buildings = [
        shapely.box(x, -y - 6, x + 6, -y) for y in range(5, 70, 16) for x in range(5, 140, 25)
    ]
    buildings += [shapely.box(145, -30, 149.5, -26)] * crossing
    write_areas(made, tmp_path / "labels.gpkg", **{f"b{n}": b for n, b in enumerate(buildings)})
    cut(
        made.path, tmp_path / "labels.gpkg", tmp_path / "tiles",
        split="areas", areas=str(tmp_path / "areas.gpkg"),
    )  # fmt: skip
    expected = "no footprint crosses the edge of the areas, and 30 are inside"
    assert (expected in caplog.text) != crossing


@pytest.mark.parametrize("crs", [None, 4326])
def test_exchanged_areas_and_labels_are_refused(make_scene, tmp_path, crs):
    made = make_scene(height=160, width=300)
    write_areas(made, tmp_path / "drawn.gpkg", area=shapely.box(0, -80, 90, 0))
    houses = [shapely.box(9 * n, -9, 9 * n + 6, -2) for n in range(9)]
    write_areas(made, tmp_path / "houses.gpkg", area=shapely.union_all(houses))
    gpd.read_file(tmp_path / "houses.gpkg").explode().to_file(tmp_path / "houses.gpkg")
    if crs:
        for name in ("drawn", "houses"):
            frame = gpd.read_file(tmp_path / f"{name}.gpkg").to_crs(crs)
            frame.to_file(tmp_path / f"{name}.gpkg")
    labels, areas = tmp_path / "drawn.gpkg", str(tmp_path / "houses.gpkg")
    with pytest.raises(
        ConfigError, match=r"houses\.gpkg: 9 of its 9 polygons are inside .*: exchange"
    ):
        cut(made.path, labels, tmp_path / "tiles", split="areas", areas=areas)
    cut(made.path, areas, tmp_path / "tiles", split="areas", areas=str(labels))


def test_areas_smaller_than_buildings_are_allowed(make_scene, tmp_path):
    made = make_scene(height=160, width=300)
    halls = [shapely.box(left, -70, left + 45, -5) for left in (5, 60, 104)]
    write_areas(made, tmp_path / "halls.gpkg", area=shapely.union_all(halls))
    patches = [shapely.box(left, -80, left + 40, -2) for left in (-3, 30, 100)]
    write_areas(made, tmp_path / "areas.gpkg", area=shapely.union_all(patches))
    for name in ("halls", "areas"):
        gpd.read_file(tmp_path / f"{name}.gpkg").explode().to_file(tmp_path / f"{name}.gpkg")
    options = {"split": "areas", "areas": str(tmp_path / "areas.gpkg")}
    assert cut(made.path, tmp_path / "halls.gpkg", tmp_path / "tiles", **options).tiles["train"]


def test_areas_that_end_with_the_scene_are_not_warned_of(make_scene, tmp_path, caplog):
    made = make_scene(height=160, width=300)
    write_areas(made, tmp_path / "areas.gpkg", area=shapely.box(-9, -90, 160, 9))
    areas = str(tmp_path / "areas.gpkg")
    cut(made.path, made.labels, tmp_path / "tiles", split="areas", areas=areas)
    assert "crosses the edge" not in caplog.text


def test_a_mask_is_not_used_outside_of_the_labelled_area(make_scene, tmp_path):
    made = make_scene(height=96, width=160)
    mask = np.zeros((96, 160), np.uint8)
    mask[10:50, 20:60] = 255
    write_array(tmp_path / "mask.tif", made.grid, mask[None])
    layer = write_areas(made, tmp_path / "areas.gpkg", area=shapely.box(2.1, -24, 46, -2))
    options = {"split": "areas", "areas": str(tmp_path / "areas.gpkg"), "targets": ("building",)}
    cut(made.path, tmp_path / "mask.tif", tmp_path / "tiles", **options)
    check_labels_of(tmp_path / "tiles", layer)


def test_statistics_are_computed_from_training_pixels(make_scene, tmp_path):
    made = make_scene(dtype="uint16", nodata=0, holes=[(10, 10, 40, 30)])
    info = cut(made.path, made.labels, tmp_path / "tiles", overlap=0)
    train = made.data[:, :96, :96].astype(np.float64)
    valid = made.valid[:96, :96]
    assert info.mean == pytest.approx(train[:, valid].mean(axis=1), abs=1e-5)
    assert info.std == pytest.approx(train[:, valid].std(axis=1), abs=1e-5)


def test_a_band_without_contrast_divides_by_one(make_scene, tmp_path):
    made = make_scene(bands=2, buildings=((5, 5, 20, 20),))
    with rasterio.open(made.path, "r+") as sink:
        sink.write(np.full((96, 160), 7, dtype="uint8"), 2)
    info = cut(made.path, made.labels, tmp_path / "tiles")
    assert (info.mean[1], info.std[1]) == (7, 1)
    assert info.std[0] > 1


def test_a_nodata_corner_is_ignored(make_scene, tmp_path):
    made = make_scene(nodata=0, holes=[(0, 0, 40, 20)])
    info = cut(made.path, made.labels, tmp_path / "tiles")
    tiles = read_tiles(tmp_path / "tiles").set_index("id")
    assert info.nodata == 0
    target, _ = read(tmp_path / "tiles" / "targets" / "000_000000_000000.tif")
    with rasterio.open(tmp_path / "tiles" / "targets" / "000_000000_000000.tif") as source:
        stored = source.read()
    assert (stored[:, :20] == 255).all()
    assert (stored[:, 20:] < 2).all()
    assert (target[:, :20] == 0).all()
    data, valid = read(tmp_path / "tiles" / "images" / "000_000000_000000.tif")
    assert not valid[:20].any()
    assert valid[20:].all()
    assert (data[:, :20] == 0).all()
    assert tiles.valid_fraction["000_000000_000000"] == pytest.approx(12 / 32)


def test_tiles_without_valid_pixels_are_left_out(make_scene, tmp_path):
    made = make_scene(nodata=0, holes=[(0, 0, 40, 40)])
    info = cut(made.path, made.labels, tmp_path / "tiles")
    tiles = read_tiles(tmp_path / "tiles")
    assert info.tiles["train"] == 15
    assert "000_000000_000000" not in set(tiles.id)
    assert len(list((tmp_path / "tiles" / "images").iterdir())) == len(tiles)
    assert len(list((tmp_path / "tiles" / "targets").iterdir())) == len(tiles)


def test_pixels_beyond_the_scene_are_nodata(make_scene, tmp_path):
    made = make_scene(height=20, width=50, buildings=((2, 2, 9, 9),))
    info = cut(made.path, made.labels, tmp_path / "tiles", fractions=(1, 0, 0))
    assert info.tiles == {"train": 2, "val": 0, "test": 0}
    data, valid = read(tmp_path / "tiles" / "images" / "000_000000_000000.tif")
    assert data.shape == (3, 32, 32)
    assert valid.sum() == 20 * 32
    assert not (tmp_path / "tiles" / "val.geojson").exists()


# Options


def test_bands_are_in_the_requested_order(make_scene, tmp_path):
    made = make_scene(bands=4, descriptions=["red", "green", "blue", "nir"])
    info = cut(made.path, made.labels, tmp_path / "tiles", bands=("nir", 1))
    assert info.bands == ("nir", "red")
    data, _ = read(tmp_path / "tiles" / "images" / "000_000000_000000.tif")
    np.testing.assert_array_equal(data, made.data[[3, 0], :32, :32])


def test_a_filter_keeps_some_footprints(make_scene, tmp_path):
    made = make_scene()
    info = cut(made.path, made.labels, tmp_path / "tiles", where="label = 2")
    kept = gpd.read_parquet(tmp_path / "tiles" / "footprints.parquet")
    assert info.where == "label = 2"
    assert len(kept) == len(made.polygons) // 2
    target, _ = read(tmp_path / "tiles" / "targets" / "000_000000_000000.tif")
    left, top, right, bottom = made.boxes[1]
    expected = np.zeros((32, 32), dtype=np.uint8)
    expected[top:bottom, left : min(right, 32)] = 1
    np.testing.assert_array_equal(target[0, :20], expected[:20])


@pytest.mark.parametrize(("gsd_m", "shape"), [(1.0, (49, 81)), (0.25, (193, 321))])
def test_scenes_are_resampled_to_the_requested_pixel_size(make_scene, tmp_path, gsd_m, shape):
    made = make_scene()
    plan = plan_tiles([made.path], made.labels, TileOptions(**SMALL, gsd_m=gsd_m))
    assert plan.grids[0].shape == shape
    info = tile_scenes(plan, tmp_path / "tiles")
    assert info.gsd_m == gsd_m
    share = read_tiles(tmp_path / "tiles").building_fraction.mean()
    assert share == pytest.approx(made.mask.mean(), abs=0.05)


def test_a_plan_reads_no_pixel_and_counts_tiles_and_bytes(make_scene):
    made = make_scene(tiled=False)
    whole = made.path.read_bytes()
    made.path.write_bytes(whole[:2000])
    plan = plan_tiles([made.path], made.labels, TileOptions(**SMALL))
    assert plan.counts == {"train": 16, "val": 4, "test": 4}
    assert plan.bytes == 24 * 32 * 32 * 5


@pytest.mark.parametrize("split", ["stripes", "blocks"])
def test_memory_does_not_grow_with_the_scene_and_its_mask(make_scene, magnify, tmp_path, split):
    side = 32768
    made = make_scene(height=64, width=64)
    mask = tmp_path / "mask.tif"
    with rasterio.open(made.path) as source:
        profile = source.profile | {"count": 1}
    with rasterio.open(mask, "w", **profile) as sink:
        sink.write(made.mask.astype(np.uint8), 1)
    options = TileOptions(size=512, overlap=0, split=split)
    for kind in ("images", "targets"):
        (tmp_path / kind).mkdir()
    tracemalloc.start()
    plan = plan_tiles([magnify(made.path, side)], magnify(mask, side), options)
    row = plan.tiles[plan.tiles.row_off == plan.tiles.row_off.min()]
    row = row[row.split == row.split.iloc[0]]
    found = cut_tile_row(build_row_task(plan, tmp_path, row))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [tile["valid_fraction"] for tile in found] == [1.0] * len(row)
    assert peak < 256e6  # the mask alone has 1.07e9 pixels


# Several scenes


def test_overlapping_scenes_share_no_pixel_between_splits(make_scene, tmp_path):
    one = make_scene("one")
    two = make_scene("two", origin=(500_000.0 + 20, 3_000_000.0 - 10), seed=1)
    plan = plan_tiles([one.path, two.path], one.labels, TileOptions(**SMALL))
    assert plan.shared_pixels == 0
    assert len(plan.tiles) < 48
    info = tile_scenes(plan, tmp_path / "tiles")
    tiles = read_tiles(tmp_path / "tiles")
    assert count_shared_pixels(tiles.to_crs(32645), 0.25) == 0
    assert set(tiles.scene) == {str(one.path), str(two.path)}
    assert all(info.tiles.values())


def test_unbalanced_scenes_are_to_be_named(make_scene, caplog):
    scenes = [
        make_scene(f"s{number}", width=32 * number, origin=(5e5 + 900 * number, 3e6)).path
        for number in (2, 3, 9)
    ]
    labels = make_scene("s9", width=288, origin=(5e5 + 8100, 3e6)).labels
    plan_tiles(scenes, labels, TileOptions(size=32, split="scenes", fractions=(0.4, 0.3, 0.3)))
    assert "because there are too few scenes; name them with tile.val_scenes and" in caplog.text
    assert "tile.block" not in caplog.text


def test_an_unusual_pixel_size_gets_a_note(make_scene, caplog):
    fine = make_scene("fine", gsd=0.1)
    (note,) = [line for line in plan_lines(fine) if line.startswith("note: ")]
    assert note == (
        "note: tiles keep the 0.1 m pixels of the first scene, so a tile of 32 pixels covers 3 m, "
        "and the model will resample every scene to 0.1 m; --gsd 0.3 is usual for buildings, shows "
        "10 m and is faster"
    )
    coarse = make_scene("coarse", gsd=1.5)
    (note,) = [line for line in plan_lines(coarse) if line.startswith("note: ")]
    assert note.endswith("covers 48 m, and the model will resample every scene to 1.5 m")
    for made, options in ((make_scene("usual", gsd=0.5), {}), (fine, {"gsd_m": 0.1})):
        assert not [line for line in plan_lines(made, **options) if line.startswith("note: ")]
    assert caplog.text == ""


def plan_lines(made, **options):
    return plan_tiles([made.path], made.labels, TileOptions(**SMALL, **options)).describe()


def test_tiles_left_out_for_overlapping_scenes_are_counted(make_scene, caplog):
    one = make_scene("one", height=64, width=96)
    paths = [one.path] + [
        make_scene(name, height=64, width=96, seed=seed).path
        for seed, name in enumerate(("two", "three"), start=1)
    ]
    named = {"split": "scenes", "val_scenes": ("two*",), "test_scenes": ("three*",)}
    whole = {"size": 32, "overlap": 0, "gap": 0}
    with pytest.raises(EmptyDatasetError) as error:
        plan_tiles(paths, one.labels, TileOptions(**whole, **named))
    assert str(error.value).startswith("no tile is left for split train: ")
    assert f"{paths[0]} and {paths[1]} overlap by 100%, as do 2 other pairs; " in str(error.value)
    assert "6 of 6 train, 6 of 6 val tiles; if these scenes do not show the same" in str(
        error.value
    )
    # Half of the second scene is beside the first.
    beside = make_scene("four", height=64, width=96, origin=(500_000.0 + 24, 3_000_000.0)).path
    plan = plan_tiles(
        [one.path, beside], one.labels, TileOptions(**whole, split="scenes", val_scenes=("four*",))
    )
    assert plan.counts == {"train": 2, "val": 6, "test": 0}
    assert f"{paths[0]} and {beside} overlap by 50%; left out" in caplog.text
    assert ": 4 of 6 train tiles; if these scenes" in caplog.text


def test_no_tile_is_left_out_where_scenes_do_not_overlap(make_scene, caplog):
    one = make_scene("one")
    two = make_scene("two", origin=(500_080.0, 3_000_000.0))
    options = SMALL | {"gap": 20, "split": "scenes", "val_scenes": ("two*",)}
    plan = plan_tiles([one.path, two.path], one.labels, TileOptions(**options))
    assert plan.counts["train"] == 20  # of 24: those at the border are left out for the gap
    assert "left out" not in caplog.text


def test_scenes_with_several_crs_and_pixel_sizes(make_scene, tmp_path):
    one = make_scene("one")
    two = make_scene("two", gsd=0.25, origin=(500_200.0, 3_000_000.0), width=320)
    far = make_scene("far", crs="EPSG:32644", origin=(500_000.0, 3_000_000.0))
    info = cut([one.path, two.path, far.path], one.labels, tmp_path / "tiles")
    tiles = read_tiles(tmp_path / "tiles")
    counts = tiles.scene.value_counts().to_dict()
    # The second scene is resampled to 0.5 m: half its 96 rows and 320 columns.
    assert counts == {str(one.path): 24, str(two.path): 2 * 6, str(far.path): 24}
    assert tiles.id.is_unique
    assert info.shared_pixels == 0


def test_scenes_with_other_bands_are_refused(make_scene):
    one, two = make_scene("one"), make_scene("two", bands=4)
    with pytest.raises(GridMismatchError, match=r"two\.tif: has bands band1.*choose common bands"):
        plan_tiles([one.path, two.path], one.labels, TileOptions(**SMALL))
    plan = plan_tiles([one.path, two.path], one.labels, TileOptions(**SMALL, bands=(1, 3)))
    assert [info.indexes for info in plan.scenes] == [(1, 3), (1, 3)]


def test_scenes_with_several_dtypes_keep_their_values(make_scene, tmp_path, caplog):
    one = make_scene("one", dtype="int16")
    two = make_scene("two", dtype="uint16", origin=(500_200.0, 3_000_000.0), seed=1)
    info = cut([one.path, two.path], one.labels, tmp_path / "tiles")
    assert (info.dtype, info.scene_dtypes) == ("int32", ("int16", "uint16"))
    assert "two.tif: has uint16 pixels, but" in caplog.text
    seen = set()
    for tile in read_tiles(tmp_path / "tiles").itertuples():
        made = one if tile.scene == str(one.path) else two
        data, valid = read(tmp_path / "tiles" / "images" / f"{tile.id}.tif")
        part = (slice(None), *tile_window(tile).toslices())
        assert data.dtype == np.int32
        np.testing.assert_array_equal(data[:, valid], made.data[part][:, valid])
        seen.add(tile.scene)
    assert len(seen) == 2


def test_bands_chosen_by_number_may_have_different_names(make_scene, tmp_path):
    one = make_scene("one", descriptions=["red", "green", "blue"])
    two = make_scene("two", origin=(500_200.0, 3_000_000.0), seed=1)
    with pytest.raises(GridMismatchError, match="choose common bands"):
        plan_tiles([one.path, two.path], one.labels, TileOptions(**SMALL))
    info = cut([one.path, two.path], one.labels, tmp_path / "tiles", bands=(3, 1))
    assert info.bands == ("blue", "red")
    for tile in read_tiles(tmp_path / "tiles").itertuples():
        made = one if tile.scene == str(one.path) else two
        data, _ = read(tmp_path / "tiles" / "images" / f"{tile.id}.tif")
        expected = made.data[[2, 0]][(slice(None), *tile_window(tile).toslices())]
        np.testing.assert_array_equal(data, expected)


# Paths that only GDAL can open


# A web server of the current folder that supports range requests, which GDAL makes. It runs in a
# separate process, because GDAL blocks all threads while it waits for a response.
_SERVER = """
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        path = Path(self.path.lstrip("/"))
        if not path.is_file():
            return self.send_error(404)
        whole = path.read_bytes()
        byte_range = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        first, last = int(byte_range[0]), min(int(byte_range[1] or len(whole)), len(whole) - 1)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.end_headers()
        self.wfile.write(whole[first : last + 1])

server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def server(tmp_path):
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.mark.parametrize("kind", ["zip", "memory", "web"])
def test_a_scene_need_not_be_a_local_file(make_scene, tmp_path, server, kind):
    made = make_scene()
    expected = cut(made.path, made.labels, tmp_path / "local")
    with MemoryFile(made.path.read_bytes(), filename="scene.tif") as memory:
        if kind == "zip":
            with zipfile.ZipFile(tmp_path / "scenes.zip", "w") as archive:
                archive.write(made.path, "area/scene.tif")
        names = {
            "zip": f"/vsizip/{tmp_path}/scenes.zip/area/scene.tif",
            "memory": memory.name,
            "web": f"{server}/scene.tif",
        }
        info = cut(names[kind], made.labels, tmp_path / "tiles")
    assert info.scenes == (names[kind],)
    assert info.tiles == expected.tiles
    for path in (tmp_path / "local" / "images").iterdir():
        same = tmp_path / "tiles" / "images" / path.name
        np.testing.assert_array_equal(read(same)[0], read(path)[0])


def test_a_scene_that_is_missing_on_the_server(make_scene, tmp_path, server):
    made = make_scene()
    with pytest.raises(SceneReadError, match=r"none\.tif: cannot be opened as a raster .*404"):
        cut(f"{server}/none.tif", made.labels, tmp_path / "tiles")


def test_two_workers_cut_the_same_bytes(make_scene, tmp_path):
    made = make_scene(nodata=0, holes=[(90, 0, 160, 30)])
    reports = []
    cut(made.path, made.labels, tmp_path / "serial")
    plan = plan_tiles([made.path], made.labels, TileOptions(**SMALL))
    tile_scenes(
        plan, tmp_path / "parallel", workers=Workers(processes=2),
        progress=lambda done, total, what: reports.append((done, total)),
    )  # fmt: skip
    serial, parallel = tmp_path / "serial", tmp_path / "parallel"
    assert listing(serial) == listing(parallel)
    different = [
        name
        for name in listing(serial)
        if (serial / name).read_bytes() != (parallel / name).read_bytes()
    ]
    assert different == []
    assert reports[-1] == (24, 24)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


@pytest.mark.parametrize("gsd_m", [None, 0.4])
@pytest.mark.parametrize("split", ["stripes", "blocks"])
def test_tiles_do_not_depend_on_strips(make_scene, tmp_path, monkeypatch, split, gsd_m):
    made = make_scene(nodata=0, holes=[(90, 0, 160, 30)])
    for count in (1, 2, 8):
        monkeypatch.setattr("geoseg.data.tiles.cutting.TILES_PER_STRIP", count)
        cut(made.path, made.labels, tmp_path / f"{count}", split=split, gsd_m=gsd_m, block=48)
    alone = bytes_of(tmp_path / "1")
    assert len(alone) > 20
    assert bytes_of(tmp_path / "2") == alone
    assert bytes_of(tmp_path / "8") == alone


# Errors


def broken(function, tasks):
    for index, task in enumerate(tasks):
        if index == 1:
            raise KeyboardInterrupt
        yield function(task)


def test_an_interrupted_run_leaves_no_folder_and_can_run_again(make_scene, tmp_path):
    made = make_scene()
    with pytest.raises(KeyboardInterrupt):
        cut(made.path, made.labels, tmp_path / "out" / "tiles", run=broken)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [".tiles.partial"]
    assert cut(made.path, made.labels, tmp_path / "out" / "tiles").tiles["train"] == 16


def test_a_damaged_scene_leaves_nothing(make_scene, tmp_path):
    made = make_scene(tiled=False)
    made.path.write_bytes(made.path.read_bytes()[:9000])
    with pytest.raises(EmptyDatasetError, match=r"scene\.tif: cannot read rows"):
        cut(made.path, made.labels, tmp_path / "out" / "tiles")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_kept_without_overwrite(make_scene, tmp_path):
    made = make_scene()
    cut(made.path, made.labels, tmp_path / "tiles")
    with pytest.raises(OutputExistsError, match="replace it with --overwrite"):
        cut(made.path, made.labels, tmp_path / "tiles", size=64)
    assert load_tiles_info(tmp_path / "tiles").size == 32
    with pytest.raises(KeyboardInterrupt):
        cut(made.path, made.labels, tmp_path / "tiles", size=64, run=broken, overwrite=True)
    assert load_tiles_info(tmp_path / "tiles").size == 32
    cut(made.path, made.labels, tmp_path / "tiles", size=64, overwrite=True)
    assert load_tiles_info(tmp_path / "tiles").size == 64
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene.gpkg", "scene.tif", "tiles"]


def test_an_input_is_not_overwritten(make_scene, tmp_path):
    made = make_scene()
    with pytest.raises(OutputExistsError, match=r"it contains the input .*scene\.tif"):
        cut(made.path, made.labels, tmp_path, overwrite=True)
    assert made.path.is_file()
    assert made.labels.is_file()


@pytest.mark.parametrize("output", [".", "..", "../../link"])
def test_the_current_folder_is_not_replaced(make_scene, tmp_path, monkeypatch, output):
    made = make_scene()
    here = tmp_path / "run" / "tiles"
    here.mkdir(parents=True)
    (tmp_path / "link").symlink_to(here.parent)
    (here.parent / "tiles.json").write_text("earlier")
    monkeypatch.chdir(here)
    with pytest.raises(OutputExistsError, match="contains the current folder"):
        cut(made.path, made.labels, output, overwrite=True)
    assert (here.parent / "tiles.json").read_text() == "earlier"


def test_a_folder_of_other_files_is_not_replaced(make_scene, tmp_path):
    made = make_scene()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"contains thesis\.txt, which is not part"):
        cut(made.path, made.labels, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "mine"


def test_an_output_may_be_a_link(make_scene, tmp_path):
    made = make_scene()
    (tmp_path / "disk").mkdir()
    (tmp_path / "tiles").symlink_to(tmp_path / "disk")
    cut(made.path, made.labels, tmp_path / "tiles")
    assert load_tiles_info(tmp_path / "disk").size == 32
    assert os.path.islink(tmp_path / "tiles")


def test_a_class_without_a_pixel(make_scene, tmp_path):
    made = make_scene(buildings=())
    left, top = made.grid.transform * (10.1, 10.1)
    tiny = gpd.points_from_xy([left], [top]).buffer(0.02)
    gpd.GeoDataFrame(geometry=tiny, crs=32645).to_file(tmp_path / "tiny.gpkg")
    with pytest.raises(LabelError, match="class building has no pixel in any tile"):
        cut(made.path, tmp_path / "tiny.gpkg", tmp_path / "out" / "tiles")
    assert not (tmp_path / "out").exists()


def test_an_absent_class_can_be_dropped(make_scene, tmp_path):
    made = make_scene()
    classes = {"attribute": "kind", "values": {"house": ["a"], "water": ["b"]}}
    labels = gpd.read_file(made.labels).assign(kind="a")
    labels.to_file(tmp_path / "kinds.gpkg")
    with pytest.raises(LabelError, match=r"water has no pixel.*values\.water=null drops it"):
        cut(made.path, tmp_path / "kinds.gpkg", tmp_path / "tiles", classes=classes)
    classes["values"]["water"] = None
    info = cut(made.path, tmp_path / "kinds.gpkg", tmp_path / "tiles", classes=classes)
    assert info.classes == ("background", "house")


def test_warns_of_a_scene_without_labels(make_scene, tmp_path, caplog):
    made = make_scene()
    far = make_scene("far", origin=(600_000.0, 4_000_000.0))
    cut([made.path, far.path], made.labels, tmp_path / "tiles")
    (message,) = [record.getMessage() for record in caplog.records]
    assert "far.tif: has no label in" in message


def test_one_mask_is_refused_for_several_scenes_without_georeferencing(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 255, (3, 100, 140)).astype(np.uint8)
    for name in ("one", "two"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            profile = {"driver": "PNG", "count": 3, "height": 100, "width": 140, "dtype": "uint8"}
            with rasterio.open(tmp_path / f"{name}.png", "w", **profile) as sink:
                sink.write(pixels)
    scenes = [tmp_path / "one.png", tmp_path / "two.png"]
    with pytest.raises(ConfigError, match=r"one\.png: would be the mask of 2 scenes"):
        cut(scenes, tmp_path / "one.png", tmp_path / "tiles", assume_gsd_m=0.5, classes={
            "values": {"a": "#000000", "b": "#ffffff"}, "background": None
        })  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [({"areas": "a.gpkg"}, "set split to areas"), ({"fold": 2}, "set split to kfold")],
)
def test_options_that_another_split_needs(options, message):
    with pytest.raises(ValueError, match=message):
        TileOptions(**options)


def test_labels_that_do_not_fit(make_scene, tmp_path):
    made = make_scene()
    far = gpd.read_file(made.labels)
    far.geometry = far.translate(0, 50_000)
    far.to_file(tmp_path / "far.gpkg")
    with pytest.raises(GridMismatchError, match="outside all scenes; check the CRS"):
        cut(made.path, tmp_path / "far.gpkg", tmp_path / "tiles")
    with pytest.raises(LabelError, match="no footprint where label = 7"):
        cut(made.path, made.labels, tmp_path / "tiles", where="label = 7")
    with pytest.raises(VectorReadError, match="the attributes are id, label"):
        cut(made.path, made.labels, tmp_path / "tiles", where="klass = 7")
    assert not (tmp_path / "tiles").exists()


def test_a_scene_without_valid_pixels(make_scene, tmp_path):
    made = make_scene(nodata=0, holes=[(0, 0, 160, 96)])
    with pytest.raises(EmptyDatasetError, match="no training tile has a valid pixel"):
        cut(made.path, made.labels, tmp_path / "tiles")


def test_a_scene_too_small_for_its_blocks(make_scene, tmp_path):
    made = make_scene()
    with pytest.raises(
        ConfigError, match=r"for the splits \(1\); use smaller blocks \(--set tile\.block"
    ):
        cut(made.path, made.labels, tmp_path / "tiles", split="blocks", size=64)


def test_a_folder_that_is_not_a_tiles_folder(make_scene, tmp_path):
    with pytest.raises(EmptyDatasetError, match=r"has no tiles\.json; give one that geoseg"):
        load_tiles_info(tmp_path)
    with pytest.raises(EmptyDatasetError, match="absent: no such folder"):
        load_tiles_info(tmp_path / "absent")
    made = make_scene()
    cut(made.path, made.labels, tmp_path / "tiles")
    path = tmp_path / "tiles" / "tiles.json"
    whole = json.loads(path.read_text())
    for text in (path.read_text()[:50], json.dumps(whole | {"format": 2}), json.dumps({})):
        path.write_text(text)
        with pytest.raises(EmptyDatasetError, match="damaged or from another version"):
            load_tiles_info(tmp_path / "tiles")


# Public imagery


@pytest.mark.realdata
def test_a_public_scene_in_degrees_with_classes(realdata, tmp_path):
    vegas = realdata / "vegas"
    info = cut(
        vegas / "tiff_8channel_uint8.tif", vegas / "footprints_multiclass.geojson",
        tmp_path / "tiles", size=128, overlap=32, where="label = 1",
    )  # fmt: skip
    assert len(info.bands) == 8
    assert 0.25 < info.gsd_m < 0.35
    assert info.shared_pixels == 0
    share = read_tiles(tmp_path / "tiles").building_fraction.mean()
    everything = cut(
        vegas / "tiff_8channel_uint8.tif", vegas / "footprints_multiclass.geojson",
        tmp_path / "all", size=128, overlap=32,
    )  # fmt: skip
    assert everything.tiles == info.tiles
    assert 0.1 < share < read_tiles(tmp_path / "all").building_fraction.mean() < 0.9


@pytest.mark.realdata
def test_labels_far_larger_than_the_scene(realdata):
    zanzibar = realdata / "zanzibar"
    plan = plan_tiles(
        [zanzibar / "scene.tif"], zanzibar / "footprints_whole_grid.geojson", TileOptions()
    )
    assert len(plan.labels[0].footprints) == 7
    assert plan.grids[0].gsd_m == pytest.approx(0.077, abs=0.001)
    first = plan.tiles.iloc[0]
    assert tile_window(first) == Window(0, 0, 256, 256)


# Interruptions and faults


def bytes_of(folder):
    return {name: (folder / name).read_bytes() for name in listing(folder)}


def stopping(after):
    """Return a task runner that is interrupted after some tasks."""

    def run(function, tasks):
        for number, task in enumerate(tasks):
            if number == after:
                raise KeyboardInterrupt
            yield function(task)

    return run


def test_a_resumed_job_writes_the_same_bytes(make_scene, tmp_path):
    made = make_scene(height=150, width=170, nodata=0, holes=[(0, 0, 50, 60)])
    cut(made.path, made.labels, tmp_path / "whole", keep_empty=0.5)
    started = []

    def counting(function, tasks):
        for task in tasks:
            started.append(task)
            yield function(task)

    for after in (2, 0, 3):
        with pytest.raises(KeyboardInterrupt):
            cut(
                made.path, made.labels, tmp_path / "tiles", keep_empty=0.5, run=stopping(after)
            )  # fmt: skip
        assert not (tmp_path / "tiles").exists()
    cut(made.path, made.labels, tmp_path / "tiles", keep_empty=0.5, run=counting)
    rows = read_tiles(tmp_path / "whole").groupby("split").row_off.nunique().sum()
    assert 0 < len(started) < rows
    assert bytes_of(tmp_path / "tiles") == bytes_of(tmp_path / "whole")
    assert sorted(entry.name for entry in tmp_path.iterdir() if "tiles" in entry.name) == ["tiles"]


def test_a_job_killed_ten_times_writes_the_same_bytes(make_scene, tmp_path):
    made = make_scene(height=260, width=300)
    cut(made.path, made.labels, tmp_path / "whole")
    rng, killed = np.random.default_rng(0), 0
    while killed < 10:
        # Each child cuts a few rows; the last kill may hit while it starts anew.
        killed += kill_after(int(rng.integers(0, 3)), made, tmp_path / "tiles")
    cut(made.path, made.labels, tmp_path / "tiles", overwrite=True)
    assert bytes_of(tmp_path / "tiles") == bytes_of(tmp_path / "whole")
    assert not list(tmp_path.glob(".tiles.*"))


def kill_after(rows, made, output):
    """Cut tiles in a child process, and kill it when it has cut some rows and works on the next.

    Returns:
        Whether it was killed, rather than finished before.
    """
    listen, report = os.pipe()
    child = os.fork()
    if child == 0:

        def reporting(function, tasks):
            for task in tasks:
                os.write(report, b".")
                yield function(task)

        cut(made.path, made.labels, output, run=reporting, overwrite=True)
        os._exit(0)
    os.close(report)
    started = 0
    while started <= rows and os.read(listen, 1):
        started += 1
    os.close(listen)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def damage(path, column, row):
    """Overwrite one block of a GeoTIFF that is stored in compressed blocks of 64 x 64."""
    with rasterio.open(path) as source:
        offset = int(source.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1))
        size = int(source.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * size)


def test_a_tile_that_cannot_be_read_is_left_out_and_listed(make_scene, tmp_path):
    made = make_scene(height=150, width=330)
    packed = tmp_path / "packed.tif"
    with rasterio.open(made.path) as source:
        profile = source.profile | {"compress": "deflate"}
        with rasterio.open(packed, "w", **profile) as sink:
            sink.write(source.read())
    damage(packed, 1, 1)
    whole = cut(made.path, made.labels, tmp_path / "whole")
    info = cut(packed, made.labels, tmp_path / "tiles")
    tiles = read_tiles(tmp_path / "tiles")
    everything = read_tiles(tmp_path / "whole")
    hit = everything[
        (everything.row_off < 128)
        & (everything.row_off + everything.height > 64)
        & (everything.col_off < 128)
        & (everything.col_off + everything.width > 64)
    ]
    assert {tile.id for tile in info.failed} == set(hit.id)
    assert len(hit) > 3
    assert set(tiles.id) == set(everything.id) - set(hit.id)
    assert sum(info.tiles.values()) == sum(whole.tiles.values()) - len(hit)
    first = info.failed[0]
    assert first.scene == str(packed)
    assert "packed.tif: cannot read rows" in first.error
    assert list(first.window) == hit.loc[
        hit.id == first.id, ["col_off", "row_off", "width", "height"]
    ].values.tolist()[0]  # fmt: skip


def test_a_damaged_scene_with_alpha_and_nodata_loses_the_damaged_tiles_alone(make_scene, tmp_path):
    made = make_scene(height=150, width=330)
    packed = tmp_path / "packed.tif"
    with rasterio.open(made.path) as source:
        image = source.read()
        changed = {"count": 4, "compress": "deflate", "nodata": 0, "alpha": "yes"}
        with rasterio.open(packed, "w", **source.profile | changed) as sink:
            sink.write(np.concatenate([image, np.full((1, *image.shape[1:]), 255, np.uint8)]))
    damage(packed, 1, 1)
    info = cut(packed, made.labels, tmp_path / "tiles")
    assert 0 < len(info.failed) < sum(info.tiles.values())
    for tile in info.failed:
        left, top, width, height = tile.window
        assert left < 128 < 64 + left + width
        assert top < 128 < 64 + top + height
        assert (
            f"packed.tif: cannot read rows {top}-{top + height}, columns {left}-{left + width}"
            in tile.error
        )


def test_tiles_of_a_lost_task_are_left_out(make_scene, tmp_path):
    made = make_scene()

    def losing(function, tasks):
        for number, task in enumerate(tasks):
            yield Failure(WorkerLostError("worker died")) if number == 1 else function(task)

    info = cut(made.path, made.labels, tmp_path / "tiles", run=losing)
    assert {tile.error for tile in info.failed} == {"worker died"}
    assert {tile.window[1] for tile in info.failed} == {24}
    assert 24 not in set(read_tiles(tmp_path / "tiles").row_off)
