"""Benchmark of training: overhead of loading and augmentation.

    python benchmarks/train.py [speed] [mosaic] [--device cpu] [--tiles FOLDER]
        [--config configs/small.yaml] [--set train.batch_size=16] [--steps 20] [--repeat 3]

Prints one JSON line per part, by default for all parts, measured on a synthetic town or on a
folder of tiles.

- `speed`: steps per second of three variants: the training loop of `geoseg train` with its data
  loader, augmentation and precision (`train`); the same step on a batch that is on the device
  already (`step`); and that step without augmentation (`bare`). The variants alternate several
  times and the median counts. Weight averaging is off in all three.
- `mosaic`: seconds for building the mosaic of the training tiles, milliseconds for cutting one
  batch from it, and megabytes of the mosaic and of the tiles.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from geoseg.config import Config, load_config
from geoseg.options import TileOptions
from geoseg.training.dataset import TileDataset
from geoseg.training.history import History
from geoseg.training.loading.loaders import build_sampler, window_side
from geoseg.training.loading.mosaic import MosaicDataset, build_mosaic
from geoseg.training.loop import build_trainer
from geoseg.training.setup import build_loaders, prepare

TOWN = (1536, 2048)

# Warm-up steps before each measurement.
WARM = 2


def main() -> None:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="speed, mosaic")
    parser.add_argument("--tiles", type=Path, help="folder of tiles; default: a synthetic town")
    parser.add_argument("--config", default="small", help="as for geoseg train")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--size", type=int, default=256, help="tile side for the synthetic town")
    parser.add_argument("--batch", type=int, help="tiles per step; default: the configuration's")
    parser.add_argument("--steps", type=int, default=20, help="steps per measurement")
    parser.add_argument("--repeat", type=int, default=3, help="measurements; the median counts")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    config = load_config(arguments.config, [*arguments.overrides, *_overrides(arguments)])
    with tempfile.TemporaryDirectory() as work:
        tiles = arguments.tiles or make_tiles(Path(work), arguments.size)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "speed": partial(
                speed, tiles, Path(work), config, steps=arguments.steps, repeat=arguments.repeat
            ),
            "mosaic": partial(mosaic, tiles, Path(work), config, repeat=arguments.repeat),
        }
        unknown = [name for name in arguments.parts if name not in parts]
        if unknown:
            parser.error(f"unknown part {unknown[0]}; choose from {', '.join(parts)}")
        for name in arguments.parts or parts:
            print(json.dumps({"part": name, **parts[name]()}), flush=True)


def _overrides(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the settings given by options."""
    yield f"train.device={arguments.device}"
    yield "train.max_minutes=null"
    yield "train.epochs=100000"
    if arguments.batch:
        yield f"train.batch_size={arguments.batch}"


def make_tiles(work: Path, size: int) -> Path:
    """Cut tiles of a synthetic town."""
    from geoseg.data.tiles import plan_tiles, tile_scenes
    from geoseg.town import build_town, write_town

    scene, footprints = write_town(build_town(*TOWN, seed=7), work)
    tile_scenes(plan_tiles([scene], footprints, TileOptions(size=size, gap=0)), work / "tiles")
    return work / "tiles"


def speed(tiles: Path, work: Path, config: Config, *, steps: int, repeat: int) -> dict[str, Any]:
    """Measure steps per second of training, of the step alone, and without augmentation."""
    model = config.model.model_copy(update={"encoder_weights": None})
    setup = prepare(tiles, model, config.train.model_copy(update={"ema": 0.0, "swa": 0.0}))
    options, spec, device = setup.options, setup.spec, setup.device
    sampler = build_sampler(setup.train_set, options, setup.batch_size)
    loader, _ = build_loaders(setup, sampler, work / "mosaic")
    # Workers prefetch batches while the other variants run; these must not count.
    warm = WARM + loader.num_workers * (loader.prefetch_factor or 0)
    sampler.passes = (warm + steps) * repeat * sampler.batch_size // len(setup.train_set) + 2
    timer = StepTimer(steps, warm, repeat)
    history = History(work / "run", options, lambda _: None)
    trainer = build_trainer(work / "run", setup.options, setup.device, history, progress_bar=False)
    cast(Any, trainer).callbacks.insert(1, timer)
    trainer.fit(setup.module, loader)
    rates = {name: 1 / statistics.median(seconds) for name, seconds in timer.seconds.items()}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": trainer.precision,
        "arch": spec.arch,
        "encoder": spec.encoder,
        "bands": len(spec.bands),
        "size": spec.size,
        "window": window_side(options, spec.size),
        "batch_size": sampler.batch_size,
        "workers": loader.num_workers,
        "steps_per_s": {name: round(rate, 3) for name, rate in rates.items()},
        "ratio": {name: round(rates["train"] / rates[name], 3) for name in ("step", "bare")},
        "ratios": {
            name: [
                round(bare / train, 3)
                for bare, train in zip(timer.seconds[name], timer.seconds["train"], strict=True)
            ]
            for name in ("step", "bare")
        },
    }


