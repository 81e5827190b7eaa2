"""The synthetic town: the same each time, exact, and drawn where it says it is."""

import math

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from scipy.ndimage import binary_dilation, binary_erosion

from geoseg.errors import ConfigError
from geoseg.geo.raster import Scene
from geoseg.town import build_town, write_town
from geoseg.town.roofs import build_courtyard, build_hall, build_house, build_l_shape, build_row


@pytest.fixture(scope="module")
def town():
    return build_town(512, 768, seed=4)


def in_pixels(town):
    """Footprints in pixel coordinates."""

    def to_pixels(points):
        return np.column_stack(town.grid.to_pixels(*points.T))

    return shapely.transform(town.footprints.geometry.to_numpy(), to_pixels)


def overlaps(footprints):
    """Areas shared by pairs of different footprints that touch."""
    shapes = footprints.geometry.to_numpy()
    first, second = shapely.STRtree(shapes).query(shapes, "intersects")
    pairs = first < second
    return shapely.area(shapely.intersection(shapes[first[pairs]], shapes[second[pairs]]))


def test_equal_arguments_give_equal_bytes():
    first, again = build_town(160, 224, seed=3), build_town(160, 224, seed=3)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.grid == again.grid
    assert first.footprints.to_wkb().equals(again.footprints.to_wkb())


def test_another_seed_gives_another_town():
    first, other = build_town(160, 224, seed=3), build_town(160, 224, seed=4)
    assert (first.image != other.image).mean() > 0.5


def test_bands_and_dtype_do_not_move_buildings():
    rgb = build_town(160, 224, seed=3)
    pan = build_town(160, 224, seed=3, bands=1, dtype="float32")
    assert rgb.footprints.to_wkb().equals(pan.footprints.to_wkb())


@pytest.mark.parametrize("seed", range(3))
def test_a_town_has_all_kinds_in_proportion(seed):
    kinds = build_town(512, 768, seed=seed).footprints.kind.value_counts()
    assert set(kinds.index) == {"house", "l_shape", "row_house", "courtyard", "hall"}
    assert 80 <= kinds.sum() <= 150
    assert 0.2 <= kinds["row_house"] / kinds.sum() <= 0.55


@settings(max_examples=8, deadline=None)
@given(
    height=st.integers(1, 280),
    width=st.integers(1, 280),
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.4, 1.0, 3.0]),
    rotation_deg=st.floats(-180, 180),
)
def test_footprints_are_whole_valid_and_apart(height, width, seed, density, rotation_deg):
    town = build_town(height, width, seed=seed, density=density, rotation_deg=rotation_deg, bands=1)
    shapes = town.footprints.geometry
    assert town.image.shape == (1, height, width)
    assert shapes.is_valid.all()
    assert shapes.within(town.grid.polygon).all()
    assert (overlaps(town.footprints) == 0).all()
    assert list(town.footprints.id) == list(range(1, len(shapes) + 1))


def test_footprints_are_large_enough_to_be_seen(town):
    shapes = in_pixels(town)
    sides = [
        np.linalg.norm(np.diff(shapely.get_coordinates(shape.exterior), axis=0), axis=1).min()
        for shape in shapes
    ]
    assert min(sides) > 8


def test_row_houses_share_walls_vertex_by_vertex(town):
    rows = town.footprints[town.footprints.kind == "row_house"].geometry.to_numpy()
    first, second = shapely.STRtree(rows).query(rows, "intersects")
    pairs = [(rows[i], rows[j]) for i, j in zip(first, second, strict=True) if i < j]
    assert len(pairs) > 0.6 * len(rows)
    for one, other in pairs:
        corners = set(one.exterior.coords) & set(other.exterior.coords)
        assert len(corners) == 2
        wall = one.intersection(other)
        assert wall.geom_type == "LineString"
        assert wall.length == pytest.approx(math.dist(*corners))
        assert 8.9 < wall.length < 11.1


def test_only_row_houses_touch(town):
    others = town.footprints[town.footprints.kind != "row_house"].geometry.to_numpy()
    every = town.footprints.geometry.to_numpy()
    near, _ = shapely.STRtree(every).query(others, "dwithin", 1.9)
    assert np.bincount(near, minlength=len(others)).max() == 1


def test_only_courtyards_have_a_hole(town):
    holes = town.footprints.geometry.apply(lambda shape: len(shape.interiors))
    assert (holes == (town.footprints.kind == "courtyard")).all()
    courts = town.footprints[town.footprints.kind == "courtyard"].geometry
    for court in courts:
        assert 36 < shapely.Polygon(court.interiors[0]).area < 0.4 * court.area


