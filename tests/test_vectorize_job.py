"""Vectorizing is a job: it goes on, any process may do its tasks, and memory bounds it."""

import tracemalloc

import numpy as np
import pytest
import rasterio
from affine import Affine
from layers import vectorize
from scipy import ndimage

from geoseg.errors import ConfigError, WorkerLostError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import CLASSES_TAG, describe_classes, make_prob_tags, write_array
from geoseg.geo.vector import read_footprints
from geoseg.jobs.pool import Failure
from geoseg.jobs.workers import Workers
from geoseg.options import Thresholds
from geoseg.vectorization import footprint_frames, layer
from geoseg.vectorization.block_layout import BlockLayout, check_window, choose_layout
from geoseg.vectorization.components.labelling import label_block
from geoseg.vectorization.tasks import FindTask, TraceTask

SHAPE = (150, 230)
GRID = Grid(rasterio.CRS.from_epsg(32645), Affine(0.5, 0, 3e5, 0, -0.5, 3e6), *SHAPE)


def write_blobs(path, bands=("building", "border"), tags=None, seed=5):
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.random((len(bands), *SHAPE)), (0, 3, 3))
    low, high = fields.min(axis=(1, 2), keepdims=True), fields.max(axis=(1, 2), keepdims=True)
    values = ((fields - low) / (high - low) * 255).astype(np.uint8)
    write_array(path, GRID, values, descriptions=bands, tags=tags or {})
    return path


@pytest.fixture(params=["buildings", "classes"])
def prob(request, tmp_path):
    if request.param == "buildings":
        return write_blobs(tmp_path / "prob.tif", tags=make_prob_tags(Thresholds()))
    names = ("ground", "field", "water")
    tags = {CLASSES_TAG: describe_classes(names, "ground")}
    return write_blobs(tmp_path / "prob.tif", names, tags)


def stop_after(count):
    """A run that is interrupted after so many tasks, and says what it did."""
    done = []

    def run(function, tasks):
        for task in tasks:
            if len(done) == count:
                raise KeyboardInterrupt
            done.append(task)
            yield function(task)

    return run, done


def test_an_interrupted_run_goes_on_to_the_same_layer(prob, tmp_path):
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    count = vectorize(prob, whole)
    assert count > 20
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    windows = 0
    for tasks in (2, 3, 3):
        run, _ = stop_after(tasks)
        with pytest.raises(KeyboardInterrupt):
            vectorize(prob, cut, block_px=60, run=run)
        assert not cut.exists()
        windows += tasks
    run, done = stop_after(1000)
    assert vectorize(prob, cut, run=run) == count  # with the blocks of before
    assert cut.read_bytes() == whole.read_bytes()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert 0 < len(done) < 30


def test_what_is_traced_is_not_traced_again(tmp_path):
    prob, output = write_blobs(tmp_path / "prob.tif"), tmp_path / "out.parquet"
    run, all_of_them = stop_after(1000)
    vectorize(prob, tmp_path / "whole.parquet", block_px=60, run=run)
    run, _ = stop_after(7)
    with pytest.raises(KeyboardInterrupt):
        vectorize(prob, output, block_px=60, run=run)
    run, rest = stop_after(1000)
    vectorize(prob, output, run=run)
    assert len(rest) == len(all_of_them) - 7


def test_a_layer_is_written_while_it_is_traced(tmp_path, monkeypatch):
    prob, traced = write_blobs(tmp_path / "prob.tif"), {}
    vectorize(prob, tmp_path / "whole.parquet")
    monkeypatch.setattr(footprint_frames, "_FRAME_ROWS", 5)
    run, done = stop_after(1000)
    real_write = layer.write_footprints

    def write(path, frames, **options):
        def counted():
            for frame in frames:
                traced.setdefault("first", len(done))
                yield frame

        return real_write(path, counted(), **options)

    monkeypatch.setattr(layer, "write_footprints", write)
    vectorize(prob, tmp_path / "out.parquet", block_px=60, run=run)
    assert 0 < traced["first"] < len(done)
    layers = [read_footprints(tmp_path / name) for name in ("whole.parquet", "out.parquet")]
    assert layers[0].equals(layers[1])


