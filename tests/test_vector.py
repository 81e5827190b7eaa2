"""Reading and writing of vector layers: valid polygons, files complete or not at all."""

import json
import logging
import signal
import sqlite3
import zipfile
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio.crs
import shapely
from affine import Affine
from conftest import REALDATA
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pyproj import CRS, Geod, Transformer
from shapely.affinity import affine_transform
from shapely.geometry import (
    GeometryCollection,
    LineString,
    MultiPolygon,
    Point,
    Polygon,
    box,
)

from geoseg.errors import ConfigError, MissingCRSError, VectorReadError
from geoseg.evaluation import evaluate_footprints as evaluate
from geoseg.evaluation.spacenet import score_spacenet
from geoseg.geo.grid import Grid
from geoseg.geo.vector import (
    FOOTPRINT_COLUMNS,
    LAYER_SUFFIXES,
    ParquetParts,
    as_crs,
    check_suffix,
    list_layers,
    read_footprints,
    write_footprints,
    write_layers,
    write_parts,
)
from geoseg.geo.vector.layer_files import ogr_where
from geoseg.geo.vector.shapefile import ShapefileSize, short_names

UTM = "EPSG:32645"
LOCAL_WKT = (
    'PROJCRS["site",BASEGEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",'
    '6378137,298.257223563]]],CONVERSION["site",METHOD["Transverse Mercator"],PARAMETER['
    '"Latitude of natural origin",27.1],PARAMETER["Longitude of natural origin",84.9],PARAMETER['
    '"Scale factor at natural origin",1],PARAMETER["False easting",0],PARAMETER['
    '"False northing",0]],CS[Cartesian,2],AXIS["easting",east],AXIS["northing",north],'
    'LENGTHUNIT["metre",1]]'
)


def houses(count, first=1, crs=UTM):
    """`count` houses of 10 m x 8 m in a row, 30 m apart, ids from `first`."""
    ids = np.arange(first, first + count, dtype=np.int64)
    left = 300_000.0 + 30 * ids
    frame = gpd.GeoDataFrame(
        {
            "id": ids,
            "area_m2": 80.0,
            "perimeter_m": 36.0,
            "confidence": 0.75,
            "name": [f"Häusl {i}" for i in ids],
        },
        geometry=[box(x, 3_000_000, x + 10, 3_000_008) for x in left],
        crs=UTM,
    )
    return frame.to_crs(crs)


DEGREES = (".geojson", ".geojsonl")


@pytest.mark.parametrize("suffix", LAYER_SUFFIXES)
@pytest.mark.parametrize("crs", [UTM, "EPSG:3857", "EPSG:4326", LOCAL_WKT])
def test_every_format_gives_back_what_was_written(tmp_path, suffix, crs):
    path = tmp_path / f"out{suffix}"
    batches = [houses(3, crs=crs), houses(0, crs=crs), houses(4, first=4, crs=crs)]
    assert write_footprints(path, iter(batches), crs=crs) == 7
    found = read_footprints(path).sort_values("id")
    assert found["id"].tolist() == list(range(1, 8))
    assert found["name"].tolist()[0] == "Häusl 1"
    assert found["confidence"].tolist() == [0.75] * 7
    perimeter = "perim_m" if suffix == ".shp" else "perimeter_m"
    assert list(found.columns) == ["id", "area_m2", perimeter, "confidence", "name", "geometry"]
    assert found.is_valid.all()
    wanted = CRS("EPSG:4326") if suffix in DEGREES else CRS(crs)
    assert found.crs.equals(wanted) or found.crs.to_dict() == wanted.to_dict()
    distance = found.to_crs(UTM).geometry.hausdorff_distance(houses(7).geometry, align=False)
    assert distance.max() < 0.02


@pytest.mark.parametrize("suffix", LAYER_SUFFIXES)
@pytest.mark.parametrize("batches", [[], [houses(0)[[*FOOTPRINT_COLUMNS, "geometry"]]]])
def test_no_footprint_is_still_a_layer(tmp_path, suffix, batches):
    path = tmp_path / f"empty{suffix}"
    assert write_footprints(path, batches, crs=UTM) == 0
    found = read_footprints(path)
    assert len(found) == 0
    assert found.crs == ("EPSG:4326" if suffix in DEGREES else UTM)
    if suffix not in DEGREES:  # which have columns only where it has features
        assert [name[:5] for name in found] == [n[:5] for n in (*FOOTPRINT_COLUMNS, "geometry")]
    assert read_footprints(path, where="id = 3").empty


