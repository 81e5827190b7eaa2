"""Scenes and labels in one local CRS need no location on Earth; with another CRS they do."""

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import CRS
from shapely.geometry import box
from small_models import PIXELWISE, make_model

import geoseg
from geoseg.data.label_report import measure_labels
from geoseg.data.tiles import plan_tiles, read_tile_footprints, read_tiles, tile_scenes
from geoseg.errors import ConfigError, MissingCRSError
from geoseg.geo.crs import is_same_crs
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, read_info, write_array
from geoseg.options import PredictOptions, TileOptions

LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'
ENGINEERING = (
    'ENGCRS["site grid",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
    'LENGTHUNIT["foot",0.3048]]'
)
HEIGHT, WIDTH = 96, 192
SPLITS = ("stripes", "blocks", "kfold", "areas", "scenes")
HOUSES = [
    (column, row, column + 12, row + 8) for column in range(4, 180, 24) for row in (6, 40, 70)
]


def grid_in(crs):
    transform = Affine(0.5, 0, 100, 0, -0.5, 400)
    if CRS(crs).is_geographic:
        transform = Affine(5e-6, 0, 15, 0, -5e-6, 0)
    return Grid(rasterio.CRS.from_wkt(CRS(crs).to_wkt()), transform, HEIGHT, WIDTH)


def on_grid(grid, corners):
    transform = grid.transform.to_shapely()
    shapes = [shapely.affinity.affine_transform(box(*each), transform) for each in corners]
    return gpd.GeoSeries(shapes, crs=grid.crs.to_wkt())


def expected_mask():
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for left, top, right, bottom in HOUSES:
        mask[top:bottom, left:right] = True
    return mask


def write_site(folder, crs, name="scene"):
    """A scene and its footprints in a CRS."""
    grid = grid_in(crs)
    data = np.random.default_rng(7).integers(40, 80, (3, HEIGHT, WIDTH)).astype(np.uint8)
    data[:, expected_mask()] += 120
    write_array(folder / f"{name}.tif", grid, data, descriptions=("red", "green", "blue"))
    on_grid(grid, HOUSES).to_file(folder / f"{name}.gpkg")
    return folder / f"{name}.tif", folder / f"{name}.gpkg", grid


def burnt(folder):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for tile in read_tiles(folder).itertuples():
        with rasterio.open(folder / "targets" / f"{tile.id}.tif") as source:
            part = source.read(1) == 1
        mask[tile.row_off : tile.row_off + 32, tile.col_off : tile.col_off + 32] |= part
    return mask


@pytest.mark.parametrize(
    ("split", "labels", "crs"),
    [*[(split, "polygons", LOCAL) for split in SPLITS], ("stripes", "mask", LOCAL),
     ("areas", "mask", ENGINEERING), ("stripes", "polygons", ENGINEERING)],
)  # fmt: skip
def test_tiles_in_a_local_crs(tmp_path, split, labels, crs):
    scene, truth, grid = write_site(tmp_path, crs)
    options = {"size": 32, "overlap": 0, "gap": 0, "split": split, "fractions": (0.5, 0.5, 0.0)}
    scenes = [scene]
    if split == "areas":
        areas = on_grid(grid, [(0, 0, 96, 96), (96, 0, 192, 96)])
        frame = gpd.GeoDataFrame({"split": ["train", "val"]}, geometry=areas)
        frame.to_file(tmp_path / "areas.gpkg")
        options["areas"] = str(tmp_path / "areas.gpkg")
    if split in ("blocks", "kfold"):
        options |= {"block": 32, "folds": 3}
    if split == "scenes":
        second, _, other = write_site(tmp_path, crs, "second")
        moved = Grid(other.crs, Affine.translation(1000, 0) * other.transform, HEIGHT, WIDTH)
        with Scene(second) as source:
            write_array(second, moved, source.read()[0], descriptions=("red", "green", "blue"))
        scenes.append(second)
    if labels == "mask":
        truth = tmp_path / "mask.tif"
        write_array(truth, grid, expected_mask()[None].astype(np.uint8))
    tile_scenes(plan_tiles(scenes, truth, TileOptions(**options)), tmp_path / "tiles")
    tiles = read_tiles(tmp_path / "tiles")
    assert is_same_crs(tiles.crs, CRS(grid.crs.to_wkt()))
    if split != "scenes":
        covered = np.zeros((HEIGHT, WIDTH), dtype=bool)
        for tile in tiles.itertuples():
            covered[tile.row_off : tile.row_off + 32, tile.col_off : tile.col_off + 32] = True
        np.testing.assert_array_equal(burnt(tmp_path / "tiles"), expected_mask() & covered)
        assert covered.mean() > 0.6
    for name, part in tiles.groupby("split"):
        ground = gpd.read_file(tmp_path / "tiles" / f"{name}.gpkg")
        assert ground.union_all().buffer(0.1).covers(part.union_all())
    assert not list((tmp_path / "tiles").glob("*.geojson"))
    if labels == "polygons":
        found = read_tile_footprints(tmp_path / "tiles")
        assert len(found) == len(HOUSES)
        unit = 1.0 if crs == LOCAL else 0.3048**2
        report = measure_labels(tmp_path / "tiles")
        assert report.footprints.area_m2["median"] == pytest.approx(24 * unit, abs=0.01)