@pytest.mark.parametrize(
    ("dtype", "nodata", "top"),
    [
        ("uint8", 0, 255),
        ("uint8", 255, 254),
        ("uint8", 90, 255),
        ("int16", -9999, 2047),
        ("uint16", 0, 2047),
        ("float32", 0, 1),
        ("float32", math.nan, 1),
        ("float64", -1, 1),
    ],
)
def test_nodata_stands_where_not_valid_and_nowhere_else(dtype, nodata, top):
    town = build_town(160, 224, seed=5, dtype=dtype, nodata=nodata)
    empty = np.isnan(town.image) if math.isnan(nodata) else town.image == nodata
    assert town.image.dtype == dtype
    assert (empty == ~town.valid).all()
    assert (~town.valid).mean() == pytest.approx(1 / 32, rel=0.05)
    assert not town.valid[0, -1]
    seen = town.image[:, town.valid]
    assert 0.7 * top < seen.max() <= top
    assert 0.25 < seen.mean() / top < 0.6


@pytest.mark.parametrize("options", [{"nodata": None}, {"nodata_corner": False}])
def test_a_town_without_a_corner_is_valid_everywhere(options):
    town = build_town(96, 128, **options)
    assert town.valid.all()
    if town.nodata is not None:
        assert (town.image != town.nodata).all()


def test_buildings_mostly_in_the_empty_corner_do_not_exist():
    whole = build_town(384, 512, seed=4, nodata_corner=False)
    town = build_town(384, 512, seed=4)
    corner = shapely.Polygon([town.grid.transform * p for p in ((384, 0), (512, 0), (512, 96))])
    hidden = whole.footprints.intersection(corner).area / whole.footprints.area
    assert (hidden > 0.5).any()
    assert ((hidden > 0) & (hidden <= 0.5)).any()
    kept = set(whole.footprints.geometry[hidden <= 0.5].to_wkb())
    assert kept == set(town.footprints.geometry.to_wkb())


@pytest.mark.parametrize(
    ("bands", "names"),
    [
        (1, ("pan",)),
        (2, ("band1", "band2")),
        (3, ("red", "green", "blue")),
        (4, ("red", "green", "blue", "nir")),
        (6, ("band1", "band2", "band3", "band4", "band5", "band6")),
    ],
)
def test_bands_have_names_and_differ(bands, names):
    town = build_town(96, 128, bands=bands)
    assert town.bands == names
    means = town.image[:, town.valid].mean(axis=1)
    assert len(set(means.round(2))) == bands


@pytest.mark.parametrize("rotation_deg", [0.0, 35.0])
@pytest.mark.parametrize(
    "crs", ["EPSG:32633", "EPSG:32733", "EPSG:3857", "EPSG:4326", "EPSG:2056", "EPSG:2263"]
)
def test_pixels_have_the_wanted_size_on_the_ground(crs, rotation_deg):
    town = build_town(64, 96, crs=crs, gsd_m=0.3, rotation_deg=rotation_deg)
    assert town.grid.gsd_m == pytest.approx(0.3, rel=0.001)
    assert town.grid.axis_gsd_m == pytest.approx((0.3, 0.3), rel=0.002)
    assert town.footprints.crs == town.grid.crs.to_wkt()
    assert town.grid.shape == (64, 96)


def test_a_coarser_gsd_shrinks_buildings_in_pixels_alone():
    fine, coarse = (build_town(256, 320, gsd_m=gsd_m, seed=2) for gsd_m in (0.25, 1.0))
    area = [town.footprints[town.footprints.kind == "house"].area for town in (fine, coarse)]
    assert all(a.min() >= 72 and a.max() <= 154.2 for a in area)
    assert len(coarse.footprints) > 5 * len(fine.footprints)


def test_rotation_turns_the_grid():
    town = build_town(64, 96, rotation_deg=30)
    (x0, y0), (x1, y1) = (town.grid.transform * p for p in ((0, 0), (96, 0)))
    assert math.degrees(math.atan2(y1 - y0, x1 - x0)) == pytest.approx(30)


def test_density_counts_the_buildings():
    counts = [
        sum(len(build_town(256, 384, density=d, seed=s, bands=1).footprints) for s in range(4))
        for d in (0.0, 0.4, 1.0, 3.0)
    ]
    assert counts[0] == 0
    assert counts == sorted(set(counts))


def test_outlines_lie_on_the_edges_of_the_picture(town):
    """Contrast along the drawn outlines falls when they are moved by two pixels."""
    rows, columns = np.gradient(town.image.astype(float).mean(axis=0))
    steepness = np.hypot(rows, columns)
    lines = shapely.boundary(in_pixels(town))

    def steepness_under(dx, dy):
        moved = shapely.transform(lines, lambda p: p + np.array([dx, dy]))
        under = rasterize(moved, out_shape=town.grid.shape, all_touched=True) > 0
        return steepness[under & town.valid].mean()

    here = steepness_under(0, 0)
    for dx, dy in [(2, 0), (-2, 0), (0, 2), (0, -2)]:
        assert here > 1.25 * steepness_under(dx, dy)


