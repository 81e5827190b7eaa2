"""Equal bytes for any blocks, panels, threads, workers and interruptions; stored values."""

import os
import random
import re
import subprocess
import sys

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate
from shapely.geometry import box

from geoseg.api.predict import predict
from geoseg.errors import DiskFullError, GeosegError, GridMismatchError
from geoseg.geo.raster import Scene, read_info, write_array
from geoseg.geo.tiling import TileGrid
from geoseg.geo.vector import read_footprints
from geoseg.jobs.local_processes import WORKER_VARIABLE
from geoseg.jobs.workers import Workers
from geoseg.networks.device import choose_device
from geoseg.networks.model_file import ModelSpec, load_model, save_model
from geoseg.networks.models import build_model
from geoseg.options import PredictOptions, Thresholds, VectorizeOptions
from geoseg.options.headers import PlaceBands
from geoseg.prediction.blocks import BlockTask, predict_block
from geoseg.prediction.predictor import Predictor
from geoseg.prediction.scheduling import split_blocks, split_panels
from geoseg.town import build_town, write_town

SPEC = ModelSpec(
    arch="unet",
    encoder=None,
    options={"width": 4, "depth": 2},
    bands=("red", "green", "blue"),
    dtype="uint8",
    mean=(110.0, 110.0, 100.0),
    std=(40.0, 40.0, 40.0),
    gsd_m=0.5,
    size=32,
    overlap=12,
    thresholds=Thresholds(body=0.5, min_area_m2=2.0),
)


