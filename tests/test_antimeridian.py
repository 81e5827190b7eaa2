"""Scenes across 180 degrees in projections whose x ends there, from labels to GeoJSON."""

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.windows import Window
from shapely import affinity
from shapely.geometry import MultiPolygon, box
from small_models import PIXELWISE, make_model

import geoseg
from geoseg.data.labels import LayerLabels, read_labels, sources
from geoseg.data.tiles import plan_tiles, read_tile_footprints, read_tiles, tile_scenes
from geoseg.evaluation import evaluate_footprints
from geoseg.geo.aoi import AOI
from geoseg.geo.crs import transform_bounds, x_period
from geoseg.geo.grid import Grid
from geoseg.geo.raster import NearestRaster, write_array
from geoseg.geo.vector import read_footprints, to_crs_densified, to_crs_near, write_footprints
from geoseg.geo.vector.antimeridian import to_degrees
from geoseg.options import PredictOptions, TileOptions

PERIODIC = {
    "EPSG:3857": 40_075_016.685578486,
    "EPSG:3395": 40_075_016.685578486,
    "EPSG:4087": 40_075_016.685578486,
    "EPSG:6933": 34_735_060.8912,
    "EPSG:3832": 40_075_016.685578486,  # Mercator of the Pacific: it ends at 30 degrees west
    "+proj=merc +lon_0=-100 +x_0=1000 +units=us-ft": 40_075_016.685578486 * 3937 / 1200,
    "+proj=cea +lat_ts=30 +lon_0=10": None,
    "EPSG:4326": 360.0,
}
ENDS = {"EPSG:3832": -30.0, "+proj=merc +lon_0=-100 +x_0=1000 +units=us-ft": 80.0,
        "+proj=cea +lat_ts=30 +lon_0=10": -170.0}  # fmt: skip
HEIGHT, WIDTH = 96, 160
HOUSES = [box(8, 8, 28, 24), box(70, 30, 92, 50), box(79, 60, 81, 80), box(120, 8, 140, 30),
          box(100, 70, 150, 88), box(30, 60, 50, 90)]  # fmt: skip


def end_of(crs):
    """The longitude at which x of a CRS ends."""
    return ENDS.get(crs, 180.0)


def grid_across(crs):
    """A grid whose 80th column is the end of x."""
    period = x_period(CRS(crs))
    _, y = Transformer.from_crs(4326, crs, always_xy=True).transform(end_of(crs) - 1, -17)
    pixel = period.size / 40_000_000
    right = period.range[1]
    transform = Affine(pixel, 0, right - 80 * pixel, 0, -pixel, y + 50 * pixel)
    return Grid(rasterio.CRS.from_user_input(crs), transform, HEIGHT, WIDTH)


def on_grid(grid):
    """The houses in the CRS of the grid, some beyond its end."""
    affine = grid.transform.to_shapely()
    shapes = [shapely.affinity.affine_transform(house, affine) for house in HOUSES]
    return gpd.GeoSeries(shapes, crs=grid.crs.to_wkt())


def in_degrees(grid, way):
    """The houses in longitude and latitude, as layers have them across 180 degrees."""
    period = x_period(CRS(grid.crs.to_wkt()))
    to_degrees = Transformer.from_crs(grid.crs.to_wkt(), 4326, always_xy=True)

    def convert(points):
        longitudes, latitudes = to_degrees.transform(*points.T)
        middle, _ = to_degrees.transform(period.range[1] - 1e-3 * period.size, points[0, 1])
        longitudes = middle + (longitudes - middle + 180) % 360 - 180
        return np.column_stack([longitudes, latitudes])

    whole = shapely.transform(on_grid(grid).to_numpy(), convert)
    return [WAYS[way](shape) for shape in whole]


def normal(longitudes):
    return (longitudes + 180) % 360 - 180


def cut(shape):
    """Cut at 180 degrees, as in GeoJSON."""
    parts = [
        shapely.affinity.translate(shape.intersection(box(turn - 180, -90, turn + 180, 90)), -turn)
        for turn in (-360, 0, 360)
    ]
    found = [part for part in parts if part.area > 0]
    return found[0] if len(found) == 1 else MultiPolygon(found)