class StepTimer(Callback):
    """Callback that times the training loop and, alternately, steps on one batch.

    Args:
        steps: Steps per measurement.
        warm: Warm-up steps of the training loop before each measurement.
        repeat: Number of measurements.
    """

    def __init__(self, steps: int, warm: int, repeat: int) -> None:
        self.steps, self.warm, self.repeat = steps, warm, repeat
        self.seconds: dict[str, list[float]] = {"train": [], "step": [], "bare": []}
        self._count, self._start = 0, 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Finish a measurement of the training loop, then measure the other variants."""
        self._count += 1
        if self._count == self.warm:
            wait(pl_module.device)
            self._start = time.perf_counter()
        if self._count < self.warm + self.steps:
            return
        wait(pl_module.device)
        self.seconds["train"].append((time.perf_counter() - self._start) / self.steps)
        augmented, options = pl_module.options, pl_module.options
        plain = options.model_copy(update={"augment": None})
        log, pl_module.log = pl_module.log, lambda *_, **__: None
        for name, chosen in (("step", augmented), ("bare", plain)):
            pl_module.options = chosen
            step = partial(step_once, trainer, pl_module, batch)
            self.seconds[name].append(time_steps(step, self.steps, pl_module.device))
        pl_module.options, pl_module.log = options, log
        self._count = 0
        trainer.should_stop = len(self.seconds["train"]) == self.repeat


def step_once(trainer: L.Trainer, module: Any, batch: Any) -> None:
    """Run a training step as Lightning does: same precision, gradient clipping and optimizer."""
    optimizer = trainer.optimizers[0]
    with trainer.precision_plugin.train_step_context():
        loss = module.training_step(batch, 0)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), trainer.gradient_clip_val)
    optimizer.step()


def time_steps(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Return the mean seconds per step after warm-up steps."""
    for _ in range(WARM):
        step()
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - start) / steps


def wait(device: torch.device) -> None:
    """Wait until a device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def mosaic(tiles: Path, work: Path, config: Config, *, repeat: int) -> dict[str, Any]:
    """Measure building the mosaic and cutting batches from it."""
    options = config.train
    train_set = TileDataset(tiles, "train")
    seconds, cuts = [], []
    for _ in range(repeat):
        start = time.perf_counter()
        training_mosaic = build_mosaic(train_set, work / "mosaic")
        seconds.append(time.perf_counter() - start)
    windows = MosaicDataset(training_mosaic, window_side(options, train_set.info.size))
    batch_size = 8 if options.batch_size == "auto" else options.batch_size  # without a network
    sampler = build_sampler(train_set, options, batch_size)
    draws = list(sampler)
    for start_at in range(0, len(draws) - sampler.batch_size + 1, sampler.batch_size):
        start = time.perf_counter()
        windows.__getitems__(draws[start_at : start_at + sampler.batch_size])
        cuts.append(time.perf_counter() - start)
    stores = training_mosaic.stores.values()
    pixel = sum(store.itemsize * store.shape[1] for store in stores)
    return {
        "tiles": len(train_set),
        "groups": len(training_mosaic.groups),
        "seconds": round(min(seconds), 3),
        "batch_size": sampler.batch_size,
        "window": windows.window,
        "batch_ms": round(1000 * statistics.median(cuts), 3),
        "mosaic_mb": round(sum(store.nbytes for store in stores) / 1e6, 1),
        "tiles_mb": round(len(train_set) * train_set.info.size**2 * pixel / 1e6, 1),
    }


if __name__ == "__main__":
    main()
