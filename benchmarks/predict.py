"""Benchmark of prediction: overhead, speed, scaling and memory.

    python benchmarks/predict.py [PART...] [--device cpu] [--repeat 3]

Prints one JSON line per part, by default for all parts. Scenes are repetitions of a synthetic
town.

- `null`: overhead without a real network: an 8192² scene through one 1x1 convolution, with
  probabilities and mask written as Cloud Optimized GeoTIFFs. The ratio compares it with a minimal
  loop that reads the same windows and writes as many pixels to two plain GeoTIFFs. These have no
  overviews; with those that Cloud Optimized GeoTIFFs have, the loop is compared in a second ratio.
- `network`: tiles per second of `geoseg predict` with the DeepGlobe network, and the ratio to that
  network on the same batches in memory.
- `backends`: tiles per second of each available backend with that network, without compilation,
  and the ratio to eager torch.
- `workers`: two workers compared with one: whether the bytes are the same, and how many
  additional tiles were predicted.
- `memory`: peak memory of the verb in a separate process, for 4096², 16384² and 32768² pixels.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.enums import Resampling
from rasterio.windows import Window

from geoseg.api.predict import predict
from geoseg.errors import ConfigError
from geoseg.geo.tiling import TileGrid
from geoseg.jobs.pool import Failure, Pool, Success
from geoseg.jobs.workers import Workers
from geoseg.networks.device import choose_device
from geoseg.networks.model_file import ModelSpec, load_model, load_spec, save_model
from geoseg.networks.models import build_model
from geoseg.options import PredictOptions
from geoseg.prediction.backend_names import NAMES, check_backend
from geoseg.prediction.batches import iter_batches
from geoseg.prediction.blocks import BlockTask, choose_batch, predict_block
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.plan import plan_prediction
from geoseg.prediction.predictor import Predictor
from geoseg.prediction.stitching import TileBlock
from geoseg.town import build_town, write_town

TOWN = 2048
SIDE = 8192
SIDES = (4096, 16384, 32768)
SIZE, OVERLAP = 512, 128

# Side of the scene for `network`: some tens of tiles.
NETWORK_SIDE = {"cpu": 2048, "cuda": 8192}


def main() -> None:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="null, network, backends, workers, memory"
    )
    parser.add_argument("--repeat", type=int, default=3, help="repeats; the fastest counts")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    measured = {"repeat": arguments.repeat, "device": arguments.device}
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "null": partial(null, **measured),
        "network": partial(network, **measured),
        "backends": partial(backends, repeat=arguments.repeat, device=arguments.device),
        "workers": partial(workers, **measured),
        "memory": partial(memory, device=arguments.device),
    }
    unknown = [name for name in arguments.parts if name not in parts]
    if unknown:
        parser.error(f"unknown part {unknown[0]}; choose from {', '.join(parts)}")
    with tempfile.TemporaryDirectory() as work:
        write_town(build_town(TOWN, TOWN, seed=7, gsd_m=0.5), Path(work))
        for name in arguments.parts or parts:
            print(json.dumps({"part": name, **parts[name](Path(work))}), flush=True)


def make_model(folder: Path, arch: str, encoder: str | None = None) -> Path:
    """Write a model file with random weights and one output."""
    path = folder / f"{arch}.safetensors"
    spec = ModelSpec(
        arch=arch, encoder=encoder, bands=("red", "green", "blue"), dtype="uint8",
        mean=(110.0, 110.0, 100.0), std=(40.0, 40.0, 40.0), gsd_m=0.5, outputs=("building",),
        size=SIZE, overlap=OVERLAP,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(arch, encoder, bands=spec.bands, outputs=1, options={})
    save_model(path, model.state_dict(), spec)
    return path


def make_scene(folder: Path, side: int, town_side: int = TOWN) -> Path:
    """Write a square GeoTIFF of repetitions of the town."""
    path = folder / f"scene_{side}.tif"
    if path.exists():
        return path
    with rasterio.open(folder / "scene.tif") as town:
        pixels, profile = town.read(), town.profile
    profile |= {"height": side, "width": side, "tiled": True, "compress": "deflate"}
    profile |= {"blockxsize": 512, "blockysize": 512, "nodata": None}
    with rasterio.open(path, "w", **profile) as sink:
        for top in range(0, side, town_side):
            for left in range(0, side, town_side):
                sink.write(pixels, window=Window(left, top, town_side, town_side))
        sink.descriptions = ("red", "green", "blue")
    return path


def make_vrt(folder: Path, side: int) -> Path:
    """Write a square VRT of repetitions of the 8192² scene."""
    source, path = make_scene(folder, SIDE), folder / f"scene_{side}.vrt"
    with rasterio.open(source) as scene:
        wkt = scene.crs.to_wkt().replace('"', "&quot;")
        geo = ", ".join(map(str, scene.transform.to_gdal()))
        names = scene.descriptions
    offsets = range(0, side, SIDE)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><Description>{name}</Description>'
        + "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{source.name}</SourceFilename>'
            f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="{SIDE}" '
            f'ySize="{SIDE}"/><DstRect xOff="{left}" yOff="{top}" xSize="{SIDE}" '
            f'ySize="{SIDE}"/></SimpleSource>'
            for top in offsets
            for left in offsets
        )
        + "</VRTRasterBand>"
        for band, name in enumerate(names, 1)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{wkt}</SRS>'
        f"<GeoTransform>{geo}</GeoTransform>{bands}</VRTDataset>"
    )
    return path


def null(work: Path, *, repeat: int, device: str) -> dict[str, Any]:
    """Time prediction with one 1x1 convolution and the minimal loop, alternately."""
    scene, model = make_scene(work, SIDE), make_model(work, "pixelwise")
    options = PredictOptions(device=device, footprints=False)
    seconds: dict[str, list[float]] = {"bare": [], "with_overviews": [], "all": []}
    for turn in range(repeat + 1):  # the first one is a warm-up
        bare = time_bare(scene, work)
        start = time.perf_counter()
        predict(scene, work / f"null_{turn}", model=model, options=options)
        taken = bare | {"all": time.perf_counter() - start}
        if turn:
            for name, value in taken.items():
                seconds[name].append(value)
    best = {name: min(values) for name, values in seconds.items()}
    return {
        "seconds": {name: round(value, 2) for name, value in best.items()},
        "ratio": round(best["bare"] / best["all"], 3),
        "ratio_with_overviews": round(best["with_overviews"] / best["all"], 3),
    }


def time_bare(scene: Path, work: Path) -> dict[str, float]:
    """Time the minimal loop, without overviews and with them.

    It runs in a separate process with GDAL's default cache size.
    """
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); " + BARE
    command = [sys.executable, "-c", program, str(scene), str(work)]
    environment = os.environ | {"GDAL_CACHEMAX": "5%"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


# The second run counts; the first one is a warm-up.
BARE = """
import json, time
from pathlib import Path
from predict import add_overviews, copy_windows
scene, work = map(Path, sys.argv[1:])
copy_windows(scene, work)
start = time.perf_counter()
copy_windows(scene, work)
bare = time.perf_counter() - start
add_overviews(work)
print(json.dumps({"bare": bare, "with_overviews": time.perf_counter() - start}))
"""


def copy_windows(scene: Path, work: Path) -> None:
    """Read the tiles of a scene one by one, and write one band and its mask without blending."""
    with rasterio.open(scene) as source:
        plan = TileGrid(source.height, source.width, SIZE, OVERLAP)
        profile = source.profile | {"count": 1}
        with (
            rasterio.open(work / "bare_prob.tif", "w", **profile) as prob,
            rasterio.open(work / "bare_mask.tif", "w", **profile) as mask,
        ):
            for tile in plan:
                pixels = source.read(window=tile.window)
                top, left = plan.rows.begin(tile.row), plan.columns.begin(tile.column)
                height = plan.rows.complete_until(tile.row) - top
                width = plan.columns.complete_until(tile.column) - left
                y, x = top - tile.window.row_off, left - tile.window.col_off
                part = pixels[0, y : y + height, x : x + width]
                window = Window(left, top, width, height)
                prob.write(part, 1, window=window)
                mask.write((part > 127).astype(np.uint8), 1, window=window)


def add_overviews(work: Path) -> None:
    """Add overviews down to 256 pixels to the rasters of `copy_windows`."""
    methods = {"bare_prob.tif": Resampling.average, "bare_mask.tif": Resampling.nearest}
    for name, resampling in methods.items():
        with rasterio.open(work / name, "r+") as raster:
            levels = [2**k for k in range(1, 16) if max(raster.shape) > 256 * 2 ** (k - 1)]
            raster.build_overviews(levels, resampling)


def network(work: Path, *, repeat: int, device: str) -> dict[str, Any]:
    """Measure tiles per second of the DeepGlobe network alone and within prediction."""
    task = make_task(work, device)
    spec, weights = load_model(task.models[0])
    predictor = Predictor(spec, weights, device)
    choice = choose_batch(task)
    with task.scene.open(task.grid) as scene:
        batches = [
            (batch.data, batch.valid)
            for batch in iter_batches(scene, task.block, batch_size=choice.batch_size)
        ]
    best = {"bare": np.inf, "ours": np.inf}
    bare = [partial(run_bare, predictor, batches)]
    if predictor.device.type == "cpu":
        bare.append(partial(run_bare_by_thread, predictor, batches, task.threads))
    for _ in range(repeat):
        for run in bare:  # the faster of two ways to use the threads of a CPU
            start = time.perf_counter()
            run()
            best["bare"] = min(best["bare"], time.perf_counter() - start)
        start = time.perf_counter()
        predict_block(task)
        best["ours"] = min(best["ours"], time.perf_counter() - start)
    tiles = len(task.block)
    return {
        "device": str(predictor.device),
        "tiles": tiles,
        "batch_size": choice.batch_size,
        "tiles_per_s": {name: round(tiles / seconds, 2) for name, seconds in best.items()},
        "ratio": round(best["bare"] / best["ours"], 3),
    }


def make_task(work: Path, device: str) -> BlockTask:
    """Make a task of all tiles of a scene, for the DeepGlobe network."""
    model = make_model(work, "deepglobe")
    spec = load_spec(model)
    side = NETWORK_SIDE[choose_device(device).type]
    plan = plan_prediction(make_scene(work, side), spec)
    folder = work / "bands"
    folder.mkdir(exist_ok=True)
    return BlockTask(
        folder, plan.scene, plan.grid, TileBlock.whole(plan.tiles), (model,), device, "torch",
        "none", None, 2, OutputEncoding(spec.outputs),
    )  # fmt: skip


def backends(work: Path, *, repeat: int, device: str) -> dict[str, Any]:
    """Measure tiles per second of each backend."""
    task = make_task(work, device)
    best = {}
    for name in NAMES:
        try:
            check_backend(name, choose_device(device).type.replace("cuda", "gpu"))
        except ConfigError:  # not installed, or not for this device
            continue
        one = replace(task, backend=name)
        predict_block(one)  # compiles
        best[name] = np.inf
        for _ in range(repeat):
            start = time.perf_counter()
            predict_block(one)
            best[name] = min(best[name], time.perf_counter() - start)
    return {
        "tiles_per_s": {name: round(len(task.block) / taken, 2) for name, taken in best.items()},
        "ratio": {name: round(best["torch"] / taken, 3) for name, taken in best.items()},
    }


@torch.inference_mode()
def run_bare(predictor: Predictor, batches: list[Any]) -> None:
    """Run the network alone on normalized batches on its device."""
    (one,), image = predictor.networks, normalize_batch(predictor, batches[0])
    for _ in batches:
        prob = one.prob(image)
    prob.flatten()[0].item()  # waits for the GPU


def run_bare_by_thread(predictor: Predictor, batches: list[Any], threads: int) -> None:
    """Run as `run_bare`, with several batches at a time, each on one thread."""
    (one,), image = predictor.networks, normalize_batch(predictor, batches[0])

    @torch.inference_mode()
    def predict_one(_: Any) -> None:
        one.prob(image)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(predict_one, batches))
    torch.set_num_threads(before)


def normalize_batch(predictor: Predictor, batch: Any) -> torch.Tensor:
    """Return a normalized batch on the device of the network."""
    data, valid = batch
    (one,) = predictor.networks
    image = one.normalise(predictor.send(data), predictor.send(valid)[:, None])
    return image.contiguous(memory_format=torch.channels_last)


class CountingPool(Pool):
    """Pool that collects the numbers that tasks return.

    Args:
        pool: The pool that runs the tasks.
        counts: List to which the numbers are appended.
    """

    def __init__(self, pool: Pool, counts: list[int]) -> None:
        super().__init__(pool.size)
        self._pool, self._counts = pool, counts

    @property
    def is_serial(self) -> bool:
        """Whether this process carries out the tasks itself."""
        return self._pool.is_serial

    def settle(self) -> None:
        """Wait until no task runs."""
        self._pool.settle()

    def outcomes(
        self, function: Callable[[Any], Any], tasks: Iterable[Any]
    ) -> Iterator[Success[Any] | Failure]:
        """Run a function over tasks and yield their outcomes in order."""
        for outcome in self._pool.outcomes(function, tasks):
            if isinstance(outcome, Success) and isinstance(outcome.value, int):
                self._counts.append(outcome.value)
            yield outcome


@dataclass(frozen=True)
class CountingWorkers(Workers):
    """Workers that count the predicted tiles.

    Attributes:
        counts: Number of tiles of each task.
    """

    counts: list[int] = field(default_factory=list)

    @contextmanager
    def open(self, *functions: Any, **more: Any) -> Iterator[Pool]:
        """Start the workers, and stop them in the end."""
        with super().open(*functions, **more) as pool:
            yield CountingPool(pool, self.counts)


def workers(work: Path, *, repeat: int, device: str) -> dict[str, Any]:
    """Compare two workers with one."""
    del repeat
    scene, model = make_scene(work, SIDE), make_model(work, "pixelwise")
    options = PredictOptions(device=device)
    predict(scene, work / "one.tif", model=model, options=options)
    two = CountingWorkers(processes=2)
    predict(scene, work / "two.tif", model=model, options=options, workers=two)
    with rasterio.open(scene) as source:
        tiles = len(TileGrid(source.height, source.width, SIZE, OVERLAP))
    return {
        "same_bytes": (work / "one.tif").read_bytes() == (work / "two.tif").read_bytes(),
        "tiles": tiles,
        "tiles_of_two": sum(two.counts),
        "more": round(sum(two.counts) / tiles - 1, 4),
    }


def memory(work: Path, *, device: str) -> dict[str, Any]:
    """Measure the peak memory of the verb in MB by scene side."""
    model = make_model(work, "pixelwise")
    peaks, seconds = {}, {}
    for side in SIDES:
        scene = make_scene(work, side) if side < SIDE else make_vrt(work, side)
        arguments = [scene, "-m", model, "-o", work / f"large_{side}.tif", "--device", device]
        command = [sys.executable, "-c", MEASURED_VERB, "predict", *map(str, arguments)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        measured = json.loads(done.splitlines()[-1])
        peaks[side], seconds[side] = measured["peak_mb"], measured["seconds"]
    return {
        "peak_mb": peaks,
        "seconds": seconds,
        "growth_mb": round(max(peaks.values()) - min(peaks.values()), 1),
    }


# VmHWM, since the peak reported by `resource` includes that of the parent process before exec.
MEASURED_VERB = """
import json, re, time
from pathlib import Path
from geoseg.cli import main
start = time.perf_counter()
try:
    main()
finally:
    peak_kb = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    seconds = time.perf_counter() - start
    print(json.dumps({"peak_mb": round(int(peak_kb) / 1024, 1), "seconds": round(seconds, 1)}))
"""


if __name__ == "__main__":
    main()
