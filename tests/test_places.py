"""Places: scenes grouped by distance, stored with tiles, and offered to training."""

import json
import shutil

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from rasterio.crs import CRS

from geoseg.api.info import describe_file
from geoseg.cli.info import _format_tiles
from geoseg.data.tiles import load_tiles_info, plan_tiles, read_tiles, tile_scenes
from geoseg.data.tiles.places import PLACE_DISTANCE_M, find_places, name_places
from geoseg.errors import EmptyDatasetError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import SceneInfo
from geoseg.options import TileOptions, TrainOptions
from geoseg.training.dataset import TileDataset
from geoseg.training.loading.loaders import build_sampler
from geoseg.training.loading.sampling import PlaceSampler
from geoseg.training.places import MOST_SCORED, Places

GEOD = Geod(ellps="WGS84")


def scene(name, crs, origin, *, height=300, width=500, gsd=10.0, by="transform"):
    """A scene whose upper left corner is at the origin."""
    transform = Affine(gsd, 0, origin[0], 0, -gsd, origin[1])
    grid = Grid(CRS.from_user_input(crs), transform, height, width)
    return SceneInfo(f"/data/{name}.tif", grid, ("grey",), (1,), "uint8", None, by)


def degrees(name, lon, lat, *, size_deg=0.01):
    """A square scene in degrees around a point."""
    corner = lon - size_deg / 2, lat + size_deg / 2
    return scene(name, "EPSG:4326", corner, height=100, width=100, gsd=size_deg / 100)


@given(
    lon=st.floats(-180, 180),
    lat=st.floats(-80, 80),
    azimuth=st.floats(0, 360),
    gap_m=st.one_of(st.floats(15_000, 19_990), st.floats(20_010, 25_000)),
)
def test_points_belong_together_within_20_km_everywhere(lon, lat, azimuth, gap_m):
    there_lon, there_lat, _ = GEOD.fwd(lon, lat, azimuth, gap_m)
    tiny = 1e-7  # 1 cm
    found = find_places(
        [degrees("a", lon, lat, size_deg=tiny), degrees("b", there_lon, there_lat, size_deg=tiny)]
    )
    assert found == (("a", "a") if gap_m < PLACE_DISTANCE_M else ("a", "b"))


@pytest.mark.parametrize("gap_m", [19_900, 20_100])
@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:3857"])
def test_distances_are_between_extents_and_geodesic(crs, gap_m):
    # 28 degrees north, where a metre of Web Mercator is 0.883 m.
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(87.0, 28.0)
    west = scene("west", crs, (x, y), height=9000, width=8000)  # 90 km x 80 km
    corner = x + 80_000, y - 40_000
    here = Transformer.from_crs(crs, 4326, always_xy=True).transform(*corner)
    lon, lat, _ = GEOD.fwd(*here, 90, gap_m)
    east = scene("east", crs, Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat),
                 height=400, width=300)  # fmt: skip
    assert find_places([east, west]) == (("east",) * 2 if gap_m < 20_000 else ("east", "west"))
    # A scene inside another one's extent, whose centre is more than 20 km away.
    assert find_places([west, scene("part", crs, (x + 2000, y - 2000))]) == ("west", "west")


def test_places_are_linked_by_scenes_between_them_and_named_after_the_first():
    east, middle, west = (degrees(n, lon, 0.0) for n, lon in [("e", 0.3), ("m", 0.15), ("w", 0.0)])
    assert find_places([east, west]) == ("e", "w")
    assert find_places([east, west, middle]) == ("e", "e", "e")
    assert find_places([west, degrees("far", 9, 9), middle]) == ("w", "far", "w")


def test_places_continue_across_180_degrees_and_near_poles():
    around = [degrees("west", 179.95, -17.0), degrees("east", -179.95, -17.0)]
    assert find_places(around) == ("west", "west")
    beyond = scene("beyond", "EPSG:4326", (179.9, -16.9), height=100, width=200, gsd=1e-3)
    assert find_places([degrees("east", -179.8, -17), beyond]) == ("east", "east")
    utm = scene("utm", "EPSG:32701", (185_000, 8_120_000))  # zone 1, just east of 180 degrees
    assert find_places([around[0], utm]) == ("west", "west")
    assert find_places([degrees("a", 0, 89.9), degrees("b", 120, 89.9)]) == ("a", "a")


def test_scenes_without_a_location_are_their_own_places():
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    scenes = [
        scene("one", "EPSG:3395", (0, 0), by="assumed"),
        scene("two", "EPSG:3395", (0, 0), by="assumed"),
        scene("map", "EPSG:3395", (0, 0)),
        scene("site", local, (0, 0)),
        scene("yard", local, (0, 0)),
        scene("lost", "EPSG:4326", (10, 500)),
    ]
    assert find_places(scenes) == ("one", "two", "map", "site", "yard", "lost")


@given(st.lists(st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6)), min_size=1, max_size=12))
def test_the_order_of_scenes_changes_names_alone(points):
    scenes = [degrees(f"s{n}", 180 + x, y) for n, (x, y) in enumerate(points)]

    def groups(order):
        places = find_places([scenes[n] for n in order])
        return {frozenset(n for n, one in zip(order, places, strict=True) if one == p)
                for p in places}  # fmt: skip

    order = list(range(len(points)))
    assert groups(order) == groups(order[::-1])
    # Every scene is within 20 km of another one of its place, and of none elsewhere.
    for group in groups(order):
        for n in set(order) - group:
            for m in group:
                away = GEOD.inv(180 + points[n][0], points[n][1], 180 + points[m][0], points[m][1])
                assert away[2] > PLACE_DISTANCE_M


