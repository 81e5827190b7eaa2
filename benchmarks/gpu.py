"""Benchmark of everything that a GPU is for, in one run of a few minutes.

    python benchmarks/gpu.py [predict] [footprints] [train] [--device auto] [--side 8192]
        [--network lite0 ...] [--batch 8,32] [--backend torch,compile] [--steps 20] [--repeat 3]

Prints one JSON line per measurement, the device in each. A scene is repetitions of a synthetic
town. With --device cpu and a small --side it runs without a GPU, too.

- `predict`: for each network, backend and number of tiles per batch, tiles per second of the
  network alone, which normalizes one batch and computes it again and again, and from the file to
  finished strips; medians. Their ratio is the share of the time in which the device computes.
  With 0 tiles it is the number that `geoseg predict` chooses.
- `footprints`: megapixels per second of `geoseg predict` from the scene to footprints, and the
  seconds of each stage. Stages of several threads run at the same time. A GPU computes after the
  network was called: its time is in the stage that waits for it, stitching or writing strips.
- `train`: steps per second of `geoseg train`, and the ratio to the same steps on a batch that is on
  the device.

The networks are the default model (`lite0`) and the DeepGlobe network with SE-ResNeXt-50
(`seresnext50`), which has random weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from predict import make_model, make_scene, run_bare, run_bare_by_thread
from stopwatch import Stopwatch
from train import make_tiles, speed

from geoseg.api.predict import predict
from geoseg.config import load_config
from geoseg.errors import ConfigError
from geoseg.networks.device import choose_device
from geoseg.networks.model_file import find_model, load_model, load_spec
from geoseg.options import PredictOptions
from geoseg.prediction.backend_names import check_backend
from geoseg.prediction.batches import iter_batches
from geoseg.prediction.blocks import BlockTask, choose_batch, predict_block
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.plan import plan_prediction
from geoseg.prediction.predictor import Predictor
from geoseg.prediction.stitching import TileBlock
from geoseg.town import build_town, write_town

PARTS = ("predict", "footprints", "train")

# Configuration of each network, for training.
NETWORKS = {"lite0": "small", "seresnext50": "deepglobe"}

# Batches of the network alone: the first so many of a scene.
BARE_BATCHES = 40

# Functions of each stage, as of `Stopwatch.watch`.
STAGES = {
    "planning and blank areas": ["geoseg.prediction.plan:plan_prediction"],
    "comparing colours": ["geoseg.prediction.drift:warn_of_drift"],
    "reading tiles": ["geoseg.geo.raster.scene:Scene.read"],
    "network": ["geoseg.prediction.blocks:_predict_batch"],
    "stitching": ["geoseg.prediction.stitching:Stitcher.add"],
    "writing strips": ["geoseg.prediction.strip_writer:StripWriter._write"],
    "placing on the scene's pixels": [
        "geoseg.prediction.rasters:OutputRasters.stitch",
        "geoseg.prediction.rasters:OutputRasters.cut",
    ],
    "writing rasters": ["geoseg.prediction.rasters:OutputRasters.write"],
    "vectorizing": ["geoseg.vectorization.layer:write_layer"],
}


def main() -> None:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--side", type=int, default=8192, help="side of the scene")
    parser.add_argument("--town", type=int, default=2048, help="side of its town, a divisor")
    parser.add_argument("--network", action="append", choices=tuple(NETWORKS))
    parser.add_argument("--batch", default="0,8,32", help="tiles per batch; 0 for the default")
    parser.add_argument("--backend", default="torch,compile")
    parser.add_argument("--steps", type=int, default=20, help="training steps per measurement")
    parser.add_argument("--repeat", type=int, default=3, help="repeats")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()}; choose from {', '.join(PARTS)}")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    arguments.device = "gpu" if choose_device(arguments.device).type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_town(build_town(arguments.town, arguments.town, seed=7, gsd_m=0.3), work)
        measure = {"predict": measure_predict, "footprints": measure_footprints,
                   "train": measure_train}  # fmt: skip
        for part in arguments.parts or PARTS:
            for network in arguments.network or NETWORKS:
                for found in measure[part](work, network, arguments):
                    row = {"part": part, "device": name_device(arguments.device)}
                    print(json.dumps({**found, **row, "network": network}), flush=True)


def name_device(device: str) -> str:
    """Return the name of the device."""
    return torch.cuda.get_device_name() if device == "gpu" else f"{torch.get_num_threads()} threads"


def model_of(work: Path, network: str) -> Path:
    """Return the model file of a network."""
    return find_model("buildings") if network == "lite0" else make_model(work, "deepglobe")


def measure_predict(
    work: Path, network: str, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield tiles per second of the network alone and of prediction."""
    model = model_of(work, network)
    spec = load_spec(model)
    plan = plan_prediction(make_scene(work, arguments.side, arguments.town), spec)
    (work / "bands").mkdir(exist_ok=True)
    for backend in arguments.backend.split(","):
        try:
            check_backend(backend, arguments.device)
        except ConfigError as error:
            yield {"backend": backend, "error": str(error)}
            continue
        for wanted in map(int, arguments.batch.split(",")):
            task = BlockTask(
                work / "bands", plan.scene, plan.grid, TileBlock.whole(plan.tiles), (model,),
                arguments.device, backend, "none", wanted or None, torch.get_num_threads(),
                OutputEncoding(spec.outputs),
            )  # fmt: skip
            try:
                task = replace(task, batch_size=choose_batch(task).batch_size)
                yield {"backend": backend, **time_task(task, arguments.repeat)}
            except ConfigError as error:  # no compiler is installed
                yield {"backend": backend, "error": str(error)}


