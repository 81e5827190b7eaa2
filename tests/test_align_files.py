"""Files of an alignment: layers with Z, with columns that formats do not support, and errors."""

import json
import sqlite3

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
from affine import Affine
from pyarrow import parquet
from rasterio.crs import CRS

import geoseg
from geoseg.api.align import plan_align
from geoseg.errors import ConfigError, OutputExistsError, VectorReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import write_array
from geoseg.geo.vector import list_layer_files

X, Y = 500_000, 5_000_000
SUFFIXES = (".geojson", ".geojsonl", ".shp", ".gpkg", ".fgb", ".parquet")


@pytest.fixture(scope="module")
def prob(tmp_path_factory):
    """Probabilities of two houses of 10 x 8 m, and of nothing else."""
    grid = Grid(CRS.from_epsg(32633), Affine(0.5, 0, X, 0, -0.5, Y), 100, 140)
    body = np.full((1, 100, 140), 0.02, np.float32)
    body[:, 40:56, 20:40] = body[:, 40:56, 80:100] = 0.98
    path = tmp_path_factory.mktemp("prob") / "prob.tif"
    write_array(path, grid, body, descriptions=("building",))
    return path


def make_house(left, top=20.0, z=None):
    """A house of 10 x 8 m at some metres from the corner of the scene."""
    x, y = X + left, Y - top
    points = [(x, y - 8), (x + 10, y - 8), (x + 10, y), (x, y)]
    return shapely.Polygon(
        points if z is None else [(*p, h) for p, h in zip(points, z, strict=True)]
    )


def make_labels(**columns):
    """The first house 1.5 m to the east of its place, the second at its place."""
    count = max(map(len, columns.values()), default=2)
    return gpd.GeoDataFrame(columns, geometry=[make_house(11.5), make_house(40)][:count], crs=32633)


def write(labels, path):
    labels.to_parquet(path)
    return path


# Z


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_z_is_kept_of_moved_and_of_unmoved_polygons(prob, tmp_path, suffix):
    labels = make_labels(name=["a", "b"])
    heights = [(101.25, 102.5, 103.75, 104.0), (7.0, 8.0, 9.0, 10.0)]
    labels.geometry = [make_house(11.5, z=heights[0]), make_house(200, z=heights[1])]
    output = tmp_path / f"aligned{suffix}"
    result = geoseg.align(write(labels, tmp_path / "labels.parquet"), output, prob=prob)
    read = gpd.read_parquet if suffix == ".parquet" else gpd.read_file
    aligned = read(output).to_crs(32633).sort_values("name")
    assert aligned.shift_x_m.tolist() == pytest.approx([-1.5, 0], abs=0.05)
    for shape, left, expected in zip(aligned.geometry, (10, 200), heights, strict=True):
        found = shapely.get_coordinates(shape, include_z=True)[:-1]
        assert sorted(found[:, 2]) == pytest.approx(expected, abs=1e-3)
        lowest = found[found[:, 2].argmin()]
        assert lowest[:2] == pytest.approx((X + left, Y - 28), abs=0.06)
    assert (result.summary.flattened, result.summary.raised) == (0, 0)


def test_z_that_a_format_adds_or_a_repair_loses_is_counted(prob, tmp_path):
    labels = make_labels()
    labels.geometry = [make_house(11.5, z=(1.0, 2.0, 3.0, 4.0)), make_house(40)]
    source = write(labels, tmp_path / "mixed.parquet")
    for suffix in SUFFIXES:
        result = geoseg.align(source, tmp_path / f"a{suffix}", prob=prob)
        needs_same = suffix in (".shp", ".fgb")
        assert result.summary.raised == needs_same
        assert ("1 without Z, which the format sets to 0" in result.summary.describe()) == (
            needs_same
        )
        read = gpd.read_parquet if suffix == ".parquet" else gpd.read_file
        assert read(tmp_path / f"a{suffix}").has_z.sum() == 1 + needs_same
    labels.geometry = [make_house(11.5, z=(1.0, np.nan, 3.0, 4.0)), make_house(40)]
    result = geoseg.align(write(labels, tmp_path / "nan.parquet"), tmp_path / "b.gpkg", prob=prob)
    assert result.summary.flattened == 1
    assert "1 without Z at some vertex, now without any" in result.summary.describe()
    assert not gpd.read_file(tmp_path / "b.gpkg").has_z.any()


