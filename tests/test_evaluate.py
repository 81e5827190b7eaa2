"""The evaluate verb: clipping, CRS, reports and the published SpaceNet scores."""

import csv
import json
import shutil
import sqlite3
from contextlib import closing
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
from affine import Affine
from conftest import REALDATA
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from shapely.affinity import translate
from shapely.geometry import Polygon, box

from geoseg.errors import (
    ConfigError,
    GridMismatchError,
    MissingCRSError,
    OutputExistsError,
    VectorReadError,
)
from geoseg.evaluation import evaluate_footprints as evaluate
from geoseg.evaluation import evaluate_layers, format_table
from geoseg.evaluation.average_precision import average_precision
from geoseg.evaluation.metrics import Score
from geoseg.evaluation.training_area import read_training_area, warn_of_training_pixels
from geoseg.geo.aoi import AOI
from geoseg.geo.grid import Grid
from geoseg.geo.raster import TRAINING_AREA_TAG, write_array
from geoseg.jobs.manifest import MANIFEST_NAME, write_manifest

SPACENET = REALDATA.parent / "fixtures" / "spacenet"

UTM = "EPSG:32645"
X, Y = 350_000.0, 3_050_000.0  # a point in UTM 45N

# Truth A to D. Footprints match A (IoU 0.8) and C (100/120), miss B (1/3) and D; one is false.
TRUTH = [(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10)]
PRED = [(0, 0, 10, 8), (25, 0, 35, 10), (40, 0, 52, 10), (80, 0, 90, 10)]


def layer(boxes, crs=UTM, **columns):
    shapes = [translate(box(*corners), X, Y) for corners in boxes]
    return gpd.GeoDataFrame(columns, geometry=gpd.GeoSeries(shapes, crs=UTM)).to_crs(crs)


@pytest.fixture
def files(tmp_path):
    """Paths of written footprints and truth."""
    layer(PRED, confidence=[0.9, 0.8, 0.7, 0.6]).to_file(tmp_path / "pred.gpkg")
    layer(TRUTH, label=[1, 1, 1, 2]).to_file(tmp_path / "truth.gpkg")
    return tmp_path / "pred.gpkg", tmp_path / "truth.gpkg"


def counts(report):
    return report.tp, report.fp, report.fn


# Layers


def test_hand_computed_layers():
    evaluation = evaluate_layers(layer(PRED), layer(TRUTH))
    assert evaluation.score == Score(tp=2, fp=2, fn=2)
    assert evaluation.mean_iou == pytest.approx((0.8 + 5 / 6) / 2)
    area = evaluation.area  # 80 + 50 + 100 of 400 each
    assert (area.tp, area.fp, area.fn) == pytest.approx((230, 170, 170))


def test_buildings_are_clipped_to_the_area_of_interest():
    # The edge at x = 25 leaves the left half of B, and only a line of the footprint over it.
    aoi = translate(box(-5, -5, 25, 15), X, Y)
    evaluation = evaluate_layers(layer(PRED), layer(TRUTH), aoi=AOI((aoi,)))
    assert evaluation.score == Score(tp=1, fp=0, fn=1)
    assert evaluation.truth.area.tolist() == pytest.approx([100, 50])
    assert (evaluation.area.tp, evaluation.area.fn) == pytest.approx((80, 70))


def test_a_building_that_only_touches_the_area_of_interest_is_outside():
    aoi = translate(box(-5, -5, 20 + 1e-8, 15), X, Y)  # inside B by a rounding error
    assert evaluate_layers(layer(PRED), layer(TRUTH), aoi=AOI((aoi,))).score == Score(1, 0, 0)


def test_clipping_can_turn_a_miss_into_a_match():
    aoi = translate(box(25, -5, 30, 15), X, Y)
    evaluation = evaluate_layers(layer(PRED), layer(TRUTH), aoi=AOI((aoi,)))
    assert evaluation.score == Score(1, 0, 0)
    assert evaluation.mean_iou == pytest.approx(1.0)


def test_a_building_divided_by_the_area_of_interest_stays_one():
    aoi = translate(box(0, -5, 3, 15).union(box(7, -5, 10, 15)), X, Y)
    evaluation = evaluate_layers(layer(TRUTH[:1]), layer(TRUTH[:1]), aoi=AOI((aoi,)))
    assert evaluation.score == Score(1, 0, 0)
    assert evaluation.pred.area.tolist() == pytest.approx([60])


