"""What a user sees: QGIS opens every format, and finds nothing to repair."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from layers import vectorize
from pyproj import CRS
from scipy import ndimage

from geoseg.geo.grid import Grid
from geoseg.geo.raster import write_array
from geoseg.geo.vector import LAYER_SUFFIXES, read_footprints
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


def ask_qgis(*sources):
    said = subprocess.run(
        [PYTHON, str(READING), *map(str, sources)],
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
    assert first["reg_status"] == frame["reg_status"][0]


def test_a_geopackage_comes_up_styled(layers):
    paths, count = layers
    path = paths[".gpkg"]
    sources = [f"{path}|layername={name}" for name in ("footprints", "review")]
    footprints, review = (ask_qgis(*sources)[source] for source in sources)
    assert footprints["renderer"] == "graduatedSymbol"
    assert review["renderer"] == "singleSymbol"
    assert 0 < review["count"] < count
    assert review["kinds"] == ["Point"]