def tear(shape):
    """With vertices at both ends, the long way round."""
    return shapely.transform(shape, lambda p: np.column_stack([normal(p[:, 0]), p[:, 1]]))


WAYS = {"cut": cut, "torn": tear, "whole": lambda shape: shape}


def burn(path, grid):
    """The scene file of a grid, with the houses bright."""
    rng = np.random.default_rng(3)
    data = rng.integers(30, 90, (3, grid.height, grid.width)).astype(np.uint8)
    for house in HOUSES:
        left, top, right, bottom = map(int, house.bounds)
        data[:, top:bottom, left:right] += 120
    with rasterio.open(path, "w", driver="GTiff", height=grid.height, width=grid.width, count=3,
                       dtype="uint8", crs=grid.crs, transform=grid.transform) as sink:  # fmt: skip
        sink.write(data)
    return path


def expected_mask():
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for house in HOUSES:
        left, top, right, bottom = map(int, house.bounds)
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(("crs", "length"), PERIODIC.items())
def test_the_period_is_that_of_the_projection(crs, length):
    period = x_period(CRS(crs))
    to_crs = Transformer.from_crs(4326, crs, always_xy=True)
    longitudes = normal(end_of(crs) + np.array([1e-9, -1e-9]))
    left, right = to_crs.transform(longitudes, [0, 0])[0]
    assert period.range == pytest.approx((left, right), abs=1e-9 * period.size)
    assert period.size == pytest.approx(length or right - left, rel=1e-9)


@pytest.mark.parametrize(
    "crs", ["EPSG:32660", "EPSG:3031", "EPSG:8857", "+proj=sinu", "+proj=laea", "EPSG:2193",
            'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
            'LENGTHUNIT["metre",1]]']
)  # fmt: skip
def test_other_projections_have_none(crs):
    assert x_period(CRS(crs)) is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("crs", PERIODIC)
@pytest.mark.parametrize("large", [False, True])
def test_labels_in_degrees_are_all_burnt(tmp_path, monkeypatch, crs, way, large):
    grid = grid_across(crs)
    path = tmp_path / "labels.gpkg"
    elsewhere = [box(9, -18, 10, -17), box(179.99, 40, 180, 40.01)]
    shapes = [*in_degrees(grid, way), *elsewhere]
    gpd.GeoDataFrame({"id": range(len(shapes))}, geometry=shapes, crs=4326).to_file(path)
    monkeypatch.setattr(sources, "MAX_IN_MEMORY", 1 if large else 100)
    labels = read_labels(path, grid)
    assert isinstance(labels, LayerLabels) == large
    assert len(labels) == len(HOUSES)
    ids, mask = labels.read(grid.window)
    np.testing.assert_array_equal(mask > 0, expected_mask())
    assert len(np.unique(ids)) == len(HOUSES) + 1
    _, right = labels.read(Window(90, 0, 70, HEIGHT))
    np.testing.assert_array_equal(right > 0, expected_mask()[:, 90:])
    assert labels.foreground_pixels(grid.window) == pytest.approx(
        sum(house.area for house in HOUSES), rel=1e-4
    )
    assert sorted(pd.concat(labels.iter_footprints()).id) == [*range(6)]


@pytest.mark.parametrize("labels_crs", ["EPSG:32660", "EPSG:3832", "EPSG:3395", "EPSG:6933"])
def test_labels_in_any_crs_are_all_burnt(tmp_path, labels_crs):
    grid = grid_across("EPSG:3857")
    degrees = gpd.GeoSeries(in_degrees(grid, "torn"), crs=4326)
    path = tmp_path / "labels.fgb"
    degrees.to_crs(labels_crs).to_file(path)
    _, mask = read_labels(path, grid).read(grid.window)
    np.testing.assert_array_equal(mask > 0, expected_mask())