def test_without_overlap_nothing_matches():
    far = layer([(900, 900, 910, 912)])
    assert evaluate_layers(far, layer(TRUTH)).score == Score(0, 1, 4)
    assert evaluate_layers(far.iloc[:0], layer(TRUTH)).score == Score(0, 0, 4)
    assert evaluate_layers(far.iloc[:0], far.iloc[:0]).score == Score(0, 0, 0)


def test_proposals_are_matched_in_order_of_confidence():
    truth = layer([(0, 0, 10, 10)])
    for confidence, match in (([0.2, 0.9], 1), ([0.9, 0.2], 0), (["0.2", "0.9"], 1)):
        pred = layer([(0, 0, 10, 9), (0, 0, 10, 7)], confidence=confidence)
        assert evaluate_layers(pred, truth).matches.truth_match.tolist() == [match]


def test_minimum_area_is_geodesic():
    # 10 m x 10 m at 27.6 degrees north measure 127 m2 in Web Mercator.
    square, tiny = (0, 0, 10, 10), (30, 0, 39, 10)
    for crs in (UTM, 3857, 4326):
        pred, truth = layer([square, tiny], crs), layer([square, tiny], crs)
        assert evaluate_layers(pred, truth, min_area_m2=95).score == Score(1, 0, 0)
        assert evaluate_layers(pred, truth, min_area_m2=110).score == Score(0, 0, 0)


def test_layers_in_two_crs_are_refused():
    with pytest.raises(GridMismatchError, match="to_crs"):
        evaluate_layers(layer(PRED), layer(TRUTH, 4326))


def test_metres_in_a_geographic_crs_are_refused():
    wrong = layer(PRED).set_crs(4326, allow_override=True)
    with pytest.raises(GridMismatchError, match=r"not valid in WGS 84.*a_srs"):
        evaluate_layers(wrong, wrong, min_area_m2=1)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=8))
def test_a_perfect_layer_scores_one(sizes):
    perfect = layer([(12 * i, 0, 12 * i + w, h) for i, (w, h) in enumerate(sizes)])
    evaluation = evaluate_layers(perfect[::-1], perfect)
    assert evaluation.score == Score(len(sizes), 0, 0)
    assert evaluation.area.iou == pytest.approx(1.0)


# Files


@pytest.mark.parametrize("pred_crs", [UTM, 4326, 3857, 32644])
@pytest.mark.parametrize("truth_crs", [UTM, 4326, 3857])
def test_scores_do_not_depend_on_the_crs_of_either_layer(tmp_path, pred_crs, truth_crs):
    layer(PRED, pred_crs).to_file(tmp_path / "pred.gpkg")
    layer(TRUTH, truth_crs).to_file(tmp_path / "truth.gpkg")
    report = evaluate(tmp_path / "pred.gpkg", tmp_path / "truth.gpkg", tmp_path / "report")
    assert counts(report) == (2, 2, 2)
    assert report.iou_pixel == pytest.approx(230 / 570, abs=1e-5)
    assert report.mean_iou == pytest.approx((0.8 + 5 / 6) / 2, abs=1e-5)
    matched = gpd.read_file(tmp_path / "report" / "report.gpkg", layer="TP")
    assert matched.crs == truth_crs
    assert matched.to_crs(UTM).area.tolist() == pytest.approx([80, 120], abs=1e-2)


def test_layers_in_degrees_are_compared_by_true_area(tmp_path):
    shapes = [box(10, 0, 10.001, 0.001), box(10, 60, 10.001, 60.001)]
    truth = gpd.GeoDataFrame(geometry=shapes, crs=4326)
    truth.to_file(tmp_path / "truth.gpkg")
    truth[:1].to_file(tmp_path / "pred.gpkg")
    report = evaluate(tmp_path / "pred.gpkg", tmp_path / "truth.gpkg")
    # At 60 degrees north a degree of longitude is half as long.
    assert report.recall_pixel == pytest.approx(2 / 3, abs=5e-3)
    assert report.recall == 0.5


