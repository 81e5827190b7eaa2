"""Labels and targets: the same pixels however the scene is divided."""

import tracemalloc

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.windows import Window
from shapely.geometry import MultiPolygon, Polygon, box

from geoseg.data.labels import (
    BORDER_M,
    IGNORE,
    FootprintLabels,
    RasterLabels,
    check_footprints,
    rasterize_targets,
    read_labels,
    resolve_scheme,
)
from geoseg.data.labels.targets import border_radius_px
from geoseg.errors import GridMismatchError, LabelError, MissingCRSError, VectorReadError
from geoseg.geo.grid import Grid
from geoseg.options import ClassOptions

UTM = CRS.from_epsg(32645)
GRID = Grid(UTM, Affine(0.5, 0, 500_000, 0, -0.5, 3e6), 40, 60)
FINE = Grid(UTM, Affine(0.4, 0, 500_000, 0, -0.4, 3e6), 40, 60)
LOCAL = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')


def pixel_box(grid, left, top, right, bottom):
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return Polygon([grid.transform * corner for corner in corners])


def footprint_labels(*boxes, grid=GRID):
    shapes = [b if isinstance(b, (Polygon, MultiPolygon)) else pixel_box(grid, *b) for b in boxes]
    return FootprintLabels(grid, gpd.GeoDataFrame(geometry=shapes, crs=grid.crs.to_wkt()))


def rasterize(labels, window=None, valid=None):
    window = window or labels.grid.window
    shape = (int(window.height), int(window.width))
    return rasterize_targets(labels, window, np.ones(shape, dtype=bool) if valid is None else valid)


# Rasterizing


@pytest.mark.parametrize("rotation", [0, 40])
def test_buildings_cover_their_pixels(rotation):
    turned = Affine.translation(5e5, 3e6) * Affine.rotation(rotation) * Affine.scale(0.5, -0.5)
    grid = Grid(UTM, turned, 40, 60)
    targets = rasterize(footprint_labels((10, 5, 22, 14), (30, 20, 50, 21), grid=grid))
    expected = np.zeros((40, 60), dtype=np.uint8)
    expected[5:14, 10:22] = 1
    expected[20:21, 30:50] = 1
    assert targets.dtype == np.uint8
    np.testing.assert_array_equal(targets[0], expected)


def test_a_pixel_belongs_to_a_building_if_its_centre_is_inside():
    targets = rasterize(footprint_labels((10.4, 5.6, 20.4, 10.4)))
    assert targets[0].sum() == 10 * 4
    assert targets[0, 6:10, 10:20].all()


def test_a_courtyard_and_several_parts():
    yard = pixel_box(GRID, 5, 5, 25, 25).difference(pixel_box(GRID, 10, 10, 20, 20))
    parts = MultiPolygon([pixel_box(GRID, 40, 2, 45, 7), pixel_box(GRID, 50, 2, 55, 7)])
    targets = rasterize(footprint_labels(yard, parts))
    assert targets[0].sum() == 400 - 100 + 50
    assert not targets[0, 10:20, 10:20].any()


def test_borders_follow_every_edge_including_shared_walls():
    # 0.75 m are nearly two pixels of 0.4 m: two on each side of the wall.
    labels = footprint_labels((10, 10, 20, 20), (20, 10, 30, 20), grid=FINE)
    assert border_radius_px(labels.grid) == 2
    border = rasterize(labels)[1]
    expected = np.zeros((40, 60), dtype=np.uint8)
    expected[8:22, 8:32] = 1
    expected[12:18, 12:18] = 0
    expected[12:18, 22:28] = 0
    np.testing.assert_array_equal(border, expected)


def test_a_border_is_at_least_a_pixel_wide():
    coarse = Grid(UTM, Affine(5, 0, 500_000, 0, -5, 3e6), 40, 60)
    labels = footprint_labels((10, 10, 20, 20), (20, 10, 30, 20), grid=coarse)
    assert border_radius_px(labels.grid) == 1
    assert rasterize(labels)[1][15].nonzero()[0].tolist() == [9, 10, 19, 20, 29, 30]
    assert BORDER_M < 5


def test_no_building_no_border():
    assert rasterize(footprint_labels()).sum() == 0


def test_nodata_is_ignored_in_every_target():
    valid = np.ones((40, 60), dtype=bool)
    valid[12:18, 15:25] = False
    targets = rasterize(footprint_labels((10, 10, 20, 20), (20, 10, 30, 20)), valid=valid)
    assert (targets[:, ~valid] == IGNORE).all()
    assert set(np.unique(targets[:, valid])) == {0, 1}


