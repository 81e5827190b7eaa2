"""Footprints burnt into targets: the same pixels however the scene is cut."""

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.windows import Window
from shapely.geometry import MultiPolygon, Polygon, box

from geoseg.errors import GridMismatchError, LabelError, MissingCRSError, VectorReadError
from geoseg.grid import Grid
from geoseg.labels import BORDER_M, IGNORE, Labels, check_labels, read_labels

UTM = CRS.from_epsg(32645)
GRID = Grid(UTM, Affine(0.5, 0, 500_000, 0, -0.5, 3e6), 40, 60)
FINE = Grid(UTM, Affine(0.4, 0, 500_000, 0, -0.4, 3e6), 40, 60)
LOCAL = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')


def on_ground(grid, left, top, right, bottom):
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return Polygon([grid.transform @ corner for corner in corners])


def labels_of(*boxes, grid=GRID):
    shapes = [b if isinstance(b, (Polygon, MultiPolygon)) else on_ground(grid, *b) for b in boxes]
    return Labels(grid, gpd.GeoDataFrame(geometry=shapes, crs=grid.crs.to_wkt()))


def burn(labels, window=None, valid=None):
    window = window or labels.grid.window
    shape = (int(window.height), int(window.width))
    return labels.burn(window, np.ones(shape, dtype=bool) if valid is None else valid)


# Burning


@pytest.mark.parametrize("rotation", [0, 40])
def test_a_building_is_where_its_pixels_are(rotation):
    turned = Affine.translation(5e5, 3e6) @ Affine.rotation(rotation) @ Affine.scale(0.5, -0.5)
    grid = Grid(UTM, turned, 40, 60)
    targets = burn(labels_of((10, 5, 22, 14), (30, 20, 50, 21), grid=grid))
    expected = np.zeros((40, 60), dtype=np.uint8)
    expected[5:14, 10:22] = 1
    expected[20:21, 30:50] = 1
    assert targets.dtype == np.uint8
    np.testing.assert_array_equal(targets[0], expected)


def test_a_pixel_belongs_to_a_building_when_its_centre_does():
    targets = burn(labels_of((10.4, 5.6, 20.4, 10.4)))
    assert targets[0].sum() == 10 * 4
    assert targets[0, 6:10, 10:20].all()


def test_a_courtyard_and_several_parts():
    yard = on_ground(GRID, 5, 5, 25, 25).difference(on_ground(GRID, 10, 10, 20, 20))
    parts = MultiPolygon([on_ground(GRID, 40, 2, 45, 7), on_ground(GRID, 50, 2, 55, 7)])
    targets = burn(labels_of(yard, parts))
    assert targets[0].sum() == 400 - 100 + 50
    assert not targets[0, 10:20, 10:20].any()


def test_a_border_runs_along_every_edge_shared_walls_included():
    # 0.75 m are nearly two pixels of 0.4 m: two on each side of the wall.
    labels = labels_of((10, 10, 20, 20), (20, 10, 30, 20), grid=FINE)
    assert labels.border_px == 2
    border = burn(labels)[1]
    expected = np.zeros((40, 60), dtype=np.uint8)
    expected[8:22, 8:32] = 1
    expected[12:18, 12:18] = 0
    expected[12:18, 22:28] = 0
    np.testing.assert_array_equal(border, expected)


def test_a_border_is_at_least_a_pixel_wide():
    coarse = Grid(UTM, Affine(5, 0, 500_000, 0, -5, 3e6), 40, 60)
    labels = labels_of((10, 10, 20, 20), (20, 10, 30, 20), grid=coarse)
    assert labels.border_px == 1
    assert burn(labels)[1][15].nonzero()[0].tolist() == [9, 10, 19, 20, 29, 30]
    assert BORDER_M < 5


def test_no_building_no_border():
    assert burn(labels_of()).sum() == 0


def test_nodata_is_ignored_in_every_target():
    valid = np.ones((40, 60), dtype=bool)
    valid[12:18, 15:25] = False
    targets = burn(labels_of((10, 10, 20, 20), (20, 10, 30, 20)), valid=valid)
    assert (targets[:, ~valid] == IGNORE).all()
    assert set(np.unique(targets[:, valid])) == {0, 1}