def test_report_json_holds_the_report(files, tmp_path):
    report = evaluate(*files, tmp_path / "report", min_area_m2=5, where="label < 3")
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert [written[key] for key in ("tp", "fp", "fn")] == [2, 2, 2]
    rates = ("precision", "recall", "f1", "precision_pixel", "recall_pixel", "f1_pixel")
    assert [written[key] for key in rates] == pytest.approx([0.5] * 3 + [0.575] * 3)
    assert written["iou_pixel"] == pytest.approx(230 / 570)
    assert written["mean_iou"] == pytest.approx((0.8 + 5 / 6) / 2)
    assert (written["threshold"], written["min_area_m2"]) == (0.5, 5.0)
    assert (written["footprints"], written["truth"]) == tuple(map(str, files))
    assert (written["aoi"], written["where"]) == (None, "label < 3")


def test_report_layers_contain_each_building_once(files, tmp_path):
    report = evaluate(*files, tmp_path / "report")
    layers = {
        name: gpd.read_file(tmp_path / "report" / "report.gpkg", layer=name)
        for name in ("TP", "FP", "FN")
    }
    assert {name: len(frame) for name, frame in layers.items()} == {"TP": 2, "FP": 2, "FN": 2}
    assert len(layers["TP"]) + len(layers["FP"]) == len(PRED) == report.tp + report.fp
    matched = layers["TP"]
    assert matched["confidence"].tolist() == [0.9, 0.7]
    assert matched["iou"].tolist() == pytest.approx([0.8, 5 / 6])
    assert matched["id"].tolist() == [1, 3]  # a GeoPackage numbers its features from 1
    assert matched["truth_id"].tolist() == [1, 3]
    assert layers["FP"]["id"].tolist() == [2, 4]
    assert layers["FP"]["iou"].tolist() == pytest.approx([1 / 3, 0])
    assert layers["FN"]["truth_id"].tolist() == [2, 4]
    assert layers["FN"].area.tolist() == pytest.approx([100, 100])


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".fgb", ".geojson", ".parquet"])
def test_the_report_names_footprints_as_their_files_do(tmp_path, suffix):
    pred = layer(PRED, id=[70, 80, 90, 100], confidence=0.9)
    truth = layer(TRUTH, id=[5, 5, 6, 7], OSM_ID=["w1", "w2", "w3", "w4"], label=[2, 2, 1, 1])
    bare = layer(TRUTH, label=[2, 2, 1, 1])
    files = [tmp_path / f"{name}{suffix}" for name in ("pred", "truth", "bare")]
    for frame, file in zip((pred, truth, bare), files, strict=True):
        in_order = {"SPATIAL_INDEX": "NO"} if suffix == ".fgb" else {}
        frame.to_parquet(file) if suffix == ".parquet" else frame.to_file(file, **in_order)

    def ids(path, **options):
        evaluate(files[0], path, tmp_path / path.stem, **options)
        report = tmp_path / path.stem / "report.gpkg"
        layers = {name: gpd.read_file(report, layer=name) for name in ("TP", "FP", "FN")}
        assert layers["TP"]["id"].tolist() == [70, 90][-len(layers["TP"]) :]
        return layers["TP"]["truth_id"].tolist(), layers["FN"]["truth_id"].tolist()

    assert ids(files[1]) == (["w1", "w3"], ["w2", "w4"])  # `id` is not unique there
    first = 1 if suffix == ".gpkg" else 0
    assert ids(files[2], where="label = 1") == ([first + 2], [first + 3])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}], [0, 1, 2, 3]),
        ([[1], [2], [3], [4]], [0, 1, 2, 3]),
        ([1e20, 2e20, 3e20, 4e20], ["1e+20", "2e+20", "3e+20", "4e+20"]),
        ([7.0, -2.0, 2.0**53 - 1, 0.0], [7, -2, 2**53 - 1, 0]),
        ([7.5, 1.0, 2.0, 3.0], ["7.5", "1.0", "2.0", "3.0"]),
        (np.array([2**63 + 5, 1, 2, 3], np.uint64), [str(2**63 + 5), "1", "2", "3"]),
        (np.array([2**63 - 1, 1, 2, 3], np.uint64), [2**63 - 1, 1, 2, 3]),
        (np.array([-(2**63), 2**63 - 1, 2, 3]), [-(2**63), 2**63 - 1, 2, 3]),
    ],
)
def test_identifiers_of_any_type_are_kept_or_passed_over(tmp_path, values, expected):
    files = [tmp_path / "pred.gpkg", tmp_path / "truth.parquet"]
    layer(PRED).to_file(files[0])
    layer(TRUTH, id=values).to_parquet(files[1])
    evaluate(*files, tmp_path / "report")
    parts = [
        gpd.read_file(tmp_path / "report" / "report.gpkg", layer=name) for name in ("TP", "FN")
    ]
    found = [one for part in parts for one in part["truth_id"].tolist()]
    assert found == [expected[number] for number in (0, 2, 1, 3)]