ROWS = tuple((x, y, x + 7, y + 5) for y in range(0, 40, 7) for x in range(-3, 60, 8))


@given(
    top=st.integers(0, 39),
    left=st.integers(0, 59),
    height=st.integers(1, 40),
    width=st.integers(1, 60),
)
def test_a_window_equals_the_same_part_of_the_scene(top, left, height, width):
    labels = footprint_labels(*ROWS)
    window = Window(left, top, min(width, 60 - left), min(height, 40 - top))
    np.testing.assert_array_equal(
        rasterize(labels, window), rasterize(labels)[(slice(None), *window.toslices())]
    )


# Reading


@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:4326", "EPSG:3857", "EPSG:32644"])
def test_footprints_are_read_in_the_crs_of_the_grid(make_scene, tmp_path, crs):
    made = make_scene(rotation=15)
    path = tmp_path / "other.gpkg"
    gpd.read_file(made.labels).to_crs(crs).to_file(path)
    labels = read_labels(path, made.grid)
    assert labels.footprints.crs.to_epsg() == 32645
    assert len(labels.footprints) == len(made.polygons)
    # Reprojection moves walls by millimetres; no pixel's centre is that close to one.
    found = rasterize(labels)[0]
    assert np.count_nonzero(found != made.mask) == 0


def test_only_footprints_on_the_scene_are_read(tmp_path):
    outside = GRID.polygon.buffer(50).exterior.interpolate(7).buffer(3)
    # The bounding box of a rotated scene has corners outside the scene.
    turned = Grid(
        UTM, Affine.translation(5e5, 3e6) * Affine.rotation(45) * Affine.scale(0.5, -0.5), 40, 60
    )
    corner = box(*turned.bounds).exterior.interpolate(0).buffer(1)
    inside = turned.polygon.centroid.buffer(2)
    gpd.GeoDataFrame(geometry=[outside, corner, inside], crs=UTM.to_wkt()).to_file(
        tmp_path / "a.gpkg"
    )
    labels = read_labels(tmp_path / "a.gpkg", turned)
    assert len(labels.footprints) == 1
    assert labels.footprints.geometry[0].equals(inside)


def test_footprints_are_filtered_by_attribute(make_scene):
    made = make_scene()
    odd = read_labels(made.labels, made.grid, where="label = 1")
    assert len(odd.footprints) == (len(made.polygons) + 1) // 2
    assert rasterize(odd)[0].sum() == len(odd.footprints) * 12 * 9


def test_invalid_footprints_are_repaired_and_counted(tmp_path):
    x, y = 500_005.0, 2_999_995.0
    bow = Polygon([(x, y), (x + 8, y - 8), (x + 8, y), (x, y - 8)])
    gpd.GeoDataFrame(geometry=[bow, box(x + 10, y - 5, x + 15, y)], crs=UTM.to_wkt()).to_file(
        tmp_path / "a.gpkg"
    )
    labels = read_labels(tmp_path / "a.gpkg", GRID)
    assert labels.repaired == 1
    assert labels.footprints.is_valid.all()
    assert set(labels.footprints.geom_type) <= {"Polygon", "MultiPolygon"}
    assert labels.footprints.area.sum() == pytest.approx(2 * 16 + 25)


# Errors


def test_a_layer_outside_the_scene_is_located_in_the_error(make_scene, tmp_path):
    made = make_scene()
    frame = gpd.read_file(made.labels)
    frame.geometry = frame.translate(100_000, 0)
    frame.to_file(tmp_path / "far.gpkg")
    labels = read_labels(tmp_path / "far.gpkg", made.grid)
    with pytest.raises(GridMismatchError, match=r"its 24 footprints are at longitude 88\.0"):
        check_footprints([labels], tmp_path / "far.gpkg", None)


def test_a_filter_that_matches_nothing(make_scene):
    made = make_scene()
    labels = read_labels(made.labels, made.grid, where="label = 9")
    with pytest.raises(LabelError, match="no footprint where label = 9; check the layer"):
        check_footprints([labels], made.labels, "label = 9")


def test_one_scene_with_footprints_is_enough(make_scene):
    made = make_scene()
    labels = [FootprintLabels(made.grid, gpd.GeoDataFrame(geometry=[], crs=32645))]
    with pytest.raises(GridMismatchError, match="outside all scenes"):
        check_footprints(labels, made.labels, None)
    labels.append(read_labels(made.labels, made.grid))
    check_footprints(labels, made.labels, None)


