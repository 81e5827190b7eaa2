"""Areas of interest: the same pixels and the same clip wherever they are read."""

import pickle
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.windows import Window
from shapely.affinity import rotate
from shapely.geometry import MultiPolygon, Polygon, box
from small_models import PIXELWISE

from geoseg.errors import MissingCRSError, VectorReadError
from geoseg.evaluation import evaluate_footprints as evaluate
from geoseg.evaluation import evaluate_mask
from geoseg.geo.aoi import AOI
from geoseg.geo.grid import Grid
from geoseg.geo.raster import write_array
from geoseg.geo.vector import to_crs_densified
from geoseg.options import PredictOptions
from geoseg.prediction.batches import iter_batches
from geoseg.prediction.plan import plan_prediction
from geoseg.prediction.stitching import TileBlock

UTM = CRS.from_epsg(32645)  # central meridian 87 degrees east

# 2.7 degrees east of the central meridian, at 50 degrees north: there a parallel is a curve.
LON, LAT = 89.7, 50.0
X, Y = Transformer.from_crs(4326, 32645, always_xy=True).transform(LON, LAT)
GRID = Grid(UTM, Affine(2.0, 0, X - 150, 0, -2.0, Y + 100), 100, 150)

# From 0.4 degrees west to 0.4 degrees east of the grid: its southern edge is the parallel, which
# in UTM is more than 100 m from the straight line between the corners.
AREA = box(LON - 0.4, LAT, LON + 0.4, LAT + 0.2)


@pytest.fixture
def wide(tmp_path):
    """A layer with one polygon of long edges."""
    gpd.GeoDataFrame(geometry=[AREA], crs=4326).to_file(tmp_path / "aoi.gpkg")
    return tmp_path / "aoi.gpkg"


def sampled(polygon, crs, samples=200_000):
    """The polygon in another CRS, its edges sampled every few decimetres."""
    dense = shapely.segmentize(polygon, polygon.length / samples)
    return gpd.GeoSeries([dense], crs=4326).to_crs(crs.to_wkt()).iloc[0]


def pixel_centres(grid):
    rows, columns = np.mgrid[: grid.height, : grid.width] + 0.5
    return grid.transform * (columns, rows)


def expected_mask(grid):
    return shapely.contains_xy(sampled(AREA, grid.crs), *pixel_centres(grid))


def test_the_edge_bulges_by_more_than_a_pixel():
    corners = gpd.GeoSeries([AREA], crs=4326).to_crs(UTM.to_wkt()).iloc[0]
    wrong = shapely.contains_xy(corners, *pixel_centres(GRID))
    assert np.count_nonzero(wrong != expected_mask(GRID)) > 10 * GRID.width
    assert 0.3 < expected_mask(GRID).mean() < 0.7


def test_the_pixels_of_an_area_with_long_edges(wide):
    aoi = AOI.read_on(wide, GRID)
    np.testing.assert_array_equal(aoi.covers(GRID, GRID.window), expected_mask(GRID))
    assert (
        aoi.union.symmetric_difference(sampled(AREA, UTM).intersection(aoi.union.envelope))
        .intersection(GRID.polygon)
        .area
        < 0.001 * 300
    )


def test_predict_and_evaluate_agree_on_an_area_with_long_edges(wide, tmp_path):
    scene, truth = tmp_path / "scene.tif", expected_mask(GRID)
    write_array(scene, GRID, np.full((3, *GRID.shape), 90, np.uint8))
    spec = PIXELWISE.model_copy(update={"gsd_m": GRID.gsd_m})
    plan = plan_prediction(scene, spec, PredictOptions(aoi=str(wide)))
    aoi = pickle.loads(pickle.dumps(plan.aoi))  # as a worker gets it
    assert plan.grid == GRID

    with plan.scene.open(plan.grid) as source:
        batches = iter_batches(source, TileBlock.whole(plan.tiles), batch_size=2, aoi=aoi)
        known = [strip for batch in batches for strip in batch.strip_valid.values()]
    np.testing.assert_array_equal(np.concatenate(known), truth)

    # A building of one square metre in the middle of each pixel: those inside count.
    xs, ys = (values.ravel() for values in pixel_centres(GRID))
    squares = shapely.box(xs - 0.5, ys - 0.5, xs + 0.5, ys + 0.5)
    layer = gpd.GeoDataFrame(geometry=squares, crs=UTM.to_wkt())
    layer.to_file(tmp_path / "buildings.fgb")
    report = evaluate(tmp_path / "buildings.fgb", tmp_path / "buildings.fgb", aoi=wide)
    near = sampled(AREA, UTM).intersection(GRID.polygon.buffer(10))
    inside = shapely.intersects(near, squares).sum()
    assert (report.tp, report.fp, report.fn) == (inside, 0, 0)
    covered = shapely.intersection(near, squares)
    clipped = AOI.read(wide, UTM).clip(layer)
    assert clipped.area.sum() == pytest.approx(shapely.area(covered).sum(), abs=0.05)

    mask, tags = tmp_path / "mask.tif", {"CLASS_0": "background", "CLASS_1": "building"}
    write_array(mask, GRID, np.ones((1, *GRID.shape), np.uint8), tags=tags)
    gpd.GeoDataFrame(geometry=[GRID.polygon], crs=UTM.to_wkt()).to_file(tmp_path / "all.gpkg")
    report = evaluate_mask(mask, tmp_path / "all.gpkg", aoi=wide)
    assert report.confusion == ((0, 0), (0, truth.sum()))