def test_a_geoparquet_names_its_types_and_keeps_z_but_not_m(prob, tmp_path):
    points = shapely.get_coordinates(make_house(11.5))
    text = ", ".join(f"{x} {y} 5 77" for x, y in points)
    labels = make_labels(name=["a"])
    labels.geometry = [shapely.from_wkt(f"POLYGON ZM (({text}))")]
    output = tmp_path / "a.parquet"
    geoseg.align(write(labels, tmp_path / "labels.parquet"), output, prob=prob)
    (shape,) = gpd.read_parquet(output).geometry
    assert shape.has_z
    assert not shape.has_m
    assert shapely.get_coordinates(shape, include_z=True)[:, 2].tolist() == [5] * 5
    geo = json.loads(parquet.read_schema(output).metadata[b"geo"])
    assert "Polygon Z" in geo["columns"]["geometry"]["geometry_types"]


# Columns


def test_a_column_bbox_of_the_user_is_kept_beside_the_boxes(prob, tmp_path):
    for name, values in (("plain", ["a", "b"]), ("nested", [{"xmin": 1.0}, {"xmin": 2.0}])):
        source = write(make_labels(bbox=values), tmp_path / f"{name}.parquet")
        output = tmp_path / f"{name}-aligned.parquet"
        geoseg.align(source, output, prob=prob)
        aligned = gpd.read_parquet(output)
        expected = ["a", "b"] if name == "plain" else ['{"xmin": 1.0}', '{"xmin": 2.0}']
        assert aligned.bbox.tolist() == expected
        # The boxes are where the polygons are now.
        near = (X, Y - 100, X + 11, Y)
        assert len(gpd.read_parquet(output, bbox=near)) == 1
        boxes = parquet.read_table(output)["bbox_2"].to_pylist()
        assert boxes[0]["xmin"] == pytest.approx(X + 10, abs=0.05)


def test_declared_boxes_are_written_anew(prob, tmp_path):
    labels = make_labels(name=["a", "b"])
    labels.to_parquet(tmp_path / "labels.parquet", write_covering_bbox=True)
    for suffix in (".parquet", ".gpkg"):
        output = tmp_path / f"a{suffix}"
        geoseg.align(tmp_path / "labels.parquet", output, prob=prob)
        read = gpd.read_parquet if suffix == ".parquet" else gpd.read_file
        assert set(read(output)) == {"name", "shift_x_m", "shift_y_m", "shift_gain", "geometry"}
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table["bbox"].to_pylist()[0]["xmin"] == pytest.approx(X + 10, abs=0.05)


def test_columns_with_the_names_of_a_geopackage_itself_are_kept(prob, tmp_path):
    columns = {"fid": [5, 5], "geom": ["a", "b"], "geometry_": [1, 2]}
    source = write(make_labels(**columns), tmp_path / "labels.parquet")
    geoseg.align(source, tmp_path / "a.gpkg", prob=prob)
    aligned = gpd.read_file(tmp_path / "a.gpkg")
    assert {name: aligned[name].tolist() for name in columns} == columns
    with sqlite3.connect(tmp_path / "a.gpkg") as database:
        ((name,),) = database.execute("SELECT column_name FROM gpkg_geometry_columns")
    assert name == "geom_2"


def test_short_names_of_a_shapefile_differ_in_more_than_case(prob, tmp_path):
    source = write(make_labels(id=[1, 2], ID=[3, 4]), tmp_path / "labels.parquet")
    geoseg.align(source, tmp_path / "a.shp", prob=prob)
    aligned = gpd.read_file(tmp_path / "a.shp")
    assert aligned.id.tolist() == [1, 2]
    assert aligned.ID_2.tolist() == [3, 4]


