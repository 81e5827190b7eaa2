"""`geoseg info` describes what GDAL opens, and names why geoseg cannot use it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner

import geoseg
from geoseg.api.info import describe_file
from geoseg.cli import cli
from geoseg.errors import GeosegError, SceneReadError
from geoseg.geo.raster import make_prob_tags, read_info, write_array
from geoseg.networks.model_file import find_model, load_model, save_model
from geoseg.options import Thresholds
from geoseg.options.confidence import ConfidenceRule


def run(*words):
    found = CliRunner().invoke(cli, ["info", *map(str, words)])
    return found.exit_code, found.stdout, found.stderr


def write(path, data, **profile):
    profile = {"crs": "EPSG:32645", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 3e6), **profile}
    count, height, width = data.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=data.dtype,
        **profile,
    ) as sink:  # fmt: skip
        sink.write(data)
    return path


def test_a_model_is_described_in_a_few_lines_with_its_scores():
    result = CliRunner().invoke(cli, ["info", "buildings"])
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert len(lines) <= 20
    assert "input         uint8, bands red, green, blue; pixels of 0.3 m, tiles of 256" in lines[3]
    scores = [line for line in lines if line.startswith("score ")]
    assert len(scores) == 5
    assert scores[0].endswith(
        "F1 0.62, pixel IoU 0.47: Massachusetts, suburb, aerial, 1 m, a place that was never seen"
    )
    assert sum(line.startswith("source ") for line in lines) == 6
    assert "licence       CC BY-SA 4.0" in lines
    described = json.loads(CliRunner().invoke(cli, ["info", "buildings", "--json"]).output)
    assert described["thresholds"]["min_area_m2"] == 5
    assert len(described["scores"]) == 5


def lines_of(path):
    return CliRunner().invoke(cli, ["info", str(path)]).output.splitlines()


def test_a_model_says_what_its_confidences_are(tmp_path):
    spec, weights = load_model(find_model())
    plain = spec.thresholds.model_copy(update={"confidence": None, "min_confidence": 0.0})
    rated = plain.model_copy(
        update={"confidence": ConfidenceRule(constant=1), "min_confidence": 0.3}
    )
    calibration = {"temperature": 1.5, "footprints": 431, "footprint_ece": 0.062}
    provenance = spec.provenance | {"calibration": calibration}
    for name, thresholds in (("plain", plain), ("rated", rated)):
        changes = {"thresholds": thresholds, "provenance": provenance}
        save_model(tmp_path / f"{name}.safetensors", weights, spec.model_copy(update=changes))
    assert "confidence    mean probability inside a footprint" in lines_of(
        tmp_path / "plain.safetensors"
    )
    assert (
        "confidence    probability that a footprint is a building; mean error 0.062 on 431 "
        "footprints of validation tiles; footprints below 0.3 are dropped"
    ) in lines_of(tmp_path / "rated.safetensors")


def test_the_thresholds_of_a_raster_are_words(tmp_path):
    path = tmp_path / "prob.tif"
    grid = read_info(write(tmp_path / "a.tif", np.ones((1, 5, 7), np.uint8))).grid
    thresholds = Thresholds(body=0.4, split_m=2, confidence=ConfidenceRule(constant=1))
    tags = make_prob_tags(thresholds)
    write_array(path, grid, np.ones((1, 5, 7), np.float32), tags=tags)
    (line,) = [line for line in lines_of(path) if line.startswith("thresholds")]
    assert "body 0.4, seed 0.6, border 1, contact 1, split_m 2" in line
    assert line.endswith("temperature 1, confidences by a rule")
    write_array(path, grid, np.ones((1, 5, 7), np.float32), tags={next(iter(tags)): "{oops"})
    (line,) = [line for line in lines_of(path) if line.startswith("thresholds")]
    assert line.endswith("  {oops")


def test_messages_of_gdal_that_are_no_text_are_not_printed(tmp_path):
    path = write(tmp_path / "a.tif", np.ones((1, 5, 7), np.uint8))
    with rasterio.open(path, "r+") as source:
        source.update_tags(made_by="hand")
    content = path.read_bytes()
    assert content.count(b"</Item>") == 1
    path.write_bytes(content.replace(b"</Item>", b"</It\x95m>"))
    command = [sys.executable, "-m", "geoseg", "info", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("raster")
    assert found.stderr == ""


def test_a_model_without_a_card_has_no_scores(tmp_path):
    path = tmp_path / "land.safetensors"
    spec, weights = load_model(find_model())
    provenance = spec.provenance | {"val_iou": 0.6, "val_f1": 0.544}
    save_model(path, weights, spec.model_copy(update={"provenance": provenance}))
    assert describe_file(path)["scores"] == []
    lines = CliRunner().invoke(cli, ["info", str(path)]).output.splitlines()
    assert not [line for line in lines if line.startswith("score")]
    assert (
        "validation    building F1 0.54, pixel IoU 0.60, on the tiles by which the model was chosen"
    ) in lines


@pytest.mark.parametrize(
    "rows",
    [
        "| area | F1 | options |\n|---|---|---|\n| here | 0.5 | none | more |",
        "| area | F1 | options |\n|---|---|---|\n| here | 0.5 |",
        "| score |\n|---|\n| 7 |",
        "|",
        "| area | options |\n|---|---|\n| here | none |",
        "| player | goals | club |\n|---|---|---|\n| Meier | 3 | K\xf6ln |",
    ],
)
def test_a_text_beside_a_model_that_is_no_card_is_ignored(tmp_path, rows):
    path = tmp_path / "land.safetensors"
    shutil.copy(find_model(), path)
    path.with_suffix(".md").write_text(f"# Notes\n\n## Scores\n\n{rows}\n", encoding="utf-8")
    assert describe_file(path)["scores"] == []
    assert run(path)[0] == 0


def test_a_card_in_another_encoding_or_a_folder_of_its_name_does_no_harm(tmp_path):
    path = tmp_path / "land.safetensors"
    shutil.copy(find_model(), path)
    table = "| area | F1 | options |\n|---|---|---|\n| Z\xfcrich | 0.5 | none |"
    path.with_suffix(".md").write_bytes(f"# A\n\n## Scores\n\n{table}\n".encode("latin-1"))
    assert describe_file(path)["scores"] == ["F1 0.5: Z\ufffdrich"]
    path.with_suffix(".md").unlink()
    path.with_suffix(".md").mkdir()
    assert describe_file(path)["scores"] == []


def test_a_scene_is_described_with_its_values(tmp_path):
    data = np.arange(3 * 40 * 60, dtype=np.uint16).reshape(3, 40, 60) + 7
    data[:, :5] = 0
    path = write(tmp_path / "a.tif", data, nodata=0)
    found = describe_file(path)
    assert json.loads(json.dumps(found)) == found
    assert (found["kind"], found["height"], found["width"]) == ("raster", 40, 60)
    assert [band["dtype"] for band in found["bands"]] == ["uint16"] * 3
    first = found["bands"][0]
    assert first["nodata"] == 0
    assert first["statistics"]["minimum"] == data[0, 5:].min()
    assert first["statistics"]["maximum"] == data[0].max()
    assert first["statistics"]["mean"] == pytest.approx(data[0, 5:].mean())
    assert found["validity"] == "nodata value"
    assert found["gsd_m"] == pytest.approx([0.5, 0.5], rel=1e-3)
    west, south, east, north = found["degrees"]
    assert 86.9 < west < east < 87.1
    assert 27.0 < south < north < 27.2
    assert found["problem"] is None
    assert "uint16" in found["default_model"]
    code, out, err = run(path)
    assert (code, err) == (0, "")
    assert "40 x 60 (height x width)" in out
    code, out, _ = run(path, "--json")
    assert json.loads(out) == found


@pytest.mark.parametrize(
    ("profile", "problem"),
    [
        ({"crs": None}, "coordinate reference system"),
        ({"crs": None, "transform": Affine.identity()}, "has no georeferencing"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_other_commands_refuse_is_described_with_the_reason(tmp_path, profile, problem):
    path = write(tmp_path / "a.tif", np.ones((3, 20, 30), np.uint8), **profile)
    code, out, err = run(path)
    assert code == 0
    assert "20 x 30" in out
    assert err.count("\n") == 1
    assert problem in err
    with pytest.raises(GeosegError, match=problem):
        read_info(path)


def test_pixels_of_any_type_are_described(tmp_path):
    path = write(tmp_path / "a.tif", np.full((1, 20, 30), 2 + 3j, np.complex64))
    found = describe_file(path)
    assert found["bands"][0]["dtype"] == "complex64"
    assert "complex64 pixels" in found["problem"]


def test_what_is_neither_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path, message in (
        (tmp_path / "notes.txt", "neither a raster nor a vector layer"),
        (tmp_path / "absent.tif", "no such file"),
        (tmp_path, "is a folder without tiles"),
    ):
        with pytest.raises(SceneReadError, match=message):
            describe_file(path)


DESCRIBE = """
import json, sys, warnings
from pathlib import Path
import rasterio
import geoseg
from geoseg.api.info import describe_file

