"""Every feature of a file of labels is in one of the counts that `tile` prints."""

import re

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from conftest import write_scene
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from geoseg.data.labels import sources
from geoseg.data.tiles import plan_tiles
from geoseg.options import ClassOptions, TileOptions

FORMATS = ["gpkg", "shp", "geojson", "fgb", "parquet"]

# Values of an attribute, by the type of its column. Two spellings of ü are the same text.
VALUES = {
    "text": ["Gebäude", "Müll", "Mu\u0308ll", "yes", "01", "1", ""],
    "non-latin": ["здание", "house", "建物"],
    "integer": [0, 1, 7],
    "real": [0.5, 1.0, -3.25],
    "boolean": [True, False],
}
CLASSES = {"building": ["Gebäude", "Müll", "здание", "1", "0.5", "true"]}


def place(kind, x, y):
    """A geometry of some kind near a point, in metres."""
    square = box(x, y, x + 4, y + 4)
    return {
        "polygon": square,
        "courtyard": square - box(x + 1, y + 1, x + 2, y + 3),
        "several": MultiPolygon([square, box(x + 5, y, x + 7, y + 4)]),
        "bow tie": Polygon([(x, y), (x + 4, y + 4), (x + 4, y), (x, y + 4)]),
        "high": shapely.force_3d(square, 100.0),
        "far": shapely.affinity.translate(square, 40_000, 9_000),
        "point": Point(x, y),
        "line": LineString([(x, y), (x + 4, y + 2)]),
        "collection": shapely.GeometryCollection([Point(x, y), square]),
        "empty": Polygon(),
        "nothing": None,
    }[kind]


KINDS = ["polygon", "courtyard", "several", "bow tie", "high", "far", "point", "line",
         "collection", "empty", "nothing"]  # fmt: skip
INSIDE = {"polygon", "courtyard", "several", "bow tie", "high", "collection"}
UNSUPPORTED = {  # what a format cannot store
    "shp": {"point", "line", "collection", "empty", "high"},
    "fgb": {"nothing", "empty", "high"},
}


@st.composite
def layers(draw):
    suffix = draw(st.sampled_from(FORMATS))
    column = draw(st.sampled_from(sorted(VALUES)))
    kinds = [kind for kind in KINDS if kind not in UNSUPPORTED.get(suffix, ())]
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=0, max_size=12))
    encoding = draw(st.sampled_from(["utf-8", "cp1252", "cp1252 without .cpg"]))
    if column == "non-latin":
        encoding = "utf-8"
    known = VALUES[column]
    if encoding != "utf-8":  # cp1252 has no combining diaeresis
        known = [value for value in known if value != "Mu\u0308ll"]
    values = draw(
        st.lists(
            st.sampled_from([*known, None]),
            min_size=len(chosen) + 1, max_size=len(chosen) + 1,
        )
    )  # fmt: skip
    crs = draw(st.sampled_from([None, 4326, 3857, 32644, 3035]))
    return suffix, encoding, ["polygon", *chosen], values, crs, draw(st.booleans())


def write_layer(path, frame, encoding):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".shp":
        name, _, without = encoding.partition(" ")
        frame.to_file(path, encoding=name)
        if without:
            path.with_suffix(".cpg").unlink()
    else:
        frame.to_file(path)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene"), "scene")


@given(layers())
@settings(max_examples=40, deadline=None)
def test_the_counts_add_up_to_the_features_of_the_file(scene, tmp_path_factory, layer):
    suffix, encoding, kinds, values, crs, by_window = layer
    left, bottom, right, top = scene.grid.bounds
    rows = np.arange(len(kinds))
    xs, ys = (
        left + 5 + rows * (right - left - 20) / 14,
        bottom + 5 + rows * (top - bottom - 12) / 14,
    )
    shapes = [place(kind, x, y) for kind, x, y in zip(kinds, xs, ys, strict=True)]
    frame = gpd.GeoDataFrame(
        {"kind": pd.Series(values, dtype=object).convert_dtypes()},
        geometry=gpd.GeoSeries(shapes, crs=scene.grid.crs.to_wkt()),
    )
    frame = frame.to_crs(crs) if crs else frame
    path = tmp_path_factory.mktemp("labels") / f"labels.{suffix}"
    write_layer(path, frame, encoding)
    options = TileOptions(
        size=32, gap=0,
        classes=ClassOptions(attribute="kind", values=CLASSES, background="ground"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        if by_window:
            patch.setattr(sources, "MAX_IN_MEMORY", 0)
        plan = plan_tiles([scene.path], path, options)
    (labels,), line = plan.labels, plan.describe()[0]
    inside = sum(kind in INSIDE for kind in kinds)
    assert len(labels) == inside
    assert labels.repaired == kinds.count("bow tie")
    assert labels.dropped + labels.elsewhere == len(kinds) - inside
    printed = {
        words: int(number)
        for number, words in re.findall(
            r"(\d+) (footprints|features that are not polygons|outside the scene|in no class)", line
        )
    }
    unclassed = printed.pop("in no class", 0)
    assert sum(printed.values()) == len(kinds)
    assert unclassed == sum(labels.unclassed.values())
    assert sum(map(int, re.findall(r": (\d+)[,)]", line.partition("in no class")[2]))) == unclassed
    texts = {"Gebäude", "Müll", "Mu\u0308ll", "здание", "1"}
    if all(isinstance(value, str) or value is None for value in values):
        known = [
            value in texts for kind, value in zip(kinds, values, strict=True) if kind in INSIDE
        ]
        assert unclassed == known.count(False)


def test_the_layer_that_is_read_is_named_once(scene, tmp_path, caplog):
    frame = gpd.GeoDataFrame(geometry=scene.polygons, crs=scene.grid.crs.to_wkt())
    for layer in ("houses", "sheds"):
        frame.to_file(tmp_path / "two.gpkg", layer=layer)
    plan_tiles([scene.path], tmp_path / "two.gpkg", TileOptions(size=32, gap=0))
    assert caplog.text.count("read layer houses of houses, sheds") == 1