def test_geojson_follows_rfc_7946(tmp_path):
    path = tmp_path / "out.geojson"
    clockwise = houses(2)
    clockwise.geometry = shapely.orient_polygons(clockwise.geometry.array, exterior_cw=True)
    write_footprints(path, [clockwise], crs=UTM)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert "crs" not in content
    ring = np.array(content["features"][0]["geometry"]["coordinates"][0])
    assert shapely.is_ccw(shapely.LinearRing(ring))
    expected = houses(2, crs="EPSG:4326").geometry.iloc[0].bounds
    assert (*ring.min(axis=0), *ring.max(axis=0)) == pytest.approx(expected, abs=1e-7)
    assert all(len(str(value).split(".")[1]) <= 7 for value in ring.ravel())


def test_geojson_stays_valid_when_rounding_closes_a_gap(tmp_path):
    slit = Polygon([(0, 0), (10, 0), (10, 5), (0.001, 5), (10, 5.0001), (10, 10), (0, 10)])
    frame = gpd.GeoDataFrame(geometry=[shapely.transform(slit, lambda p: p + 5e5)], crs=UTM)
    assert write_footprints(tmp_path / "slit.geojson", [frame], crs=UTM) >= 1
    found = gpd.read_file(tmp_path / "slit.geojson")
    assert found.is_valid.all()
    assert found.to_crs(UTM).area.sum() == pytest.approx(100, rel=0.01)


def across_180(count=3):
    """Squares of 100 m of the island of 180 degrees, in EPSG:3832; each has a hole across it."""
    middle = CRS_3832(180, -16)[0]
    shapes = [
        box(middle - 60, y, middle + 40, y + 100).difference(
            box(middle - 20, y + 30, middle + 10, y + 60)
        )
        for y in -1.8e6 + 200 * np.arange(count)
    ]
    return gpd.GeoDataFrame({"id": range(1, count + 1)}, geometry=shapes, crs=3832)


CRS_3832 = Transformer.from_crs(4326, 3832, always_xy=True).transform


@pytest.mark.parametrize("suffix", DEGREES)
def test_a_footprint_across_the_antimeridian_is_one_feature(tmp_path, suffix):
    frame = across_180()
    path = tmp_path / f"cut{suffix}"
    assert write_footprints(path, [frame], crs=3832) == 3
    assert write_footprints(tmp_path / "whole.gpkg", [frame], crs=3832) == 3
    found = read_footprints(path)
    assert found["id"].tolist() == [1, 2, 3]
    assert set(found.geom_type) == {"MultiPolygon"}
    assert found.is_valid.all()
    for shape in found.geometry:
        assert [part.bounds[0] < 0 for part in shape.geoms].count(True) == 1
        assert (shape.bounds[0], shape.bounds[2]) == (-180, 180)
        assert all(part.exterior.is_ccw for part in shape.geoms)
    areas = found.to_crs(3832).area.to_numpy()
    assert areas == pytest.approx(frame.area.to_numpy(), rel=1e-3)


@given(st.floats(0, 0.6), st.integers(-85_000, 85_000).map(lambda part: part / 1000))
@example(0.004, -17.0)
def test_a_part_across_180_that_is_too_thin_is_dropped(tmp_path_factory, beyond_m, latitude):
    crs, path = CRS(3857), tmp_path_factory.mktemp("thin") / "a.geojson"
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(180, latitude)
    house = box(x - 12, y, x + beyond_m, y + 9)
    other = box(x - 40, y, x - 30, y + 9)
    assert write_footprints(path, [gpd.GeoDataFrame({"id": [1, 2]}, geometry=[house, other])],
                            crs=crs) == 2  # fmt: skip
    found = gpd.read_file(path)
    assert found.is_valid.all()
    left, _, right, _ = found.total_bounds
    assert -180 <= left <= right <= 180
    areas = shapely.area(found.geometry.to_numpy())
    assert areas[0] == pytest.approx(1.2 * areas[1], rel=0.08)