warnings.simplefilter("ignore")
for path in sorted(Path(sys.argv[1]).rglob("*")):
    if path.is_dir():
        continue
    try:
        with rasterio.open(path) as source:
            expected = [*source.shape, *source.dtypes]
    except rasterio.errors.RasterioError:
        continue
    print(json.dumps([path.name, expected, describe_file(path)]))
"""


@pytest.mark.realdata
def test_every_odd_raster_that_gdal_opens_is_described(realdata):
    # In a process of its own: GDAL remembers which sources of a VRT it could not open.
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE, realdata / "odd_rasters"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for name, expected, found in lines:
        assert found["kind"] == "raster", name
        dtypes = [band["dtype"] for band in found["bands"]]
        assert [found["height"], found["width"], *dtypes] == expected, name
    assert len(lines) > 100
    assert sum(found["problem"] is not None for *_, found in lines) > 20


@pytest.mark.parametrize(
    ("bands", "how", "reason"),
    [
        (1, {"tags": {"CLASS_0": "none", "CLASS_1": "house"}, "colormap": {1: (9, 8, 7, 255)}},
         "is a class mask, not an image; give the scene"),
        (3, {"tags": make_prob_tags(Thresholds())}, "these are probabilities of geoseg, not an"),
    ],
)  # fmt: skip
def test_results_of_predict_are_no_scenes(tmp_path, bands, how, reason):
    source = read_info(write(tmp_path / "scene.tif", np.ones((1, 64, 90), np.uint8)))
    write_array(tmp_path / "result.tif", source.grid, np.ones((bands, 64, 90), np.uint8), **how)
    assert reason in describe_file(tmp_path / "result.tif")["default_model"]
    with pytest.raises(SceneReadError, match=reason):
        geoseg.predict(tmp_path / "result.tif", tmp_path / "out")
    assert not (tmp_path / "out").exists()
