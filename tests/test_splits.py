"""Scenes are split before they are tiled, and splits share no pixel."""

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from hypothesis import example, given
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.windows import Window
from shapely.geometry import Polygon, box

from geoseg.data.splits import (
    SPLITS,
    STRATEGIES,
    Region,
    SplitScene,
    assign_groups,
    count_shared_pixels,
    find_close_tiles,
    merge_by_split,
)
from geoseg.errors import ConfigError, GridMismatchError, VectorReadError
from geoseg.geo.grid import Grid
from geoseg.options import TileOptions

UTM = "EPSG:32645"


def split_scene(height, width, *, name="scene.tif", left=500_000.0, built=lambda window: 0.0):
    """A scene with pixels of 0.5 m."""
    transform = Affine.translation(left, 3_000_000.0) * Affine.scale(0.5, -0.5)
    return SplitScene(name, Grid(CRS.from_epsg(32645), transform, height, width), built)


def separate(split, *scenes, **options):
    return STRATEGIES[split](scenes, TileOptions(split=split, **options))


def drop_close_tiles(tiles, grids, gap=0.0):
    return tiles.drop(index=find_close_tiles(tiles, grids, gap).index).reset_index(drop=True)


def owners(regions, height, width):
    """Number of regions that contain each pixel (H, W), and pixels per split."""
    hits = np.zeros((height, width), dtype=int)
    pixels = dict.fromkeys(SPLITS, 0)
    for region in regions:
        rows, columns = region.window.toslices()
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
        hits[rows, columns] += 1
        pixels[region.split] += int(region.window.height * region.window.width)
    return hits, pixels


fractions = st.tuples(st.integers(1, 10), st.integers(0, 5), st.integers(0, 5)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    shares=fractions,
    gap=st.integers(0, 20),
)
def test_stripes_and_gaps_cover_the_scene(height, width, shares, gap):
    try:
        made = separate("stripes", split_scene(height, width), fractions=shares, gap=gap)
    except ConfigError:
        assert gap * 2 + 3 > max(height, width)
        return
    (regions,) = made.regions
    hits, pixels = owners(regions, height, width)
    across, long = min(height, width), max(height, width)
    used = sum(share > 0 for share in shares)
    assert hits.max() == 1
    assert (hits == 0).sum() == (used - 1) * gap * across
    usable = long - (used - 1) * gap
    for split, share in zip(SPLITS, shares, strict=True):
        assert pixels[split] / across == pytest.approx(share * usable, abs=1.01)


def test_stripes_divide_the_longer_side():
    halves = {"fractions": (0.5, 0.25, 0.25)}
    assert separate("stripes", split_scene(100, 200), gap=0, **halves).regions == [
        [
            Region("train", Window(0, 0, 100, 100)),
            Region("val", Window(100, 0, 50, 100)),
            Region("test", Window(150, 0, 50, 100)),
        ]
    ]
    assert separate("stripes", split_scene(210, 100), gap=10, fractions=(0.6, 0.4, 0)).regions == [
        [Region("train", Window(0, 0, 100, 120)), Region("val", Window(0, 130, 100, 80))]
    ]


@pytest.mark.parametrize(("length", "gap"), [(6000, 256), (2560, 256), (1330, 133), (400, 40)])
def test_the_default_gap_is_a_tile_or_less_in_small_scenes(length, gap):
    made = separate("stripes", split_scene(300, length))
    assert made.gap == gap
    train, val, test = (region.window for region in made.regions[0])
    assert val.col_off - (train.col_off + train.width) == gap
    assert test.col_off - (val.col_off + val.width) == gap


@given(
    height=st.integers(60, 300),
    width=st.integers(60, 300),
    seed=st.integers(0, 99),
    shares=fractions,
)
def test_blocks_partition_the_scene(height, width, seed, shares):
    try:
        made = separate(
            "blocks", split_scene(height, width), fractions=shares, block=32, seed=seed, size=32
        )
    except ConfigError:
        return
    (regions,) = made.regions
    hits, pixels = owners(regions, height, width)
    assert (hits == 1).all()
    for region in regions:
        assert 32 <= region.window.height < 64
        assert 32 <= region.window.width < 64
    assert {split for split in SPLITS if pixels[split]} == {
        split for split, share in zip(SPLITS, shares, strict=True) if share
    }


