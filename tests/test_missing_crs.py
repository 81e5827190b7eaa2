"""Layers without a CRS are refused alike by all verbs; in formats with a default CRS, it counts."""

import json
import warnings

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyarrow import parquet

from geoseg.data.tiles import plan_tiles
from geoseg.errors import GridMismatchError, MissingCRSError
from geoseg.evaluation import evaluate_footprints
from geoseg.geo.aoi import AOI
from geoseg.geo.grid import Grid
from geoseg.geo.raster import write_array
from geoseg.options import TileOptions

GRID = Grid(rasterio.CRS.from_epsg(32633), Affine(0.5, 0, 5e5, 0, -0.5, 5e6), 96, 128)
BOXES = [shapely.box(5e5 + x, 5e6 - 30, 5e5 + x + 18, 5e6 - 10) for x in (1, 21, 42)]


@pytest.fixture
def scene(tmp_path):
    rng = np.random.default_rng(0)
    write_array(tmp_path / "scene.tif", GRID, rng.integers(1, 200, (3, 96, 128)).astype("uint8"))
    frame("EPSG:32633").to_file(tmp_path / "right.gpkg")
    return tmp_path / "scene.tif"


def frame(crs, degrees=False):
    shapes = gpd.GeoSeries(BOXES, crs=32633)
    shapes = shapes.to_crs(4326) if degrees else shapes
    split = ["train", "train", "val"]
    return gpd.GeoDataFrame({"split": split}, geometry=shapes.array.to_numpy(), crs=crs)


def without_crs(path, degrees, declared):
    """Write a layer without a CRS; `declared`: as null, instead of no entry at all."""
    layer = frame("EPSG:4326" if degrees else None, degrees)
    if path.suffix == ".parquet":
        layer.to_parquet(path)
        table = parquet.read_table(path)
        text = dict(table.schema.metadata)
        geo = json.loads(text[b"geo"])
        geo["columns"]["geometry"].pop("crs")
        if declared:
            geo["columns"]["geometry"]["crs"] = None
        text[b"geo"] = json.dumps(geo).encode()
        parquet.write_table(table.replace_schema_metadata(text), path)
        return path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer.set_crs(None, allow_override=True).to_file(path)
    if path.suffix == ".geojson":
        content = json.loads(path.read_text())
        content.pop("crs", None)
        path.write_text(json.dumps(content | ({"crs": None} if declared else {})))
    return path


def all_uses(scene, path):
    """Each way in which verbs read a layer, as calls that return a number of polygons."""
    right, small = scene.with_name("right.gpkg"), TileOptions(size=32, overlap=0, gap=0)
    drawn = TileOptions(size=32, overlap=0, split="areas", areas=str(path), fractions=(1, 0, 0))
    return {
        "tile": lambda: len(plan_tiles([scene], path, small).labels[0]),
        "areas": lambda: 3 if len(plan_tiles([scene], right, drawn).tiles) else 0,
        "aoi": lambda: len(AOI.read_on(path, GRID)),
        "truth": lambda: evaluate_footprints(right, path).tp,
        "footprints": lambda: evaluate_footprints(path, right).tp,
        "both": lambda: evaluate_footprints(path, path).tp,
        "evaluate aoi": lambda: evaluate_footprints(right, right, aoi=path).tp,
    }


@pytest.mark.parametrize("name", ["a.gpkg", "a.fgb", "a.shp", "null.parquet"])
def test_a_layer_without_a_crs_is_refused_by_all_verbs(scene, name):
    path = without_crs(scene.with_name(name), degrees=False, declared=True)
    for use, call in all_uses(scene, path).items():
        with pytest.raises(MissingCRSError, match="has no coordinate reference system; ") as caught:
            call()
        assert str(path) in str(caught.value), use


@pytest.mark.parametrize("declared", [False, True])
def test_geojson_without_a_crs_is_in_degrees(scene, declared):
    path = without_crs(scene.with_name("a.geojson"), degrees=True, declared=declared)
    uses = all_uses(scene, path)
    assert {use: call() for use, call in uses.items()} == dict.fromkeys(uses, 3)


def test_geoparquet_without_an_entry_is_in_degrees(scene):
    path = without_crs(scene.with_name("absent.parquet"), degrees=True, declared=False)
    uses = all_uses(scene, path)
    assert {use: call() for use, call in uses.items()} == dict.fromkeys(uses, 3)


@pytest.mark.parametrize("declared", [False, True])
def test_metres_in_geojson_are_named_by_all_verbs(scene, declared):
    path = without_crs(scene.with_name("a.geojson"), degrees=False, declared=declared)
    for use, call in all_uses(scene, path).items():
        with pytest.raises(GridMismatchError, match="outside the range of its CRS") as caught:
            call()
        assert str(path) in str(caught.value), use
