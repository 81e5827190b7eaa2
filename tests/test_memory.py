"""Peak memory of each verb in a process of its own, against `--max-memory`."""

import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window
from shapely.geometry import box
from small_models import DEEPGLOBE, PIXELWISE, make_model

from geoseg.api.predict import predict
from geoseg.errors import MemoryLimitError
from geoseg.geo.tiling import TileGrid
from geoseg.jobs.memory import resident_bytes
from geoseg.jobs.workers import Workers
from geoseg.options import CRFOptions, PredictOptions
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.memory import (
    MemoryNeeds,
    check_crf_memory,
    count_panels,
    plan_memory,
)

SIDE, LARGE = 4096, 32768
GSD_M = 0.5
CRS, LEFT, TOP = "EPSG:32645", 500_000.0, 3_000_000.0

# Bytes of the libraries are about two thirds of it.
LIMIT_GB = 1.5

# Runs the command line on a machine that seems to have a number of cores, and ends with the
# kernel's own figure of the peak. The parent cannot get it from `wait4`, whose figure includes the
# parent's memory at the fork.
DRIVER = """
import os, sys
cores, peak, *sys.argv[1:] = sys.argv[1:]
os.sched_getaffinity = lambda _: set(range(int(cores)))
from geoseg.cli import main
try:
    main()
finally:
    with open("/proc/self/status") as status, open(peak, "w") as sink:
        sink.write(status.read().split("VmHWM:")[1].split()[0])
"""

needs_proc = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads the peak memory from /proc"
)


def peak_gb(folder, cores, *arguments):
    """Run a command; return its peak memory in GB."""
    peak = folder / "peak.txt"
    words = [sys.executable, "-c", DRIVER, cores, peak, *arguments]
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(peak.read_text()) * 1024 / 1e9


def write_pixels(path, bands, side=SIDE, buildings=True):
    """Write a square raster of noise and some brighter buildings, 255 in buildings alone."""
    profile = {
        "driver": "GTiff", "height": side, "width": side, "count": len(bands), "dtype": "uint8",
        "crs": CRS, "transform": Affine(GSD_M, 0, LEFT, 0, -GSD_M, TOP), "tiled": True,
        "blockxsize": 256, "blockysize": 256, "compress": "deflate", "photometric": "minisblack",
    }  # fmt: skip
    rng = np.random.default_rng(0)
    pixels = rng.integers(20, 60, (len(bands), 512, 512), dtype=np.uint8)
    if buildings:
        pixels[:, 100:130, 200:240] = pixels[:, 300:330, 60:90] = 220
    with rasterio.open(path, "w", **profile) as sink:
        for top in range(0, side, 512):
            for left in range(0, side, 512):
                sink.write(pixels, window=Window(left, top, 512, 512))
        sink.descriptions = bands
    return path