def time_task(task: BlockTask, repeat: int) -> dict[str, Any]:
    """Return tiles per second of the network of a task and of the task, and their ratio."""
    spec, weights = load_model(task.models[0])
    predictor = Predictor(spec, weights, task.device, backend=task.backend, threads=task.threads)
    assert task.batch_size is not None
    batches = []
    with task.scene.open(task.grid) as scene:
        for batch in iter_batches(scene, task.block, batch_size=task.batch_size):
            batches.append((batch.data, batch.valid))
            if len(batches) == BARE_BATCHES:
                break
    on_cpu = predictor.device.type == "cpu"
    # Both count tiles that only fill the last batch: the device computes them, too.
    full = -(-len(task.block) // task.batch_size) * task.batch_size
    bare, whole = [], []
    for turn in range(repeat + 1):  # the first one is a warm-up, and compiles
        start = time.perf_counter()
        if on_cpu:
            run_bare_by_thread(predictor, batches, task.threads)
        else:
            run_bare(predictor, batches)
        middle = time.perf_counter()
        predict_block(task)
        if turn:
            bare.append(len(batches) * task.batch_size / (middle - start))
            whole.append(full / (time.perf_counter() - middle))
    speeds = {"network": statistics.median(bare), "predict": statistics.median(whole)}
    return {
        "batch_size": task.batch_size,
        "tile": spec.size,
        "tiles_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
        "ratio": round(statistics.median(np.divide(whole, bare)), 3),
    }


def measure_footprints(
    work: Path, network: str, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield the seconds from a scene to footprints, in all and by stage."""
    scene, model = make_scene(work, arguments.side, arguments.town), model_of(work, network)
    options = PredictOptions(device=arguments.device)
    predict(scene, work / "out", model=model, options=options, overwrite=True)  # a warm-up
    stopwatch = Stopwatch(nested=False)
    with stopwatch.watch(STAGES):
        start = time.perf_counter()
        result = predict(scene, work / "out", model=model, options=options, overwrite=True)
        seconds = time.perf_counter() - start
    yield {
        "footprints": len(result.footprints),
        "seconds": round(seconds, 2),
        "megapixels_per_s": round(arguments.side**2 / 1e6 / seconds, 2),
        "stages": {name: round(stopwatch.seconds[name], 4) for name in STAGES},
    }


def measure_train(
    work: Path, network: str, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield steps per second of training."""
    changes = [f"train.device={arguments.device}", "train.max_minutes=null", "train.epochs=100000"]
    config = load_config(NETWORKS[network], changes)
    tiles = work / "tiled" / "tiles"
    if not tiles.exists():
        (work / "tiled").mkdir(exist_ok=True)
        make_tiles(work / "tiled", 256)
    folder = work / f"train_{network}"
    folder.mkdir()
    yield speed(tiles, folder, config, steps=arguments.steps, repeat=arguments.repeat)


if __name__ == "__main__":
    main()
