"""Predictions of many scenes: rasters of each, one layer over several pixel grids."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from rasterio.warp import transform_geom
from rasterio.windows import Window
from scene_parts import cut_scene
from small_models import DEEPGLOBE, make_model

import geoseg
from geoseg.cli import cli
from geoseg.errors import ConfigError, GridMismatchError, SceneReadError
from geoseg.geo.crs import as_crs
from geoseg.geo.grid import Grid
from geoseg.geo.raster import group_scenes, join_grids, outline_valid, read_info, write_array
from geoseg.geo.tiling import TileGrid
from geoseg.options import PredictOptions, VectorizeOptions
from geoseg.prediction.blocks import predict_block
from geoseg.prediction.mosaic_prediction import write_scene_rasters
from geoseg.prediction.scheduling import split_panels
from geoseg.prediction.shards import Shard, StripScene, pick_shard
from geoseg.town import build_town, write_town
from geoseg.vectorization.mosaic_layer import JoinedLayer, MosaicLayer, SceneArea
from geoseg.vectorization.overlaps import resolve_overlaps

UTM33, UTM32 = (rasterio.CRS.from_epsg(code) for code in (32633, 32632))


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A scene, the same in 3 x 4 overlapping parts, a model, and a probability of buildings."""
    folder = tmp_path_factory.mktemp("town")
    scene, _ = write_town(build_town(300, 370, seed=5, gsd_m=0.5), folder)
    model = make_model(folder / "model.safetensors", DEEPGLOBE)
    columns = [(0, 90), (80, 200), (160, 280), (270, 370)]
    parts = cut_scene(scene, folder / "parts", [(0, 120), (90, 210), (200, 300)], columns)
    geoseg.predict(scene, folder / "prob.tif", model=model, options=PredictOptions(device="cpu"))
    with rasterio.open(folder / "prob.tif") as source:  # of a network that was never trained
        body = float(np.quantile(source.read(1), 0.7) / 255)
    return scene, parts, model, VectorizeOptions(body=body)


def predict(scenes, output, town, **more):
    _, _, model, vectorize = town
    options = PredictOptions(device="cpu", **more.pop("options", {}))
    return geoseg.predict(scenes, output, model=model, options=options, vectorize=vectorize, **more)


def read(path):
    with rasterio.open(path) as source:
        return source.read(), source.read_masks(1)


