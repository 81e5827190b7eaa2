"""Positions of pixels: ground distances in any CRS, windows and resampling under rotation."""

import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.windows import Window

from geoseg.geo.grid import Grid

UTM = CRS.from_epsg(32645)
# Nearly the State Plane of Massachusetts: no EPSG code fits.
WKT_ONLY = CRS.from_wkt(
    'PROJCS["Lambert",GEOGCS["NAD83",DATUM["North_American_Datum_1983",SPHEROID["GRS 1980",'
    '6378137,298.257222101]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION['
    '"Lambert_Conformal_Conic_2SP"],PARAMETER["latitude_of_origin",41.05],PARAMETER['
    '"central_meridian",-71.5],PARAMETER["standard_parallel_1",42.6833333333333],PARAMETER['
    '"standard_parallel_2",41.7166666666667],PARAMETER["false_easting",200000],PARAMETER['
    '"false_northing",750000],UNIT["metre",1]]'
)

A, E2 = 6_378_137.0, 0.00669437999014  # WGS 84


def radii(latitude):
    """Radii of curvature of the ellipsoid: along the parallel, along the meridian."""
    sine = math.sin(math.radians(latitude))
    prime = A / math.sqrt(1 - E2 * sine**2)
    return prime * math.cos(math.radians(latitude)), A * (1 - E2) / (1 - E2 * sine**2) ** 1.5


def centred(crs, x, y, step, height=30, width=50):
    """A north-up grid around (x, y)."""
    return Grid(
        crs, Affine(step, 0, x - step * width / 2, 0, -step, y + step * height / 2), height, width
    )


def rotated(degrees, gsd_x=0.5, gsd_y=0.5, height=30, width=50):
    turn = Affine.translation(500_000, 3e6) * Affine.rotation(degrees)
    return Grid(UTM, turn * Affine.scale(gsd_x, -gsd_y), height, width)


# Ground sampling distance


def test_utm_counts_its_scale_factor():
    grid = centred(UTM, 500_000, 3e6, 0.5)
    assert grid.gsd_m == pytest.approx(0.5 / 0.9996, rel=1e-6)


@pytest.mark.parametrize("latitude", [0, 27.6, 60, -45])
def test_mercator_metres_are_not_ground_metres(latitude):
    y = A * math.log(math.tan(math.pi / 4 + math.radians(latitude) / 2))
    parallel, meridian = radii(latitude)
    cosine = math.cos(math.radians(latitude))
    x_gsd, y_gsd = centred(CRS.from_epsg(3857), 9.4e6, y, 0.3).axis_gsd_m
    assert x_gsd == pytest.approx(0.3 * parallel / A, rel=1e-5)
    assert y_gsd == pytest.approx(0.3 * meridian * cosine / A, rel=1e-5)


def test_degrees_are_measured_on_the_ellipsoid():
    parallel, meridian = radii(36.1)
    grid = centred(CRS.from_epsg(4326), -115.2, 36.1, 2.7e-6)
    x_gsd, y_gsd = grid.axis_gsd_m
    assert x_gsd == pytest.approx(math.radians(2.7e-6) * parallel, rel=1e-5)
    assert y_gsd == pytest.approx(math.radians(2.7e-6) * meridian, rel=1e-5)
    assert grid.gsd_m == pytest.approx(math.sqrt(x_gsd * y_gsd), rel=1e-12)


@pytest.mark.parametrize("degrees", [0, 17, 90, 180, -135])
def test_rotation_changes_no_distance(degrees):
    x_gsd, y_gsd = rotated(degrees, 0.5, 0.8).axis_gsd_m
    assert x_gsd == pytest.approx(0.5 / 0.9996, rel=1e-5)
    assert y_gsd == pytest.approx(0.8 / 0.9996, rel=1e-5)


def test_south_up_and_mirrored_grids_have_positive_distances():
    grid = Grid(UTM, Affine(-0.5, 0, 500_000, 0, 0.5, 3e6), 30, 50)
    assert grid.gsd_m == pytest.approx(0.5 / 0.9996, rel=1e-6)