def test_an_identifier_of_true_and_false_is_passed_over(tmp_path):
    files = [tmp_path / "pred.gpkg", tmp_path / "truth.parquet"]
    layer(PRED[:1]).to_file(files[0])
    layer(TRUTH[:2], id=[True, False], gid=["a", "b"]).to_parquet(files[1])
    evaluate(*files, tmp_path / "report")
    found = gpd.read_file(tmp_path / "report" / "report.gpkg", layer="TP")
    assert found["truth_id"].tolist() == ["a"]


def test_the_report_is_a_geopackage_that_old_programs_read(files, tmp_path):
    evaluate(*files, tmp_path / "report")
    path = tmp_path / "report" / "report.gpkg"
    with closing(sqlite3.connect(path)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        styles = dict(database.execute("SELECT f_table_name, styleQML FROM layer_styles"))
        columns = database.execute("SELECT table_name, column_name, name FROM gpkg_data_columns")
        named = {row[:2]: row[2] for row in columns}
    assert version == 10200
    rules = {name: ElementTree.fromstring(qml).find(".//rule") for name, qml in styles.items()}
    assert {name: rule.get("label") for name, rule in rules.items()} == {
        "TP": "true positive: found", "FP": "false positive: not in the truth",
        "FN": "false negative: missed",
    }  # fmt: skip
    assert named["TP", "truth_id"] == "True footprint"
    assert named["FN", "iou"] == "IoU"


def test_all_three_layers_exist_even_when_empty(files, tmp_path):
    evaluate(files[1], files[1], tmp_path / "report")
    path = tmp_path / "report" / "report.gpkg"
    assert sorted(pyogrio.list_layers(path)[:, 0]) == ["FN", "FP", "TP", "layer_styles"]
    assert len(gpd.read_file(path, layer="FN")) == 0
    assert gpd.read_file(path, layer="FP").crs == UTM


def test_empty_prediction_is_scored(files, tmp_path):
    empty = tmp_path / "none.gpkg"
    pyogrio.write_dataframe(layer(PRED).iloc[:0], empty, geometry_type="Polygon")
    report = evaluate(empty, files[1], tmp_path / "report")
    assert counts(report) == (0, 0, 4)
    assert (report.precision, report.recall, report.f1, report.mean_iou) == (0, 0, 0, 0)
    assert len(gpd.read_file(tmp_path / "report" / "report.gpkg", layer="FN")) == 4


@pytest.mark.parametrize("shift", [110, 300, 900])
def test_footprints_that_are_all_wrong_score_0(files, tmp_path, caplog, shift):
    """Every footprint is a false alarm and every roof is missed, in one village."""
    moved = layer([(a + shift, b, c + shift, d) for a, b, c, d in PRED])
    moved.to_file(tmp_path / "moved.gpkg")
    report = evaluate(tmp_path / "moved.gpkg", files[1])
    assert counts(report) == (0, 4, 4)
    assert (report.f1, report.iou_pixel) == (0, 0)
    assert "4 of 4 buildings" in caplog.text


@pytest.mark.parametrize("shift", [2_000, 200_000])
def test_layers_that_are_far_apart_are_refused(files, tmp_path, shift):
    moved = layer([(a + shift, b, c + shift, d) for a, b, c, d in PRED])
    moved.to_file(tmp_path / "moved.gpkg")
    with pytest.raises(GridMismatchError, match="do not overlap and are far apart"):
        evaluate(tmp_path / "moved.gpkg", files[1])


def test_where_filters_the_truth_only(files):
    assert counts(evaluate(*files, where="label = 1")) == (2, 2, 1)


def test_threshold_can_be_chosen(files):
    assert counts(evaluate(*files, threshold=0.3)) == (3, 1, 1)
    assert counts(evaluate(*files, threshold=0.82)) == (1, 3, 3)


def test_area_of_interest_from_a_file_in_degrees(files, tmp_path):
    layer([(-5, -5, 25, 15), (79, -5, 95, 15)], 4326).to_file(tmp_path / "aoi.geojson")
    report = evaluate(*files, tmp_path / "report", aoi=tmp_path / "aoi.geojson", min_area_m2=0.1)
    assert counts(report) == (1, 1, 1)
    assert report.aoi == str(tmp_path / "aoi.geojson")
    missed = gpd.read_file(tmp_path / "report" / "report.gpkg", layer="FN")
    assert missed.area.tolist() == pytest.approx([50], abs=0.1)


def test_an_area_of_interest_elsewhere_is_an_error(files, tmp_path):
    layer([(500, 500, 600, 620)]).to_file(tmp_path / "aoi.gpkg")
    with pytest.raises(GridMismatchError, match="intersects neither"):
        evaluate(*files, tmp_path / "report", aoi=tmp_path / "aoi.gpkg")
    assert not (tmp_path / "report").exists()


def test_existing_report_is_kept_without_overwrite(files, tmp_path):
    evaluate(*files, tmp_path / "report")
    before = (tmp_path / "report" / "report.json").read_bytes()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        evaluate(*files, tmp_path / "report", threshold=0.3)
    with pytest.raises(VectorReadError):
        evaluate(*files, tmp_path / "report", where="nonsense = 1", overwrite=True)
    assert (tmp_path / "report" / "report.json").read_bytes() == before
    evaluate(*files, tmp_path / "report", threshold=0.3, overwrite=True)
    assert json.loads((tmp_path / "report" / "report.json").read_text())["tp"] == 3
    written = {p.name for p in (tmp_path / "report").iterdir()}
    assert written == {"report.gpkg", "report.json", MANIFEST_NAME}


def test_a_file_in_place_of_the_folder_is_an_error(files):
    with pytest.raises(ConfigError, match="give a folder for the report"):
        evaluate(*files, files[0], overwrite=True)
    blocker = files[0].with_name("report")
    blocker.write_text("a file")
    with pytest.raises(OutputExistsError, match="is a file, but a folder is written"):
        evaluate(*files, blocker, overwrite=True)


def test_a_folder_with_the_inputs_is_not_replaced(files):
    with pytest.raises(OutputExistsError, match="contains the input"):
        evaluate(*files, files[0].parent, overwrite=True)
    assert files[0].is_file()


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"threshold": -0.1}, {"min_area_m2": -1}])
def test_options_out_of_range_are_refused(files, options):
    with pytest.raises(ConfigError):
        evaluate(*files, **options)


