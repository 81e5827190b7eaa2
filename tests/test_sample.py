"""The sample that is installed with geoseg, and the part of the demo that predicts it."""

import json

import geopandas as gpd
import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from PIL import Image

from geoseg.cli import cli
from geoseg.errors import OutputLockedError
from geoseg.geo.raster import Scene, read_tags
from geoseg.geo.vector import read_footprints
from geoseg.jobs.lock import lock_output
from geoseg.jobs.manifest import find_foreign_file
from geoseg.networks.model_file import load_spec, shipped_models
from geoseg.sample import SAMPLE_AREA, SAMPLE_FOOTPRINTS, SAMPLE_README, SAMPLE_SCENE

FILES = {SAMPLE_SCENE, SAMPLE_FOOTPRINTS, SAMPLE_AREA, SAMPLE_README}


@pytest.fixture(scope="module")
def grid():
    with Scene(SAMPLE_SCENE) as scene:
        return scene.grid


def test_the_sample_is_small_and_names_its_licences():
    assert sum(path.stat().st_size for path in FILES) < 2e6
    readme = SAMPLE_README.read_text(encoding="utf-8")
    for attribution in ("© OpenAerialMap contributors", "© OpenStreetMap contributors"):
        assert attribution in readme
    assert "CC BY 4.0" in readme
    assert "ODbL" in readme
    assert all(f"`{path.name}`" in readme for path in FILES - {SAMPLE_README})
    assert "© OpenAerialMap contributors, CC BY 4.0" in read_tags(SAMPLE_SCENE)["TIFFTAG_COPYRIGHT"]
    source = json.loads(SAMPLE_FOOTPRINTS.read_text(encoding="utf-8"))["source"]
    assert source.startswith("© OpenStreetMap contributors, ODbL 1.0")


def test_the_scene_is_complete_and_in_zanzibar(grid):
    with Scene(SAMPLE_SCENE) as scene:
        data, valid = scene.read()
        assert scene.info.bands == ("red", "green", "blue")
    assert data.shape == (3, 1024, 896)
    assert data.dtype == np.uint8
    assert valid.all()
    assert (data.std(axis=(1, 2)) > 30).all()
    assert grid.gsd_m == pytest.approx(0.148, abs=0.001)
    centre = gpd.GeoSeries([grid.polygon.centroid], crs=grid.crs.to_wkt()).to_crs(4326)[0]
    assert (centre.x, centre.y) == pytest.approx((39.2428, -6.0429), abs=1e-4)


def test_footprints_are_whole_and_on_the_scene(grid):
    footprints = read_footprints(SAMPLE_FOOTPRINTS)
    assert footprints.attrs["dropped"] == footprints.attrs["repaired"] == 0
    assert footprints["id"].tolist() == list(range(1, 53))
    shapes = footprints.to_crs(grid.crs.to_wkt())
    assert shapes.intersects(grid.polygon).all()
    assert (~shapes.within(grid.polygon)).sum() == 7  # at the edge, and not cut there
    # Roofs of corrugated iron are brighter than soil and trees.
    with Scene(SAMPLE_SCENE) as scene:
        brightness = scene.read()[0].mean(axis=0)
    columns, rows = grid.to_pixels(shapes.centroid.x.to_numpy(), shapes.centroid.y.to_numpy())
    inside = (columns >= 0) & (columns < 896) & (rows >= 0) & (rows < 1024)
    at_roofs = brightness[rows[inside].astype(int), columns[inside].astype(int)]
    assert np.median(at_roofs) > brightness.mean() + 30


def test_the_area_is_the_extent_of_the_scene(grid):
    area = read_footprints(SAMPLE_AREA).to_crs(grid.crs.to_wkt()).geometry.item()
    assert area.symmetric_difference(grid.polygon).area < 0.2  # square metres, of 20,450


def test_shipped_models_were_not_trained_on_the_sample():
    area = read_footprints(SAMPLE_AREA).geometry.item()
    for path in shipped_models().values():
        trained = shapely.from_wkt(load_spec(path).provenance["training_area"])  # in degrees
        assert not trained.intersects(area), path


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder and printed lines of the demo; without the training, which takes minutes."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return folder, run_demo(folder)


def run_demo(folder, *options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geoseg.api.demo.run_demo", lambda *_, **__: None)
        arguments = ["demo", "-o", str(folder), "--size", "96", "128", *options]
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_the_demo_predicts_and_evaluates_the_sample(demo):
    folder, (scores, *outputs) = demo[0] / "sample", demo[1]
    report = json.loads((folder / "report" / "report.json").read_text())
    assert scores == (
        f"sample, default model: building F1 {report['f1']:.3f}, "
        f"pixel IoU {report['iou_pixel']:.3f}"
    )
    assert [line.strip() for line in outputs] == [
        str(folder / name) for name in ("scene.tif", "out/footprints.gpkg", "report", "sample.jpg")
    ]
    assert report["iou_pixel"] > 0.2
    assert report["f1"] > 0.1
    assert report["cut_truth"] == 7
    assert report["tp"] + report["fn"] == 52
    assert {path.name: path.read_bytes() for path in FILES} == {
        path.name: (folder / path.name).read_bytes() for path in FILES
    }
    layer = read_footprints(folder / "out" / "footprints.gpkg")
    assert len(layer) == report["tp"] + report["fp"]


def test_the_picture_shows_the_scene_with_outlines(demo):
    path = demo[0] / "sample" / "sample.jpg"
    assert path.stat().st_size < 400e3
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
    height, width, _ = pixels.shape
    assert 0.5 < height / width < 0.8
    # Green, red and blue outlines are in the right half only.
    for near in ((53, 224, 101), (255, 59, 48), (53, 182, 255)):
        hits = np.abs(pixels[: height * 9 // 10] - near).max(axis=-1) < 60
        assert hits[:, : width // 2].sum() < hits[:, width // 2 :].sum() / 10


def test_the_sample_is_part_of_the_output_of_the_demo(demo):
    folder, _ = demo
    assert find_foreign_file(folder) is None
    (folder / "sample" / "notes.txt").write_text("mine")
    assert find_foreign_file(folder) == folder / "sample" / "notes.txt"
    (folder / "sample" / "notes.txt").unlink()
    run_demo(folder, "--overwrite", "--scene-only")
    assert {path.name for path in folder.iterdir()} == {
        ".geoseg-manifest.json", "scene.tif", "footprints.gpkg",
    }  # fmt: skip


def test_a_locked_demo_is_left_alone(tmp_path):
    from geoseg.api.demo import run_sample

    folder = tmp_path / "demo"
    folder.mkdir()
    with lock_output(folder), pytest.raises(OutputLockedError):
        run_sample(folder, report=print)
    assert not (folder / "sample").exists()