DURATIONS = pd.to_timedelta([1, 2], unit="s")


@pytest.mark.parametrize(
    ("columns", "suffixes", "text"),
    [
        ({"id": [1, 2], "ID": [3, 4]}, (".gpkg", ".fgb", ".geojson"), "columns id and ID differ"),
        ({"Shift_X_M": [1, 2]}, (".gpkg", ".geojsonl"), "Shift_X_M and shift_x_m differ only in"),
        ({"built": DURATIONS}, (".gpkg", ".shp", ".fgb", ".geojson"), "column built has the type"),
        ({"OGC_FID": [7, 8]}, (".shp", ".fgb", ".geojson"), "column OGC_FID would be lost"),
        ({f"c{n}": [n, n] for n in range(253)}, (".shp",), "has 256 columns"),
    ],
)
def test_columns_that_a_format_cannot_hold_are_refused_before_any_work(
    prob, tmp_path, columns, suffixes, text
):
    source = write(make_labels(**columns), tmp_path / "labels.parquet")
    for suffix in suffixes:
        output = tmp_path / f"a{suffix}"
        with pytest.raises(ConfigError) as caught:
            plan_align(source, output, prob=prob)
        message = str(caught.value)
        assert message.startswith(f"{output}: ")
        assert text in message
        assert "\n" not in message
    geoseg.align(source, tmp_path / "a.parquet", prob=prob)
    assert {*columns} <= {*gpd.read_parquet(tmp_path / "a.parquet").columns}


def test_half_floats_fit_into_a_shapefile(prob, tmp_path):
    source = write(make_labels(h=np.array([1.5, 2.5], np.float16)), tmp_path / "labels.parquet")
    geoseg.align(source, tmp_path / "a.shp", prob=prob)
    assert gpd.read_file(tmp_path / "a.shp").h.tolist() == [1.5, 2.5]


def test_an_error_while_writing_names_the_output_of_the_user(prob, tmp_path, monkeypatch):
    source = write(make_labels(), tmp_path / "labels.parquet")

    def fail(_, path, **__):
        raise pa.ArrowInvalid(f"cannot write {path}")

    monkeypatch.setattr("geoseg.geo.vector.writer.pyogrio.write_arrow", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VectorReadError) as caught:
        geoseg.align(source, "a.gpkg", prob=prob)
    assert str(caught.value) == "a.gpkg: cannot be written (cannot write a.gpkg)"


# Inputs


def test_only_the_files_of_a_shapefile_are_inputs(prob, tmp_path):
    for stem in ("town", "town[1]"):
        labels = tmp_path / f"{stem}.shp"
        make_labels(n=[1, 2]).to_file(labels)
        (tmp_path / f"{stem}.txt").write_text("notes")
        output = tmp_path / f"{stem}.gpkg"
        for overwrite in (False, True):
            result = geoseg.align(labels, output, prob=prob, overwrite=overwrite)
            assert result.footprints.shift_x_m.tolist() == pytest.approx([-1.5, 0], abs=0.05)
        names = [path.name for path in list_layer_files(labels)]
        assert names == [f"{stem}.shp", *(f"{stem}.{end}" for end in ("cpg", "dbf", "prj", "shx"))]
    with pytest.raises(OutputExistsError, match="contains the input"):
        geoseg.align(labels, labels, prob=prob, overwrite=True)


def test_a_changed_table_of_a_shapefile_is_another_job(prob, tmp_path):
    labels = tmp_path / "town[1].shp"
    make_labels(n=[1, 2]).to_file(labels)
    before = plan_align(labels, tmp_path / "a.gpkg", prob=prob).key
    make_labels(n=[1, 3]).to_file(tmp_path / "other.shp")
    table = (tmp_path / "other.dbf").read_bytes()
    (tmp_path / "town[1].dbf").write_bytes(table + b" ")
    assert plan_align(labels, tmp_path / "a.gpkg", prob=prob).key != before