@pytest.mark.parametrize("turn", [-1, 0, 1])
def test_labels_that_go_on_beyond_180_fit_a_scene_that_does_not(tmp_path, turn):
    whole = grid_across("EPSG:3857")
    part = Grid(whole.crs, whole.window_transform(Window(90, 0, 1, 1))
                .translation(turn * x_period(CRS(3857)).size, 0)
                * whole.window_transform(Window(90, 0, 1, 1)), HEIGHT, 70)  # fmt: skip
    path = tmp_path / "labels.gpkg"
    gpd.GeoSeries(in_degrees(whole, "whole"), crs=4326).to_file(path)
    _, mask = read_labels(path, part).read(part.window)
    np.testing.assert_array_equal(mask > 0, expected_mask()[:, 90:])


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:3832", "EPSG:4326"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("aoi_crs", ["EPSG:4326", "EPSG:3857", "EPSG:32660"])
def test_areas_of_interest(tmp_path, crs, way, aoi_crs):
    if end_of(crs) != 180 and aoi_crs == "EPSG:32660":
        pytest.skip("far from the zone")
    grid = grid_across(crs)
    path = tmp_path / "aoi.gpkg"
    gpd.GeoSeries(in_degrees(grid, way), crs=4326).to_crs(aoi_crs).to_file(path)
    area = AOI.read_on(path, grid)
    np.testing.assert_array_equal(area.covers(grid, grid.window), expected_mask())
    assert len(area) == len(HOUSES)


def test_an_area_around_the_world_covers_all():
    grid = grid_across("EPSG:3857")
    world = gpd.GeoDataFrame(geometry=[box(-180, -80, 180, 80)], crs=4326)
    placed = to_crs_densified(world, 3857, bounds=grid.bounds)
    assert placed.geometry.iloc[0].covers(grid.polygon)
    near = to_crs_near(world, 3857, grid)
    assert near.geometry.iloc[0].covers(grid.polygon)


def test_a_mask_raster_on_the_other_side(tmp_path):
    grid = grid_across("EPSG:3857")
    for crs in ("EPSG:4326", "EPSG:3857", "EPSG:3395"):
        there = grid_across(crs)
        period = x_period(CRS(crs)).size
        moved = Affine.translation(-period, 0) * there.transform
        path = tmp_path / "mask.tif"
        with rasterio.open(path, "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=1,
                           dtype="uint8", crs=crs, transform=moved) as sink:  # fmt: skip
            sink.write(expected_mask().astype(np.uint8), 1)
        with NearestRaster(path) as source:
            data, inside = source.read(grid, grid.window, grid.shape)
        # Pixels of the projections differ in height by 0.3 % at most.
        assert (data[0] > 0).sum() == pytest.approx(expected_mask().sum(), rel=0.06)
        assert inside[:, 5:-5].mean() > 0.9


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:32701"])
def test_tiles_and_their_tables(tmp_path, crs):
    if crs == "EPSG:3857":
        grid = grid_across(crs)
    else:
        x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(180, -17)
        grid = Grid(rasterio.CRS.from_user_input(crs), Affine(1, 0, x - 80, 0, -1, y), 96, 160)
    scene = burn(tmp_path / "scene.tif", grid)
    labels = tmp_path / "labels.geojson"
    frame = gpd.GeoDataFrame({"id": range(6)}, geometry=on_grid(grid), crs=grid.crs.to_wkt())
    assert write_footprints(labels, [frame], crs=frame.crs) == 6
    west, _, east, _ = read_footprints(labels).total_bounds
    assert (west, east) == (-180, 180)
    options = TileOptions(size=32, overlap=0, fractions=(1, 0, 0), keep_blank=True)
    plan = plan_tiles([scene], labels, options)
    tile_scenes(plan, tmp_path / "tiles")
    tiles, footprints = read_tiles(tmp_path / "tiles"), read_tile_footprints(tmp_path / "tiles")
    assert np.ptp(tiles.total_bounds[[0, 2]]) == pytest.approx(160 / 4e7 * 360, rel=0.2)
    assert len(footprints) == 6
    assert shapely.box(*tiles.total_bounds).buffer(1e-6).covers(footprints.union_all())
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for row in tiles.itertuples():
        with rasterio.open(tmp_path / "tiles" / "targets" / f"{row.id}.tif") as source:
            mask[row.row_off : row.row_off + 32, row.col_off : row.col_off + 32] = (
                source.read(1) == 1
            )
    np.testing.assert_array_equal(mask, expected_mask())
    ground = json.loads((tmp_path / "tiles" / "train.geojson").read_text())["features"]
    (region,) = [shapely.geometry.shape(one["geometry"]) for one in ground]
    assert region.bounds[0] == -180
    assert region.bounds[2] == 180
    assert region.area == pytest.approx(shapely.area(tiles.geometry.array).sum(), rel=1e-3)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:3395", "EPSG:4087", "EPSG:6933"])