@pytest.mark.parametrize("degrees", [0.3, 3.0, 30.0])
def test_reprojected_edges_are_exact_to_a_millimetre(degrees):
    area = box(89, 47, 89 + degrees, 47 + degrees / 10)
    layer = gpd.GeoDataFrame({"id": [7]}, geometry=[area], crs=4326)
    (placed,) = to_crs_densified(layer, 32645).geometry
    to_utm = Transformer.from_crs(4326, 32645, always_xy=True)
    lon = np.random.default_rng(0).uniform(89, 89 + degrees, 500)
    south = shapely.points(*to_utm.transform(lon, np.full(500, 47.0)))
    assert shapely.distance(placed.exterior, south).max() < 0.0015


def test_small_polygons_get_no_vertices():
    square = box(89.7, 50, 89.70001, 50.00001)
    layer = gpd.GeoDataFrame({"id": [1, 2]}, geometry=[square, square], crs=4326)
    placed = to_crs_densified(layer, 32645)
    assert placed.geometry.geom_equals_exact(layer.to_crs(32645).geometry, 0).all()
    assert placed.id.tolist() == [1, 2]
    assert to_crs_densified(layer, 4326) is layer


@pytest.mark.parametrize("turn", [0, 17, 45, 290])
def test_neighbours_get_the_same_vertices_on_their_wall(turn):
    areas = [box(-0.7, -0.3, 0.1, 0.6), box(0.1, -0.3, 0.8, 0.6)]  # digits of 0.1 and 0.6 differ
    areas = [rotate(area, turn, origin=(0.1, 0.2)) for area in areas]
    layer = gpd.GeoDataFrame(geometry=areas, crs=4326)
    one, other = to_crs_densified(layer, 32631).geometry
    both = set(one.exterior.coords) & set(other.exterior.coords)
    assert len(both) > 6
    assert one.intersection(other).area == 0
    assert shapely.coverage_is_valid([one, other])


def test_holes_and_parts_are_kept():
    ring = Polygon(box(89, 50, 90, 51).exterior, [box(89.4, 50.4, 89.6, 50.6).exterior])
    both = MultiPolygon([ring, box(91, 50, 91.5, 51)])
    layer = gpd.GeoDataFrame(geometry=[both], crs=4326)
    (placed,) = to_crs_densified(layer, 32645).geometry
    assert (len(placed.geoms), len(placed.geoms[0].interiors), placed.is_valid) == (2, 1, True)
    assert placed.area == pytest.approx(sampled(both, UTM, 20_000).area, rel=1e-7)


@pytest.mark.parametrize("area", [box(-180, -90, 180, 90), box(-180, -80, 180, 84)])
def test_an_area_beyond_the_domain_of_the_crs(area, tmp_path):
    gpd.GeoDataFrame(geometry=[area], crs=4326).to_file(tmp_path / "world.gpkg")
    assert AOI.read_on(tmp_path / "world.gpkg", GRID).covers(GRID, GRID.window).all()


def test_polygons_of_several_features(tmp_path):
    halves = [box(84.9, 27.0, 85.0, 27.1), box(85.0, 27.0, 85.1, 27.1)]
    gpd.GeoDataFrame(geometry=halves, crs=4326).to_file(tmp_path / "aoi.geojson")
    assert AOI.read(tmp_path / "aoi.geojson", 4326).union.equals(box(84.9, 27.0, 85.1, 27.1))
    aoi = AOI.read(tmp_path / "aoi.geojson", UTM)
    assert (len(aoi), aoi.union.geom_type, aoi.union.is_valid) == (2, "Polygon", True)
    assert aoi.union.area == pytest.approx(219.5e6, rel=0.01)


def test_windows_that_an_area_meets(tmp_path):
    grid = Grid(UTM, Affine(1, 0, 5e5, 0, -1, 3e6), 40, 60)
    aoi = AOI((box(5e5 + 10, 3e6 - 20, 5e5 + 20, 3e6 - 10),), UTM)
    assert aoi.meets(grid, Window(0, 0, 60, 20))
    assert not aoi.meets(grid, Window(30, 0, 30, 40))
    assert not aoi.covers(grid, Window(30, 0, 30, 40)).any()
    mask = aoi.covers(grid, grid.window)
    assert mask[10:20, 10:20].all()
    assert mask.sum() == 100
    # Part by part as at once.
    parts = [aoi.covers(grid, window) for window in grid.row_windows(7)]
    np.testing.assert_array_equal(np.concatenate(parts), mask)


def test_an_area_elsewhere_has_no_polygons_on_a_grid(wide):
    moved = replace(GRID, transform=Affine.translation(0, 2e5) * GRID.transform)
    aoi = AOI.read_on(wide, moved)
    assert len(aoi) == 0
    assert not aoi.covers(moved, moved.window).any()


def test_areas_that_cannot_be_read(tmp_path):
    with pytest.raises(VectorReadError, match="no such file"):
        AOI.read(tmp_path / "none.gpkg", 4326)
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy([85], [27]), crs=4326)
    points.to_file(tmp_path / "points.gpkg")
    for bounds in (None, (0, 0, 1, 1)):
        with pytest.raises(VectorReadError, match="has no polygon"):
            AOI.read(tmp_path / "points.gpkg", 4326, bounds=bounds)
    gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=4326).to_file(tmp_path / "nowhere.shp")
    (tmp_path / "nowhere.prj").unlink()
    with pytest.raises(MissingCRSError, match="ogr2ogr -a_srs"):
        AOI.read(tmp_path / "nowhere.shp", 4326)