def test_another_job_starts_over(tmp_path):
    prob, output = write_blobs(tmp_path / "prob.tif"), tmp_path / "out.parquet"
    run, _ = stop_after(7)
    with pytest.raises(KeyboardInterrupt):
        vectorize(prob, output, block_px=60, run=run)
    low = Thresholds(body=0.4)
    count = vectorize(prob, output, thresholds=low)
    assert count == vectorize(prob, tmp_path / "whole.parquet", thresholds=low)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_workers_make_the_same_layer(prob, tmp_path):
    vectorize(prob, tmp_path / "alone.fgb")
    said = []
    vectorize(
        prob, tmp_path / "together.fgb", block_px=60, workers=Workers(processes=2),
        progress=lambda *told: said.append(told),
    )  # fmt: skip
    assert (tmp_path / "together.fgb").read_bytes() == (tmp_path / "alone.fgb").read_bytes()
    assert said[0] == (1, 3, "blocks searched")
    total = said[-1][1]
    assert said[3:] == [(number, total, "windows traced") for number in range(1, total + 1)]


def test_the_raster_is_described_once(prob, tmp_path, monkeypatch):
    opened, traced = [], []
    real_open = rasterio.open

    def count_opening(name, *args, **options):
        if str(name).endswith("prob.tif"):
            opened.append(name)
        return real_open(name, *args, **options)

    def run(function, tasks):
        for task in tasks:
            if isinstance(task, TraceTask):
                traced.append(len(opened))
            yield function(task)

    monkeypatch.setattr(rasterio, "open", count_opening)
    assert vectorize(prob, tmp_path / "out.gpkg", run=run) > 20
    assert traced[0] == 2  # its description, and the only block that is searched
    assert len(opened) == 2 + len(traced)


def test_a_lost_task_ends_the_job(tmp_path):
    prob = write_blobs(tmp_path / "prob.tif")

    def lose(function, tasks):
        yield from (Failure(WorkerLostError("a worker died")) for _ in tasks)

    with pytest.raises(WorkerLostError, match="a worker died"):
        vectorize(prob, tmp_path / "out.gpkg", run=lose)
    assert not (tmp_path / "out.gpkg").exists()


def test_memory_decides_the_blocks():
    wide = Grid(GRID.crs, GRID.transform, 1000, 400_000)
    assert choose_layout(GRID, 4) == BlockLayout(512, 2048)
    assert choose_layout(wide, 4) == BlockLayout(78, 2048)
    assert choose_layout(wide, 0.1) == BlockLayout(1, 256)
    least = choose_layout(GRID, 0.4)
    assert least.side < 2048
    assert 64 * (1.5 * least.side) ** 2 <= 0.25 * 0.4e9


def test_noise_is_searched_in_the_memory_that_is_counted():
    noise = (np.random.default_rng(1).random((300, 700)) < 0.5).astype(np.uint8)
    tracemalloc.start()
    part = label_block(noise, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert part.table[:, 4].sum() == noise.sum()
    rows = choose_layout(Grid(GRID.crs, GRID.transform, 10**6, 10**6), 4).rows
    assert peak / noise.size <= 0.25 * 4e9 / (rows * 10**6)


def test_what_does_not_fit_into_memory_is_refused(tmp_path):
    check_window(rasterio.windows.Window(0, 0, 1000, 1100), 0.1)
    with pytest.raises(ConfigError, match=r"1200 x 1000 pixels and needs 0.1 GB to trace"):
        check_window(rasterio.windows.Window(0, 0, 1000, 1200), 0.1)
    prob = tmp_path / "prob.tif"
    write_array(prob, GRID, np.full((1, *SHAPE), 200, dtype=np.uint8), descriptions=("building",))
    with pytest.raises(ConfigError, match="region spans 150 x 230 pixels"):
        vectorize(prob, tmp_path / "out.gpkg", max_memory_gb=1e-3)
    assert not (tmp_path / "out.gpkg").exists()
    said = []
    vectorize(prob, tmp_path / "out.gpkg", progress=lambda *told: said.append(told))
    assert said == [(1, 1, "windows traced")]  # what was found is not looked for again
    assert {path.name for path in tmp_path.iterdir()} == {"prob.tif", "out.gpkg"}


def test_less_memory_than_before_cuts_anew(prob, tmp_path):
    whole, output = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    count = vectorize(prob, whole)
    run, _ = stop_after(0)
    with pytest.raises(KeyboardInterrupt):
        vectorize(prob, output, max_memory_gb=4, run=run)
    run, done = stop_after(6)
    with pytest.raises(KeyboardInterrupt):
        vectorize(prob, output, max_memory_gb=3, block_px=40, run=run)
    assert [task.window.height for task in done[:4]] == [40, 40, 40, 30]
    run, done = stop_after(1000)
    assert vectorize(prob, output, max_memory_gb=2, block_px=30, run=run) == count
    assert not any(isinstance(task, FindTask) for task in done)  # but windows of before are gone
    run, alone = stop_after(1000)
    vectorize(prob, tmp_path / "alone.parquet", block_px=30, run=run)
    assert len(done) == sum(isinstance(task, TraceTask) for task in alone)
    assert output.read_bytes() == whole.read_bytes()