def test_blocks_are_assigned_by_the_seed():
    options = {"fractions": (0.6, 0.2, 0.2), "block": 32, "size": 32}
    one, again, other = (
        separate("blocks", split_scene(160, 320), seed=seed, **options).regions
        for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    counts = [sum(region.split == split for region in one[0]) for split in SPLITS]
    assert counts == [30, 10, 10]


def test_too_few_blocks_for_the_splits():
    with pytest.raises(ConfigError, match=r"too few blocks or scenes .* \(2\); use smaller"):
        separate("blocks", split_scene(100, 250), block=100, size=32)


@pytest.mark.parametrize(("side", "block"), [(20_000, 2048), (5000, 1024), (1500, 512)])
def test_blocks_are_as_large_as_gives_enough_of_them(side, block):
    made = separate("blocks", split_scene(side, side + 100))
    assert made.regions[0][0].window.height == block
    assert made.gap == min(256, block // 8)


def test_building_area_is_balanced():
    """A town surrounded by fields: each split gets its fraction of the town, too."""

    def built(window):
        return 1000.0 if 192 <= window.row_off < 448 and 128 <= window.col_off < 512 else 10.0

    town = split_scene(640, 704, built=built)
    for seed in range(5):
        (regions,) = separate(
            "blocks", town, block=64, size=32, seed=seed, fractions=(0.6, 0.2, 0.2)
        ).regions
        total = sum(built(region.window) for region in regions)
        for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
            held = sum(built(region.window) for region in regions if region.split == split)
            assert held / total == pytest.approx(share, abs=0.05)


def test_each_block_is_in_the_test_split_of_exactly_one_fold():
    options = {"folds": 4, "block": 64, "size": 32, "seed": 3}
    tested, validated = [], []
    for fold in range(4):
        (regions,) = separate("kfold", split_scene(300, 400), fold=fold, **options).regions
        tested += [region.window for region in regions if region.split == "test"]
        validated.append({str(region.window) for region in regions if region.split == "val"})
        assert len(regions) == 24
        assert sum(region.split == "train" for region in regions) == 12
    assert len(tested) == len({str(window) for window in tested}) == 24
    for fold in range(4):
        (regions,) = separate(
            "kfold", split_scene(300, 400), fold=(fold + 1) % 4, **options
        ).regions
        assert validated[fold] == {str(r.window) for r in regions if r.split == "test"}


def test_whole_scenes_by_name():
    scenes = [split_scene(90, 100, name=f"imgs/town_{number}.tif") for number in range(6)]
    made = separate(
        "scenes", *scenes, val_scenes=["town_2*"], test_scenes=["*/town_5.tif", "town_0.tif"]
    )
    assert [region.split for (region,) in made.regions] == [
        *("test", "train", "val", "train", "train", "test")
    ]
    assert all(region.window == Window(0, 0, 100, 90) for (region,) in made.regions)
    assert made.gap == 0
    with pytest.raises(ConfigError, match="city_1 matches none of the 6 scenes"):
        separate("scenes", *scenes, test_scenes=["city_1"])


def test_whole_scenes_are_balanced_by_area():
    sizes = [800, 100, 100, 100, 100, 100, 100]
    scenes = [split_scene(80, width, name=f"{n}.tif") for n, width in enumerate(sizes)]
    made = separate("scenes", *scenes, fractions=(0.6, 0.2, 0.2), seed=5)
    names = [region.split for (region,) in made.regions]
    assert names[0] == "train"
    assert (names.count("val"), names.count("test")) == (1, 1)
    with pytest.raises(ConfigError, match=r"too few blocks or scenes .* \(2\)"):
        separate("scenes", *scenes[:2])


def drawn(folder, *areas):
    """Write a file of areas: (split, left, bottom, right, top) in metres from the corner."""
    path = folder / "areas.gpkg"
    gpd.GeoDataFrame(
        {"split": [name for name, *_ in areas]},
        geometry=[
            box(5e5 + left, 3e6 - bottom, 5e5 + right, 3e6 - top)
            for _, left, bottom, right, top in areas
        ],
        crs=UTM,
    ).to_crs(4326).to_file(path)
    return path


def test_areas_drawn_by_the_user(tmp_path):
    path = drawn(
        tmp_path, ("train", -10, 60, 40, -10), ("Test ", 50, 50, 70, 20), ("val", 900, 9, 950, 0)
    )
    made = separate("areas", split_scene(100, 160), areas=str(path))
    train, test = made.regions[0]
    assert (train.split, test.split) == ("train", "test")
    # Only whole pixels inside count; conversion to degrees and back moves corners slightly.
    assert train.window.col_off == train.window.row_off == 0
    assert 79 <= train.window.width <= 80
    assert train.window.height == 100
    assert 100 <= test.window.col_off <= 101
    assert 38 <= test.window.width <= 40
    far = split_scene(100, 160, left=600_000.0)
    with pytest.raises(GridMismatchError, match="none of its 3 areas intersects a scene"):
        separate("areas", far, areas=str(path))


def test_areas_need_a_split(tmp_path):
    with pytest.raises(ConfigError, match="pass --areas FILE"):
        separate("areas", split_scene(100, 160))
    with pytest.raises(VectorReadError, match="split is 'validation'"):
        separate(
            "areas", split_scene(9, 16), areas=str(drawn(tmp_path, ("validation", 0, 9, 9, 0)))
        )
    empty = tmp_path / "empty.gpkg"
    gpd.GeoDataFrame({"a": []}, geometry=[], crs=UTM).to_file(empty)
    with pytest.raises(VectorReadError, match="has no polygon; draw the areas"):
        separate("areas", split_scene(9, 16), areas=str(empty))


def test_areas_without_a_split_are_divided_into_stripes(tmp_path):
    path = drawn(tmp_path, ("", 10, 100, 110, 0), ("", 130, 100, 150, 0))
    gpd.read_file(path).drop(columns="split").to_file(path)
    scene = split_scene(200, 320)  # of 0.5 m
    made = separate("areas", scene, areas=str(path), fractions=(0.5, 0.25, 0.25), size=32)
    assert made.gap == 20  # a tenth of the longest side
    wide, high = made.regions[0][:3], made.regions[0][3:]
    assert [region.split for region in wide] == ["train", "val", "test"]
    assert [region.split for region in high] == ["train", "val", "test"]
    # 200 x 200 pixels, of which two gaps of 20 pixels leave 160; conversion moves corners slightly.
    assert [region.window.width for region in wide] == pytest.approx([80, 40, 40], abs=2)
    assert [region.window.height for region in high] == pytest.approx([80, 40, 40], abs=2)
    assert [region.window.col_off for region in wide] == pytest.approx([20, 120, 180], abs=2)
    assert all(region.window.width == pytest.approx(40, abs=2) for region in high)
    for region in made.regions[0]:
        area = region.polygon(scene.grid)
        assert area.area == pytest.approx(region.window.width * region.window.height / 4, rel=0.15)
        assert region.is_loose


def test_an_area_with_a_test_stripe_smaller_than_a_tile_has_none(tmp_path):
    path = drawn(tmp_path, ("", 10, 50, 60, 0))
    gpd.read_file(path).drop(columns="split").to_file(path)
    options = {"areas": str(path), "fractions": (0.6, 0.2, 0.2), "size": 32}
    ((train, val),) = separate("areas", split_scene(100, 160), **options).regions
    # A gap of 10 of 100 pixels.
    assert (train.split, val.split) == ("train", "val")
    assert (train.window.width, val.window.width) == (
        pytest.approx(54, abs=2), pytest.approx(36, abs=2)
    )  # fmt: skip


def test_a_small_area_is_for_training_and_does_not_change_the_gap(tmp_path):
    path = drawn(tmp_path, ("", 10, 50, 60, 0), ("", 70, 3, 71, 0))
    gpd.read_file(path).drop(columns="split").to_file(path)
    made = separate("areas", split_scene(100, 160), areas=str(path), size=32)
    assert made.gap == 10
    assert [region.split for region in made.regions[0]] == ["train", "val", "train"]
    small = made.regions[0][-1].window
    assert (small.height, small.width) == (pytest.approx(6, abs=2), pytest.approx(2, abs=2))


@given(
    regions=st.integers(3, 40),
    seed=st.integers(0, 1000),
    shares=fractions,
)
@example(regions=3, seed=0, shares=(0.25, 0.25, 0.5))
@example(regions=3, seed=0, shares=(1 / 7, 1 / 7, 5 / 7))
def test_every_group_gets_a_region_and_no_region_is_lost(regions, seed, shares):
    amounts = np.random.default_rng(seed).random((2, regions))
    groups = assign_groups(*amounts, shares, seed=seed)
    assert groups.shape == (regions,)
    assert set(groups) == {group for group, share in enumerate(shares) if share > 0}
    for group in (1, 2):
        # A region more by rounding up; one less for each group that would have none.
        difference = (groups == group).sum() - regions * shares[group]
        assert -len(shares) + 1 <= difference <= 1


# Tiles of different splits


# Pixels of 0.5 m that cover the squares.
GRIDS = [Grid(CRS.from_epsg(32645), Affine(0.5, 0, 0, 0, -0.5, 10), 20, 200)]


def squares(*parts):
    """Tiles with sides of 10 m: (split, x)."""
    return gpd.GeoDataFrame(
        {"split": [split for split, _ in parts], "scene_index": 0, "height": 20, "width": 20},
        geometry=[box(x, 0, x + 10, 10) for _, x in parts],
        crs=UTM,
    )


def test_shared_pixels_are_counted():
    tiles = squares(("train", 0), ("val", 8), ("test", 30))
    # 2 m by 10 m in pixels of 0.5 m.
    assert count_shared_pixels(tiles, 0.25) == 80
    assert count_shared_pixels(squares(("train", 0), ("val", 10), ("test", 20)), 0.25) == 0
    assert count_shared_pixels(squares(("train", 0), ("train", 5)), 0.25) == 0


def test_test_tiles_are_kept_before_validation_and_those_before_training():
    tiles = squares(("train", 0), ("val", 5), ("test", 12), ("train", 20), ("train", 30))
    kept = drop_close_tiles(tiles, GRIDS)
    # The val tile overlaps test and is dropped; the first train tile then overlaps nothing.
    assert list(kept.split) == ["train", "test", "train"]
    assert [round(g.bounds[0]) for g in kept.geometry] == [0, 12, 30]
    assert count_shared_pixels(kept, 0.25) == 0
    assert list(kept.index) == [0, 1, 2]


def test_touching_tiles_are_kept():
    tiles = squares(("train", 0), ("val", 10), ("test", 19.999))
    assert len(drop_close_tiles(tiles, GRIDS)) == 3
    assert len(drop_close_tiles(squares(("train", 0), ("train", 3)), GRIDS)) == 2


def test_regions_of_all_scenes_are_merged_by_split():
    one, two = squares(("train", 0), ("val", 10)), squares(("train", 10_000)).to_crs(32644)
    merged = merge_by_split([one.to_crs(4326), two.to_crs(4326)])
    assert list(merged.split) == ["train", "val"]
    assert merged.crs.to_epsg() == 4326
    assert merged.to_crs(UTM).area.tolist() == pytest.approx([200, 100], rel=1e-3)


def test_a_gap_is_kept_between_splits():
    tiles = squares(("train", 0), ("train", 10), ("val", 25), ("test", 40))
    kept = drop_close_tiles(tiles, GRIDS, gap=10)
    # Gaps of 5 m (10 pixels) between the second train tile and val, and between val and test.
    assert list(kept.split) == ["train", "train", "val", "test"]
    kept = drop_close_tiles(tiles, GRIDS, gap=12)
    assert [round(g.bounds[0]) for g in kept.geometry] == [0, 10, 40]
    kept = drop_close_tiles(tiles, GRIDS, gap=50)
    assert [round(g.bounds[0]) for g in kept.geometry] == [0, 40]
    turned = tiles.set_geometry(tiles.geometry.rotate(30, origin=(0, 0)))
    assert len(drop_close_tiles(turned, GRIDS, gap=10)) == 4


@pytest.mark.parametrize("epsg", [3857, 4326, 32645])
def test_the_gap_counts_pixels_of_any_shape(epsg):
    # At this latitude the pixels of Mercator and of degrees are not square in metres.
    origin = Transformer.from_crs(4326, epsg, always_xy=True).transform(85.5, 57.6)
    scale = {3857: 0.5, 4326: 5e-6, 32645: 0.3}[epsg]
    coarse = Grid(
        CRS.from_epsg(epsg), Affine(scale, 0, origin[0], 0, -scale, origin[1]), 200, 1400
    ).resampled(0.4, tolerance=0)
    other = Grid(
        CRS.from_epsg(epsg), Affine(scale, 0, origin[0], 0, -scale, origin[1] * 0.8), 200, 1400
    ).resampled(0.4, tolerance=0)
    grids = [coarse, other]
    windows = [("train", 0), ("val", 110), ("test", 220)]
    tiles = gpd.GeoDataFrame(
        [
            {"split": split, "scene_index": place, "height": 100, "width": 100,
             "geometry": grid.window_polygon(Window(left, 0, 100, 100))}
            for place, grid in enumerate(grids) for split, left in windows
        ],
        crs=coarse.crs.to_wkt(),
    )  # fmt: skip
    assert len(drop_close_tiles(tiles, grids, gap=10)) == 6
    kept = drop_close_tiles(tiles, grids, gap=11)
    assert list(kept.split) == ["train", "test", "train", "test"]


def test_pixels_shared_by_many_tiles_count_once():
    crossing = squares(("train", 0), ("train", 5), ("val", 8), ("val", 9))
    both = Polygon([(8, 0), (15, 0), (15, 10), (8, 10)])
    assert count_shared_pixels(crossing, 0.25) == both.area / 0.25
