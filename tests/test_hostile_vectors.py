"""Labels as they come: each file is burnt as it should be, or refused with what to do about it."""

import json
import sqlite3
import struct
import zipfile
from dataclasses import dataclass, field

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import Transformer
from rasterio.features import rasterize
from shapely import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box

from geoseg.options import ClassOptions
from geoseg.town import build_town, write_town

CASES = {}


@dataclass
class Town:
    """A scene, and some of its footprints."""

    path: str
    crs: str
    houses: list


@dataclass
class Given:
    """A label file, and what it should come to.

    Attributes:
        path: The file.
        burnt: Polygons in the scene's CRS that count as buildings.
        options: Of `tile`.
        refused: Words of the refusal, where it is refused.
    """

    path: object
    burnt: list = field(default_factory=list)
    options: dict = field(default_factory=dict)
    refused: str = ""


def case(function):
    CASES[function.__name__.replace("_", " ")] = function
    return function


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    made = build_town(160, 256, seed=4, gsd_m=0.5, nodata=None)
    path, _ = write_town(made, tmp_path_factory.mktemp("town"))
    houses = list(made.footprints.geometry)
    assert len(houses) == 5
    return Town(str(path), made.grid.crs.to_wkt(), houses)


def check_burnt(folder, burnt):
    """The targets of all tiles hold the polygons and nothing else."""
    targets = sorted((folder / "targets").iterdir())
    assert targets
    built = 0
    for path in targets:
        with rasterio.open(path) as target:
            found = target.read(1)
            expected = rasterize(burnt, found.shape, transform=target.transform, dtype="uint8")
        inside = found != 255
        np.testing.assert_array_equal(found[inside], expected[inside])
        built += int(expected[inside].sum())
    assert built > 0


def layer(town, shapes, path, crs=None, **attributes):
    frame = gpd.GeoDataFrame(attributes, geometry=shapes, crs=town.crs)
    frame = frame.to_crs(crs) if crs else frame
    frame.to_file(path)
    return path


# Geometry columns, suffixes and encodings


@case
def a_geoparquet_with_another_geometry_column(town, tmp_path):
    frame = gpd.GeoDataFrame(geometry=town.houses, crs=town.crs).rename_geometry("geom")
    frame.to_parquet(tmp_path / "a.geoparquet")
    return Given(tmp_path / "a.geoparquet", town.houses)


@case
def a_geoparquet_with_two_geometry_columns(town, tmp_path):
    frame = gpd.GeoDataFrame({"kind": ["house", "barn"] * 2 + ["house"]}, geometry=town.houses)
    frame = frame.set_crs(town.crs)
    frame["centre"] = frame.geometry.centroid
    frame = frame.rename_geometry("outline")
    frame["geometry"] = "no geometry"
    frame.to_parquet(tmp_path / "a.parquet")
    return Given(tmp_path / "a.parquet", town.houses[::2], {"where": "kind = 'house'"})


@case
def a_shapefile_in_cp1252_without_a_code_page(town, tmp_path):
    kinds = ["Gebäude", "Schuppen"] * 2 + ["Gebäude"]
    frame = gpd.GeoDataFrame({"art": kinds}, geometry=town.houses, crs=town.crs)
    frame.to_file(tmp_path / "a.shp", encoding="cp1252")
    (tmp_path / "a.cpg").unlink()
    return Given(tmp_path / "a.shp", town.houses[::2], {"where": "art = 'Gebäude'"})


# Layers of nothing


@case
def an_empty_layer(town, tmp_path):
    return Given(layer(town, [], tmp_path / "a.gpkg"), refused="has no footprint")