def test_a_layer_without_crs_is_an_error(files, tmp_path):
    layer(PRED).to_file(tmp_path / "nowhere.shp")
    (tmp_path / "nowhere.prj").unlink()
    with pytest.raises(MissingCRSError, match=r"nowhere\.shp"):
        evaluate(tmp_path / "nowhere.shp", files[1])


def test_the_table_shows_counts_and_rates(files):
    lines = format_table(evaluate(*files)).splitlines()
    assert lines[0].split() == ["TP", "FP", "FN", "precision", "recall", "F1"]
    assert lines[1].split() == ["buildings", *"222", "0.5000", "0.5000", "0.5000"]
    assert lines[2].split() == ["pixels", "0.5750", "0.5750", "0.5750"]
    assert lines[3] == "mean IoU of matched footprints 0.8167, pixel IoU 0.4035"
    assert lines[4].startswith("average precision at IoU 0.5")
    assert len(lines) == 5
    assert len({len(line) for line in lines[:3]}) == 1


def test_footprints_cut_by_the_area_of_interest_are_counted(files, tmp_path):
    # The edge at x = 25 leaves half of B; the footprint over it has only a line inside.
    gpd.GeoDataFrame(geometry=[translate(box(-5, -5, 25, 15), X, Y)], crs=UTM).to_file(
        tmp_path / "aoi.gpkg"
    )
    report = evaluate(*files, aoi=tmp_path / "aoi.gpkg")
    assert (report.cut_footprints, report.cut_truth) == (0, 1)
    assert format_table(report).splitlines()[-1] == (
        "cut by the area of interest, and counted by their part inside: 1 of 2 true and 0 of 1 "
        "predicted footprints"
    )
    assert evaluate(*files).cut_truth is None