@pytest.mark.parametrize("suffix", [".geojson", ".geojsonl"])
def test_a_local_crs_is_refused_where_degrees_are_needed(tmp_path, suffix):
    wkt = 'LOCAL_CS["Site grid",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    frame = gpd.GeoDataFrame({"id": [1]}, geometry=[box(0, 0, 9, 9)], crs=CRS(wkt))
    with pytest.raises(MissingCRSError, match=r"has a local CRS .*\(Site grid\); .* suffix \.gpkg"):
        write_footprints(tmp_path / f"a{suffix}", [frame], crs=frame.crs)
    assert list(tmp_path.iterdir()) == []
    write_footprints(tmp_path / "a.gpkg", [frame], crs=frame.crs)
    near = read_footprints(tmp_path / "a.gpkg", bounds=(0, 0, 5, 5), bounds_crs=frame.crs)
    assert len(near) == 1
    with pytest.raises(MissingCRSError, match="cannot be aligned with other data"):
        read_footprints(tmp_path / "a.gpkg", bounds=(0, 0, 5, 5), bounds_crs=CRS(32633))


def test_footprints_across_the_antimeridian_count_once(tmp_path):
    frame = across_180()
    write_footprints(tmp_path / "a.geojson", [frame], crs=3832)
    write_footprints(tmp_path / "a.gpkg", [frame], crs=3832)
    for pred, truth in (("geojson", "gpkg"), ("gpkg", "geojson"), ("geojson", "geojson")):
        report = evaluate(tmp_path / f"a.{pred}", tmp_path / f"a.{truth}", tmp_path / pred / truth)
        assert (report.tp, report.fp, report.fn) == (3, 0, 0)
        assert report.iou_pixel > 0.99


@pytest.mark.parametrize(("crs", "pole"), [(3995, 90), (3031, -90)])
def test_geojson_holds_what_holds_a_pole(tmp_path, crs, pole):
    around = box(-30, -20, 50, 25)
    shapes = [around.difference(box(-5, -6, 7, 8)), around, box(60, -20, 90, 25)]
    frame = gpd.GeoDataFrame({"id": [1, 2, 3]}, geometry=shapes, crs=crs)
    assert write_footprints(tmp_path / "pole.geojson", [frame], crs=crs) == 3
    found = read_footprints(tmp_path / "pole.geojson")
    assert found["id"].tolist() == [1, 2, 3]
    assert found.is_valid.all()
    ellipsoid = Geod(ellps="WGS84")
    areas = [abs(ellipsoid.geometry_area_perimeter(shape)[0]) for shape in found.geometry]
    scale = (areas[1] / around.area, frame.area.to_numpy() / around.area)
    assert areas == pytest.approx(scale[0] * scale[1] * around.area, rel=0.01)
    assert scale[0] == pytest.approx(1, rel=0.07)  # of the projection
    reach = [abs(shape.bounds[3 if pole > 0 else 1]) for shape in found.geometry]
    assert reach[1] == 90
    assert max(reach[0], reach[2]) < 90


@given(st.floats(-179, 181), st.floats(-60, 60), st.floats(0, 360), st.integers(3, 9))
def test_geojson_keeps_area_wherever_a_polygon_lies(tmp_path_factory, lon, lat, turn, corners):
    local = CRS(f"+proj=aeqd +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m")
    angles = np.radians(turn) + np.arange(corners) * 2 * np.pi / corners
    shape = Polygon(np.column_stack([40 * np.cos(angles), 25 * np.sin(angles)]))
    frame = gpd.GeoDataFrame({"id": [7]}, geometry=[shape], crs=local)
    path = tmp_path_factory.mktemp("globe") / "a.geojson"
    assert write_footprints(path, [frame], crs=local) == 1
    (found,) = read_footprints(path).geometry
    area = abs(Geod(ellps="WGS84").geometry_area_perimeter(found)[0])
    assert area == pytest.approx(shape.area, rel=2e-3)


def test_geojson_brings_back_what_lies_beyond_the_globe(tmp_path):
    beyond = [box(179.5, 10, 180.5, 11), box(181, 0, 182, 1), box(-0.5, -90.25, 0.5, -89)]
    frame = gpd.GeoDataFrame({"id": [1, 2, 3]}, geometry=beyond, crs=4326)
    write_footprints(tmp_path / "a.geojson", [frame], crs=4326, columns={"id": "int64"})
    found = gpd.read_file(tmp_path / "a.geojson")
    bounds = sorted((row.id, *row.geometry.bounds) for row in found.explode().itertuples())
    assert bounds == [
        (1, -180, 10, -179.5, 11),
        (1, 179.5, 10, 180, 11),
        (2, -179, 0, -178, 1),
        (3, -0.5, -90, 0.5, -89),
    ]


