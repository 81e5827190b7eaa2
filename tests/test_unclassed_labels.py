"""No label is lost silently: those that belong to no class are counted and named."""

import geopandas as gpd
import pytest
from shapely.geometry import Point

from geoseg.data.labels import sources
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.errors import LabelError
from geoseg.options import ClassOptions, TileOptions


@pytest.fixture(params=["memory", "windows"])
def labels(request, make_scene, tmp_path, monkeypatch):
    """A scene, and a function that writes its labels with given kinds."""
    if request.param == "windows":
        monkeypatch.setattr(sources, "MAX_IN_MEMORY", 0)
    made = make_scene()

    def write(kinds, dropped=0):
        shapes = [*made.polygons, *[Point(made.polygons[0].centroid)] * dropped]
        repeated = [kinds[i % len(kinds)] for i in range(len(shapes))]
        frame = gpd.GeoDataFrame({"kind": repeated}, geometry=shapes, crs=made.grid.crs.to_wkt())
        frame.to_file(tmp_path / "kinds.gpkg")
        return made.path, tmp_path / "kinds.gpkg", repeated[: len(made.polygons)]

    return write


def options(values):
    return TileOptions(
        size=32, gap=0, classes=ClassOptions(attribute="kind", values=values, background="ground")
    )


def test_labels_of_no_class_are_counted_with_their_values(labels, caplog):
    scene, path, kinds = labels(["house", "house", "shed", None, "Barn"], dropped=3)
    plan = plan_tiles([scene], path, options({"building": ["house"]}))
    counts = {value: kinds.count(value) for value in ("shed", None, "Barn")}
    (one,) = plan.labels
    assert dict(one.unclassed) == {
        "shed": counts["shed"], "no value": counts[None], "Barn": counts["Barn"],
    }  # fmt: skip
    line = plan.describe()[0]
    number = sum(counts.values())
    assert f"{len(kinds)} footprints, 3 features that are not polygons, {number} in no cl" in line
    assert f"shed: {counts['shed']}" in line
    assert f"{number} of {len(kinds)} polygons belong to no class and are ignored" in caplog.text


def test_labels_that_all_have_a_class_are_not_mentioned(labels, caplog):
    scene, path, kinds = labels(["house", "shed"])
    plan = plan_tiles([scene], path, options({"building": ["house"], "other": ["shed"]}))
    assert plan.describe()[0].endswith(f"{len(kinds)} footprints")
    assert "belong to no class" not in caplog.text


def test_a_class_without_a_pixel_names_the_values_that_were_found(labels, tmp_path):
    scene, path, _ = labels(["House", "roof "])
    plan = plan_tiles([scene], path, options({"building": ["house"], "roof": ["rooof"]}))
    with pytest.raises(LabelError, match=r"class roof has no pixel .*; values of no class: roof "):
        tile_scenes(plan, tmp_path / "tiles")