def write_vrt(path, source, side=LARGE):
    """Write a VRT in which a raster is repeated until a larger square is full."""
    with rasterio.open(source) as raster:
        names, length, transform = raster.descriptions, raster.width, raster.transform
        wkt = raster.crs.to_wkt()
    vrt = ElementTree.Element("VRTDataset", rasterXSize=str(side), rasterYSize=str(side))
    ElementTree.SubElement(vrt, "SRS").text = wkt
    geo = ElementTree.SubElement(vrt, "GeoTransform")
    geo.text = ", ".join(map(repr, transform.to_gdal()))
    extent = {"xSize": str(length), "ySize": str(length)}
    for number, name in enumerate(names, start=1):
        band = ElementTree.SubElement(vrt, "VRTRasterBand", dataType="Byte", band=str(number))
        ElementTree.SubElement(band, "Description").text = name
        for top in range(0, side, length):
            for left in range(0, side, length):
                part = ElementTree.SubElement(band, "SimpleSource")
                ElementTree.SubElement(part, "SourceFilename").text = str(source)
                ElementTree.SubElement(part, "SourceBand").text = str(number)
                ElementTree.SubElement(part, "SrcRect", xOff="0", yOff="0", **extent)
                ElementTree.SubElement(part, "DstRect", xOff=str(left), yOff=str(top), **extent)
    path.write_bytes(ElementTree.tostring(vrt))
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A scene of 4096² pixels, and a VRT of 32768²."""
    folder = tmp_path_factory.mktemp("scenes")
    scene = write_pixels(folder / "scene.tif", DEEPGLOBE.bands)
    return {SIDE: scene, LARGE: write_vrt(folder / "scene.vrt", scene)}


@pytest.fixture(scope="module")
def probs(tmp_path_factory):
    """Probabilities of the same sizes."""
    folder = tmp_path_factory.mktemp("probs")
    prob = write_pixels(folder / "prob.tif", ("building",))
    return {SIDE: prob, LARGE: write_vrt(folder / "prob.vrt", prob)}


# Of a U-Net, sixteen batches in flight would take more than the limit.
UNET = DEEPGLOBE.model_copy(
    update={
        "arch": "unet", "encoder": None, "options": {"width": 8, "depth": 3},
        "size": 512, "overlap": 32, "gsd_m": GSD_M,
    }
)  # fmt: skip
FAST = PIXELWISE.model_copy(update={"size": 1024, "overlap": 32, "gsd_m": GSD_M})


def predict_peak(scene, spec, folder, cores, *arguments):
    model = make_model(folder / "model.safetensors", spec)
    return peak_gb(
        folder, cores, "predict", scene, "-m", model, "-o", folder / "out", "--rasters-only",
        "--device", "cpu", "--max-memory", f"{LIMIT_GB}GB", *arguments,
    )  # fmt: skip


@needs_proc
def test_predict_with_16_threads_stays_below_the_limit(scenes, tmp_path):
    aoi = gpd.GeoDataFrame(geometry=[box(LEFT, TOP - 700, LEFT + 1500, TOP)], crs=CRS)
    aoi.to_file(tmp_path / "aoi.gpkg")
    peak = predict_peak(scenes[SIDE], UNET, tmp_path, 16, "--aoi", tmp_path / "aoi.gpkg")
    assert peak <= LIMIT_GB


@needs_proc
@pytest.mark.slow  # a whole scene through a network, a minute each
@pytest.mark.parametrize("cores", [1, 16])
def test_predict_of_a_scene_stays_below_the_limit(scenes, tmp_path, cores):
    assert predict_peak(scenes[SIDE], UNET, tmp_path, cores) <= LIMIT_GB


@needs_proc
@pytest.mark.slow  # a gigapixel, some minutes each
@pytest.mark.parametrize("cores", [1, 16])
def test_predict_of_a_gigapixel_stays_below_the_limit(scenes, tmp_path, cores):
    assert predict_peak(scenes[LARGE], FAST, tmp_path, cores) <= LIMIT_GB


@needs_proc
@pytest.mark.slow  # a gigapixel, some minutes each
@pytest.mark.parametrize("cores", [1, 16])
@pytest.mark.parametrize("side", [SIDE, LARGE])
def test_vectorize_stays_below_the_limit(probs, tmp_path, side, cores):
    peak = peak_gb(
        tmp_path, cores, "vectorize", probs[side], "-o", tmp_path / "layer.parquet",
        "--max-memory", f"{LIMIT_GB}GB",
    )  # fmt: skip
    assert peak <= LIMIT_GB


@needs_proc
@pytest.mark.slow  # writes thousands of tiles
@pytest.mark.parametrize("cores", [1, 16])
@pytest.mark.parametrize("side", [SIDE, LARGE])
def test_tile_stays_below_the_limit(scenes, tmp_path, side, cores):
    labels = gpd.GeoDataFrame(
        geometry=[
            box(x, y - 10, x + 12, y)
            for x in LEFT + np.arange(20, 2000, 160) for y in TOP - np.arange(20, 2000, 160)
        ],
        crs=CRS,
    )  # fmt: skip
    labels.to_file(tmp_path / "labels.gpkg")
    # Large tiles, few of them empty: the rest of the gigapixel is planned but not written.
    peak = peak_gb(
        tmp_path, cores, "tile", scenes[side], "--labels", tmp_path / "labels.gpkg", "-o",
        tmp_path / "tiles", "--size", "1024", "--overlap", "0", "--keep-empty", "0.01",
    )  # fmt: skip
    assert peak <= LIMIT_GB


# The plan

MB = 10**6
NEEDS = MemoryNeeds(
    process=600 * MB, activations=100 * MB, inputs=4 * MB, outputs=2 * MB, strips=50 * MB,
    reading=100 * MB,
)  # fmt: skip


@pytest.mark.parametrize(
    ("limit_gb", "threads", "read_ahead"),
    [(None, 16, 8), (4.0, 16, 8), (2.0, 7, 8), (1.0, 1, 7), (0.98, 1, 3), (0.97, 1, 1)],
)
def test_threads_and_read_ahead_are_chosen_by_the_limit(limit_gb, threads, read_ahead):
    plan = plan_memory(NEEDS, limit_gb, threads=16, read_ahead=8)
    assert (plan.threads, plan.read_ahead) == (threads, read_ahead)
    assert plan.total == NEEDS.total(threads, read_ahead)
    assert limit_gb is None or plan.total <= limit_gb * 1e9


def test_a_limit_below_one_thread_is_refused_with_what_is_needed():
    with pytest.raises(MemoryLimitError, match=r"needs 0\.97 GB even with one .* 0\.5 GB are") as e:
        plan_memory(NEEDS, 0.5, threads=16, read_ahead=8)
    assert "\n" not in str(e.value)
    assert plan_memory(NEEDS, 0.97, threads=16, read_ahead=8).threads == 1


def test_a_limit_below_one_thread_can_be_warned_of(caplog):
    plan = plan_memory(NEEDS, 0.5, threads=1, read_ahead=8, refuse=False)
    assert plan.threads == 1
    assert "needs 0.97 GB even with one thread" in caplog.text


@needs_proc
def test_a_limit_below_the_process_is_refused_before_a_tile_is_predicted(scenes, tmp_path):
    model, reported = make_model(tmp_path / "m.safetensors", FAST), []
    with pytest.raises(MemoryLimitError, match="--max-memory: predicting needs"):
        predict(
            scenes[SIDE], tmp_path / "p.tif", model=model, options=PredictOptions(device="cpu"),
            workers=Workers(max_memory_gb=0.1),
            progress=lambda *done: reported.append(done),
        )  # fmt: skip
    assert not (tmp_path / "p.tif").exists()
    assert reported == []


def test_measured_memory_of_a_batch_is_what_it_allocates():
    # In a new process: in this one the allocator may still hold memory that other tests have freed.
    code = """