def test_geojson_leaves_what_is_wide_as_it_is(tmp_path):
    belt = box(-175, -40, 170, 40)
    frame = gpd.GeoDataFrame({"id": [1]}, geometry=[belt], crs=4326)
    write_footprints(tmp_path / "a.geojson", [frame], crs=4326, columns={"id": "int64"})
    assert read_footprints(tmp_path / "a.geojson").geometry.iloc[0].equals(belt)


def test_multipolygons_become_one_row_for_each_part(tmp_path):
    frame = gpd.GeoDataFrame(
        {"id": [1]}, geometry=[MultiPolygon([box(0, 0, 1, 1), box(5, 0, 6, 1)])], crs=UTM
    )
    assert write_footprints(tmp_path / "parts.gpkg", [frame], crs=UTM) == 2
    assert read_footprints(tmp_path / "parts.gpkg")["id"].tolist() == [1, 1]
    assert list_layers(tmp_path / "parts.gpkg") == ["footprints"]


def test_parquet_can_be_read_by_bounds(tmp_path):
    write_footprints(tmp_path / "out.parquet", [houses(5)], crs=UTM)
    part = gpd.read_parquet(tmp_path / "out.parquet", bbox=(300_025, 2.9e6, 300_065, 3.1e6))
    assert part["id"].tolist() == [1, 2]


def test_an_error_in_a_batch_is_raised_as_it_is_and_leaves_the_old_file(tmp_path):
    def batches():
        yield houses(2)
        raise VectorReadError("the third block is damaged")

    for suffix in LAYER_SUFFIXES:
        path = tmp_path / f"out{suffix}"
        write_footprints(path, [houses(1)], crs=UTM)
        before = sorted(file.name for file in tmp_path.iterdir())
        with pytest.raises(VectorReadError, match="third block"):
            write_footprints(path, batches(), crs=UTM)
        assert len(read_footprints(path)) == 1
        assert sorted(file.name for file in tmp_path.iterdir()) == before


@pytest.mark.parametrize("suffix", LAYER_SUFFIXES)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_batches_is_raised_and_leaves_nothing(tmp_path, suffix, kind):
    """GDAL, which asks for the batches, would report it as an error of its own."""

    def batches():
        yield houses(3)[[*FOOTPRINT_COLUMNS, "geometry"]]
        raise kind

    with pytest.raises(kind):
        write_footprints(tmp_path / f"out{suffix}", batches(), crs=UTM)
    assert list(tmp_path.iterdir()) == []


# Of a signal in a destructor, which Python ignores.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
@pytest.mark.parametrize("after_s", [0.02, 0.05, 0.1])
def test_a_signal_at_any_moment_of_writing_is_an_interruption(tmp_path, suffix, after_s):
    path = tmp_path / f"out{suffix}"
    frame = pd.concat([houses(50)[[*FOOTPRINT_COLUMNS, "geometry"]]] * 20, ignore_index=True)

    def batches():
        # Python ignores exceptions in destructors: the signal is sent again, long after the first.
        signal.setitimer(signal.ITIMER_REAL, after_s, 3)
        for _ in range(100_000):
            yield frame

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_footprints(path, batches(), crs=UTM)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not path.exists()


def test_a_shapefile_replaces_all_of_its_files(tmp_path):
    path = tmp_path / "out.shp"
    write_footprints(path, [houses(5)], crs=UTM)
    path.with_suffix(".qix").write_bytes(b"an index of another layer")
    write_footprints(path, [houses(2)], crs=UTM)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["out.cpg", "out.dbf", "out.prj", "out.shp", "out.shx"]
    assert path.with_suffix(".cpg").read_text() == "UTF-8"
    assert len(read_footprints(path)) == 2


@given(st.lists(st.text("abc", min_size=1, max_size=14), unique=True, max_size=30))
@settings(max_examples=50, deadline=None)
def test_shapefile_names_are_short_and_distinct(names):
    short = short_names(names)
    assert len(set(short)) == len(names)
    assert all(1 <= len(name) <= 10 for name in short)