def test_a_missing_file(tmp_path):
    with pytest.raises(VectorReadError, match=r"none\.gpkg: no such file"):
        read_labels(tmp_path / "none.gpkg", GRID)


def test_a_scene_in_a_local_crs_cannot_meet_footprints(make_scene):
    made = make_scene()
    grid = Grid(LOCAL, made.grid.transform, *made.grid.shape)
    with pytest.raises(MissingCRSError, match="has a local CRS without a location on Earth"):
        read_labels(made.labels, grid)


# Contact, distance, areas that were not labelled


def test_contact_is_near_two_buildings():
    # 0.75 m are nearly two pixels of 0.4 m.
    shapes = ((10, 10, 20, 20), (20, 10, 30, 20), (33, 10, 40, 20), (50, 30, 55, 35))
    valid = np.ones(FINE.shape, dtype=bool)
    (contact,) = rasterize_targets(
        footprint_labels(*shapes, grid=FINE), FINE.window, valid, ("contact",)
    )
    expected = np.zeros(FINE.shape, dtype=np.uint8)
    expected[8:22, 18:22] = 1  # along the wall, and two pixels past its ends
    expected[8:22, 31:32] = 1  # only the middle of a gap of three pixels is near both
    assert border_radius_px(FINE) == 2
    np.testing.assert_array_equal(contact, expected)


@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(2, 20), st.integers(2, 15)),
        max_size=4,
    )
)
def test_the_distance_is_measured_to_the_nearest_edge(boxes):
    labels = footprint_labels(*((x, y, x + w, y + h) for x, y, w, h in boxes))
    valid = np.ones(GRID.shape, dtype=bool)
    (distance,) = rasterize_targets(labels, GRID.window, valid, ("distance",))
    wide = Window(-30, -30, GRID.width + 60, GRID.height + 60)
    ids = labels.rasterize_ids(wide)
    rows, columns = np.indices(ids.shape)
    for y, x in [(0, 0), (5, 9), (20, 31), (39, 59), (13, 44), (28, 3)]:
        other = ids != ids[y + 30, x + 30]
        if ids[y + 30, x + 30] == 0:
            other = ids > 0
        far = np.hypot(rows - y - 30, columns - x - 30)[other]
        d = min(15.0, far.min() - 0.5) if far.size else 15.0
        if ids[y + 30, x + 30] == 0:
            d = -d
        assert distance[y, x] == round(127 + 8 * d) or abs(distance[y, x] - 127 - 8 * d) <= 0.5


@given(
    top=st.integers(0, 30),
    left=st.integers(0, 40),
    height=st.integers(3, 10),
    width=st.integers(4, 20),
)
def test_targets_do_not_depend_on_how_the_scene_is_divided(top, left, height, width):
    names = ("building", "border", "contact", "distance")
    labels = footprint_labels((10, 5, 22, 14), (22, 5, 30, 20), (5, 25, 18, 33), (33, 4, 58, 38))
    whole = rasterize_targets(labels, GRID.window, np.ones(GRID.shape, dtype=bool), names)
    part = rasterize_targets(
        labels.subset(Window(left - 20, top - 20, width + 40, height + 40)),
        Window(left, top, width, height),
        np.ones((height, width), dtype=bool),
        names,
    )
    np.testing.assert_array_equal(part, whole[:, top : top + height, left : left + width])


def test_areas_that_were_not_labelled_are_ignored(make_scene, tmp_path):
    made = make_scene()
    path = tmp_path / "labels.gpkg"
    gpd.GeoDataFrame(geometry=made.polygons, crs=32645).to_file(path, layer="footprints")
    hidden = pixel_box(made.grid, 40, 20, 90, 60)
    gpd.GeoDataFrame(geometry=[hidden], crs=32645).to_crs(4326).to_file(path, layer="ignored areas")
    labels = read_labels(path, made.grid)
    targets = rasterize(labels)
    inside = np.zeros(made.grid.shape, dtype=bool)
    inside[20:60, 40:90] = True
    assert len(labels) == len(made.polygons)
    assert (targets[:, inside] == IGNORE).all()
    np.testing.assert_array_equal(targets[0][~inside], made.mask[~inside])


# Classes


LAND = ClassOptions(attribute="kind", values={"water": [3, "lake"], "wood": "Forest"})