def test_a_crs_without_a_code():
    assert WKT_ONLY.to_epsg() is None
    assert centred(WKT_ONLY, 236_000, 901_000, 1.0).gsd_m == pytest.approx(1, rel=1e-4)


def test_feet():
    grid = centred(CRS.from_epsg(2263), 984_000, 210_000, 2.0)
    assert grid.gsd_m == pytest.approx(2 * 0.3048006, rel=1e-4)


@pytest.mark.parametrize(("unit", "metres"), [('"metre",1', 1.0), ('"foot",0.3048', 0.3048)])
def test_a_local_crs_counts_by_its_unit(unit, metres):
    grid = centred(CRS.from_wkt(f'LOCAL_CS["site",UNIT[{unit}]]'), 100, 100, 0.25)
    assert grid.gsd_m == pytest.approx(0.25 * metres, rel=1e-9)


def test_a_crs_of_another_world_counts_on_its_own_ellipsoid():
    moon = CRS.from_wkt(
        'GEOGCS["Moon",DATUM["D_Moon",SPHEROID["Moon",1737400,0]],PRIMEM["Reference",0],'
        'UNIT["Degree",0.0174532925199433]]'
    )
    assert centred(moon, 10, 0, 1e-4).gsd_m == pytest.approx(math.radians(1e-4) * 1_737_400)


# Windows


@pytest.mark.parametrize("degrees", [0, 30, -100])
def test_the_windows_of_a_grid_lie_where_its_pixels_lie(degrees):
    grid = rotated(degrees)
    window = Window(7, 4, 20, 11)
    part = grid.window_grid(window)
    assert part.shape == (11, 20)
    assert part.transform * (0, 0) == pytest.approx(grid.transform * (7, 4))
    assert part.transform * (20, 11) == pytest.approx(grid.transform * (27, 15))
    assert part.polygon.equals_exact(grid.window_polygon(window), 1e-6)
    assert grid.window_polygon(window).area == pytest.approx(20 * 11 * 0.25, rel=1e-6)
    assert grid.polygon.buffer(1e-6).contains(part.polygon)
    assert grid.polygon.area == pytest.approx(30 * 50 * 0.25, rel=1e-9)


def test_the_outline_is_exact_under_rotation():
    grid = Grid(UTM, Affine.translation(100, 200) * Affine.rotation(90) * Affine.scale(2, -2), 3, 5)
    # Columns run north, rows run east.
    assert grid.bounds == pytest.approx((100, 200, 106, 210))
    assert (grid.shape, grid.window) == ((3, 5), Window(0, 0, 5, 3))


@given(
    degrees=st.floats(-180, 180),
    columns=st.lists(st.floats(-100, 100), min_size=1, max_size=5),
    row=st.floats(-100, 100),
)
def test_pixels_to_ground_and_back(degrees, columns, row):
    grid = rotated(degrees, 0.5, 0.8)
    points = np.array([grid.transform * (column, row) for column in columns])
    found_columns, found_rows = grid.to_pixels(points[:, 0], points[:, 1])
    assert found_columns == pytest.approx(columns, abs=1e-5)
    assert found_rows == pytest.approx([row] * len(columns), abs=1e-5)


# Resampling


def test_steps_are_those_of_the_place_and_keep_their_angle():
    grid = Grid(CRS.from_epsg(4326), Affine(6e-6, 5e-6, 10, 3e-6, -4e-6, 60), 30, 50)
    (here,) = grid.steps_m(np.array([25.0]), np.array([15.0]))
    parallel, meridian = np.radians(radii(60))
    ground = np.array([[6e-6 * parallel, 3e-6 * meridian], [5e-6 * parallel, -4e-6 * meridian]])
    assert here @ here.T == pytest.approx(ground @ ground.T, rel=1e-3)
    assert np.hypot(*here.T) == pytest.approx(grid.axis_gsd_m)
    far = Grid(grid.crs, Affine(0.1, 0, 0, 0, -0.1, 60), 600, 20)
    south, north = far.steps_m(np.array([5.0, 5.0]), np.array([590.0, 3.0]))
    assert np.hypot(*south[0]) > 1.9 * np.hypot(*north[0])