def make_model(path, seed=0, **changes):
    spec = SPEC.model_copy(update=changes)
    torch.manual_seed(seed)
    network = build_model(
        spec.arch, spec.encoder, bands=spec.bands, outputs=len(spec.outputs), options=spec.options
    )
    save_model(path, network.state_dict(), spec)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Ten rows of tiles, eleven columns; a corner of nodata."""
    town = build_town(197, 231, seed=3, gsd_m=0.5)
    scene, _ = write_town(town, tmp_path_factory.mktemp("town"))
    return town, scene


@pytest.fixture(scope="module")
def whole(town, model, tmp_path_factory):
    """prob.tif, predicted in one piece."""
    path = tmp_path_factory.mktemp("whole") / "prob.tif"
    predict(town[1], path, model=model, options=cpu())
    return path.read_bytes()


def cpu(**options):
    return PredictOptions(device="cpu", **options)


def read(path):
    with Scene(path) as scene:
        return scene.read()


# The same bytes


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_blocks_of_any_height_give_the_same_bytes(town, model, whole, tmp_path, rows):
    predict(town[1], tmp_path / "prob.tif", model=model, options=cpu(block_rows=rows))
    assert (tmp_path / "prob.tif").read_bytes() == whole


@pytest.mark.parametrize("rows", [None, 3])
def test_panels_give_the_same_bytes(town, model, whole, tmp_path, monkeypatch, rows):
    assert len(split_panels(TileGrid(197, 231, 32, 12), 9)) == 2
    monkeypatch.setattr("geoseg.prediction.strips.count_panels", lambda *_: 9)
    predict(town[1], tmp_path / "prob.tif", model=model, options=cpu(block_rows=rows))
    assert (tmp_path / "prob.tif").read_bytes() == whole


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_give_the_same_bytes(town, model, whole, tmp_path, threads):
    predict(
        town[1], tmp_path / "prob.tif", model=model, options=cpu(), workers=Workers(threads=threads)
    )
    assert (tmp_path / "prob.tif").read_bytes() == whole
    assert torch.get_num_threads() > 0


def test_two_workers_give_the_same_bytes(town, model, whole, tmp_path):
    told = []
    predict(
        town[1], tmp_path / "prob.tif", model=model, options=cpu(), workers=Workers(2),
        progress=lambda done, total, what: told.append((done, total, what)),
    )  # fmt: skip
    assert (tmp_path / "prob.tif").read_bytes() == whole
    assert told[-1] == (110, 110, "tiles")


def test_a_worker_predicts_one_row_more_than_its_own(tmp_path):
    plan = TileGrid(8192, 8192, 512, 128)
    panels = split_panels(plan, 1)
    alone, two = (split_blocks(panels, tmp_path, workers=workers) for workers in (1, 2))
    assert [block.rows for block in alone] == [(0, 21)]
    assert [block.rows for block in two] == [(0, 11), (11, 21)]
    assert sum(map(len, two)) / len(plan) < 1.05
    many = split_blocks(split_panels(TileGrid(32768, 32768, 512, 128), 1), tmp_path, workers=4)
    assert [block.rows[0] for block in many] == [0, 20, 40, 60, 80]


# Interruptions


class Stopped(BaseException):
    """An exception that is not caught."""


def test_interrupted_at_ten_random_moments_it_ends_with_the_same_bytes(
    town, model, whole, tmp_path, monkeypatch
):
    moments = random.Random(0)
    predicted = []

    def stopping_after(tiles):
        def block(task: BlockTask, count=None):
            left = [tiles]

            def tell(more):
                left[0] -= more
                predicted.append(more)
                count(more)
                if left[0] < 0:
                    raise Stopped

            return predict_block(task, tell)

        return block

    interrupted = 0
    while interrupted < 10:
        after = moments.randrange(5, 35)
        monkeypatch.setattr("geoseg.prediction.strips.predict_block", stopping_after(after))
        try:
            predict(town[1], tmp_path / "prob.tif", model=model, options=cpu())
        except Stopped:
            interrupted += 1
            assert not (tmp_path / "prob.tif").exists()
        else:
            assert (tmp_path / "prob.tif").read_bytes() == whole
            (tmp_path / "prob.tif").unlink()
    monkeypatch.undo()
    predict(town[1], tmp_path / "prob.tif", model=model, options=cpu())
    assert (tmp_path / "prob.tif").read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {"prob.tif", "prob.qml"}
    assert sum(predicted) > 110


# Kills the job once more with each further strip, and checks that the kill came before its end.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from geoseg.options import PredictOptions
from geoseg.api.predict import predict

scene, model, output = sys.argv[1:]
partial = Path(output).with_name("." + Path(output).name + ".partial")

def start():
    child = os.fork()
    if child == 0:
        predict(scene, output, model=model, options=PredictOptions(device="cpu"))
        os._exit(0)
    return child

for strips in range(10):
    child = start()
    deadline = time.monotonic() + 120
    while len(list(partial.glob("strips/*/*/*.tif"))) < strips:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert not Path(output).exists()
_, status = os.waitpid(start(), 0)
assert status == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_killed_ten_times_it_ends_with_the_same_bytes(town, model, whole, tmp_path):
    words = [sys.executable, "-c", KILLED, town[1], model, tmp_path / "prob.tif"]
    subprocess.run([str(word) for word in words], check=True, timeout=900)
    assert (tmp_path / "prob.tif").read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {"prob.tif", "prob.qml"}


def test_another_job_does_not_resume_an_interrupted_one(town, model, whole, tmp_path, monkeypatch):
    def stop(task, count=None):
        predict_block(task, count)
        raise Stopped

    monkeypatch.setattr("geoseg.prediction.strips.predict_block", stop)
    with pytest.raises(Stopped):
        predict(town[1], tmp_path / "prob.tif", model=model, options=cpu(tta="flips"))
    monkeypatch.undo()
    predict(town[1], tmp_path / "prob.tif", model=model, options=cpu())
    assert (tmp_path / "prob.tif").read_bytes() == whole


def test_a_full_disk_ends_with_one_line_and_can_be_resumed(
    town, model, whole, tmp_path, monkeypatch
):
    small = tmp_path / "small"
    small.mkdir()

    def measure_small_disk(_):
        return 1_100_000 - sum(file.stat().st_size for file in small.rglob("*") if file.is_file())

    with monkeypatch.context() as patch:
        for module in ("geoseg.geo.raster.geotiff", "geoseg.jobs.files"):
            patch.setattr(f"{module}.free_space", measure_small_disk)
        with pytest.raises(DiskFullError, match="the disk is full; free some space and run"):
            predict(town[1], small / "prob.tif", model=model, options=cpu())
    assert not (small / "prob.tif").exists()
    assert sum(1 for _ in small.rglob("*.tif")) > 0
    predict(town[1], small / "prob.tif", model=model, options=cpu())
    assert (small / "prob.tif").read_bytes() == whole


# What is stored


def test_outputs_are_cloud_optimized_and_have_metadata(town, model, tmp_path):
    built, scene = town
    predict(scene, tmp_path / "out", model=model, options=cpu())
    for name in ("prob.tif", "mask.tif"):
        valid, errors, warnings = cog_validate(tmp_path / "out" / name, strict=True)
        assert (valid, errors, warnings) == (True, [], []), name
        assert read_info(tmp_path / "out" / name).grid == built.grid
    with rasterio.open(tmp_path / "out" / "prob.tif") as prob:
        assert prob.descriptions == ("building", "border")
        assert prob.scales == (1 / 255, 1 / 255)
        assert prob.tags()["GEOSEG_SCALE"] == str(1 / 255)
    with rasterio.open(tmp_path / "out" / "mask.tif") as mask:
        assert mask.colormap(1)[1] == (216, 27, 156, 255)
        assert mask.tags()["CLASS_1"] == "building"


def test_floats_and_bytes_have_the_same_probabilities(town, model, tmp_path):
    _, scene = town
    predict(scene, tmp_path / "floats.tif", model=model, options=cpu(floats=True))
    predict(scene, tmp_path / "bytes.tif", model=model, options=cpu())
    floats, valid = read(tmp_path / "floats.tif")
    stored, known = read(tmp_path / "bytes.tif")
    assert floats.dtype == np.float32
    assert np.array_equal(valid, known)
    assert np.array_equal(np.rint(floats * 255), stored)


def test_uncertainty_is_the_deviation_of_the_averaged_views(town, model, tmp_path):
    built, scene = town
    options = cpu(floats=True, uncertainty=True, overlap=0, tta="d4", batch_size=1)
    predict(scene, tmp_path / "prob.tif", model=model, options=options)
    data, _ = read(tmp_path / "prob.tif")
    assert read_info(tmp_path / "prob.tif").bands == ("building", "border", "uncertainty")
    predictor = Predictor(*load_model(model), "cpu")
    tile = np.where(built.valid, built.image, 0)[None, :, 32:64, 64:96]
    views = []
    for turns in range(4):
        for mirrored in (False, True):
            seen = np.rot90(tile[..., ::-1] if mirrored else tile, turns, (-2, -1))
            prob = predictor(np.ascontiguousarray(seen), np.ones((1, 32, 32), bool))[0]
            prob = np.rot90(prob, -turns, (-2, -1))
            views.append(prob[..., ::-1] if mirrored else prob)
    place = (slice(None), slice(32, 64), slice(64, 96))
    np.testing.assert_allclose(data[place][:2], np.mean(views, axis=0), atol=0.01)
    np.testing.assert_allclose(data[place][2], np.std(views, axis=0).max(axis=0), atol=0.01)
    assert data[2].max() > 0.01
    alone = cpu(floats=True, uncertainty=True, overlap=0)
    predict(scene, tmp_path / "alone.tif", model=model, options=alone)
    assert read(tmp_path / "alone.tif")[0][2].max() < 1e-3  # each pixel was predicted once


def test_uncertainty_in_bytes_has_its_own_scale(town, model, tmp_path):
    _, scene = town
    stored = {"uncertainty": True, "tta": "flips"}
    predict(scene, tmp_path / "floats.tif", model=model, options=cpu(floats=True, **stored))
    low = VectorizeOptions(body=0.4, seed=0.4)
    predict(scene, tmp_path / "out", model=model, options=cpu(**stored), vectorize=low)
    predict(scene, tmp_path / "f.gpkg", model=model, options=cpu(tta="flips"), vectorize=low)
    with rasterio.open(tmp_path / "out" / "prob.tif") as prob:
        assert prob.scales[2] == 0.5 / 255
        found = prob.read(3) * prob.scales[2]
    np.testing.assert_allclose(found, read(tmp_path / "floats.tif")[0][2], atol=0.5 / 255)
    footprints = read_footprints(tmp_path / "out" / "footprints.gpkg")
    assert footprints.equals(read_footprints(tmp_path / "f.gpkg"))
    assert len(footprints) > 0


def test_models_are_averaged(town, model, tmp_path):
    _, scene = town
    other = make_model(tmp_path / "other.safetensors", seed=5)
    for name, models in (("a", [model]), ("b", [other]), ("both", [model, other])):
        predict(scene, tmp_path / f"{name}.tif", model=models, options=cpu(floats=True))
    one, two, both = (read(tmp_path / f"{name}.tif")[0] for name in ("a", "b", "both"))
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)
    assert np.abs(one - two).max() > 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gsd_m": 0.8}, "needs pixels of 0.8 m, .* of 0.5 m"),
        ({"size": 64}, "has size 64, .* has 32"),
        ({"outputs": ("building",)}, "has outputs building, .* has building, border"),
    ],
)
def test_models_that_cannot_be_averaged(town, model, tmp_path, changes, message):
    other = make_model(tmp_path / "other.safetensors", **changes)
    with pytest.raises(GridMismatchError, match=message):
        predict(town[1], tmp_path / "prob.tif", model=[model, other], options=cpu())


# Area of interest


def test_only_the_area_of_interest_is_predicted(town, model, whole, tmp_path):
    built, scene = town
    transform = built.grid.transform
    (left, top), (right, bottom) = transform * (40.2, 50.2), transform * (90.7, 81.4)
    area = gpd.GeoDataFrame(geometry=[box(left, bottom, right, top)], crs=built.grid.crs.to_wkt())
    area.to_crs(4326).to_file(tmp_path / "aoi.geojson")
    told = []
    predict(
        scene, tmp_path / "prob.tif", model=model, options=cpu(aoi=str(tmp_path / "aoi.geojson")),
        progress=lambda done, total, what: told.append((done, total)),
    )  # fmt: skip
    found, valid = read(tmp_path / "prob.tif")
    wanted = np.zeros_like(valid)
    wanted[50:81, 40:91] = True
    assert np.array_equal(valid, wanted & built.valid)
    (tmp_path / "whole.tif").write_bytes(whole)
    everything, _ = read(tmp_path / "whole.tif")
    assert np.array_equal(found[:, 55:76, 45:86], everything[:, 55:76, 45:86])
    assert found[:, ~valid].max() == 0
    assert told[-1] == (110, 110)


def test_an_area_of_interest_outside_the_scene_is_refused(town, model, tmp_path):
    gpd.GeoDataFrame(geometry=[box(8, 50, 8.1, 50.1)], crs=4326).to_file(tmp_path / "aoi.gpkg")
    with pytest.raises(GridMismatchError, match="has no polygon on"):
        predict(
            town[1], tmp_path / "p.tif", model=model, options=cpu(aoi=str(tmp_path / "aoi.gpkg"))
        )


# Scenes that differ from the training scenes


@pytest.mark.parametrize(("gsd_m", "told"), [(0.5, False), (0.36, False), (0.3, True)])
def test_a_coarser_scene_is_warned_of(tmp_path, caplog, gsd_m, told):
    town = build_town(90, 130, seed=3, gsd_m=0.5, nodata_corner=False)
    mean, std = (f(town.image.reshape(3, -1), axis=1) for f in (np.mean, np.std))
    changes = {"mean": tuple(mean), "std": tuple(std), "gsd_m": gsd_m}
    model = make_model(tmp_path / "model.safetensors", **changes)
    write_array(tmp_path / "scene.tif", town.grid, town.image, descriptions=SPEC.bands)
    predict(tmp_path / "scene.tif", tmp_path / "prob.tif", model=model, options=cpu())
    assert ("pixels of 0.5 m are coarser" in caplog.text) == told


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda image: image, None),
        (lambda image: image // 3 + 1, "darker"),
        (lambda image: np.clip(image // 5 + 95, 1, 255), "of less contrast"),
    ],
)
def test_a_scene_of_other_statistics_is_warned_of(tmp_path, caplog, changed, words):
    town = build_town(150, 210, seed=3, gsd_m=0.5, nodata_corner=False)
    mean, std = (f(town.image.reshape(3, -1), axis=1) for f in (np.mean, np.std))
    model = make_model(tmp_path / "model.safetensors", mean=tuple(mean), std=tuple(std))
    image = changed(town.image).astype(np.uint8)
    write_array(tmp_path / "scene.tif", town.grid, image, descriptions=SPEC.bands)
    predict(tmp_path / "scene.tif", tmp_path / "prob.tif", model=model, options=cpu())
    if words is None:
        assert caplog.text == ""
    else:
        told = rf"scene.tif: band \w+ is {words} than in the scenes that the model was trained on;"
        assert re.search(told, caplog.text)


def test_a_scene_like_one_of_the_training_places_is_not_warned_of(tmp_path, caplog):
    town = build_town(150, 210, seed=3, gsd_m=0.5, nodata_corner=False)
    mean, std = (f(town.image.reshape(3, -1), axis=1) for f in (np.mean, np.std))
    desert = PlaceBands(name="desert", mean=tuple(mean + 3 * std), std=tuple(std))
    places = (desert, PlaceBands(name="rio", mean=tuple(mean), std=tuple(std)))
    write_array(tmp_path / "scene.tif", town.grid, town.image, descriptions=SPEC.bands)
    pooled = {"mean": tuple(mean + 1.5 * std), "std": tuple(2 * std)}
    for known, is_like in ((places, True), (places[:1], False)):
        caplog.clear()
        model = make_model(tmp_path / "model.safetensors", places=known, **pooled)
        predict(
            tmp_path / "scene.tif", tmp_path / "out", model=model, options=cpu(), overwrite=True
        )
        assert ("trained on" not in caplog.text) == is_like
    far = PlaceBands(name="moon", mean=tuple(mean + 9 * std), std=tuple(std))
    model = make_model(tmp_path / "model.safetensors", places=(far, desert), **pooled)
    caplog.clear()
    predict(tmp_path / "scene.tif", tmp_path / "out", model=model, options=cpu(), overwrite=True)
    told = "is darker than in desert, the most similar place that the model was trained on; check"
    assert told in caplog.text


# Odd pixels


def test_a_nan_changes_only_pixels_near_it(tmp_path):
    model = make_model(tmp_path / "model.safetensors", dtype="float32", size=64, overlap=16)
    town = build_town(130, 190, seed=4, nodata_corner=False)
    pixels = town.image.astype(np.float32)
    bands = {"descriptions": SPEC.bands}
    write_array(tmp_path / "clean.tif", town.grid, pixels, **bands)
    pixels[1, 70, 100] = np.nan
    pixels[:, 20:25, 30:33] = -9999
    write_array(tmp_path / "holes.tif", town.grid, pixels, nodata=-9999, **bands)
    for name in ("clean", "holes"):
        predict(
            tmp_path / f"{name}.tif", tmp_path / f"{name}_prob.tif", model=model,
            options=cpu(floats=True),
        )  # fmt: skip
    clean, _ = read(tmp_path / "clean_prob.tif")
    holes, valid = read(tmp_path / "holes_prob.tif")
    wanted = np.ones((130, 190), bool)
    wanted[70, 100] = wanted[20:25, 30:33] = False
    assert np.array_equal(valid, wanted)
    assert np.isfinite(holes).all()
    rows, columns = np.nonzero((np.abs(clean - holes).max(axis=0) > 1e-6) & valid)
    near = [
        np.hypot(rows - row, columns - column) < 64
        for row, column in ((70, 100), (22, 31))
    ]  # fmt: skip
    assert len(rows) > 0
    assert np.logical_or(*near).all()


@pytest.mark.parametrize(("worker", "index"), [("0", 0), ("1", 1), ("2", 0), ("tcp://a:1", 0)])
def test_each_worker_uses_its_own_gpu(monkeypatch, worker, index):
    monkeypatch.setenv(WORKER_VARIABLE, worker)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("gpu") == torch.device("cuda", index)
    assert choose_device("cpu") == torch.device("cpu")


# Public imagery


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.filterwarnings("ignore:CRS EPSG.* is deprecated")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_odd_raster_is_predicted_or_refused(realdata, tmp_path):
    predicted, refused = 0, 0
    for path in sorted((realdata / "odd_rasters").rglob("*")):
        if path.is_dir() or path.suffix in (".aux.xml", ".xml", ".md", ".csv"):
            continue
        try:
            info = read_info(path)
            bands = tuple(f"b{i}" for i, _ in enumerate(info.bands))
            model = make_model(
                tmp_path / "model.safetensors", bands=bands, dtype=info.dtype, arch="pixelwise",
                options={}, mean=(0.0,) * len(bands), std=(100.0,) * len(bands),
                gsd_m=info.grid.gsd_m, size=256, overlap=64,
            )  # fmt: skip
            options = cpu(bands=info.indexes, keep_blank=True)
            predict(path, tmp_path / "prob.tif", model=model, options=options, overwrite=True)
        except GeosegError as error:
            message = str(error)
            assert "\n" not in message
            assert len(message) > 30
            refused += 1
            continue
        with Scene(path) as scene, Scene(tmp_path / "prob.tif") as prob:
            window = Window(0, 0, min(300, scene.grid.width), min(300, scene.grid.height))
            _, valid = scene.read(window)
            found, known = prob.read(window)
            assert prob.grid.shape == scene.grid.shape
            assert np.array_equal(known, valid), path
            assert found[:, ~valid].sum() == 0
        predicted += 1
    assert predicted > 80
    assert refused > 20