ROWS = tuple((x, y, x + 7, y + 5) for y in range(0, 40, 7) for x in range(-3, 60, 8))


@given(
    top=st.integers(0, 39),
    left=st.integers(0, 59),
    height=st.integers(1, 40),
    width=st.integers(1, 60),
)
def test_a_window_is_a_part_of_the_whole(top, left, height, width):
    labels = labels_of(*ROWS)
    window = Window(left, top, min(width, 60 - left), min(height, 40 - top))
    np.testing.assert_array_equal(
        burn(labels, window), burn(labels)[(slice(None), *window.toslices())]
    )


# Reading


@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:4326", "EPSG:3857", "EPSG:32644"])
def test_footprints_come_in_the_grids_crs(make_scene, tmp_path, crs):
    made = make_scene(rotation=15)
    path = tmp_path / "other.gpkg"
    gpd.read_file(made.labels).to_crs(crs).to_file(path)
    labels = read_labels(path, made.grid)
    assert labels.footprints.crs.to_epsg() == 32645
    assert len(labels.footprints) == len(made.polygons)
    # Reprojected walls move by millimetres: no pixel's centre is so near.
    found = burn(labels)[0]
    assert np.count_nonzero(found != made.mask) == 0


def test_only_footprints_on_the_scene_are_read(tmp_path):
    outside = GRID.polygon.buffer(50).exterior.interpolate(7).buffer(3)
    # The bounding box of a turned scene holds corners that the scene does not reach.
    turned = Grid(
        UTM, Affine.translation(5e5, 3e6) @ Affine.rotation(45) @ Affine.scale(0.5, -0.5), 40, 60
    )
    corner = box(*turned.bounds).exterior.interpolate(0).buffer(1)
    inside = turned.polygon.centroid.buffer(2)
    gpd.GeoDataFrame(geometry=[outside, corner, inside], crs=UTM.to_wkt()).to_file(
        tmp_path / "a.gpkg"
    )
    labels = read_labels(tmp_path / "a.gpkg", turned)
    assert len(labels.footprints) == 1
    assert labels.footprints.geometry[0].equals(inside)


def test_an_attribute_filters(make_scene):
    made = make_scene()
    odd = read_labels(made.labels, made.grid, where="label = 1")
    assert len(odd.footprints) == (len(made.polygons) + 1) // 2
    assert burn(odd)[0].sum() == len(odd.footprints) * 12 * 9


def test_invalid_footprints_are_mended_and_counted(tmp_path):
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


# Refusing


def test_a_layer_that_lies_elsewhere_says_where(make_scene, tmp_path):
    made = make_scene()
    frame = gpd.read_file(made.labels)
    frame.geometry = frame.translate(100_000, 0)
    frame.to_file(tmp_path / "far.gpkg")
    labels = read_labels(tmp_path / "far.gpkg", made.grid)
    with pytest.raises(GridMismatchError, match=r"its 24 footprints lie at longitude 88\.0"):
        check_labels([labels], tmp_path / "far.gpkg", None)


def test_a_filter_that_leaves_nothing(make_scene):
    made = make_scene()
    labels = read_labels(made.labels, made.grid, where="label = 9")
    with pytest.raises(LabelError, match="no footprint where label = 9; check the layer"):
        check_labels([labels], made.labels, "label = 9")


def test_one_scene_with_footprints_is_enough(make_scene):
    made = make_scene()
    labels = [Labels(made.grid, gpd.GeoDataFrame(geometry=[], crs=32645))]
    with pytest.raises(GridMismatchError, match="outside every scene"):
        check_labels(labels, made.labels, None)
    labels.append(read_labels(made.labels, made.grid))
    check_labels(labels, made.labels, None)


def test_a_layer_that_is_not_there(tmp_path):
    with pytest.raises(VectorReadError, match=r"none\.gpkg: no such file"):
        read_labels(tmp_path / "none.gpkg", GRID)


def test_a_scene_in_a_local_crs_cannot_meet_footprints(make_scene):
    made = make_scene()
    grid = Grid(LOCAL, made.grid.transform, *made.grid.shape)
    with pytest.raises(MissingCRSError, match="local and has no place on Earth"):
        read_labels(made.labels, grid)