import ctypes
import time
import numpy as np
import torch
from geoseg.jobs.memory import resident_bytes
from geoseg.prediction.memory import measure_batch

def predict():
    arrays = [torch.ones(8_000_000) for _ in range(3)]
    time.sleep(0.2)  # so that the sampling thread sees them on a busy machine
    return arrays

print(measure_batch(predict))
ctypes.CDLL(None).malloc_trim(0)  # now, not while memory is counted
before = resident_bytes()
kept = np.ones(64_000_000, np.uint8)
print(resident_bytes() - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    measured, kept = map(int, result.stdout.split())
    assert 0.9 * 96 * MB < measured < 1.4 * 96 * MB
    assert 0.9 < kept / (64 * MB) < 1.1


def test_a_crf_that_needs_more_than_the_limit_is_refused():
    whole, own = (10_000, 10_000), resident_bytes() / 1e9
    check_crf_memory(CRFOptions(), whole, bands=3, max_memory_gb=own + 1.8)
    check_crf_memory(CRFOptions(bilateral_sigma=200), (300, 400), bands=3, max_memory_gb=own + 0.3)
    for crf, bands in ((CRFOptions(bilateral_sigma=200), 3), (CRFOptions(), 8)):
        with pytest.raises(MemoryLimitError, match=r"refining by the CRF needs \d\.\d+ GB, but"):
            check_crf_memory(crf, whole, bands=bands, max_memory_gb=own + 1.8)


def test_panels_are_chosen_by_the_limit():
    tiles = TileGrid(4096, 1_000_000, 512, 128)
    counts = [count_panels(tiles, OutputEncoding(("building",)), gb) for gb in (40, 1, 0.1, 0.01)]
    assert counts[0] == counts[1] > 10  # more memory would save little time
    assert counts == sorted(counts)
    assert counts[-1] > 500
    (one,) = {
        count_panels(replace(tiles, width=9000), OutputEncoding(("building",)), gb) for gb in (1, 4)
    }
    assert one == 1