def write_aoi(folder, *corners):
    path = folder / "aoi.gpkg"
    gpd.GeoDataFrame(geometry=[translate(box(*corners), X, Y)], crs=UTM).to_file(path)
    return path


def test_an_area_in_which_one_layer_has_nothing_gets_a_warning(files, tmp_path, caplog):
    report = evaluate(*files, aoi=write_aoi(tmp_path, 59, -5, 71, 15))
    assert (counts(report), report.f1) == ((0, 0, 1), 0)
    inside = f"inside {tmp_path / 'aoi.gpkg'}"
    assert f"pred.gpkg: has no footprint {inside}, so every true one counts" in caplog.text
    report = evaluate(*files, aoi=write_aoi(tmp_path, 79, -5, 91, 15))
    assert (counts(report), report.f1) == ((0, 1, 0), 0)
    assert "truth.gpkg: has no footprint inside" in caplog.text


def test_an_area_in_which_neither_layer_has_anything_is_refused(files, tmp_path):
    for corners in ((100, -5, 120, 15), (-9, -9, 0, 99)):
        with pytest.raises(GridMismatchError, match=r"aoi\.gpkg: .* the same area"):
            evaluate(*files, tmp_path / "report", aoi=write_aoi(tmp_path, *corners))
    whole = write_aoi(tmp_path, -5, -5, 99, 15)
    with pytest.raises(GridMismatchError, match="smaller than the minimum area"):
        evaluate(*files, tmp_path / "report", aoi=whole, min_area_m2=1000)
    assert not (tmp_path / "report").exists()


def with_training_area(folder, *corners):
    """Write an output folder of predict whose model was trained in a box."""
    area = gpd.GeoSeries([translate(box(*corners), X, Y)], crs=UTM).to_crs(4326)
    folder.mkdir()
    layer(PRED, confidence=[0.9, 0.8, 0.7, 0.6]).to_file(folder / "footprints.gpkg")
    grid = Grid(CRS.from_epsg(32645), Affine(1, 0, X - 10, 0, -1, Y + 20), 30, 110)
    tags = {TRAINING_AREA_TAG: area.to_wkt().iloc[0]}
    write_array(folder / "prob.tif", grid, np.zeros((1, 30, 110), np.uint8), tags=tags)
    write_manifest(folder)
    return folder / "footprints.gpkg"


def test_a_score_inside_the_training_area_gets_a_warning(files, tmp_path, caplog):
    footprints = with_training_area(tmp_path / "out", -5, -5, 35, 15)
    evaluate(footprints, files[1])
    assert "footprints.gpkg: 2 of 4 true buildings are inside the training and" in caplog.text
    caplog.clear()
    evaluate(footprints, files[1], aoi=write_aoi(tmp_path, 35, -5, 99, 15))
    assert caplog.text == ""
    shutil.copy(footprints, tmp_path / "copy.gpkg")  # of unknown origin
    evaluate(tmp_path / "copy.gpkg", files[1])
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("POLYGON ((nan 0, 1 0, 1 1, nan 0))", None),
        ("POINT (1 2)", None),
        ("POLYGON (oops", None),
        ("POLYGON ((0 0, 2 2, 2 0, 0 2, 0 0))", 2.0),  # a bow tie, by rounding
    ],
)
def test_a_damaged_training_area_is_no_area(tmp_path, text, found):
    grid = Grid(CRS.from_epsg(32645), Affine(1, 0, X, 0, -1, Y), 20, 30)
    path = tmp_path / "prob.tif"
    write_array(path, grid, np.zeros((1, 20, 30), np.uint8), tags={TRAINING_AREA_TAG: text})
    area = read_training_area(path)
    assert (area and area.area) == found


def test_a_mask_beyond_180_is_in_the_training_area(tmp_path, caplog):
    grid = Grid(CRS.from_epsg(4326), Affine(0.001, 0, 180.1, 0, -0.001, -17), 40, 60)
    tags = {TRAINING_AREA_TAG: box(-180, -18, -179, -16).wkt}
    write_array(tmp_path / "mask.tif", grid, np.zeros((1, 40, 60), np.uint8), tags=tags)
    warn_of_training_pixels(tmp_path / "mask.tif", grid.polygon, grid.crs.to_wkt())
    assert "100% of the area is inside the training" in caplog.text