def test_each_building_differs_from_the_ground_around_it(town):
    shapes = in_pixels(town)
    ids = rasterize(zip(shapes, town.footprints.id, strict=True), out_shape=town.grid.shape)
    image = town.image.astype(float)
    different = []
    for number in town.footprints.id:
        inside = ids == number
        outside = binary_dilation(inside, iterations=4) & (ids == 0) & town.valid
        core = binary_erosion(inside) & town.valid
        contrast = image[:, core].mean(axis=1) - image[:, outside].mean(axis=1)
        different.append(np.abs(contrast).max() > 12)
    assert np.mean(different) > 0.97


def test_shadow_falls_on_one_side(town):
    shapes = in_pixels(town)
    halls = np.isin(town.footprints.kind, ["hall", "courtyard"])
    built = rasterize(shapes, out_shape=town.grid.shape) > 0
    light = []
    for turn in np.arange(0, 2 * math.pi, math.pi / 4):
        step = 3 * np.array([math.cos(turn), math.sin(turn)])
        beside = rasterize(shapely.transform(shapes[halls], lambda p, s=step: p + s),
                           out_shape=town.grid.shape) > 0  # fmt: skip
        light.append(town.image[:, beside & ~built & town.valid].mean())
    assert min(light) < 0.75 * max(light)


def test_what_is_written_is_what_was_built(tmp_path):
    town = build_town(160, 224, seed=5, bands=4, dtype="uint16", nodata=0)
    scene, footprints = write_town(town, tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["footprints.gpkg", "scene.tif"]
    with Scene(scene) as source:
        data, valid = source.read()
        assert source.grid == town.grid
        assert (source.info.bands, source.info.nodata) == (town.bands, 0)
    assert (data == town.image).all()
    assert (valid == town.valid).all()
    read = gpd.read_file(footprints)
    assert list(read.kind) == list(town.footprints.kind)
    assert list(read.id) == list(town.footprints.id)
    assert read.crs == town.footprints.crs
    assert read.geometry.geom_equals(town.footprints.geometry).all()
    assert (overlaps(read) == 0).all()


def test_an_empty_town_is_written_and_replaces_another(tmp_path):
    write_town(build_town(160, 224, seed=5), tmp_path)
    _, footprints = write_town(build_town(40, 60, density=0), tmp_path)
    read = gpd.read_file(footprints)
    assert len(read) == 0
    assert {"id", "kind", "geometry"} <= set(read.columns)
    assert read.crs.to_epsg() == 32633


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 0}, "0 x 20 pixels"),
        ({"seed": -1}, "seed: must be 0 or more"),
        ({"gsd_m": 0}, "gsd_m: must be a positive number"),
        ({"bands": 0}, "bands: must be 1 or more"),
        ({"density": math.nan}, "density: must be 0 or more"),
        ({"dtype": "complex64"}, "dtype: 'complex64' is not a data type for scenes"),
        ({"dtype": "colour"}, "dtype: 'colour' is not a data type for scenes"),
        ({"nodata": -9999}, "nodata: -9999 does not fit uint8"),
        ({"nodata": math.nan}, "nodata: nan does not fit uint8"),
        ({"crs": "EPSG:999999"}, "crs: 'EPSG:999999' is unknown"),
    ],
)
def test_errors_say_what_to_do(options, message):
    with pytest.raises(ConfigError, match=message):
        build_town(**{"height": 10, "width": 20, **options})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(3, 8))
def test_roofs_cover_their_buildings_exactly(seed, count):
    rng = np.random.default_rng(seed)
    buildings = [
        build_house(rng),
        build_l_shape(rng),
        build_courtyard(rng, 30.0),
        build_hall(rng, 20.0),
        *build_row(rng, count),
    ]
    for building in buildings:
        moved = building.moved(Affine.translation(50, 60) * Affine.rotation(20) * Affine.scale(2))
        holes = [] if moved.hole is None else [moved.hole]
        outline = shapely.Polygon(moved.shell, holes)
        roof = shapely.union_all([shapely.Polygon(face.ring) for face in moved.faces])
        assert outline.is_valid
        assert roof.symmetric_difference(outline).area < 1e-6 * outline.area
        assert outline.area == pytest.approx(
            4 * shapely.Polygon(building.shell, [] if not holes else [building.hole]).area
        )