def test_geojson_is_cut_at_180(tmp_path, crs):
    grid = grid_across(crs)
    frame = gpd.GeoDataFrame({"id": range(6)}, geometry=on_grid(grid), crs=grid.crs.to_wkt())
    assert write_footprints(tmp_path / "a.geojson", [frame], crs=frame.crs) == 6
    found = read_footprints(tmp_path / "a.geojson")
    assert found.geom_type.tolist() == ["Polygon", *["MultiPolygon"] * 2, *["Polygon"] * 3]
    widths = [sum(np.ptp(part.bounds[::2]) for part in shapely.get_parts(shape))
              for shape in found.geometry]  # fmt: skip
    pixel = 360 / 40_000_000
    expected = [pixel * (house.bounds[2] - house.bounds[0]) for house in HOUSES]
    assert widths == pytest.approx(expected, abs=3e-7)


@pytest.mark.parametrize("truth_way", ["cut", "torn", "whole"])
@pytest.mark.parametrize("truth_crs", ["EPSG:4326", "EPSG:3857", "EPSG:3832"])
def test_footprints_score_fully_wherever_the_truth_ends(tmp_path, truth_crs, truth_way):
    grid = grid_across("EPSG:3857")
    frame = gpd.GeoDataFrame({"confidence": 1.0}, index=range(6), geometry=on_grid(grid))
    write_footprints(tmp_path / "pred.gpkg", [frame], crs=3857)
    truth = gpd.GeoSeries(in_degrees(grid, truth_way), crs=4326).to_crs(truth_crs)
    truth.to_file(tmp_path / "truth.gpkg")
    report = evaluate_footprints(tmp_path / "pred.gpkg", tmp_path / "truth.gpkg", tmp_path / "r")
    assert (report.tp, report.fp, report.fn) == (6, 0, 0)
    assert report.iou_pixel > 0.999
    found = gpd.read_file(tmp_path / "r" / "report.gpkg", layer="TP")
    narrow = x_period(CRS(truth_crs)).size / 1e5
    assert np.ptp(found.bounds[["minx", "maxx"]].to_numpy(), axis=1).max() < narrow


def test_bounds_across_the_end_are_two_boxes():
    grid = grid_across("EPSG:3857")
    west, east = transform_bounds(grid.bounds, grid.crs, CRS(4326))
    pixel = 360 / 40_000_000
    assert east[::2] == pytest.approx((180 - 80 * pixel, 180 + 80 * pixel), abs=1e-9)
    assert west[::2] == pytest.approx((-180 - 80 * pixel, -180 + 80 * pixel), abs=1e-9)
    (inside,) = transform_bounds((0, 0, 1000, 1000), CRS(3857), CRS(4326))
    assert inside == pytest.approx((0, 0, 0.008983, 0.008983), abs=1e-6)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326"])