def test_a_score_of_another_place_gets_no_warning_of_training(tmp_path, files, caplog):
    footprints = with_training_area(tmp_path / "out", -500, -500, 500, 500)
    truth = gpd.read_file(files[1])
    truth.geometry = truth.translate(0, 150)
    truth.to_file(tmp_path / "other.gpkg")
    assert evaluate(footprints, tmp_path / "other.gpkg").f1 == 0
    assert "are outside the extent of the footprints" in caplog.text
    assert "training" not in caplog.text


# SpaceNet CSV


def write_csv(path, rows, last):
    table = pd.DataFrame(rows, columns=["ImageId", "PolygonWKT_Pix", last])
    table.insert(1, "BuildingId", range(len(table)))
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def spacenet_files(tmp_path):
    """Submission and truth of two cities; one image of the first has no buildings."""
    big, half, small = box(0, 0, 10, 10).wkt, box(0, 0, 10, 5).wkt, box(20, 0, 25, 4).wkt
    pred = [
        ("AOI_1_Rio_img1", half, 0.9),
        ("AOI_1_Rio_img1", "POLYGON Z ((0 0 0, 10 0 0, 10 9 0, 0 9 0, 0 0 0))", 0.1),
        ("AOI_1_Rio_img1", small, 0.5),  # 20 px2 is not above the minimum
        ("AOI_1_Rio_img2", Polygon().wkt, 1),
        ("AOI_2_Bonn_img7", big, 1),
    ]
    truth = [
        ("AOI_1_Rio_img1", big, ""),
        ("AOI_1_Rio_img1", small, ""),  # 20 px2 is not below the minimum
        ("AOI_1_Rio_img2", Polygon().wkt, ""),
        ("AOI_2_Bonn_img7", big, ""),
    ]
    return (
        write_csv(tmp_path / "pred.csv", pred, "Confidence"),
        write_csv(tmp_path / "truth.csv", truth, "PolygonWKT_Geo"),
    )


def test_spacenet_files_are_scored_per_image_and_city(spacenet_files, tmp_path):
    report = evaluate(*spacenet_files, tmp_path / "report")
    assert [tuple(row.values())[:4] for row in report.images] == [
        ("AOI_1_Rio_img1", 1, 1, 1),
        ("AOI_1_Rio_img2", 0, 0, 0),
        ("AOI_2_Bonn_img7", 1, 0, 0),
    ]
    assert [tuple(row.values()) for row in report.cities] == [
        ("AOI_1_Rio", 1, 1, 1, 0.5, 0.5, 0.5),
        ("AOI_2_Bonn", 1, 0, 0, 1.0, 1.0, 1.0),
    ]
    assert report.spacenet_score == 0.75
    assert counts(report) == (2, 1, 1)
    assert report.iou_pixel == pytest.approx(190 / 220)
    assert report.mean_iou == pytest.approx(0.95)
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written["min_area_px2"] == 20.0
    assert written["images"][0]["ImageId"] == "AOI_1_Rio_img1"
    assert not (tmp_path / "report" / "report.gpkg").exists()
    assert "SpaceNet score (mean F1 of the cities): 0.7500" in format_table(report)


def test_minimum_area_of_spacenet_can_be_changed(spacenet_files):
    assert counts(evaluate(*spacenet_files, min_area_m2=0)) == (3, 1, 0)


def test_spacenet_report_removes_the_layers_of_an_earlier_report(files, spacenet_files, tmp_path):
    evaluate(*files, tmp_path / "report")
    evaluate(*spacenet_files, tmp_path / "report", overwrite=True)
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"report.json", MANIFEST_NAME}


