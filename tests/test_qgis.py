"""What a user sees: QGIS opens every format, shows it in style, and finds nothing to repair."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from layers import vectorize
from pyproj import CRS
from scipy import ndimage
from small_models import PIXELWISE

from geoseg.api.predict import predict
from geoseg.evaluation import evaluate_footprints
from geoseg.geo.grid import Grid
from geoseg.geo.raster import write_array
from geoseg.geo.vector import LAYER_SUFFIXES, read_footprints
from geoseg.networks.model_file import save_model
from geoseg.options import PredictOptions
from geoseg.town import build_town, write_town
from geoseg.vectorization.footprints import BUILDING_COLUMNS

PYTHON = "/usr/bin/python3"  # that QGIS is installed for, where it comes with the system
READING = Path(__file__).with_name("qgis_reading.py")
QUIET = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": ""}


def has_qgis():
    if shutil.which(PYTHON) is None:
        return False
    asked = [PYTHON, "-c", "import qgis.core"]
    return subprocess.run(asked, capture_output=True, env=QUIET, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not has_qgis(), reason="QGIS is not installed")


def ask_qgis(*sources, folder="."):
    said = subprocess.run(
        [PYTHON, str(READING), str(folder), *map(str, sources)],
        check=True, capture_output=True, text=True, env=QUIET,
    ).stdout  # fmt: skip
    return json.loads(said.splitlines()[-1])


def grid_columns(grid):
    return np.broadcast_to(np.arange(grid.width), grid.shape)


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """The footprints of one raster in every format, and how many there are."""
    folder = tmp_path_factory.mktemp("layers")
    rng = np.random.default_rng(2)
    fields = ndimage.gaussian_filter(rng.random((2, 170, 240)), (0, 3, 3))
    fields = (fields - fields.min()) / np.ptp(fields)
    grid = Grid(rasterio.CRS.from_epsg(32645), Affine(0.5, 0, 3e5, 0, -0.5, 3e6), 170, 240)
    valid = np.ones(grid.shape, dtype=bool)
    valid[40:60, 90:130] = False
    fields[0] = np.where(fields[0] > 0.5, fields[0] + 0.3 * (grid_columns(grid) > 120), fields[0])
    values = np.rint(np.minimum(fields, 1) * 255).astype(np.uint8)
    write_array(folder / "prob.tif", grid, values, valid=valid, descriptions=("building", "border"))
    paths = {suffix: folder / f"footprints{suffix}" for suffix in LAYER_SUFFIXES}
    counts = {vectorize(folder / "prob.tif", path) for path in paths.values()}
    (count,) = counts
    assert count > 20
    return paths, count


@pytest.mark.parametrize("suffix", LAYER_SUFFIXES)
def test_qgis_opens_every_format(layers, suffix):
    paths, count = layers
    path = paths[suffix]
    found = ask_qgis(path)[str(path)]
    if not found["valid"] and suffix == ".parquet":
        pytest.skip("the GDAL of this QGIS was built without Parquet")
    assert found["valid"]
    assert found["count"] == count == len(found["values"])
    assert found["problems"] == []
    assert set(found["kinds"]) <= {"Polygon", "MultiPolygon"}
    frame = read_footprints(path)
    assert CRS(found["crs"]) == frame.crs
    expected = [{"perimeter_m": "perim_m"}.get(name, name) for name in BUILDING_COLUMNS]
    expected = expected if suffix == ".shp" else list(BUILDING_COLUMNS)
    assert [name for name in found["fields"] if name != "fid"] == expected
    first = dict(zip(found["fields"], found["values"][0], strict=True))
    assert first["id"] == frame["id"][0]
    assert first["area_m2"] == pytest.approx(frame["area_m2"][0])
    types = dict(zip(found["fields"], found["types"], strict=True))
    assert types["id"].startswith("Integer")
    assert types["confidence"] == "Real"
    titles = dict(zip(found["fields"], found["titles"], strict=True))
    assert titles["area_m2"] == ("Area (m²)" if suffix in (".gpkg", ".fgb") else "area_m2")
    assert first["reg_status"] == frame["reg_status"][0]


def test_a_geopackage_comes_up_styled(layers):
    paths, count = layers
    path = paths[".gpkg"]
    sources = [f"{path}|layername={name}" for name in ("footprints", "review")]
    footprints, review = (ask_qgis(*sources)[source] for source in sources)
    assert footprints["renderer"] == "graduatedSymbol"
    assert footprints["legend"] == [
        "confidence from 0.85", "confidence 0.70 to 0.85", "confidence below 0.70",
    ]  # fmt: skip
    assert footprints["titles"][1:5] == ["Number", "Area (m²)", "Perimeter (m)", "Confidence"]
    assert review["legend"] == ["to review: confidence below 0.70"]
    assert 0 < review["count"] < count
    assert review["kinds"] == ["Point"]


def test_a_report_comes_up_styled(layers, tmp_path):
    paths, count = layers
    evaluate_footprints(paths[".gpkg"], paths[".gpkg"], tmp_path / "report")
    sources = [f"{tmp_path}/report/report.gpkg|layername={name}" for name in ("TP", "FP", "FN")]
    found = ask_qgis(*sources)
    assert [found[source]["count"] for source in sources] == [count, 0, 0]
    assert [found[source]["legend"] for source in sources] == [
        ["true positive: found"], ["false positive: not in the truth"], ["false negative: missed"],
    ]  # fmt: skip
    tp = found[sources[0]]
    assert tp["titles"][1:] == ["Number", "Confidence", "IoU", "True footprint"]
    row = dict(zip(tp["fields"], tp["values"][0], strict=True))
    assert row["id"] == row["truth_id"] == 1


def pixelwise(path, classes=("building",), **changes):
    """A model whose channels are linear in the colours of a pixel."""
    outputs = classes if changes else ("building", "border")
    spec = PIXELWISE.model_copy(update={"classes": classes, "outputs": outputs, **changes})
    weights = torch.tensor([[3.0, -1, -2], [-1, 3, -2], [-2, -1, 3]])[: len(outputs)]
    bias = torch.tensor([-0.3, -0.3, 0.3])[: len(outputs)]
    save_model(path, {"encoder.weight": weights[..., None, None], "encoder.bias": bias}, spec)
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    town = build_town(110, 150, seed=3, gsd_m=0.5)
    return write_town(town, tmp_path_factory.mktemp("town"))[0]


def picture_and_values(found, raster):
    with rasterio.open(raster) as source:
        values, valid = source.read(1), source.dataset_mask() > 0
    picture = np.rint(matplotlib.image.imread(found["picture"]) * 255).astype(int)
    assert picture.shape[:2] == values.shape
    return picture, values, valid


@pytest.mark.parametrize("floats", [False, True])
def test_rasters_come_up_styled(scene, tmp_path, floats):
    model, out = pixelwise(tmp_path / "model.safetensors"), tmp_path / "out"
    predict(scene, out, model=model, options=PredictOptions(floats=floats))
    prob, mask = ask_qgis(out / "prob.tif", out / "mask.tif", folder=tmp_path).values()
    assert (prob["renderer"], mask["renderer"]) == ("singlebandpseudocolor", "paletted")
    assert prob["legend"] == ["Band 1: building (Gray)", "0 %", "100 %"]
    assert mask["legend"] == ["Band 1: class (Palette)", "background", "building", "nodata"]

    picture, values, valid = picture_and_values(mask, out / "mask.tif")
    assert set(np.unique(values)) == {0, 1, 255}
    assert (picture[values != 1] == 0).all()  # nothing is drawn, not even faintly
    assert set(picture[values == 1][:, 3]) == {round(0.35 * 255)}

    picture, values, valid = picture_and_values(prob, out / "prob.tif")
    values = values if floats else values / 255
    assert (picture[~valid][:, 3] == 0).all()
    assert (picture[valid & (values == 0)][:, 3] == 0).all()
    assert (picture[valid & (values > 0.2)][:, 3] > 60).all()
    assert picture[..., 3].max() < 160  # the scene below can be seen
    sure = picture[valid & (values > 0.98)].mean(axis=0)
    half = picture[valid & (abs(values - 0.5) < 0.05)].mean(axis=0)
    assert sure[0] > half[0] + 100  # yellow and green


def test_classes_come_up_in_their_colours(scene, tmp_path):
    names, colours = ("other", "water", '<trees> & "shrubs"'), ("#000000", "#0000ff", "#00ff80")
    model = pixelwise(
        tmp_path / "model.safetensors", names, exclusive=True, background="other", colours=colours
    )
    predict(scene, tmp_path / "out", model=model)
    mask, layer = ask_qgis(
        tmp_path / "out" / "mask.tif", tmp_path / "out" / "footprints.gpkg|layername=footprints",
        folder=tmp_path,
    ).values()  # fmt: skip
    assert mask["legend"] == ["Band 1: class (Palette)", *names, "nodata"]
    assert layer["renderer"] == "categorizedSymbol"
    assert layer["legend"] == list(names[1:])
    assert layer["titles"][1:4] == ["Number", "Class", "Area (m²)"]
    picture, values, _ = picture_and_values(mask, tmp_path / "out" / "mask.tif")
    assert (picture[(values == 0) | (values == 255)] == 0).all()
    for value in (1, 2):
        shown = picture[values == value]
        assert len(shown) > 20
        expected = list(bytes.fromhex(colours[value][1:]))
        assert abs(shown[:, :3] - expected).max() <= 2