def test_predictions_across_180(tmp_path, crs):
    grid = grid_across(crs)
    scene = burn(tmp_path / "scene.tif", grid)
    aoi = tmp_path / "aoi.geojson"
    around = gpd.GeoDataFrame({"id": [1]}, geometry=[on_grid(grid).iloc[4].buffer(
        2 * grid.transform.a)], crs=grid.crs.to_wkt())  # fmt: skip
    write_footprints(aoi, [around], crs=around.crs)
    spec = PIXELWISE.model_copy(update={"gsd_m": 0.5 * grid.gsd_m})
    model = make_model(tmp_path / "m.safetensors", spec)
    options = PredictOptions(device="cpu", aoi=str(aoi), keep_blank=True)
    out = geoseg.predict(scene, tmp_path / "out", model=model, options=options)
    with rasterio.open(out.prob_path) as prob:
        valid = prob.dataset_mask() > 0
    left, top, right, bottom = map(int, HOUSES[4].bounds)
    assert valid[top:bottom, left:right].all()
    assert valid.sum() == pytest.approx((right - left + 4) * (bottom - top + 4), rel=0.05)
    found = geoseg.vectorize(out.prob_path, tmp_path / "found.geojson").footprints
    assert len(found)
    assert found.total_bounds[0] >= -180
    assert found.total_bounds[2] <= 180
    in_layer = geoseg.vectorize(out.prob_path, tmp_path / "found.gpkg").footprints
    assert found.area_m2.tolist() == pytest.approx(in_layer.area_m2.tolist())
    assert grid.polygon.covers(in_layer.union_all())


def test_an_area_that_is_nearly_the_whole_world_is_not_a_strip(tmp_path):
    world = gpd.GeoDataFrame(geometry=[box(-179, -60, 179, 75)], crs=4326)
    world.to_file(tmp_path / "world.geojson")
    grid = Grid(rasterio.CRS.from_epsg(32633), Affine(1, 0, 5e5, 0, -1, 5e6), 40, 60)
    (area,) = AOI.read_on(tmp_path / "world.geojson", grid).polygons
    assert area.covers(grid.polygon)


@pytest.mark.parametrize("suffix", ["geojsonl", "geojson", "gpkg"])
def test_labels_from_0_to_360_degrees_are_found(tmp_path, suffix):
    grid = Grid(rasterio.CRS.from_epsg(4326), Affine(1e-5, 0, -175, 0, -1e-5, -17), 40, 60)
    house = affinity.translate(grid.window_polygon(Window(10, 10, 20, 15)), 360, 0)
    path = tmp_path / f"labels.{suffix}"
    gpd.GeoDataFrame(geometry=[house], crs=4326).to_file(path, **driver_of(suffix))
    labels = read_labels(path, grid)
    assert len(labels) == 1
    assert (labels.read(grid.window)[1] == 1).sum() == 20 * 15


def driver_of(suffix):
    return {"driver": "GeoJSONSeq"} if suffix == "geojsonl" else {}


def test_overlaps_of_scenes_across_180_are_measured(tmp_path, caplog):
    paths = []
    for name, left in (("a", 179.997), ("b", -179.999)):  # the second begins 100 pixels later
        grid = Grid(rasterio.CRS.from_epsg(4326), Affine(4e-5, 0, left, 0, -4e-5, -17), 128, 200)
        data = np.random.default_rng(1).integers(1, 255, (3, 128, 200)).astype(np.uint8)
        write_array(tmp_path / f"{name}.tif", grid, data, descriptions=("red", "green", "blue"))
        paths.append(str(tmp_path / f"{name}.tif"))
    house = affinity.translate(box(0, 0, 1e-3, 1e-3), 179.999, -17.003)
    gpd.GeoDataFrame(geometry=[house], crs=4326).to_file(tmp_path / "labels.gpkg")
    options = TileOptions(size=32, overlap=0, gap=0, split="scenes", val_scenes=("b*",))
    plan_tiles(paths, tmp_path / "labels.gpkg", options)
    assert f"{paths[0]} and {paths[1]} overlap by 50%; left out" in caplog.text


@pytest.mark.parametrize(("crs", "x", "y"), [(32660, 830_000, 900_000), (3413, 0, 0)])
def test_z_is_kept_where_a_polygon_is_cut_at_180_degrees_or_encloses_a_pole(crs, x, y):
    points = [(x - 4e4, y - 5e4), (x + 5e4, y - 5e4), (x + 5e4, y + 4e4), (x - 4e4, y + 4e4)]
    shape = shapely.Polygon([(*point, 12.5) for point in points])
    (cut,) = to_degrees(gpd.GeoDataFrame(geometry=[shape], crs=crs)).geometry
    heights = shapely.get_coordinates(cut, include_z=True)[:, 2]
    assert cut.bounds[0] == -180
    assert cut.bounds[2] == 180
    np.testing.assert_allclose(heights, 12.5)