def test_wrong_targets_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"\.geojson, \.geojsonl, \.shp, \.gpkg, \.fgb, \.parquet"
    ):
        write_footprints(tmp_path / "out.txt", [houses(1)], crs=UTM)
    with pytest.raises(ConfigError, match="without suffix"):
        check_suffix("out")
    with pytest.raises(MissingCRSError, match="ogr2ogr"):
        write_footprints(tmp_path / "out.gpkg", [houses(1)], crs=None)
    (tmp_path / "file").write_text("")
    with pytest.raises(VectorReadError, match="cannot be written"):
        write_footprints(tmp_path / "file" / "out.gpkg", [houses(1)], crs=UTM)
    assert check_suffix("A.GeoJSON") == ".geojson"


def test_layers_share_one_geopackage(tmp_path):
    path = tmp_path / "report.gpkg"
    mixed = gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1), MultiPolygon([box(3, 3, 4, 4)])], crs=UTM)
    write_layers(path, {"found": houses(3), "missed": houses(0), "mixed": mixed})
    assert list_layers(path) == ["found", "missed", "mixed"]
    assert len(read_footprints(path, layer="found")) == 3
    missed = read_footprints(path, layer="missed")
    assert (len(missed), missed.crs, "confidence" in missed) == (0, UTM, True)
    assert read_footprints(path, layer="mixed").area.tolist() == [1, 1]
    with pytest.raises(ConfigError, match="GeoPackage"):
        write_layers(tmp_path / "report.shp", {"found": houses(3)})
    with pytest.raises(MissingCRSError, match="layer found"):
        write_layers(path, {"found": houses(3).set_crs(None, allow_override=True)})
    assert list_layers(path) == ["found", "missed", "mixed"]


def test_only_valid_polygons_come_in(tmp_path):
    bowtie = Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    spike = GeometryCollection([box(10, 0, 11, 1), LineString([(11, 1), (12, 2)])])
    nested = GeometryCollection([GeometryCollection([box(30, 0, 31, 1), Point(0, 0)])])
    solid = Polygon([(20, 0, 5), (21, 0, 5), (21, 1, 5), (20, 1, 5)])
    shapes = [bowtie, spike, nested, solid, Point(1, 1), LineString([(0, 0), (1, 1)]), None]
    frame = gpd.GeoDataFrame(
        {"kind": ["bowtie", "spike", "nested", "solid", "point", "line", "null"]},
        geometry=[*shapes],
        crs=UTM,
    )
    for name in ("messy.gpkg", "messy.parquet"):
        path = tmp_path / name
        frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path)
        found = read_footprints(path)
        assert found["kind"].tolist() == ["bowtie", "spike", "nested", "solid"]
        assert found.index.tolist() == [0, 1, 2, 3]
        assert found.attrs == {"dropped": 3, "repaired": 1}
        assert found.area.tolist() == [2, 1, 1, 1]
        assert found.is_valid.all()
        assert not found.has_z.any()
        assert set(found.geom_type) <= {"Polygon", "MultiPolygon"}