def test_names_are_unique_and_fit_into_columns():
    paths = ["/a/town.tif", "/b/town.tif", "/b/my town [1], new.tif", "C:\\x\\east.tif", "/c/..tif",
             "/काठमाडौं.tif", "/vsicurl/http://x/" + "n" * 300 + ".tif"]  # fmt: skip
    names = name_places(paths, range(len(paths)))
    assert names[:6] == ("town", "town-2", "my_town_1_new", "east", "scene", "काठमाडौं")
    assert names[6] == "n" * 100
    assert name_places(paths[:3], [0, 0, 2]) == ("town", "town", "my_town_1_new")


# Folders of tiles


@pytest.fixture
def three(make_scene, tmp_path):
    """Tiles of three scenes in two places; the second place has two splits only."""
    made = [
        make_scene("town", height=96, width=160),
        make_scene("far", crs="EPSG:32644", height=64, width=224),
        make_scene("suburb", origin=(505_000.0, 3_000_000.0), height=96, width=128),
    ]
    options = TileOptions(size=32, overlap=0, gap=0, fractions=(0.6, 0.2, 0.2))
    labels = str(made[0].path.parent / "{}.gpkg")
    plan = plan_tiles([one.path for one in made], labels, options)
    tile_scenes(plan, tmp_path / "tiles")
    return plan, tmp_path / "tiles"


def test_places_are_stored_and_described(three):
    plan, folder = three
    assert "3 scenes in 2 places; scenes within 20 km of each other are one place" in (
        plan.describe()
    )
    alone = plan_tiles([plan.scenes[0].path], plan.labels_path, plan.options)
    assert not any("one place" in line for line in alone.describe())
    info, tiles = load_tiles_info(folder), read_tiles(folder)
    assert info.places == ("town", "far", "town")
    described = describe_file(folder)
    assert json.loads(json.dumps(described))["places"] == ["town", "far", "town"]
    counts = described["tiles_of_places"]
    of_scene = dict(zip(info.scenes, info.places, strict=True))
    for split in ("train", "val", "test"):
        for place in ("town", "far"):
            rows = tiles[(tiles.split == split) & (tiles.scene.map(of_scene) == place)]
            assert counts[place][split] == len(rows) > 0
    lines = dict(_format_tiles(described))
    assert lines["place far"].startswith("1 scene; tiles: ")
    town = counts["town"]
    expected = f"2 scenes; tiles: {town['train']} train, {town['val']} val, {town['test']} test"
    assert lines["place town"] == expected
    assert "places" not in lines


def test_a_dataset_has_the_place_of_each_tile(three):
    _, folder = three
    dataset = TileDataset(folder, "val")
    assert dataset.places.names == ("town", "far")
    far = [path.endswith("far.tif") for path in dataset.tiles.scene]
    assert 0 < sum(far) < len(far)
    assert dataset.places.of_tile.tolist() == [int(one) for one in far]
    assert dataset.places.scored is dataset.places
    sampler = build_sampler(TileDataset(folder, "train"), TrainOptions(sampling="places"), 2)
    assert isinstance(sampler, PlaceSampler)
    assert len(sampler) == len(build_sampler(TileDataset(folder, "train"), TrainOptions(), 2))


def test_more_places_than_can_be_scored_are_scored_together():
    many = Places(tuple(map(str, range(MOST_SCORED + 1))), np.arange(MOST_SCORED + 1))
    assert many.scored.names == ("all",)
    assert many.scored.of_tile.tolist() == [0] * (MOST_SCORED + 1)


def rewrite(folder, tmp_path, **changes):
    """A copy of a folder with other values in tiles.json."""
    copy = shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
    header = json.loads((copy / "tiles.json").read_text()) | changes
    header = {key: value for key, value in header.items() if value is not None or key == "where"}
    (copy / "tiles.json").write_text(json.dumps(header | {"nodata": None}))
    return copy


def test_scenes_of_older_folders_are_their_own_places(three, tmp_path):
    old = rewrite(three[1], tmp_path, places=None)
    assert load_tiles_info(old).places == ()
    assert TileDataset(old, "val").places.names == ("town", "far", "suburb")
    assert list(describe_file(old)["tiles_of_places"]) == ["town", "far", "suburb"]


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        (["town", "far"], "places must have a name for each scene"),
        (["town", "far", "a\nb"], r"places\.2"),
        (["town", "far", "a[b]"], r"places\.2"),
        (["town", "far", "x" * 121], r"places\.2"),
        (["town", "far", ""], r"places\.2"),
        ("town", r"places"),
    ],
)
def test_damaged_places_are_refused(three, tmp_path, places, reason):
    with pytest.raises(EmptyDatasetError, match=reason):
        load_tiles_info(rewrite(three[1], tmp_path, places=places))


def test_a_tile_of_an_unknown_scene_is_refused(three, tmp_path):
    scenes = ["/elsewhere/town.tif", *load_tiles_info(three[1]).scenes[1:]]
    copy = rewrite(three[1], tmp_path, scenes=scenes)
    with pytest.raises(EmptyDatasetError, match=r"parquet: is damaged \(a tile is of a scene that"):
        TileDataset(copy, "train")
