"""What loading, moving and augmenting tiles costs training, beside its steps.

    python benchmarks/train.py [speed] [gather] [--device cpu] [--tiles FOLDER]
        [--config configs/small.yaml] [--set train.batch_size=16] [--steps 20] [--repeat 3]

Prints one JSON line per part, all of them where none is named; every figure is of this one run,
on a synthetic town or on a folder of tiles.

- `speed`: steps per second of the real training: Lightning's loop as `geoseg train` builds it, with
  its loader, its augmentation, its precision; of the same step on a batch that already lies on the
  device; and of that without augmentation. They take turns, several times, and the median counts.
  Averages of the weights, which are no part of a bare step, are off in all three.
- `gather`: seconds in which the training ground is put together, milliseconds in which one batch is
  cut out of it, and megabytes of the ground and of the tiles.
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

# Steps that warm what needs warming.
WARM = 2


def main() -> None:
    """Runs the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="speed, gather")
    parser.add_argument("--tiles", type=Path, help="a folder of tiles; a synthetic town's if none")
    parser.add_argument("--config", default="small", help="as of geoseg train")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--size", type=int, default=256, help="of the synthetic town's tiles")
    parser.add_argument("--batch", type=int, help="tiles per step; the configuration's if none")
    parser.add_argument("--steps", type=int, default=20, help="steps of each turn")
    parser.add_argument("--repeat", type=int, default=3, help="turns, of which the median counts")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    config = load_config(arguments.config, [*arguments.overrides, *_given(arguments)])
    with tempfile.TemporaryDirectory() as work:
        tiles = arguments.tiles or make_tiles(Path(work), arguments.size)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "speed": partial(
                speed, tiles, Path(work), config, steps=arguments.steps, repeat=arguments.repeat
            ),
            "gather": partial(gather, tiles, Path(work), config, repeat=arguments.repeat),
        }
        unknown = [name for name in arguments.parts if name not in parts]
        if unknown:
            parser.error(f"{unknown[0]} is no part; choose from {', '.join(parts)}")
        for name in arguments.parts or parts:
            print(json.dumps({"part": name, **parts[name]()}), flush=True)


def _given(arguments: argparse.Namespace) -> Iterator[str]:
    """Settings that have a word of their own."""
    yield f"train.device={arguments.device}"
    yield "train.max_minutes=null"
    yield "train.epochs=100000"
    if arguments.batch:
        yield f"train.batch_size={arguments.batch}"


def make_tiles(work: Path, size: int) -> Path:
    """The tiles of a synthetic town."""
    from geoseg.data.tiles import plan_tiles, tile_scenes
    from geoseg.town import build_town, write_town

    scene, footprints = write_town(build_town(*TOWN, seed=7), work)
    tile_scenes(plan_tiles([scene], footprints, TileOptions(size=size, gap=0)), work / "tiles")
    return work / "tiles"


def speed(tiles: Path, work: Path, config: Config, *, steps: int, repeat: int) -> dict[str, Any]:
    """Steps per second of training, of its bare steps, and of those without augmentation."""
    model = config.model.model_copy(update={"encoder_weights": None})
    setup = prepare(tiles, model, config.train.model_copy(update={"ema": 0.0, "swa": 0.0}))
    options, spec, device = setup.options, setup.spec, setup.device
    sampler = build_sampler(setup.train_set, options, setup.batch_size)
    loader, _ = build_loaders(setup, sampler, work / "ground")
    # While the bare steps have their turn, workers make ready what they may.
    warm = WARM + loader.num_workers * (loader.prefetch_factor or 0)
    sampler.passes = (warm + steps) * repeat * sampler.batch_size // len(setup.train_set) + 2
    turns = Turns(steps, warm, repeat)
    history = History(work / "run", options, lambda _: None)
    trainer = build_trainer(work / "run", setup.options, setup.device, history, progress_bar=False)
    cast(Any, trainer).callbacks.insert(1, turns)
    trainer.fit(setup.module, loader)
    rates = {name: 1 / statistics.median(seconds) for name, seconds in turns.seconds.items()}
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
                for bare, train in zip(turns.seconds[name], turns.seconds["train"], strict=True)
            ]
            for name in ("step", "bare")
        },
    }


class Turns(Callback):
    """Times Lightning's own steps, and between them bare ones, by turns.

    Args:
        steps: Of each turn.
        warm: Steps of Lightning's before each turn that do not count.
        repeat: Turns.
    """

    def __init__(self, steps: int, warm: int, repeat: int) -> None:
        self.steps, self.warm, self.repeat = steps, warm, repeat
        self.seconds: dict[str, list[float]] = {"train": [], "step": [], "bare": []}
        self._count, self._start = 0, 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends a turn when it is due, and gives the bare steps theirs."""
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
    """A step as Lightning makes it: the same precision, the same clipping, the same optimiser."""
    optimiser = trainer.optimizers[0]
    with trainer.precision_plugin.train_step_context():
        loss = module.training_step(batch, 0)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), trainer.gradient_clip_val)
    optimiser.step()


def time_steps(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Seconds of a step, on average, after some that warm."""
    for _ in range(WARM):
        step()
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - start) / steps


def wait(device: torch.device) -> None:
    """Waits for what a device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gather(tiles: Path, work: Path, config: Config, *, repeat: int) -> dict[str, Any]:
    """What putting the ground together and cutting batches out of it costs."""
    options = config.train
    train_set = TileDataset(tiles, "train")
    seconds, cuts = [], []
    for _ in range(repeat):
        start = time.perf_counter()
        mosaic = build_mosaic(train_set, work / "mosaic")
        seconds.append(time.perf_counter() - start)
    windows = MosaicDataset(mosaic, window_side(options, train_set.info.size))
    batch_size = 8 if options.batch_size == "auto" else options.batch_size  # no network here
    sampler = build_sampler(train_set, options, batch_size)
    draws = list(sampler)
    for start_at in range(0, len(draws) - sampler.batch_size + 1, sampler.batch_size):
        start = time.perf_counter()
        windows.__getitems__(draws[start_at : start_at + sampler.batch_size])
        cuts.append(time.perf_counter() - start)
    stores = mosaic.stores.values()
    pixel = sum(store.itemsize * store.shape[1] for store in stores)
    return {
        "tiles": len(train_set),
        "groups": len(mosaic.groups),
        "seconds": round(min(seconds), 3),
        "batch_size": sampler.batch_size,
        "window": windows.window,
        "batch_ms": round(1000 * statistics.median(cuts), 3),
        "ground_mb": round(sum(store.nbytes for store in stores) / 1e6, 1),
        "tiles_mb": round(len(train_set) * train_set.info.size**2 * pixel / 1e6, 1),
    }


if __name__ == "__main__":
    main()