@pytest.mark.parametrize("suffix", LAYER_SUFFIXES)
def test_filters_speak_one_language(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    write_footprints(path, [houses(6)], crs=UTM)

    def ids(where):
        return sorted(read_footprints(path, where=where)["id"].tolist())

    assert ids("id == 2") == [2]
    assert ids("id = 2 OR id >= 5") == [2, 5, 6]
    assert ids("name == 'Häusl 4'") == [4]
    assert ids("id IN (1, 3) AND confidence > 0.5") == [1, 3]
    assert ids("id > 100") == []
    for wrong in ("label = 1", "id ="):
        with pytest.raises(VectorReadError, match=r"attributes are id, area_m2, .*, name$"):
            read_footprints(path, where=wrong)


def test_quoted_text_is_left_alone_in_filters():
    assert ogr_where("""a == 'x == y' and "b==c" == 1""") == """a = 'x == y' and "b==c" = 1"""


@pytest.mark.parametrize("suffix", LAYER_SUFFIXES)
def test_bounds_select_what_they_meet(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    write_footprints(path, [houses(6)], crs=UTM)
    bounds = (300_055, 2_999_995, 300_125, 3_000_015)  # houses 2 (60..70) to 4 (120..130)
    for crs in (UTM, rasterio.crs.CRS.from_epsg(32645)):
        found = read_footprints(path, bounds=bounds, bounds_crs=crs)
        assert sorted(found["id"]) == [2, 3, 4]
    lonlat = tuple(gpd.GeoSeries([box(*bounds)], crs=UTM).to_crs(4326).total_bounds)
    found = read_footprints(path, bounds=lonlat, bounds_crs=4326, where="id <> 3")
    assert sorted(found["id"]) == [2, 4]


def test_layers_are_chosen_by_name_or_by_content(tmp_path, caplog):
    path = tmp_path / "many.gpkg"
    points = gpd.GeoDataFrame(geometry=[Point(0, 0)], crs=UTM)
    points.to_file(path, layer="points")
    houses(2).to_file(path, layer="houses")
    with caplog.at_level(logging.WARNING):
        assert len(read_footprints(path)) == 2
    assert "read layer houses of points, houses" in caplog.text
    houses(3).to_file(path, layer="footprints")
    assert len(read_footprints(path)) == 3
    assert len(read_footprints(path, layer="points")) == 0
    with pytest.raises(VectorReadError, match="its layers are points, houses, footprints"):
        read_footprints(path, layer="roads")


def test_zipped_shapefiles_and_kml_are_read(tmp_path):
    write_footprints(tmp_path / "out.shp", [houses(3)], crs=UTM)
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        for file in tmp_path.glob("out.*"):
            if file.suffix != ".zip":
                archive.write(file, file.name)
    assert len(read_footprints(tmp_path / "out.zip")) == 3
    houses(2, crs="EPSG:4326").to_file(tmp_path / "out.kml", driver="KML")
    assert len(read_footprints(tmp_path / "out.kml")) == 2


def test_files_that_cannot_serve_are_named(tmp_path):
    with pytest.raises(VectorReadError, match="no such file"):
        read_footprints(tmp_path / "absent.gpkg")
    for name in ("text.geojson", "text.parquet"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(VectorReadError, match=f"{name}: cannot be read as a vector layer"):
            read_footprints(tmp_path / name)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(VectorReadError, match="cannot be read as a vector layer"):
        read_footprints(tmp_path / "table.parquet")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(VectorReadError, match="table without geometries"):
        read_footprints(tmp_path / "table.csv")
    write_footprints(tmp_path / "nowhere.shp", [houses(1)], crs=UTM)
    (tmp_path / "nowhere.prj").unlink()
    with pytest.raises(MissingCRSError, match="ogr2ogr -a_srs EPSG:CODE"):
        read_footprints(tmp_path / "nowhere.shp")


@pytest.mark.parametrize("crs", [UTM, 32645, CRS(UTM), rasterio.crs.CRS.from_epsg(32645)])
def test_a_crs_may_come_from_any_library(crs):
    assert as_crs(crs) == CRS(UTM)


def test_a_crs_that_is_none_is_named():
    with pytest.raises(MissingCRSError, match="give EPSG:CODE or WKT"):
        as_crs("nowhere")


@pytest.mark.realdata
@pytest.mark.skipif(not REALDATA.exists(), reason="public data absent")
@pytest.mark.parametrize(
    ("name", "count", "repaired"),
    [
        ("banepa/footprints.geojson", 1231, 0),
        ("massachusetts/footprints.gpkg", 405, 0),
        ("zanzibar/footprints_whole_grid.geojson", 4439, 8),
    ],
)
def test_public_footprints_come_in_valid(name, count, repaired):
    found = read_footprints(REALDATA / name)
    assert (len(found), found.attrs["repaired"]) == (count, repaired)
    assert found.is_valid.all()


def test_geojson_line_by_line_is_a_feature_in_each(tmp_path):
    path = tmp_path / "out.geojsonl"
    write_footprints(path, [houses(3), houses(2, first=4)], crs=UTM)
    features = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [feature["properties"]["id"] for feature in features] == [1, 2, 3, 4, 5]
    ring = np.array(features[0]["geometry"]["coordinates"][0])
    assert shapely.is_ccw(shapely.LinearRing(ring))
    assert np.abs(ring).max() < 180


def test_numbers_of_a_shapefile_are_short(tmp_path):
    path = tmp_path / "out.shp"
    frame = houses(4).assign(
        area_m2=[21.939999999, 5.1e14, np.nan, np.inf], big=[1, -2, 3, 123_456_789_012]
    )
    write_footprints(path, [frame], crs=UTM)
    head = path.with_suffix(".dbf").read_bytes()
    fields = [head[begin : begin + 32] for begin in range(32, 32 * 7, 32)]
    found = {one[:11].split(b"\0")[0].decode(): (chr(one[11]), one[16], one[17]) for one in fields}
    assert found == {
        "id": ("N", 9, 0), "area_m2": ("N", 20, 3), "perim_m": ("N", 20, 3),
        "confidence": ("N", 20, 3), "name": ("C", 16, 0), "big": ("N", 12, 0),
    }  # fmt: skip
    assert b"              21.940" in head
    info = pyogrio.read_info(path)
    kinds = dict(zip(info["fields"], info["dtypes"], strict=True))
    assert (kinds["id"], kinds["area_m2"], kinds["big"]) == ("int32", "float64", "int64")
    read = read_footprints(path)
    assert read["area_m2"].tolist()[:2] == [21.94, 5.1e14]
    assert read["area_m2"].isna().tolist() == [False, False, True, True]
    assert read["confidence"].tolist() == [0.75] * 4
    assert read["big"].tolist() == [1, -2, 3, 123_456_789_012]


def test_a_shapefile_that_would_be_too_large_is_refused(tmp_path, monkeypatch):
    columns = ["id", "confidence", "name", "geometry"]
    layers = [[houses(3)[columns], houses(count)[columns]] for count in (2, 3)]
    write_footprints(tmp_path / "size.shp", layers[0], crs=UTM)
    largest = max((tmp_path / f"size{end}").stat().st_size for end in (".shp", ".dbf"))
    monkeypatch.setattr("geoseg.geo.vector.shapefile._LARGEST", largest)
    assert write_footprints(tmp_path / "fits.shp", layers[0], crs=UTM) == 5
    with pytest.raises(
        ConfigError, match=r"large.shp: a Shapefile is limited to 2 GB .* suffix .gpkg"
    ):
        write_footprints(tmp_path / "large.shp", layers[1], crs=UTM)
    assert not (tmp_path / "large.shp").exists()


def test_attributes_alone_can_be_too_much_for_a_shapefile(tmp_path, monkeypatch):
    rich = houses(40).assign(**{f"band_{number}": number / 7 for number in range(9)})
    write_footprints(tmp_path / "size.shp", [rich], crs=UTM)
    shapes, table = ((tmp_path / f"size{end}").stat().st_size for end in (".shp", ".dbf"))
    assert table > shapes
    monkeypatch.setattr("geoseg.geo.vector.shapefile._LARGEST", table - 1)
    with pytest.raises(ConfigError, match="a Shapefile is limited to 2 GB"):
        write_footprints(tmp_path / "large.shp", [rich], crs=UTM)


@given(
    st.lists(st.lists(st.text("aü", max_size=40), min_size=1, max_size=4), min_size=1, max_size=3),
    st.sampled_from(["int8", "int16", "int32", "int64", "float32", "float64", "bool"]),
)
def test_the_size_of_a_shapefile_is_known_before_it_is_written(tmp_path_factory, texts, dtype):
    path = tmp_path_factory.mktemp("size") / "out.shp"
    frames = []
    for names in texts:
        frame = houses(len(names))
        ring = frame.geometry.iloc[0].buffer(-2)
        frame.loc[0, "geometry"] = frame.geometry.iloc[0].difference(ring)
        frames.append(frame.assign(name=names, kind=np.ones(len(names), dtype)))
    counted = []

    class Counting(ShapefileSize):
        def add(self, columns, polygons):
            super().add(columns, polygons)
            counted.append((self.shapes, self.table))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geoseg.geo.vector.writer.ShapefileSize", Counting)
        write_footprints(path, frames, crs=UTM)
    sizes = tuple(path.with_suffix(end).stat().st_size for end in (".shp", ".dbf"))
    assert counted[-1] == sizes


def test_a_geopackage_has_points_to_review(tmp_path):
    path = tmp_path / "out.gpkg"
    first, second = houses(3), houses(2, first=4)
    first["confidence"], second["confidence"] = [0.9, 0.5, 0.69], [0.4, 0.7]
    write_footprints(path, [first, second], crs=UTM)
    assert list_layers(path) == ["footprints", "review", "layer_styles"]
    points = gpd.read_file(path, layer="review")
    assert points["id"].tolist() == [4, 2, 3]
    assert points["confidence"].tolist() == [0.4, 0.5, 0.69]
    assert points.crs == UTM
    found = read_footprints(path).set_index("id")
    for point in points.itertuples():
        assert found.geometry[point.id].contains(point.geometry)
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles"
        ).fetchall()
        kinds = dict(database.execute("SELECT table_name, data_type FROM gpkg_contents"))
    database.close()
    assert [row[:3] for row in rows] == [("footprints", "geom", 1), ("review", "geom", 1)]
    assert kinds == {"footprints": "features", "review": "features", "layer_styles": "attributes"}
    renderers = [ElementTree.fromstring(row[3]).find("renderer-v2") for row in rows]
    assert [one.get("type") for one in renderers] == ["graduatedSymbol", "RuleRenderer"]
    # QGIS takes the first range that contains a value: 0.7 needs no review.
    ranges = [(float(r.get("lower")), float(r.get("upper"))) for r in renderers[0].find("ranges")]
    assert ranges == [(0.85, 1), (0.7, 0.85), (0, 0.7)]
    labels = [r.get("label") for r in renderers[0].find("ranges")]
    assert labels == ["confidence from 0.85", "confidence 0.70 to 0.85", "confidence below 0.70"]
    write_footprints(tmp_path / "none.gpkg", [], crs=UTM)
    assert len(gpd.read_file(tmp_path / "none.gpkg", layer="review")) == 0


def test_a_contest_csv_lies_in_pixels(tmp_path):
    grid = Grid(rasterio.CRS.from_string(UTM), Affine(0.5, 0, 300_000, 0, -0.5, 3_000_000), 90, 130)
    frame = houses(3)
    pixels = shapely.box([10, 20, 30], [5, 6, 7], [21, 32, 43], [17, 18, 19])
    to_ground = [0.5, 0, 0, -0.5, 300_000, 3_000_000]
    frame.geometry = [affine_transform(one, to_ground) for one in pixels]
    frame["confidence"] = [0.25, 0.5, 0.75]
    path = tmp_path / "AOI_1_img7.csv"
    assert write_footprints(path, [frame[:1], frame[:0], frame[1:]], crs=UTM, grid=grid) == 3
    rows = pd.read_csv(path)
    assert list(rows) == ["ImageId", "BuildingId", "PolygonWKT_Pix", "Confidence"]
    assert rows.ImageId.tolist() == ["AOI_1_img7"] * 3
    assert rows.BuildingId.tolist() == [1, 2, 3]
    assert rows.Confidence.tolist() == [0.25, 0.5, 0.75]
    assert shapely.equals(shapely.from_wkt(rows.PolygonWKT_Pix), pixels).all()
    scores = score_spacenet(path, path, 0.5, 20)
    assert (scores["tp"], scores["fp"], scores["fn"]) == (3, 0, 0)

    assert write_footprints(tmp_path / "none.csv", [], crs=UTM, grid=grid) == 0
    (row,) = pd.read_csv(tmp_path / "none.csv").itertuples(index=False)
    assert tuple(row) == ("none", -1, "POLYGON EMPTY", 1)
    with pytest.raises(ConfigError, match=r"none\.csv: .* pixels of a raster.*\.gpkg"):
        write_footprints(tmp_path / "none.csv", [], crs=UTM)


def test_geoparquet_says_one_thing_of_its_geometries(tmp_path):
    frames = [houses(3), houses(0), houses(2, first=4)]
    write_footprints(tmp_path / "layer.parquet", frames, crs=UTM)
    write_parts(tmp_path / "parts.parquet", iter(frames))
    columns = []
    for name in ("layer", "parts"):
        metadata = parquet.read_schema(tmp_path / f"{name}.parquet").metadata
        geo = json.loads(metadata[b"geo"])
        assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
        columns.append(geo["columns"]["geometry"])
        assert gpd.read_parquet(tmp_path / f"{name}.parquet").geometry.geom_equals(
            houses(5).geometry, align=False
        ).all()  # fmt: skip
    layer, parts = columns
    assert {name: layer[name] for name in ("encoding", "crs")} == {
        name: parts[name] for name in ("encoding", "crs")
    }
    assert [len(part) for part in ParquetParts(tmp_path / "parts.parquet")] == [3, 0, 2]
