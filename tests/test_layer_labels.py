"""Labels that stay in their file are the labels that would be in memory."""

import struct
from collections import Counter

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from shapely.geometry import (
    GeometryCollection,
    LineString,
    MultiPoint,
    MultiPolygon,
    Point,
    Polygon,
)

from geoseg.data.label_report import measure_labels
from geoseg.data.label_report.footprint_checks import measure_footprints
from geoseg.data.labels import ClassScheme, FootprintLabels, LayerLabels, read_labels, sources
from geoseg.data.labels.large_layer import read_layer_labels
from geoseg.data.labels.polygon_labels import read_footprint_labels
from geoseg.data.tiles import open_tile_footprints, plan_tiles, read_tile_footprints, tile_scenes
from geoseg.errors import LabelError, MissingCRSError, VectorReadError
from geoseg.geo.raster import read_info
from geoseg.geo.vector import ParquetParts, iter_polygons, read_footprints, write_parts
from geoseg.options import ClassOptions, TileOptions
from geoseg.town import build_town, write_town

BUILDINGS = ClassOptions(attribute="kind", values={"houses": ["house"], "others": ["other"]})


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A town whose footprints reach past the scene, overlap and are mended, in two formats."""
    folder = tmp_path_factory.mktemp("town")
    scene, _ = write_town(build_town(300, 420, seed=11, nodata=None), folder)
    grid = read_info(scene).grid
    footprints = gpd.read_file(folder / "footprints.gpkg")[["geometry"]]

    def on_ground(*corners):
        return Polygon([grid.transform * corner for corner in corners])

    more = [
        on_ground((-30, 20), (25, 20), (25, 31), (-30, 31)),  # reaches past the scene
        on_ground((-40, -40), (460, -40), (460, 5), (-40, 5)),  # on it, its corners all outside
        on_ground((60, 60), (70, 70), (70, 60), (60, 70)),  # a bow tie
        MultiPolygon([on_ground((x, 100), (x + 9, 100), (x + 9, 140)) for x in (50, 250)]),
        footprints.geometry.iloc[3],  # twice
        on_ground((900, 900), (950, 900), (950, 950)),  # elsewhere
        Point(*(grid.transform * (100, 100))),
    ]
    shapes = gpd.GeoSeries([*footprints.geometry, *more], crs=footprints.crs)
    kinds = np.where(np.arange(len(shapes)) % 3 == 0, "other", "house")
    everything = gpd.GeoDataFrame({"kind": kinds}, geometry=shapes).to_crs(4326)
    for suffix in ("gpkg", "fgb"):
        everything.to_file(folder / f"labels.{suffix}", layer="labels")
    return folder, scene, grid


def both(town, suffix="fgb", scheme=None):
    folder, _, grid = town
    chosen = (folder / f"labels.{suffix}", grid, scheme or ClassScheme())
    return read_layer_labels(*chosen), read_footprint_labels(*chosen)


@pytest.mark.parametrize("suffix", ["gpkg", "fgb"])
def test_as_many_are_counted(town, suffix):
    layer, memory = both(town, suffix)
    assert len(layer) == len(memory) > 20
    assert (layer.repaired, layer.dropped) == (memory.repaired, memory.dropped) == (1, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(
    left=st.integers(-20, 400),
    top=st.integers(-20, 280),
    width=st.integers(1, 200),
    height=st.integers(1, 90),
    suffix=st.sampled_from(["gpkg", "fgb"]),
)
def test_a_window_reads_the_same(town, left, top, width, height, suffix):
    layer, memory = both(town, suffix)
    window = Window(left, top, width, height)
    for one, other in zip(layer.read(window), memory.read(window), strict=True):
        np.testing.assert_array_equal(one > 0, other > 0)
    assert layer.foreground_pixels(window) == pytest.approx(memory.foreground_pixels(window))
    near, expected = layer.subset(window), memory.subset(window)
    touching = expected.footprints.geometry.intersects(layer.grid.window_polygon(window))
    expected = expected.footprints.geometry[touching]
    assert near.footprints.geometry.to_wkb().tolist() == expected.to_wkb().tolist()


@pytest.mark.parametrize("block", [37, 128, 4096])
def test_each_footprint_comes_once(town, monkeypatch, block):
    monkeypatch.setattr("geoseg.data.labels.large_layer._BLOCK_PX", block)
    layer, memory = both(town)
    parts = list(layer.iter_footprints())
    assert (len(parts) > 1) == (block < 4096)
    found = [wkb for part in parts for wkb in part.geometry.to_wkb()]
    assert sorted(found) == sorted(memory.footprints.geometry.to_wkb())


def test_built_ground_does_not_depend_on_blocks(town, monkeypatch):
    monkeypatch.setattr("geoseg.data.labels.large_layer._BLOCK_PX", 50)
    layer, memory = both(town)
    assert layer.foreground_pixels(layer.grid.window) == pytest.approx(
        memory.foreground_pixels(layer.grid.window)
    )


def test_only_large_layers_with_an_index_stay_in_their_file(town, monkeypatch):
    folder, _, grid = town
    assert isinstance(read_labels(folder / "labels.fgb", grid), FootprintLabels)
    monkeypatch.setattr(sources, "MAX_IN_MEMORY", 20)
    assert isinstance(read_labels(folder / "labels.fgb", grid), LayerLabels)
    gpd.read_file(folder / "labels.fgb").to_file(folder / "labels.geojson")
    assert isinstance(read_labels(folder / "labels.geojson", grid), FootprintLabels)


@pytest.mark.parametrize("classes", [None, BUILDINGS])
def test_the_tiles_and_their_report_are_the_same(town, tmp_path, monkeypatch, classes):
    folder, scene, _ = town
    options = TileOptions(size=64, split="blocks", block=96, gap=0, seed=3, classes=classes)
    reports = []
    for name, most in (("memory", 10_000), ("layer", 20)):
        monkeypatch.setattr(sources, "MAX_IN_MEMORY", most)
        monkeypatch.setattr("geoseg.data.labels.large_layer._BLOCK_PX", 100)
        plan = plan_tiles([scene], folder / "labels.fgb", options)
        tile_scenes(plan, tmp_path / name)
        reports.append(measure_labels(tmp_path / name, repaired=1, dropped=1))
    assert isinstance(plan.labels[0], LayerLabels)
    assert reports[0] == reports[1]
    for file in sorted((tmp_path / "memory").rglob("*.tif")):
        other = tmp_path / "layer" / file.relative_to(tmp_path / "memory")
        assert file.read_bytes() == other.read_bytes()
    one, other = (read_tile_footprints(tmp_path / name) for name in ("memory", "layer"))
    assert list(one.columns) == list(other.columns)
    assert one.crs == other.crs
    assert sorted(one.geometry.to_wkb()) == sorted(other.geometry.to_wkb())
    assert len(open_tile_footprints(tmp_path / "memory")) == 1
    assert len(open_tile_footprints(tmp_path / "layer")) > 4


def test_overlaps_are_found_across_parts(tmp_path):
    squares = [Point(i % 9, i // 9).buffer(0.9, quad_segs=1) for i in range(60)]
    shapes = gpd.GeoSeries([*squares, *squares[::7]], crs=4326)
    whole = gpd.GeoDataFrame({"scene": "a.tif"}, index=range(len(shapes)), geometry=shapes)
    whole.loc[::3, "scene"] = "b.tif"
    write_parts(tmp_path / "parts.parquet", [whole.iloc[i : i + 11] for i in range(0, 69, 11)])
    parts = ParquetParts(tmp_path / "parts.parquet")
    assert len(parts) == 7
    assert measure_footprints(parts, 1.0, 0, 0) == measure_footprints([whole], 1.0, 0, 0)
    assert measure_footprints(parts, 1.0, 0, 0).overlaps > 10
    assert gpd.read_parquet(tmp_path / "parts.parquet").equals(whole)


def test_bad_layers_are_refused_as_small_ones_are(town, tmp_path):
    folder, _, grid = town
    path = folder / "labels.fgb"
    with pytest.raises(VectorReadError, match="the filter 'colour = 1' does not match"):
        read_layer_labels(path, grid, ClassScheme(), where="colour = 1")
    with pytest.raises(LabelError, match="has no attribute use"):
        read_layer_labels(path, grid, ClassScheme(("a", "b"), True, 0, "use", {"x": 1}))
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        gpd.read_file(path).set_crs(None, allow_override=True).to_file(tmp_path / "nowhere.fgb")
    with pytest.raises(MissingCRSError):
        read_layer_labels(tmp_path / "nowhere.fgb", grid, ClassScheme())


def arcs(*points):
    """WKB of a line of arcs through points (x, y)."""
    return struct.pack("<BII", 1, 8, len(points)) + np.array(points, float).tobytes()


def collect(kind, *parts):
    """WKB of a geometry that consists of others."""
    return struct.pack("<BII", 1, kind, len(parts)) + b"".join(parts)


def circle(x, y, radius):
    west, east = (x - radius, y), (x + radius, y)
    return collect(10, arcs(west, (x, y + radius), east, (x, y - radius), west))


def every_kind(grid, suffix):
    """WKB of each kind of geometry that a format has, by name, and what becomes of it."""

    def square(left, top, *more):
        return Polygon(
            [(*(grid.transform * (left + x, top + y)), *more) for x, y in
             ((0, 0), (20, 0), (20, 20), (0, 20))]
        )  # fmt: skip

    def place(column, row):
        return grid.transform * (column, row)

    flat = {
        "polygon": (square(10, 10), "kept"),
        "multipolygon": (MultiPolygon([square(40, 10), square(70, 10)]), "kept"),
        "bow tie": (Polygon([place(*c) for c in ((100, 10), (120, 30), (120, 10), (100, 30))]),
                    "repaired"),
        "collection": (GeometryCollection([square(130, 10), Point(place(1, 1))]), "kept"),
        "z": (square(160, 10, 7.5), "kept"),
        "outside": (square(9000, 9000), "elsewhere"),
        "point": (Point(place(10, 50)), "dropped"),
        "line": (LineString([place(10, 60), place(40, 60)]), "dropped"),
        "multipoint": (MultiPoint([place(10, 70), place(40, 70)]), "dropped"),
        "collapsed": (Polygon([place(10, 90), place(30, 90), place(10, 90)]), "dropped"),
    }  # fmt: skip
    kinds = {name: (shapely.to_wkb(shape), end) for name, (shape, end) in flat.items()}
    m = shapely.from_wkt("POLYGON M " + shapely.to_wkt(square(190, 10, 3)).split("Z ")[1])
    chord = [place(40, 150), place(60, 150)]
    closed = collect(
        9, arcs(chord[0], place(50, 140), chord[1]), shapely.to_wkb(LineString(chord[::-1]))
    )
    kinds |= {
        "m": (shapely.to_wkb(m, output_dimension=4, flavor="iso"), "kept"),
        "curve polygon": (circle(*place(20, 120), 6), "kept"),
        "surface": (collect(12, circle(*place(60, 120), 6), flat["polygon"][0].wkb), "kept"),
        "polygon of a compound curve": (collect(10, closed), "kept"),
        # GDAL does not approximate curves inside a collection.
        "collection of curves": (collect(7, circle(*place(100, 120), 6)), "dropped"),
        "arc": (arcs(place(10, 150), place(20, 140), place(30, 150)), "dropped"),
        "compound curve": (closed, "dropped"),
        "multicurve": (collect(11, arcs(place(90, 150), place(100, 140), place(110, 150))),
                       "dropped"),
    }  # fmt: skip
    nothing = {"empty": (shapely.to_wkb(Polygon()), "unseen"), "null": (None, "unseen")}
    return kinds | ({} if suffix == "fgb" else nothing)


@pytest.mark.parametrize("suffix", ["gpkg", "fgb"])
def test_every_kind_of_geometry_counts_the_same(town, tmp_path, suffix):
    _, _, grid = town
    kinds = every_kind(grid, suffix)
    path = tmp_path / f"kinds.{suffix}"
    shapes, names = np.array([wkb for wkb, _ in kinds.values()], object), np.array([*kinds], object)
    drivers = {"gpkg": "GPKG", "fgb": "FlatGeobuf"}
    pyogrio.raw.write(
        path, shapes, field_data=[names], fields=["name"], geometry_type="Unknown",
        crs=grid.crs.to_wkt(), driver=drivers[suffix],
    )  # fmt: skip
    chosen = (path, grid, ClassScheme())
    layer, memory = read_layer_labels(*chosen), read_footprint_labels(*chosen)
    ends = Counter(end for _, end in kinds.values())
    for one in (layer, memory):
        assert (len(one), one.repaired) == (ends["kept"] + ends["repaired"], ends["repaired"])
        assert one.dropped == ends["dropped"]
    found = pd.concat(layer.iter_footprints()).sort_values("name")
    expected = memory.footprints.sort_values("name")
    assert found.name.tolist() == expected.name.tolist()
    assert found.geometry.to_wkb().tolist() == expected.geometry.to_wkb().tolist()
    assert expected.geometry[expected.name == "curve polygon"].area.item() == pytest.approx(
        np.pi * 36, rel=1e-3
    )
    batches = list(iter_polygons(path))
    whole = read_footprints(path)
    assert sum(map(len, batches)) == len(whole) == ends["kept"] + 2
    for count in ("dropped", "repaired"):
        assert sum(part.attrs[count] for part in batches) == whole.attrs[count]