def test_beyond_the_pole_steps_are_those_of_the_centre():
    grid = Grid(CRS.from_epsg(4326), Affine(0.1, 0, 0, 0, -0.1, 60), 60, 20)
    beyond, centre = grid.steps_m(np.array([5.0, 10.0]), np.array([2000.0, 30.0]))
    assert beyond == pytest.approx(centre)
    assert np.hypot(*centre.T) == pytest.approx(grid.axis_gsd_m)


def test_a_local_grid_counts_by_its_unit_and_keeps_its_axes():
    crs = CRS.from_wkt('LOCAL_CS["site",UNIT["foot",0.3048]]')
    grid = Grid(crs, Affine(1, 0.5, 0, 0, -2, 100), 30, 50)
    assert grid.axis_gsd_m == pytest.approx((0.3048, 0.3048 * math.hypot(0.5, 2)))
    (steps,) = grid.steps_m(np.array([3.0]), np.array([7.0]))
    assert steps == pytest.approx(0.3048 * np.array([[1, 0], [0.5, 2]]))


def test_a_grid_that_is_near_enough_stays():
    grid = centred(UTM, 500_000, 3e6, 0.5)
    assert grid.resampled(0.52) is grid
    assert grid.resampled(0.53) is not grid
    assert grid.resampled(0.52, tolerance=0.01) is not grid


def test_pixels_that_are_not_square_become_so():
    grid = rotated(20, 0.5, 1.0, height=40, width=60)
    square = grid.resampled(0.5 / 0.9996)
    assert square.shape == (80, 60)
    assert square.axis_gsd_m == pytest.approx((0.5 / 0.9996, 0.5 / 0.9996), rel=1e-4)


@given(
    gsd=st.floats(0.05, 12),
    degrees=st.sampled_from([0, 33, 180]),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
)
def test_a_resampled_grid_covers_the_same_ground(gsd, degrees, height, width):
    grid = rotated(degrees, height=height, width=width)
    new = grid.resampled(gsd, tolerance=0)
    assert new.transform * (0, 0) == pytest.approx(grid.transform * (0, 0), abs=1e-6)
    columns, rows = (float(v[0]) for v in new.to_pixels(*(np.array([c]) for c in (
        grid.transform * (width, height)
    ))))  # fmt: skip
    assert columns <= new.width + 1e-5
    assert rows <= new.height + 1e-5
    assert new.width - columns < 1 or new.width == 1
    assert new.height - rows < 1 or new.height == 1
    assert new.gsd_m == pytest.approx(gsd, rel=1e-3)


def test_twice_the_distance_is_half_the_pixels():
    grid = centred(UTM, 500_000, 3e6, 0.5, height=31, width=50)
    assert grid.resampled(2 * grid.gsd_m).shape == (16, 25)


# Values


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (-1, 3)])
def test_an_empty_grid_is_refused(height, width):
    with pytest.raises(ValueError, match="at least one pixel"):
        Grid(UTM, Affine.identity(), height, width)


@pytest.mark.parametrize(
    "transform",
    [Affine(0, 0, 1, 0, 1, 1), Affine(1, 1, 0, 1, 1, 0), Affine(math.nan, 0, 0, 0, 1, 0)],
)
def test_a_transform_without_an_inverse_is_refused(transform):
    with pytest.raises(ValueError, match="no inverse"):
        Grid(UTM, transform, 3, 4)


def test_grids_are_values():
    assert rotated(30) == rotated(30)
    assert rotated(30) != rotated(31)
    assert len({rotated(30), rotated(30)}) == 1