@case
def an_empty_geojson(town, tmp_path):
    (tmp_path / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    return Given(tmp_path / "a.geojson", refused="has no footprint")


@case
def points_only(town, tmp_path):
    points = [house.centroid for house in town.houses]
    return Given(layer(town, points, tmp_path / "a.gpkg"), refused="but no polygon")


@case
def null_geometries_only(town, tmp_path):
    return Given(layer(town, [None, None], tmp_path / "a.gpkg"), refused="but no polygon")


@case
def a_table_without_geometries(town, tmp_path):
    pyogrio.write_dataframe(
        gpd.GeoDataFrame({"a": [1], "geometry": [None]}).drop(columns="geometry"),
        tmp_path / "a.gpkg",
    )
    return Given(tmp_path / "a.gpkg", refused="is a table without geometries")


@case
def a_csv_without_geometries(town, tmp_path):
    (tmp_path / "a.csv").write_text("id,name,area\n1,shed,20\n2,barn,90\n")
    return Given(tmp_path / "a.csv", refused="is a table without geometries")


@case
def a_spreadsheet(town, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    return Given(tmp_path / "a.xlsx", refused="cannot be read as a vector layer")


@case
def a_database_of_another_kind(town, tmp_path):
    with sqlite3.connect(tmp_path / "a.gpkg") as base:
        base.execute(f"PRAGMA application_id = {int.from_bytes(b'GPKG')}")
        base.execute("PRAGMA user_version = 10400")
        base.execute("CREATE TABLE houses (id INTEGER)")
    return Given(tmp_path / "a.gpkg", refused="a.gpkg")


@case
def an_empty_file(town, tmp_path):
    (tmp_path / "a.geojson").write_text("")
    return Given(tmp_path / "a.geojson", refused="cannot be read as a vector layer")


@case
def text_named_geojson(town, tmp_path):
    (tmp_path / "a.geojson").write_text("footprints of the old town")
    return Given(tmp_path / "a.geojson", refused="cannot be read as a vector layer")


@case
def a_geojson_cut_short(town, tmp_path):
    layer(town, town.houses, tmp_path / "a.geojson", crs=4326)
    whole = (tmp_path / "a.geojson").read_text()
    (tmp_path / "a.geojson").write_text(whole[: len(whole) // 2])
    return Given(tmp_path / "a.geojson", refused="cannot be read as a vector layer")


@case
def a_folder(town, tmp_path):
    (tmp_path / "labels").mkdir()
    return Given(tmp_path / "labels", refused="is a folder")


@case
def a_folder_of_shapefiles(town, tmp_path):
    (tmp_path / "labels").mkdir()
    layer(town, town.houses, tmp_path / "labels" / "houses.shp")
    return Given(tmp_path / "labels", town.houses)


@case
def a_file_that_is_not_there(town, tmp_path):
    return Given(tmp_path / "a.gpkg", refused="no such file")


@case
def parquet_without_geometries(town, tmp_path):
    gpd.pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    return Given(tmp_path / "a.parquet", refused="cannot be read as a vector layer")


# Places


@case
def no_crs(town, tmp_path):
    frame = gpd.GeoDataFrame(geometry=town.houses)
    with pytest.warns(UserWarning, match="crs"):
        frame.to_file(tmp_path / "a.gpkg")
    return Given(tmp_path / "a.gpkg", refused="has no coordinate reference system")


@case
def a_shapefile_without_prj(town, tmp_path):
    layer(town, town.houses, tmp_path / "a.shp")
    (tmp_path / "a.prj").unlink()
    return Given(tmp_path / "a.shp", refused="has no coordinate reference system")


@case
def web_mercator(town, tmp_path):
    return Given(layer(town, town.houses, tmp_path / "a.gpkg", crs=3857), town.houses)


@case
def degrees(town, tmp_path):
    return Given(layer(town, town.houses, tmp_path / "a.geojson", crs=4326), town.houses)


@case
def wholly_outside(town, tmp_path):
    moved = [shapely.affinity.translate(house, 5000, 0) for house in town.houses]
    return Given(layer(town, moved, tmp_path / "a.gpkg"), refused="outside all scenes")


@case
def metres_in_a_geojson_of_degrees(town, tmp_path):
    features = [
        {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(house)}
        for house in town.houses
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (tmp_path / "a.geojson").write_text(text)
    return Given(tmp_path / "a.geojson", refused="are outside the range of its CRS, WGS 84")


@case
def latitude_before_longitude(town, tmp_path):
    frame = gpd.GeoSeries(town.houses, crs=town.crs).to_crs(4326)
    swapped = shapely.transform(frame.array, lambda xy: xy[:, ::-1])
    gpd.GeoSeries(swapped, crs=4326).to_file(tmp_path / "a.geojson")
    return Given(tmp_path / "a.geojson", refused="latitude and longitude are swapped")


@case
def partly_outside(town, tmp_path):
    moved = [shapely.affinity.translate(house, 5000, 0) for house in town.houses]
    return Given(layer(town, [*moved, *town.houses], tmp_path / "a.gpkg"), town.houses)


# Geometries


@case
def mixed_geometry_types(town, tmp_path):
    first, second, third, *others = town.houses
    shapes = [
        first, MultiPolygon([second, third]), first.centroid, LineString(first.exterior.coords),
        GeometryCollection([*others, Point(0, 0)]),
    ]  # fmt: skip
    return Given(layer(town, shapes, tmp_path / "a.gpkg"), town.houses)


@case
def a_bow_tie(town, tmp_path):
    left, bottom, right, top = box_inside(town)
    crossed = Polygon([(left, bottom), (right, top), (right, bottom), (left, top)])
    middle = ((left + right) / 2, (bottom + top) / 2)
    triangles = [
        Polygon([(left, bottom), middle, (left, top)]),
        Polygon([(right, bottom), middle, (right, top)]),
    ]
    return Given(layer(town, [crossed], tmp_path / "a.gpkg"), triangles)


@case
def three_dimensions(town, tmp_path):
    solid = list(shapely.force_3d(town.houses, 12.5))
    return Given(layer(town, solid, tmp_path / "a.gpkg"), town.houses)


@case
def three_dimensions_in_a_shapefile(town, tmp_path):
    solid = list(shapely.force_3d(town.houses, 12.5))
    return Given(layer(town, solid, tmp_path / "a.shp"), town.houses)


@case
def null_and_empty_geometries(town, tmp_path):
    shapes = [None, Polygon(), *town.houses, MultiPolygon(), None]
    return Given(layer(town, shapes, tmp_path / "a.gpkg"), town.houses)


@case
def a_ring_of_two_points(town, tmp_path):
    (left, bottom, right, top) = box_inside(town)
    line = Polygon([(left, bottom), (right, top), (left, bottom), (left, bottom)])
    return Given(layer(town, [line, *town.houses], tmp_path / "a.gpkg"), town.houses)


@case
def rings_that_are_not_closed(town, tmp_path):
    frame = gpd.GeoSeries(town.houses, crs=town.crs).to_crs(4326)
    shapes = [shapely.geometry.mapping(house) for house in frame]
    for shape in shapes:
        shape["coordinates"] = [ring[:-1] for ring in shape["coordinates"]]
    features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (tmp_path / "a.geojson").write_text(text)
    return Given(tmp_path / "a.geojson", town.houses)


@case
def coordinates_that_are_huge(town, tmp_path):
    return Given(
        layer(town, [box(-1e300, -1e300, 1e300, -1e299), *town.houses], tmp_path / "a.gpkg"),
        town.houses,
    )


@case
def a_polygon_from_here_to_1e300(town, tmp_path):
    left, bottom, _, top = box_inside(town)
    shapes = [box(left, bottom, 1e300, top), *town.houses]
    return Given(layer(town, shapes, tmp_path / "a.gpkg"), town.houses)


@case
def huge_degrees(town, tmp_path):
    frame = gpd.GeoSeries([*town.houses], crs=town.crs).to_crs(4326)
    shapes = [box(-1e300, -1e300, 1e300, 1e300), box(170, 95, 500, 99), *frame]
    gpd.GeoSeries(shapes, crs=4326).to_file(tmp_path / "a.gpkg")
    return Given(tmp_path / "a.gpkg", town.houses)


@case
def infinite_coordinates(town, tmp_path):
    shapes = [no_place(np.inf), *town.houses]
    return Given(layer(town, shapes, tmp_path / "a.gpkg"), town.houses)


@case
def coordinates_that_are_no_numbers(town, tmp_path):
    shapes = [no_place(np.nan), *town.houses]
    return Given(layer(town, shapes, tmp_path / "a.gpkg"), town.houses)


@case
def nothing_but_infinite_coordinates(town, tmp_path):
    return Given(
        layer(town, [no_place(np.inf)], tmp_path / "a.gpkg"),
        refused="has 1 feature, but no polygon",
    )


@case
def nothing_but_huge_coordinates(town, tmp_path):
    shapes = [box(1e299, 1e299, 1e300, 1e300)]
    return Given(layer(town, shapes, tmp_path / "a.gpkg"), refused="has 1 feature, but no polygon")


@case
def curves(town, tmp_path):
    left, bottom, right, top = box_inside(town)
    # No pixel's centre is between the circle and the chords that GDAL draws for it.
    x, y, radius = (left + right) / 2, (bottom + top) / 2, 14.1
    write_curve(tmp_path / "a.gpkg", town, x, y, radius)
    return Given(tmp_path / "a.gpkg", [Point(x, y).buffer(radius, quad_segs=64)])


# Files


@case
def a_zipped_shapefile(town, tmp_path):
    layer(town, town.houses, tmp_path / "a.shp")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for suffix in (".shp", ".shx", ".dbf", ".prj"):
            archive.write(tmp_path / f"a{suffix}", f"deep/a{suffix}")
    return Given(tmp_path / "a.zip", town.houses)


@case
def a_zip_of_something_else(town, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    return Given(tmp_path / "a.zip", refused="a.zip")


@case
def a_zip_of_several_files(town, tmp_path):
    layer(town, town.houses, tmp_path / "a.gpkg")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for place in ("east/a.gpkg", "west/a.gpkg"):
            archive.write(tmp_path / "a.gpkg", place)
    refused = "has several vector files (east/a.gpkg, west/a.gpkg)"
    return Given(tmp_path / "a.zip", refused=refused)


@case
def a_zip_made_on_a_mac(town, tmp_path):
    layer(town, town.houses, tmp_path / "a.gpkg")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.gpkg", "houses/a.gpkg")
        archive.writestr("__MACOSX/houses/._a.gpkg", "resource fork")
    return Given(tmp_path / "a.zip", town.houses)


@case
def a_shapefile_without_shx(town, tmp_path):
    layer(town, town.houses, tmp_path / "a.shp")
    (tmp_path / "a.shx").unlink()
    return Given(tmp_path / "a.shp", refused="a.shx, the Shapefile")


@case
def a_shapefile_without_dbf(town, tmp_path):
    layer(town, town.houses, tmp_path / "a.shp")
    (tmp_path / "a.dbf").unlink()
    return Given(tmp_path / "a.shp", town.houses)


@case
def several_layers(town, tmp_path):
    path = tmp_path / "a.gpkg"
    gpd.GeoDataFrame(geometry=[Point(0, 0)], crs=town.crs).to_file(path, layer="wells")
    gpd.GeoDataFrame(geometry=town.houses, crs=town.crs).to_file(path, layer="houses")
    return Given(path, town.houses)


@case
def the_layer_asked_for(town, tmp_path):
    path = tmp_path / "a.gpkg"
    for name, houses in (("old", town.houses[:2]), ("new", town.houses[2:])):
        gpd.GeoDataFrame(geometry=houses, crs=town.crs).to_file(path, layer=name)
    return Given(path, town.houses[2:], {"layer": "new"})


@case
def a_layer_that_is_not_there(town, tmp_path):
    path = layer(town, town.houses, tmp_path / "a.gpkg")
    return Given(path, options={"layer": "roofs"}, refused="has no layer 'roofs'; its layers are a")


# Attributes


@case
def columns_with_awkward_names(town, tmp_path):
    names = {
        "id": 1,
        "fid": [5 + i for i in range(len(town.houses))],
        "value": 7,
        "ID ": 2,
        "geom": 3,
    }
    columns = {n: v if isinstance(v, list) else [v] * len(town.houses) for n, v in names.items()}
    frame = gpd.GeoDataFrame(columns, geometry=town.houses, crs=town.crs).to_crs(4326)
    frame.to_file(tmp_path / "a.geojson")
    return Given(tmp_path / "a.geojson", town.houses)


@case
def columns_of_one_name(town, tmp_path):
    (tmp_path / "a.csv").write_text(
        "\n".join(["id,id,WKT", *(f'1,2,"{house.wkt}"' for house in town.houses)])
    )
    return Given(tmp_path / "a.csv", refused="has no coordinate reference system")


@case
def one_id_for_all(town, tmp_path):
    frame = gpd.GeoSeries(town.houses, crs=town.crs).to_crs(4326)
    features = [
        {"type": "Feature", "id": 1, "properties": {"id": 1, "a": i, "a ": 2}, "geometry": shape}
        for i, shape in enumerate(map(shapely.geometry.mapping, frame))
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (tmp_path / "a.geojson").write_text(text)
    return Given(tmp_path / "a.geojson", town.houses)


@case
def a_filter(town, tmp_path):
    kinds = ["house", "shed"] * len(town.houses)
    path = layer(town, town.houses, tmp_path / "a.gpkg", kind=kinds[: len(town.houses)])
    return Given(path, town.houses[::2], {"where": "kind == 'house'"})


@case
def a_filter_on_no_attribute(town, tmp_path):
    path = layer(town, town.houses, tmp_path / "a.gpkg", kind=["house"] * len(town.houses))
    return Given(
        path, options={"where": "type = 'house'"}, refused="does not match; the attributes are kind"
    )


@case
def a_filter_that_is_no_filter(town, tmp_path):
    path = layer(town, town.houses, tmp_path / "a.gpkg", kind=["house"] * len(town.houses))
    return Given(path, options={"where": "kind = 'house"}, refused="does not match")


@case
def a_filter_that_leaves_nothing(town, tmp_path):
    path = layer(town, town.houses, tmp_path / "a.gpkg", kind=["house"] * len(town.houses))
    return Given(path, options={"where": "kind = 'barn'"}, refused="has no footprint where")


@case
def classes_by_no_attribute(town, tmp_path):
    path = layer(town, town.houses, tmp_path / "a.gpkg", kind=["house"] * len(town.houses))
    classes = ClassOptions(attribute="type", values={"house": ("house",)})
    return Given(path, options={"classes": classes}, refused="has no attribute type")


@case
def classes_by_values_that_are_not_there(town, tmp_path):
    path = layer(town, town.houses, tmp_path / "a.gpkg", kind=["house"] * len(town.houses))
    classes = ClassOptions(attribute="kind", values={"house": ("house",), "barn": ("barn",)})
    return Given(path, options={"classes": classes}, refused="class barn has no pixel in any tile")


@case
def classes_of_null(town, tmp_path):
    kinds = [None, *["house"] * (len(town.houses) - 1)]
    path = layer(town, town.houses, tmp_path / "a.gpkg", kind=kinds)
    classes = ClassOptions(attribute="kind", values={"house": ("house",)})
    return Given(path, town.houses[1:], {"classes": classes})


def box_inside(town):
    """(left, bottom, right, top) in the middle of the scene."""
    with rasterio.open(town.path) as scene:
        left, bottom, right, top = scene.bounds
    width, height = right - left, top - bottom
    return left + 0.3 * width, bottom + 0.3 * height, right - 0.3 * width, top - 0.3 * height


def no_place(number):
    """A triangle with a corner that does not exist."""
    with np.errstate(invalid="ignore"):
        return Polygon([(0, 0), (number, 0), (1, 1), (0, 0)])


def write_curve(path, town, x, y, radius):
    """Writes a circle as GDAL has it, not shapely: a polygon of arcs."""
    points = [(x - radius, y), (x, y + radius), (x + radius, y), (x, y - radius), (x - radius, y)]
    arc = struct.pack("<BII", 1, 8, len(points)) + np.array(points).tobytes()
    pyogrio.raw.write(
        path, np.array([struct.pack("<BII", 1, 10, 1) + arc], object), field_data=[], fields=[],
        geometry_type="Unknown", crs=town.crs, driver="GPKG",
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_burnt_right_or_refused_with_a_reason(town, tmp_path, give_to_tile, name):
    given = CASES[name](town, tmp_path)
    options = {"size": 32, "overlap": 0, "fractions": (1, 0, 0)} | given.options
    outcome = give_to_tile([town.path], given.path, about={"file": name}, **options)
    assert outcome.refused == bool(given.refused), outcome.message
    if given.refused:
        assert given.refused in outcome.message
        assert str(given.path) in outcome.message
    else:
        check_burnt(outcome.folder, given.burnt)


# The antimeridian


def split_at_180(polygon):
    """As RFC 7946 has it: two parts, of which one is at -180."""
    east = polygon.intersection(box(0, -90, 180, 90))
    west = shapely.transform(polygon.intersection(box(180, -90, 360, 90)), turn(-360))
    return MultiPolygon([part for part in (east, west) if part.area > 0])


def wrap_at_180(polygon):
    """As a plain change of CRS leaves it: from 179.9 to -179.9, the long way round."""
    return shapely.transform(polygon, lambda xy: xy - (xy[:, :1] > 180) * [360, 0])


def go_on_past_180(polygon):
    return polygon


def turn(degrees):
    return lambda xy: xy + np.array([degrees, 0])


@pytest.mark.parametrize("write", [split_at_180, wrap_at_180, go_on_past_180])
@pytest.mark.parametrize("crs", ["EPSG:32660", "EPSG:4326"])
def test_footprints_across_the_antimeridian(make_scene, tmp_path, give_to_tile, crs, write):
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(180 - 4e-4, 20)
    made = make_scene(crs=crs, origin=(x, y), gsd=5e-6 if crs == "EPSG:4326" else 0.5)
    degrees = gpd.GeoSeries(made.polygons, crs=crs).to_crs(4326)
    around = shapely.transform(degrees.array, lambda xy: xy + (xy[:, :1] < 0) * [360, 0])
    bounds = shapely.bounds(around)
    assert ((bounds[:, 0] < 180) & (bounds[:, 2] > 180)).any()
    labels = tmp_path / "across.gpkg"
    gpd.GeoSeries([write(shape) for shape in around], crs=4326).to_file(labels)
    about = {"file": f"{write.__name__.replace('_', ' ')}, scene in {crs}"}
    options = {"size": 32, "overlap": 0, "fractions": (1, 0, 0)}
    outcome = give_to_tile([made.path], labels, about=about, **options)
    assert not outcome.refused, outcome.message
    check_burnt(outcome.folder, made.polygons)
    ground = gpd.read_file(outcome.folder / "train.geojson")
    west, south, east, north = ground.total_bounds
    assert (west, east) == (-180, 180)
    assert 19.99 < south < north < 20.01