def files_of(folder):
    """Bytes of all files of an output but GeoPackages, which hold a time; of these the rows."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".gpkg"
    }
    layer = gpd.read_file(folder / "footprints.gpkg", layer="footprints").to_wkb()
    return files | {"footprints.gpkg": layer.to_csv().encode()}


@pytest.fixture(scope="module")
def whole(town, tmp_path_factory):
    return predict(town[0], tmp_path_factory.mktemp("whole") / "out", town)


@pytest.fixture(scope="module")
def twelve(town, tmp_path_factory):
    return predict(town[1], tmp_path_factory.mktemp("twelve") / "out", town)


def test_parts_of_a_scene_give_its_pixels_and_polygons(town, whole, twelve):
    assert twelve.scene == "12 scenes"
    for own, one in ((twelve.prob_path, whole.prob_path), (twelve.mask_path, whole.mask_path)):
        for found, expected in zip(read(own), read(one), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert len(whole.footprints) > 20
    polygons = [frame.geometry.to_wkb().tolist() for frame in (twelve.footprints, whole.footprints)]
    assert polygons[0] == polygons[1]
    columns = [name for name in whole.footprints.columns if name != "geometry"]
    assert twelve.footprints[columns].equals(whole.footprints[columns])
    with rasterio.open(twelve.prob_path) as source, rasterio.open(whole.prob_path) as one:
        assert source.tags() == {k: v for k, v in one.tags().items() if k.startswith("GEOSEG")}
        assert source.descriptions == one.descriptions
        assert source.scales == one.scales


def test_each_scene_has_rasters_on_its_own_pixels(town, twelve):
    folder = twelve.prob_path.parent
    for part in town[1].iterdir():
        info = read_info(part)
        for kind, mosaic in (("prob", twelve.prob_path), ("mask", twelve.mask_path)):
            path = folder / "scenes" / f"{part.stem}_{kind}.tif"
            assert read_info(path).grid == info.grid
            with rasterio.open(mosaic) as source, rasterio.open(path) as own:
                window = source.window(*own.bounds).round_offsets().round_lengths()
                np.testing.assert_array_equal(source.read(window=window), own.read())
                assert own.overviews(1) == ([] if max(own.shape) <= 256 else [2])


def test_the_scene_of_a_footprint_is_the_first_one_there(town, twelve):
    parts = sorted(town[1].iterdir())
    outlines = [outline_valid(path) for path in parts]
    for point, scene in zip(
        twelve.footprints.representative_point(), twelve.footprints["scene"], strict=True
    ):
        first = next(
            path.stem for path, outline in zip(parts, outlines, strict=True)
            if outline.intersects(point)
        )  # fmt: skip
        assert scene == first


def test_the_index_and_the_item_describe_the_scenes(town, twelve):
    index = gpd.read_file(twelve.index_path)
    parts = sorted(town[1].iterdir())
    assert index["scene"].tolist() == [path.stem for path in parts]
    assert index["source"].tolist() == [str(path) for path in parts]
    counts = twelve.footprints["scene"].value_counts()
    assert index["footprints"].tolist() == [counts.get(path.stem, 0) for path in parts]
    assert (index["mosaic"] == 1).all()
    for outline, path, valid_m2 in zip(index.geometry, parts, index["valid_m2"], strict=True):
        info = read_info(path)
        assert outline.area == pytest.approx(outline_valid(path).area)
        assert valid_m2 == pytest.approx(outline.area, rel=2e-3)
        assert info.grid.polygon.buffer(1e-6).covers(outline)
    item = json.loads((twelve.prob_path.parent / "item.json").read_text())
    assert set(item["assets"]) == {"prob", "mask", "footprints", "index"}
    for asset in item["assets"].values():
        assert (twelve.prob_path.parent / asset["href"]).is_file()
    west, south, east, north = item["bbox"]
    assert 14.99 < west < east < 15.01
    assert 44.99 < south < north < 45.01
    assert item["properties"]["geoseg:scenes"] == 12
    assert item["properties"]["proj:code"] == "EPSG:32633"


def test_workers_write_the_same_bytes(town, twelve, tmp_path):
    predict(town[1], tmp_path / "out", town, workers=geoseg.Workers(processes=2))
    found, expected = files_of(tmp_path / "out"), files_of(twelve.prob_path.parent)
    assert list(found) == list(expected)
    for name, content in expected.items():
        assert found[name] == content, name


def test_an_interrupted_job_of_many_scenes_continues(town, twelve, tmp_path, monkeypatch):
    written = []

    def count_then_stop(task):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(task.prob.name)
        write_scene_rasters(task)

    with monkeypatch.context() as patch:
        patch.setattr("geoseg.prediction.mosaic_prediction.write_scene_rasters", count_then_stop)
        with pytest.raises(KeyboardInterrupt):
            predict(town[1], tmp_path / "out", town)
    assert not (tmp_path / "out").exists()
    kept = {
        path.name: path.stat().st_mtime_ns
        for path in (tmp_path / ".out.partial").rglob("*_prob.tif")
    }
    assert len(kept) == 5
    predict(town[1], tmp_path / "out", town)
    for name, modified in kept.items():
        assert (tmp_path / "out" / "scenes" / name).stat().st_mtime_ns == modified
    assert files_of(tmp_path / "out") == files_of(twelve.prob_path.parent)


def test_a_layer_alone_is_the_same(town, twelve, tmp_path):
    result = predict(town[1], tmp_path / "out.gpkg", town)
    assert result.files == (tmp_path / "out.gpkg",)
    layer, expected = result.footprints, twelve.footprints
    assert layer.geometry.to_wkb().tolist() == expected.geometry.to_wkb().tolist()
    assert layer["scene"].tolist() == expected["scene"].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["out.gpkg"]


def warp(scene, path, crs, gsd_m):
    """Warp a scene to another CRS and pixel size."""
    with rasterio.open(scene) as source, rasterio.vrt.WarpedVRT(source, crs=crs) as plain:
        scale = gsd_m / plain.res[0]
        transform = plain.transform * Affine.scale(scale)
        size = {"width": round(plain.width / scale), "height": round(plain.height / scale)}
        with (
            rasterio.vrt.WarpedVRT(
                source,
                crs=crs,
                transform=transform,
                **size,
                resampling=rasterio.enums.Resampling.cubic,
            ) as warped,
            rasterio.open(path, "w", **{**warped.profile, "driver": "GTiff"}) as sink,
        ):
            sink.write(warped.read())
            sink.descriptions = source.descriptions
    return path


def test_scenes_of_several_grids_give_one_layer(town, tmp_path):
    other = warp(town[0], tmp_path / "warped.tif", UTM32, 0.4)
    with rasterio.open(other) as source:
        height, width = source.shape
    rows = [(0, height // 2 + 20), (height // 2 - 20, height)]
    cut_scene(other, tmp_path / "warped", rows, [(width // 2, width)])
    scenes = [path for path in sorted(town[1].iterdir()) if path.stem[1] in "012"]
    scenes += sorted((tmp_path / "warped").iterdir())
    result = predict(scenes, tmp_path / "out", town)
    layer, index = result.footprints, gpd.read_file(result.index_path)
    assert layer.crs.to_epsg() == 32633  # nine of eleven
    assert index.groupby("mosaic")["crs"].unique().map(list).tolist() == [
        ["EPSG:32633"], ["EPSG:32632"],
    ]  # fmt: skip
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"prob_1.vrt", "prob_2.vrt", "mask_1.vrt", "mask_2.vrt"} < names
    assert result.prob_path.name == "prob_1.vrt"
    assert layer["id"].tolist() == list(range(1, len(layer) + 1))
    polygons = layer.geometry.to_numpy()
    assert shapely.is_valid(polygons).all()
    assert largest_overlap(polygons) < 1e-6
    other = predict(
        scenes, tmp_path / "other.parquet", town, options={"layer_crs": "EPSG:3857"}
    ).footprints
    assert other.crs.to_epsg() == 3857
    assert len(other) == len(layer)
    np.testing.assert_allclose(other["area_m2"], layer["area_m2"], rtol=1e-3)


def largest_overlap(polygons):
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    first, second = first[first < second], second[first < second]
    shared = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    smaller = np.minimum(shapely.area(polygons[first]), shapely.area(polygons[second]))
    return (shared / smaller).max(initial=0)


def write_exact_prob(path, polygons, crs, grid):
    """Write the share of each pixel that polygons cover, as a probability raster."""
    fine = replace(grid, transform=grid.transform * Affine.scale(1 / 4),
                   height=4 * grid.height, width=4 * grid.width)  # fmt: skip
    placed = [transform_geom(crs, grid.crs, polygon.__geo_interface__) for polygon in polygons]
    covered = rasterize(placed, fine.shape, transform=fine.transform).astype("float32")
    share = covered.reshape(grid.height, 4, grid.width, 4).mean(axis=(1, 3))
    write_array(
        path, grid, np.rint(255 * share).astype("uint8")[None], descriptions=["building"],
        scales=[1 / 255],
    )  # fmt: skip
    return path


def test_buildings_across_mosaics_are_there_once_and_whole(tmp_path):
    """Exact probabilities of a town, in four scenes of two CRSs and three pixel sizes."""
    rng = np.random.default_rng(3)
    truth = [
        shapely.affinity.rotate(
            shapely.box(x, y, x + rng.uniform(8, 16), y + rng.uniform(7, 12)), rng.uniform(0, 90)
        )
        for x in np.arange(500_010, 500_290, 21)
        for y in np.arange(4_999_790, 4_999_990, 21)
    ]
    grids = [
        Grid(UTM33, Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), 440, 330),
        # Overlaps with the first one by 5 m.
        Grid(UTM33, Affine(0.4, 0, 500_160.1, 0, -0.4, 5_000_000.3), 550, 200),
    ]
    # In another CRS: adjoins the second one without an overlap wider than a building.
    left, top = rasterio.warp.transform(UTM33, UTM32, [500_236], [5_000_012])
    grids.append(Grid(UTM32, Affine(0.45, 0, left[0], 0, -0.45, top[0]), 520, 180))
    layers = []
    for number, grid in enumerate(grids):
        path = write_exact_prob(tmp_path / f"{number}.tif", truth, UTM33, grid)
        layer = tmp_path / f"{number}.parquet"
        geoseg.vectorize(path, layer, options=VectorizeOptions(min_area_m2=1))
        area = SceneArea.read(f"scene {number}", path, as_crs(grid.crs), as_crs(UTM33))
        layers.append(MosaicLayer(layer, (area,), grid.gsd_m))
    for order in ([0, 1, 2], [2, 0, 1]):
        joined = JoinedLayer([layers[n] for n in order], as_crs(UTM33), False, depth_m=10)
        frames = list(joined.frames())
        found = np.concatenate([frame.geometry.to_numpy() for frame in frames])
        covered = shapely.union_all([layer.area for layer in layers])
        inside = [polygon for polygon in truth if covered.buffer(-1).covers(polygon)]
        assert len(inside) > 80
        tree = shapely.STRtree(found)
        for polygon in inside:
            (only,) = tree.query(polygon, predicate="intersects")
            shared = found[only].intersection(polygon).area
            assert shared / found[only].union(polygon).area > 0.9
        assert largest_overlap(found) < 1e-6
        assert sum(joined.counts.values()) == len(found)


# Width, height and jitter of the building in each cell of a street; none of width 0.
buildings = st.lists(
    st.tuples(st.integers(0, 8), st.integers(3, 11), st.integers(0, 3)), min_size=7, max_size=14
)


@given(buildings, st.lists(st.integers(-2, 2), min_size=28, max_size=28))
@settings(max_examples=200, deadline=None)
def test_no_two_outlines_of_different_mosaics_overlap(sizes, errors):
    areas = [shapely.box(0, 0, 30, 25), shapely.box(22, -1, 60, 24)]
    shapes, mosaics, cut_off = [], [], []
    for number, area in enumerate(areas):
        for index, (width, height, jitter) in enumerate(sizes):
            row, column = divmod(index, 7)
            left, low = 8.5 * column, 12 * row
            # Each mosaic has its own idea of the width; walls may be shared.
            width = max(0, min(8.5 - jitter / 9, width + errors[14 * number + index]))
            part = shapely.box(left + jitter / 9, low, left + jitter / 9 + width, low + height)
            part = part & area
            if part.area:
                shapes.append(part)
                mosaics.append(number)
                cut_off.append(part.distance(area.boundary) == 0)
    if not shapes:
        return
    mosaics = np.array(mosaics)
    polygons = np.array(shapes, object)
    found = resolve_overlaps(
        polygons, mosaics, np.array(cut_off), areas, depth=3, reach=0.5, width=2
    )
    kept = np.array([shape is not None for shape in found.polygons])
    for one in np.flatnonzero(kept):
        for other in np.flatnonzero(kept & (mosaics != mosaics[one])):
            shared = found.polygons[one].intersection(found.polygons[other]).area
            assert shared < 1e-6
    # What only one mosaic can see is not lost.
    for number, area in enumerate(areas):
        alone = area - areas[1 - number].buffer(9)
        for row in np.flatnonzero(mosaics == number):
            if alone.covers(polygons[row]):
                assert found.polygons[row].equals(polygons[row])
    assert not (found.joined & found.clipped & ~kept).any()


def resolve(outlines, areas, **more):
    """Resolve outlines, given as (mosaic, whether cut, left, right) on a street of 10 m."""
    polygons = np.array([shapely.box(left, 0, right, 10) for *_, left, right in outlines], object)
    mosaics = np.array([mosaic for mosaic, *_ in outlines])
    is_cut = np.array([cut for _, cut, *_ in outlines])
    settings = {"depth": 30, "reach": 0.75, "width": 3} | more
    found = resolve_overlaps(polygons, mosaics, is_cut, areas, **settings)
    return [None if one is None else one.bounds[::2] for one in found.polygons], found


def test_nothing_is_lost_beside_a_block_that_one_mosaic_fuses():
    areas = [shapely.box(0, -90, 100, 100), shapely.box(50, -90, 130, 100)]
    found, _ = resolve([(0, False, 60, 98), (1, True, 60, 130)], areas)
    assert found == [(60, 98), (98, 130)]
    areas.append(shapely.box(90, -90, 300, 100))
    found, _ = resolve([(0, False, 60, 98), (1, True, 60, 130), (2, False, 102, 135)], areas)
    assert found == [(60, 98), None, (102, 135)]


def test_a_building_that_scenes_show_at_different_places_is_not_lost():
    areas = [shapely.box(0, -90, 138, 110), shapely.box(62, -90, 300, 110)]
    for depth in (50, np.inf):
        found, resolved = resolve([(0, False, 98, 108), (1, False, 92, 102)], areas, depth=depth)
        assert found == [(98, 108), (92, 98)]
        assert resolved.clipped.tolist() == [False, True]
        # Two metres beside it are a building that is there already.
        found, _ = resolve([(0, False, 98, 108), (1, False, 96, 106)], areas, depth=depth)
        assert found == ([(98, 108), None] if depth == 50 else [None, (96, 106)])


def test_single_houses_are_preferred_to_a_block_and_a_house_to_noise_inside():
    areas = [shapely.box(0, -90, 300, 110), shapely.box(0, -90, 299, 110)]
    houses = [(0, False, left, left + 10) for left in (100, 110, 120)]
    found, _ = resolve([*houses, (1, False, 100, 130)], areas)
    assert found == [(100, 110), (110, 120), (120, 130), None]
    found, _ = resolve([(0, False, 104, 106), (1, False, 100, 115)], areas)
    assert found == [None, (100, 115)]


def test_parts_of_a_building_at_edges_are_joined():
    areas = [shapely.box(0, -90, 100, 100), shapely.box(90, -90, 200, 100)]
    found, resolved = resolve([(0, True, 80, 100), (1, True, 90, 110)], areas)
    assert found == [(80, 110), None]
    assert resolved.joined.tolist() == [True, False]
    # They may adjoin, with less than a pixel between them; a third mosaic may have all of it.
    areas = [shapely.box(0, -90, 100, 100), shapely.box(100.4, -90, 200, 100)]
    found, _ = resolve([(0, True, 80, 100), (1, True, 100.4, 115)], areas)
    assert found == [(80, 115), None]
    areas.append(shapely.box(40, -90, 300, 100))
    found, resolved = resolve(
        [(0, True, 80, 100), (1, True, 100.4, 115), (2, False, 80, 115)], areas
    )
    assert found == [None, None, (80, 115)]
    assert not resolved.joined.any()


def test_the_first_mosaic_is_preferred_at_an_edge_that_all_share():
    areas = [shapely.box(0, 0, 200, 100), shapely.box(0, 0, 200.4, 100)]
    found, _ = resolve([(0, False, 185, 195), (1, False, 185, 195.2)], areas)
    assert found == [(185, 195), None]


def test_scenes_are_grouped_by_grid_and_distance(tmp_path):
    base = Grid(UTM33, Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), 40, 60)

    def info(name, dx, dy, **change):
        grid = replace(base, transform=base.transform * Affine.translation(dx, dy), **change)
        pixels = np.ones((1, *grid.shape), "uint8")
        write_array(tmp_path / f"{name}.tif", grid, pixels)
        return read_info(tmp_path / f"{name}.tif")

    scenes = [
        info("a", 0, 0), info("far", 300, 0), info("b", 70, 0), info("half", 0.5, 0),
        info("c", 100, 30, crs=UTM32), info("d", 140, 0), info("e", 60, 30, crs=UTM32),
    ]  # fmt: skip
    assert group_scenes(scenes, 10) == [[0, 2, 5], [1], [3], [4, 6]]
    assert group_scenes(scenes, 9) == [[0], [1], [2], [3], [4, 6], [5]]
    assert group_scenes(scenes, 100) == [[0, 1, 2, 5], [3], [4, 6]]


def test_scenes_outside_the_area_of_interest_are_not_predicted(town, tmp_path, caplog):
    parts = sorted(town[1].iterdir())
    far = tmp_path / "far.tif"
    with rasterio.open(parts[0]) as source:
        moved = {**source.profile, "transform": Affine.translation(9000, 0) * source.transform}
        with rasterio.open(far, "w", **moved) as sink:
            sink.write(source.read())
            sink.descriptions = source.descriptions
    with rasterio.open(parts[0]) as source:
        left, bottom, right, top = source.bounds
    aoi = shapely.box(left + 5, bottom + 5, right - 5, top - 5)
    gpd.GeoDataFrame(geometry=[aoi], crs=UTM33).to_file(tmp_path / "aoi.gpkg")
    options = {"aoi": str(tmp_path / "aoi.gpkg")}
    result = predict([far, *parts[:2]], tmp_path / "out", town, options=options)
    assert result.left_out == {}
    index = gpd.read_file(result.index_path)
    assert index["status"].tolist() == ["predicted", "predicted", "outside the area"]
    assert index["source"].tolist() == [*map(str, parts[:2]), str(far)]
    again = tmp_path / "again.tif"
    again.write_bytes(far.read_bytes())
    with pytest.raises(GridMismatchError, match="has no polygon on"):
        predict([far, again], tmp_path / "no", town, options=options)


def test_scenes_of_one_name_get_different_files(town, tmp_path):
    for name in ("x/a b.tif", "y/a_b.tif", "z/A_B.tif"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((town[1] / "00.tif").read_bytes())
    result = predict([tmp_path / name for name in "xyz"], tmp_path / "out", town)
    names = sorted(path.name for path in (tmp_path / "out" / "scenes").glob("*_prob.tif"))
    assert names == ["A_B_3_prob.tif", "a_b_2_prob.tif", "a_b_prob.tif"]
    assert gpd.read_file(result.index_path)["scene"].tolist() == ["a_b", "a_b_2", "A_B_3"]


def test_outputs_that_need_one_pixel_grid_are_refused(town, tmp_path):
    parts = sorted(town[1].iterdir())
    warped = warp(parts[1], tmp_path / "warped.tif", UTM32, 0.5)
    for name, error, message in (
        ("out.tif", GridMismatchError, "has the CRS EPSG:32632"),
        ("out.csv", ConfigError, "the scenes have several pixel grids"),
    ):
        with pytest.raises(error, match=message):
            predict([parts[0], warped], tmp_path / name, town)
    done = CliRunner().invoke(
        cli, ["predict", str(parts[0]), str(warped), "-m", str(town[2]), "--layer-crs", "Mars",
              "-o", str(tmp_path / "out")]
    )  # fmt: skip
    assert str(done.exception) == "--layer-crs Mars: is no CRS; give a code such as EPSG:32645"


@pytest.fixture(scope="module")
def shards(town, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    _, parts, model, vectorize = town
    for number in (3, 1, 4, 2):
        result = geoseg.predict_shard(
            parts, folder / str(number), f"{number}/4", model=model, vectorize=vectorize,
            options=PredictOptions(device="cpu"),
        )  # fmt: skip
        assert result.shard == (number, 4)
    return [folder / str(number) for number in (2, 4, 1, 3)]


def test_merged_shards_are_the_outputs_of_one_job(town, twelve, shards, tmp_path):
    before = {path: path.read_bytes() for folder in shards for path in folder.rglob("*.tif")}
    assert len(before) == 6  # one per row of tiles
    merged = geoseg.merge(shards, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(twelve.prob_path.parent)
    assert merged.scene == twelve.scene
    assert {path: path.read_bytes() for path in before} == before
    again = geoseg.merge(shards, tmp_path / "layer.parquet", workers=geoseg.Workers(processes=2))
    assert again.footprints.geometry.to_wkb().tolist() == (
        twelve.footprints.geometry.to_wkb().tolist()
    )
    assert geoseg.merge(shards, tmp_path / "one.tif").files == (tmp_path / "one.tif",)
    np.testing.assert_array_equal(read(tmp_path / "one.tif")[0], read(twelve.prob_path)[0])


def test_a_scene_is_divided_into_shards(town, whole, tmp_path):
    scene, _, model, vectorize = town
    names = [str(tmp_path / f"shard_{number}") for number in (1, 2)]
    for number, name in enumerate(names, start=1):
        arguments = ["predict", str(scene), "-m", str(model), "--device", "cpu", "-o", name]
        more = ["--shard", f"{number}/2", "--set", f"vectorize.body={vectorize.body}"]
        done = CliRunner().invoke(cli, [*arguments, *more])
        assert done.exit_code == 0, done.output
        assert done.stdout == (
            f"shard {number}/2 → {name}; merge all with geoseg merge SHARD... -o OUT\n"
        )
    done = CliRunner().invoke(cli, ["merge", *names, "-o", str(tmp_path / "out" / "")])
    assert done.exit_code == 0, done.output
    for name in ("prob.tif", "mask.tif"):
        assert (tmp_path / "out" / name).read_bytes() == (
            whole.prob_path.with_name(name).read_bytes()
        )


def test_shards_that_are_not_those_of_one_job_are_refused(town, shards, tmp_path):
    _, parts, model, _ = town
    first, second, *rest = shards
    for folders, message in (
        ([], "no shard was given"),
        ([first, *rest], "shard 4/4 is not among the folders; give the folders of all 4 shards"),
        ([first, second, *rest, copy_of(first, tmp_path)], "is shard 2, as .* is; give it once"),
        ([first, parts], "shard.json: is not the description of a shard .no such file.; give"),
        ([first, first, second, *rest], "is given twice; give each shard once"),
        ([first, other_job(town, tmp_path)], "is not of the same job as"),
        ([first, other_thresholds(first, tmp_path)], "is not of the same job as"),
        ([damaged(first, tmp_path), second], "is not the description of a shard .batch_size: "),
    ):
        with pytest.raises(ConfigError, match=message):
            geoseg.merge(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="a shard is a folder; give a name without a suffix"):
        geoseg.predict_shard(parts, tmp_path / "out.gpkg", "1/4", model=model)
    for address in ("https://u:p@host/a.gpkg", "https://host/a.gpkg?sig=1"):
        options = PredictOptions(aoi=address)
        with pytest.raises(ConfigError, match="has a password or a signature, which would be"):
            geoseg.predict_shard(parts, tmp_path / "out", "1/4", model=model, options=options)
    for text in ("0/4", "5/4", "1", "1/0", "a/b", "-1/4"):
        with pytest.raises(ConfigError, match=r"^--shard "):
            geoseg.predict_shard(parts, tmp_path / "out", text, model=model)


def copy_of(shard, folder):
    return shutil.copytree(shard, folder / "copy")


def other_job(town, folder):
    _, parts, model, _ = town
    options = PredictOptions(device="cpu", overlap=8)
    geoseg.predict_shard(
        sorted(parts.iterdir())[0], folder / "other", "1/4", model=model, options=options
    )
    return folder / "other"


def other_thresholds(shard, folder):
    (folder / "thresholds").mkdir()
    header = json.loads((shard / "shard.json").read_text())
    header |= {"vectorize": {"body": 0.2}, "shard": [1, 4]}
    (folder / "thresholds" / "shard.json").write_text(json.dumps(header))
    return folder / "thresholds"


def damaged(shard, folder):
    (folder / "damaged").mkdir()
    header = json.loads((shard / "shard.json").read_text())
    (folder / "damaged" / "shard.json").write_text(json.dumps({**header, "batch_size": 0}))
    return folder / "damaged"


def test_shards_of_changed_scenes_are_refused(town, tmp_path):
    _, parts, model, _ = town
    scene = tmp_path / "scene.tif"
    scene.write_bytes((parts / "00.tif").read_bytes())
    options = PredictOptions(device="cpu")
    geoseg.predict_shard(scene, tmp_path / "1", "1/1", model=model, options=options)
    scene.write_bytes((parts / "01.tif").read_bytes())
    with pytest.raises(GridMismatchError, match="has changed since the shards were predicted"):
        geoseg.merge([tmp_path / "1"], tmp_path / "out")


def cost_of(scene, strips):
    pairs = zip(scene.list_rows(), scene.costs(), strict=True)
    return sum(cost for strip, cost in pairs if strip in strips)


@given(
    st.lists(
        st.tuples(st.integers(20, 300), st.integers(20, 300), st.integers(1, 3)),
        min_size=1, max_size=4,
    ),
    st.integers(1, 9),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_each_strip_is_in_one_shard(sizes, count):
    scenes = [
        StripScene(split_panels(TileGrid(height, width, 32, 8), panels),
                   [Window(0, 0, width // 2, height)])
        for height, width, panels in sizes
    ]  # fmt: skip
    shards = [pick_shard(scenes, Shard(number, count)) for number in range(1, count + 1)]
    for index, scene in enumerate(scenes):
        rows = [strip for shard in shards for strip in shard[index]]
        assert sorted(rows) == sorted(scene.list_rows())
        assert len(rows) == len(set(rows))
    costs = [sum(map(cost_of, scenes, shard)) for shard in shards]
    most = max(float(scene.costs().max()) for scene in scenes)
    assert max(costs) - min(costs) <= 2 * most + 1e-6


def damage(scene, path):
    """Write a scene of which the middle of the file is overwritten."""
    with rasterio.open(scene) as source:
        profile = {**source.profile, "compress": "deflate", "tiled": True, "blockxsize": 16,
                   "blockysize": 16, "interleave": "pixel"}  # fmt: skip
        with rasterio.open(path, "w", **profile) as sink:
            sink.write(source.read())
            sink.descriptions = source.descriptions
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("keep_blank", [False, True])
def test_a_scene_that_is_damaged_inside_is_left_out(town, tmp_path, caplog, keep_blank):
    """The damage is found when blank areas are searched, or else when its tiles are read."""
    _, parts, model, _ = town
    good = sorted(parts.iterdir())[:2]
    bad = damage(parts / "10.tif", tmp_path / "bad.tif")
    arguments = ["predict", str(good[0]), str(bad), str(good[1]), "-m", str(model), "-o",
                 str(tmp_path / "out" / ""), "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(cli, [*arguments, *(["--keep-blank"] if keep_blank else [])])
    assert done.exit_code == 3, done.output
    assert done.stdout.startswith("2 scenes → ")
    assert f"geoseg: left out: {bad}; reasons are above" in done.stderr
    assert "reading the scenes to find the one" in caplog.text or not keep_blank
    (line,) = [line for line in caplog.messages if line.startswith("left out: ")]
    assert line.startswith(f"left out: {bad}: ")
    index = gpd.read_file(tmp_path / "out" / "index.gpkg")
    assert index["status"].tolist() == ["predicted", "predicted", "left out"]
    assert index["source"].tolist() == [str(good[0]), str(good[1]), str(bad)]
    options = PredictOptions(device="cpu", keep_blank=keep_blank)
    geoseg.predict(good, tmp_path / "two", model=model, options=options)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "two")


def test_a_kill_while_work_with_a_damaged_scene_is_discarded(town, tmp_path, monkeypatch):
    _, parts, model, vectorize = town
    good = sorted(parts.iterdir())[:2]
    bad = damage(parts / "10.tif", tmp_path / "bad.tif")
    options = PredictOptions(device="cpu", keep_blank=True, batch_size=2)
    more = {"model": model, "options": options, "vectorize": vectorize}
    with monkeypatch.context() as patch:
        patch.setattr("geoseg.jobs.output.Work.discard_results", interrupt)
        with pytest.raises(KeyboardInterrupt):
            geoseg.predict([good[0], bad, good[1]], tmp_path / "out", **more)
    result = geoseg.predict([good[0], bad, good[1]], tmp_path / "out", **more)
    assert list(result.left_out) == [str(bad)]
    geoseg.predict(good, tmp_path / "two", **more)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "two")


def interrupt(*_):
    raise KeyboardInterrupt


def test_scenes_that_are_gone_for_a_while_cost_nothing(town, tmp_path, monkeypatch):
    """A file share that is gone is not a damage: finished tiles are kept, and all scenes count."""
    _, parts, model, vectorize = town
    share = shutil.copytree(parts, tmp_path / "share")
    options = PredictOptions(device="cpu", batch_size=1, block_rows=1)
    more = {"model": model, "options": options, "vectorize": vectorize}
    begun = []

    def unmount(task, count=None):
        begun.append(task)
        if len(begun) == 4:
            share.rename(tmp_path / "gone")
            raise SceneReadError(f"{task.scene.path}: no such file; check the path")
        return predict_block(task, count)

    with monkeypatch.context() as patch:
        patch.setattr("geoseg.prediction.strips.predict_block", unmount)
        with pytest.raises(SceneReadError, match="no such file"):
            geoseg.predict(share, tmp_path / "out", **more)
    kept = sorted((tmp_path / ".out.partial").rglob("strips/*/*/*.tif"))
    assert len(kept) == 3
    (tmp_path / "gone").rename(share)
    with monkeypatch.context() as patch:
        begun = [None] * 10
        patch.setattr("geoseg.prediction.strips.predict_block", unmount)
        result = geoseg.predict(share, tmp_path / "out", **more)
    assert result.left_out == {}
    assert len(begun) - 10 == 6 - len(kept)  # rows of tiles


def test_scenes_along_a_line_are_one_mosaic(tmp_path):
    base = Grid(UTM33, Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), 20, 20)
    scenes = []
    for number in range(150):
        transform = base.transform * Affine.translation(19 * number, 19 * number)
        path = tmp_path / f"{number}.tif"
        write_array(path, replace(base, transform=transform), np.ones((1, 20, 20), "uint8"))
        scenes.append(read_info(path))
    (group,) = group_scenes(scenes, 10)
    grid, windows = join_grids([scenes[index] for index in group], are_near=True)
    assert grid.shape == (19 * 149 + 20,) * 2
    assert [window.col_off for window in windows] == list(range(0, 19 * 150, 19))


def test_class_polygons_are_cut_only_where_earlier_mosaics_are(tmp_path):
    frame = gpd.GeoDataFrame(
        {"id": 1, "class": "forest", "area_m2": 1.0, "perimeter_m": 1.0, "confidence": 0.9},
        geometry=[shapely.box(5e5 + x, 5e6, 5e5 + x + 10, 5e6 + 10) for x in (0, 95, 200)],
        index=range(3), crs=UTM33,
    )  # fmt: skip
    frame.to_parquet(tmp_path / "layer.parquet")
    first, second = shapely.box(400_000, 4e6, 500_100, 6e6), shapely.box(500_000, 4e6, 500_205, 6e6)
    empty = frame.iloc[:0]
    empty.to_parquet(tmp_path / "empty.parquet")
    layers = [
        MosaicLayer(tmp_path / name, (SceneArea(name, area),), 0.5)
        for name, area in (("empty.parquet", first), ("layer.parquet", second))
    ]
    joined = JoinedLayer(layers, as_crs(UTM33), True, depth_m=10)
    (found,) = joined.frames()
    # The second one loses what the first mosaic covers; the third extends beyond both outlines.
    assert [shape.bounds[::2] for shape in found.geometry] == [
        (500_100, 500_105), (500_200, 500_210),
    ]  # fmt: skip
    assert found["area_m2"].tolist() == pytest.approx([50, 1], rel=2e-3)