def land_layer(folder):
    path = folder / "land.gpkg"
    shapes = [(0, 0, 20, 40), (20, 0, 35, 40), (35, 0, 45, 40), (45, 0, 50, 40)]
    gpd.GeoDataFrame(
        {"kind": ["lake", "forest ", "swamp", "3"]},
        geometry=[pixel_box(GRID, *shape) for shape in shapes],
        crs=32645,
    ).to_file(path)
    return path


@pytest.mark.parametrize("background", ["open", None])
def test_classes_by_attribute(tmp_path, background):
    scheme = resolve_scheme(LAND.model_copy(update={"background": background}))
    labels = read_labels(land_layer(tmp_path), GRID, scheme)
    (mask,) = rasterize_targets(labels, GRID.window, np.ones(GRID.shape, dtype=bool), ("class",))
    first = 0 if background is None else 1
    assert scheme.names == (("open",) if background else ()) + ("water", "wood")
    assert (mask[:, :20] == first).all()
    assert (mask[:, 20:35] == first + 1).all()
    assert (mask[:, 35:45] == IGNORE).all()  # swamp belongs to no class
    assert (mask[:, 45:50] == first).all()
    assert (mask[:, 50:] == (0 if background else IGNORE)).all()


def test_classes_need_their_attribute(tmp_path):
    for options, message in (
        (LAND.model_copy(update={"attribute": None}), "set tile.classes.attribute"),
        (LAND.model_copy(update={"attribute": "type"}), "has no attribute type; .*to one of kind"),
    ):
        with pytest.raises(LabelError, match=message):
            read_labels(land_layer(tmp_path), GRID, resolve_scheme(options))


def test_a_value_belongs_to_one_class():
    with pytest.raises(ValidationError, match="the value 3 is listed for two classes"):
        ClassOptions(values={"water": 3, "wood": [4, "3"]})
    with pytest.raises(ValidationError, match="water is already one of the classes"):
        ClassOptions(values={"water": 3}, background="water")


# Mask rasters


def mask_raster(folder, array, *, nodata=None, crs="EPSG:32645", scale=0.5):
    path = folder / "mask.tif"
    array = array if array.ndim == 3 else array[None]
    with rasterio.open(
        path, "w", driver="GTiff", height=array.shape[1], width=array.shape[2], count=len(array),
        dtype=array.dtype, crs=crs, nodata=nodata,
        transform=Affine(scale, 0, 500_000, 0, -scale, 3e6),
    ) as sink:  # fmt: skip
        sink.write(array)
    return path


@pytest.mark.parametrize(("value", "nodata"), [(1, None), (255, 0), (7, 9)])
def test_a_mask_of_buildings(tmp_path, value, nodata):
    array = np.zeros(GRID.shape, dtype=np.uint8)
    array[5:14, 10:22] = array[20:30, 30:50] = value
    if nodata == 9:
        array[:, 55:] = 9
    labels = read_labels(mask_raster(tmp_path, array, nodata=nodata), GRID)
    assert isinstance(labels, RasterLabels)
    drawn = rasterize(footprint_labels((10, 5, 22, 14), (30, 20, 50, 30)))
    found = rasterize(labels)
    if nodata == 9:
        assert (found[:, :, 55:] == IGNORE).all()
        drawn[:, :, 55:] = IGNORE
        drawn[1, :, 53:55] = found[1, :, 53:55]
    np.testing.assert_array_equal(found, drawn)
    assert labels.foreground_pixels(Window(0, 0, 60, 20)) == pytest.approx(9 * 12, rel=0.15)


@given(seed=st.integers(0, 1000), nodata=st.sampled_from([None, 0, 2, 40]))
def test_the_nodata_value_may_belong_to_a_class(tmp_path_factory, seed, nodata):
    array = np.random.default_rng(seed).choice([0, 1, 2, 40], GRID.shape).astype(np.uint8)
    path = mask_raster(tmp_path_factory.mktemp("mask"), array, nodata=nodata)
    options = ClassOptions(values={"soil": 0, "water": [2, 40]}, background=None)
    labels = read_labels(path, GRID, resolve_scheme(options))
    (mask,) = rasterize_targets(labels, GRID.window, np.ones(GRID.shape, dtype=bool), ("class",))
    expected = np.select([array == 0, array == 1], [0, IGNORE], 1)
    np.testing.assert_array_equal(mask, expected)


