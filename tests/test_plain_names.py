"""Files of any legal name, in folders of any legal name, are read and written."""

import logging
import os
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine
from shapely.geometry import box

import geoseg
from geoseg.errors import ConfigError
from geoseg.geo.grid import Grid
from geoseg.geo.plain_names import readable_name, writable_name
from geoseg.geo.raster import Scene, list_files, write_array
from geoseg.geo.raster.geotiff import write_cog
from geoseg.geo.vector import list_layers, read_footprints, write_footprints
from geoseg.geo.vector.writer import LAYER_SUFFIXES

# The last one is not UTF-8.
NAMES = ["a!b", "a;b", "a?b#c", "zip:x", "s3:x", "two\nlines", os.fsdecode(b"caf\xe9"), "plain"]
FOLDERS = ["Proj!ect", "a;b?c", "plain"]

FOOTPRINTS = gpd.GeoDataFrame(
    {"id": [1, 2], "area_m2": [1.0, 4.0], "perimeter_m": [4.0, 8.0], "confidence": [0.5, 0.9]},
    geometry=[box(5e5, 5e6, 5e5 + 1, 5e6 + 1), box(5e5 + 3, 5e6, 5e5 + 5, 5e6 + 2)], crs=32633,
)  # fmt: skip


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("suffix", LAYER_SUFFIXES)
@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", NAMES)
def test_layers_of_any_name(tmp_path, monkeypatch, folder, name, suffix):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    # What another program would take the name for.
    for part in ("b", "x", "c", "a"):
        Path(f"{part}{suffix}").write_text("precious")
    path = Path(folder) / f"{name}{suffix}"
    write_footprints(path, [FOOTPRINTS], crs=FOOTPRINTS.crs)
    made = sorted(os.listdir(folder))
    assert path.name in made
    assert {one.rpartition(".")[0] for one in made} == {name}
    found = read_footprints(path)
    assert sorted(found.to_crs(32633).area.round(1)) == [1.0, 4.0]  # an index may sort them
    assert len(list_layers(path)) >= 1
    assert set(contents(tmp_path).values()) == {b"precious"}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", NAMES)
def test_rasters_of_any_name(tmp_path, folder, name):
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / f"{name}.tif"
    grid = Grid(CRS.from_epsg(32633), Affine(1, 0, 5e5, 0, -1, 5e6), 20, 30)
    data = np.arange(600, dtype=np.uint16).reshape(1, 20, 30)
    write_array(path, grid, data)
    copy = path.with_name(f"{name}_cog.tif")
    write_cog(path, copy, resampling="nearest")
    assert sorted(os.listdir(tmp_path / folder)) == sorted([path.name, copy.name])
    for file in (path, copy):
        with Scene(file) as scene:
            assert np.array_equal(scene.read()[0], data)
        assert {os.path.realpath(one) for one in list_files(file)} == {str(file)}


def test_jobs_in_a_folder_of_any_name(make_scene, tmp_path):
    made = make_scene()
    folder = tmp_path / "Proj!ect;\n"
    folder.mkdir(parents=True)
    scene = made.path.rename(folder / "a!b.tif")
    labels = made.labels.rename(folder / "a!b.gpkg")
    options = geoseg.TileOptions(size=32, gap=0)
    tiles = geoseg.tile(scene, labels, folder / "tiles", options=options)
    assert sum(tiles.counts.values()) > 10
    out = geoseg.predict(scene, folder / "out!", options=geoseg.PredictOptions(device="cpu"))
    assert len(out.footprints) == out.count
    layer = geoseg.vectorize(out.prob_path, folder / "c!d.shp")
    assert layer.count == out.count
    report = geoseg.evaluate(labels, labels, folder / "report!")
    assert report.f1 == 1


def test_a_name_that_is_not_utf8_is_predicted_but_not_tiled(make_scene, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)  # pytest-xdist cannot send such names in captured messages
    made = make_scene()
    scene = made.path.rename(tmp_path / os.fsdecode(b"caf\xe9.tif"))
    out = geoseg.predict(scene, tmp_path / "out", options=geoseg.PredictOptions(device="cpu"))
    assert len(out.footprints) == out.count
    with pytest.raises(ConfigError, match="its name is not UTF-8; rename the file"):
        geoseg.tile(scene, made.labels, tmp_path / "tiles")


def test_a_plain_name_is_left_as_it_is(tmp_path):
    plain = tmp_path / "a b (1) [ü].tif"
    plain.touch()
    assert readable_name(plain) == str(plain)
    with writable_name(plain) as name:
        assert name == plain
    for remote in ("/vsizip/a!b.zip/c.tif", "https://a.org/b?c=d", "absent!.tif"):
        assert readable_name(remote) == remote


def test_a_file_that_was_not_finished_is_removed(tmp_path):
    def stop():
        with writable_name(tmp_path / "a!b.tif") as name:
            name.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stop()
    assert list(tmp_path.iterdir()) == []