def test_options_that_do_not_apply_to_spacenet_files_are_refused(files, spacenet_files):
    with pytest.raises(ConfigError, match="give two CSV files or two layers"):
        evaluate(spacenet_files[0], files[1])
    with pytest.raises(ConfigError, match="has pixel coordinates"):
        evaluate(*spacenet_files, where="label = 1")


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "ImageId,PolygonWKT_Pix\nx_1,POLYGON ((0 0))\n"]
)
def test_other_csv_files_are_refused(spacenet_files, tmp_path, text):
    (tmp_path / "odd.csv").write_text(text)
    with pytest.raises(VectorReadError, match=r"odd\.csv: cannot be read as a SpaceNet CSV"):
        evaluate(tmp_path / "odd.csv", spacenet_files[1])
    with pytest.raises(VectorReadError, match=r"absent\.csv"):
        evaluate(tmp_path / "absent.csv", spacenet_files[1])


@pytest.mark.realdata
@pytest.mark.skipif(not SPACENET.exists(), reason=f"needs the SpaceNet samples in {SPACENET}")
def test_published_scores_are_reproduced_exactly():
    report = evaluate(SPACENET / "SN2_sample_preds.csv", SPACENET / "SN2_sample_truth.csv")
    names = ["TruePos", "FalsePos", "FalseNeg", "Precision", "Recall", "F1Score"]
    images, cities = (
        list(csv.DictReader((SPACENET / f"SN2_test_{name}.csv").read_text().splitlines()))
        for name in ("results_full", "results")
    )
    assert {row["ImageId"]: tuple(row.values())[1:] for row in report.images} == {
        row["imageID"]: tuple(float(row[name]) for name in names) for row in images
    }
    assert [tuple(row.values())[1:] for row in report.cities] == [
        tuple(float(row[name]) for name in names) for row in cities
    ]
    assert (len(images), len(cities)) == (6, 2)
    assert report.spacenet_score == sum(float(row["F1Score"]) for row in cities) / 2


# Average precision


def test_average_precision_is_the_area_below_the_best_precision_at_101_recalls(files):
    # In order of confidence: found, false, found, false; precision 1 up to a recall of 1/4, then
    # 2/3 up to 2/4, and 0 beyond, at 26, 25 and 50 of the 101 recalls.
    report = evaluate(*files)
    assert report.average_precision == pytest.approx((26 + 25 * 2 / 3) / 101)
    assert "average precision at IoU 0.5 over all confidences: 0.4224" in format_table(report)


def test_without_confidences_there_is_no_average_precision(files, tmp_path):
    gpd.read_file(files[0]).drop(columns="confidence").to_file(tmp_path / "plain.gpkg")
    report = evaluate(tmp_path / "plain.gpkg", files[1])
    assert report.average_precision is None
    assert "average precision" not in format_table(report)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=12), st.integers(0, 4))
def test_average_precision_is_1_if_all_is_found_first(found, missed):
    confidence = np.array([value for value, _ in found])
    matched = np.array([match for _, match in found], dtype=bool)
    truth = int(matched.sum()) + missed
    value = average_precision(confidence, matched, truth)
    if not truth:
        assert value is None
        return
    assert 0 <= value <= 1
    first = average_precision(confidence + 2 * matched, matched, truth)
    reached = np.floor(100 * matched.sum() / truth + 1e-9) + 1 if matched.any() else 0
    assert first == pytest.approx(reached / 101)
    assert value <= first + 1e-12


def test_bounding_boxes_are_compared_in_the_crs_of_the_footprints(tmp_path):
    corner = Polygon(
        [(0, 0), (10, 0), (10, 4), (4, 4), (4, 10), (0, 10)]
    )  # an L of 64 square metres
    truth = gpd.GeoDataFrame(geometry=[translate(corner, X, Y)], crs=UTM).to_crs(4326)
    truth.to_file(tmp_path / "truth.gpkg")
    layer([(0, 0, 10, 10)], confidence=[0.9]).to_file(tmp_path / "pred.gpkg")
    files = tmp_path / "pred.gpkg", tmp_path / "truth.gpkg"
    assert evaluate(*files).mean_iou == pytest.approx(0.64, abs=1e-3)
    boxed = evaluate(*files, boxes=True)
    assert boxed.mean_iou == pytest.approx(1, abs=1e-3)
    assert (boxed.average_precision, boxed.boxes) == (1, True)


def test_boxes_are_for_layers(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("ImageId,BuildingId,PolygonWKT_Pix,Confidence\n")
    with pytest.raises(ConfigError, match="--boxes: applies only to vector layers"):
        evaluate(tmp_path / "a.csv", tmp_path / "b.csv", boxes=True)