def test_colours_are_classes(tmp_path):
    array = np.zeros((3, *GRID.shape), dtype=np.uint8)
    array[:, :, :20] = np.array([0, 255, 255])[:, None, None]
    array[:, :, 20:50] = np.array([255, 255, 0])[:, None, None]
    options = ClassOptions(values={"urban": "#00FFFF", "fields": "#ffff00"}, background=None)
    path = mask_raster(tmp_path, array)
    labels = read_labels(path, GRID, resolve_scheme(options))
    (mask,) = rasterize_targets(labels, GRID.window, np.ones(GRID.shape, dtype=bool), ("class",))
    assert (mask[:, :20] == 0).all()
    assert (mask[:, 20:50] == 1).all()
    assert (mask[:, 50:] == IGNORE).all()
    with pytest.raises(LabelError, match="has 3 bands; a mask has one band"):
        read_labels(path, GRID)
    one = mask_raster(tmp_path, array[0])
    with pytest.raises(LabelError, match="has 1 band;"):
        read_labels(one, GRID, resolve_scheme(options))


def test_a_coarse_mask_in_another_crs_is_sampled_at_pixel_centres(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 5, (11, 16)).astype(np.uint8)
    path = mask_raster(tmp_path, coarse, scale=2.0)
    options = ClassOptions(values={str(v): v for v in range(5)}, background=None)
    scheme = resolve_scheme(options)
    (mask,) = rasterize_targets(
        read_labels(path, GRID, scheme), GRID.window, np.ones(GRID.shape, dtype=bool), ("class",)
    )
    np.testing.assert_array_equal(mask, np.kron(coarse, np.ones((4, 4)))[:40, :60])
    turned = Grid(CRS.from_epsg(4326), Affine(4e-6, 1e-6, 87.0, 1e-6, -4e-6, 27.1195), 30, 50)
    (mask,) = rasterize_targets(
        read_labels(path, turned, scheme), turned.window, np.ones((30, 50), bool), ("class",)
    )
    to_mask = Transformer.from_crs(4326, 32645, always_xy=True)
    for row, column in [(3, 4), (20, 11), (29, 49), (15, 30)]:
        x, y = to_mask.transform(*(turned.transform * (column + 0.5, row + 0.5)))
        place = int((3e6 - y) // 2), int((x - 500_000) // 2)
        inside = 0 <= place[0] < 11 and 0 <= place[1] < 16
        assert mask[row, column] == (coarse[place] if inside else IGNORE)


@pytest.mark.parametrize("rotation", [0, 45])
def test_memory_of_an_estimate_does_not_grow_with_the_mask(tmp_path, magnify, rotation):
    side = 32768
    small = np.random.default_rng(5).integers(0, 2, (64, 64)).astype(np.uint8)
    path = magnify(mask_raster(tmp_path, small), side)
    centre = side / 2
    turn = Affine.rotation(rotation, pivot=(centre, centre))
    grid = Grid(UTM, Affine(0.5, 0, 500_000, 0, -0.5, 3e6) * turn, side, side)
    labels = read_labels(path, grid)
    tracemalloc.start()
    pixels = labels.foreground_pixels(grid.window)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    points = (np.arange(64) + 0.5) * side / 64
    columns, rows = turn * (points[None, :] + np.zeros((64, 1)), points[:, None] + np.zeros(64))
    columns, rows = (np.floor(each * 64 / side + 1e-9).astype(int) for each in (columns, rows))
    inside = (columns >= 0) & (columns < 64) & (rows >= 0) & (rows < 64)
    hits = np.count_nonzero(small[rows[inside], columns[inside]])
    assert pixels == hits * (side / 64) ** 2
    assert peak < 16e6  # the mask has 1.07e9 pixels


def test_label_values_are_compared_as_text():
    options = ClassOptions(
        attribute="a", values={"roof": [True, "caf\u00e9", 1.0], "other": [False, "01", "11.0"]}
    )
    scheme = resolve_scheme(options)
    roof, other = scheme.names.index("roof"), scheme.names.index("other")
    values = [np.True_, "TRUE", "cafe\u0301", 1, "1", np.float64(1), " 1.00 "]
    assert scheme.to_mask_values(values).tolist() == [roof] * 7
    assert scheme.to_mask_values([np.False_, "01", 11, 11.0]).tolist() == [other] * 4
    assert scheme.to_mask_values(["1.5", "001", None]).tolist() == [IGNORE] * 3