@pytest.mark.parametrize("crs", [LOCAL, ENGINEERING])
def test_predictions_vectors_and_scores_in_a_local_crs(tmp_path, crs):
    scene, truth, grid = write_site(tmp_path, crs)
    aoi = tmp_path / "aoi.gpkg"
    on_grid(grid, [(0, 0, 100, 96)]).to_file(aoi)
    model = make_model(tmp_path / "m.safetensors", PIXELWISE.model_copy(update={"gsd_m": 0.5}))
    if crs == ENGINEERING:
        model = make_model(model, PIXELWISE.model_copy(update={"gsd_m": 0.1524}))
    options = PredictOptions(device="cpu", aoi=str(aoi))
    out = geoseg.predict(scene, tmp_path / "out", model=model, options=options)
    with Scene(out.prob_path) as prob:
        _, valid = prob.read()
    assert valid[:, :100].all()
    assert not valid[:, 100:].any()
    found = geoseg.vectorize(out.prob_path, tmp_path / "found.gpkg").footprints
    assert is_same_crs(found.crs, CRS(grid.crs.to_wkt()))
    with pytest.raises((MissingCRSError, ConfigError), match="local CRS"):
        geoseg.predict(scene, tmp_path / "a.geojson", model=model, options=options)
    assert not (tmp_path / "a.geojson").exists()
    with pytest.raises((MissingCRSError, ConfigError), match="local CRS"):
        geoseg.vectorize(out.prob_path, tmp_path / "a.geojson")
    report = geoseg.evaluate(truth, truth, tmp_path / "report", aoi=aoi, min_area_m2=1)
    inside = sum(house[0] < 100 for house in HOUSES)
    assert (report.tp, report.fp, report.fn) == (inside, 0, 0)
    layer = gpd.read_file(tmp_path / "report" / "report.gpkg", layer="TP")
    assert len(layer) == inside
    assert geoseg.evaluate(truth, truth, min_area_m2=1e4).tp == 0


def refused(call, *names):
    with pytest.raises(MissingCRSError, match="local CRS without a location on Earth") as caught:
        call()
    assert any(str(name) in str(caught.value) for name in names), caught.value


@pytest.mark.parametrize("earth", ["EPSG:32633", "EPSG:4326", "EPSG:3857"])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_local_crs_and_another_one_are_refused_before_any_work(tmp_path, earth, swapped):
    crs = (earth, LOCAL) if swapped else (LOCAL, earth)
    scene, truth, _ = write_site(tmp_path, crs[0])
    _, other, other_grid = write_site(tmp_path, crs[1], "other")
    mask = tmp_path / "mask.tif"
    write_array(mask, other_grid, expected_mask()[None].astype(np.uint8))
    areas = tmp_path / "areas.gpkg"
    frame = gpd.GeoDataFrame({"split": ["train"]}, geometry=on_grid(other_grid, [(0, 0, 96, 96)]))
    frame.to_file(areas)
    model = make_model(tmp_path / "m.safetensors", PIXELWISE.model_copy(update={"gsd_m": 0.5}))
    before = sorted(tmp_path.iterdir())
    out, small = tmp_path / "out", TileOptions(size=32)
    drawn = TileOptions(size=32, split="areas", areas=str(areas))
    around = PredictOptions(device="cpu", aoi=str(other))
    refused(lambda: geoseg.tile(scene, other, out, options=small), other)
    refused(lambda: geoseg.tile(scene, mask, out, options=small), mask)
    refused(lambda: geoseg.tile(scene, truth, out, options=drawn), areas)
    refused(lambda: geoseg.tile([scene, tmp_path / "other.tif"], truth, out, options=small), scene,
            tmp_path / "other.tif")  # fmt: skip
    refused(lambda: geoseg.predict(scene, out, model=model, options=around), other)
    refused(lambda: geoseg.evaluate(truth, other, out), truth, other)
    refused(lambda: geoseg.evaluate(truth, truth, out, aoi=other), other)
    assert sorted(tmp_path.iterdir()) == before


def test_two_local_crs_are_not_the_same(tmp_path):
    scene, truth, _ = write_site(tmp_path, LOCAL)
    _, other, _ = write_site(tmp_path, ENGINEERING, "other")
    small = TileOptions(size=32)
    refused(lambda: geoseg.tile(scene, other, tmp_path / "out", options=small), other)
    refused(lambda: geoseg.evaluate(truth, other), truth)
    feet = CRS(LOCAL.replace('"metre",1', '"foot",0.3048'))
    assert not is_same_crs(CRS(LOCAL), feet)
    assert read_info(scene).grid.gsd_m == 0.5


def test_labels_beside_a_local_scene_are_named_with_their_extent(tmp_path):
    scene, _, grid = write_site(tmp_path, LOCAL)
    far = tmp_path / "far.gpkg"
    on_grid(grid, [(2000, 0, 2010, 8)]).to_file(far)
    with pytest.raises(geoseg.errors.GridMismatchError, match=r"within 1100, 396, 1105, 400, are"):
        geoseg.tile(scene, far, tmp_path / "out", options=TileOptions(size=32))


def test_scores_in_a_local_crs_need_no_training_area(tmp_path):
    write_site(tmp_path, ENGINEERING)
    model = make_model(tmp_path / "model.safetensors", PIXELWISE)
    out = tmp_path / "out"
    geoseg.predict(tmp_path / "scene.tif", out, model=model)
    add_training_area(out / "prob.tif")
    report = geoseg.evaluate(out / "footprints.gpkg", tmp_path / "scene.gpkg")
    assert report.tp + report.fn == len(HOUSES)
    geoseg.evaluate(out / "mask.tif", tmp_path / "scene.gpkg")


def add_training_area(path):
    """Add the tag that predict writes for a model that was trained on Earth."""
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.update_tags(GEOSEG_TRAINING_AREA=box(10, 20, 11, 21).wkt)
