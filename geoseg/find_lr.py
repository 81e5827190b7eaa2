"""The learning rate at which a network learns fastest, by trying them all (arXiv 1506.01186)."""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from geoseg.errors import ConfigError
from geoseg.journal import replace_file
from geoseg.loading import build_sampler
from geoseg.loop import describe_hardware
from geoseg.options import ModelOptions, TrainOptions
from geoseg.pictures import draw_rates
from geoseg.train import build_loaders, prepare

LOWEST, HIGHEST = 1e-6, 1.0

# Share of the smoothed loss that a step keeps.
_SMOOTH = 0.9

# Beyond this many times the least loss training has come apart.
_APART = 4.0

# The rate of the steepest fall is that of a network in its first steps; a peak is higher.
_LEAST_STEPS = 20


@dataclass(frozen=True)
class FoundRate:
    """What the search found.

    Attributes:
        lr: A good peak learning rate.
        picture: Loss by rate.
    """

    lr: float
    picture: Path


def find_lr(
    tiles: str | Path,
    output: str | Path,
    *,
    model: ModelOptions | None = None,
    options: TrainOptions | None = None,
    steps: int = 100,
) -> FoundRate:
    """Trains for some steps with rates that rise from 1e-6 to 1, and keeps none of it.

    Args:
        tiles: A folder made by `geoseg tile`.
        output: A folder, for `learning_rates.csv` and `learning_rates.png`.
        model: Which network.
        options: How to train it.
        steps: How many rates are tried.

    Returns:
        The rate at which the loss fell fastest.

    Raises:
        GeosegError: If tiles, network and options do not work together, or no rate makes the loss
            fall.
    """
    options = options or TrainOptions()
    alone = options.model_copy(update={"devices": 1, "nodes": 1})
    setup = prepare(tiles, model or ModelOptions(), alone)
    trying = _RisingRate(steps)
    trainer = L.Trainer(
        **describe_hardware(alone, setup.device),
        max_steps=steps,
        callbacks=[trying],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        gradient_clip_val=options.clip_norm or None,
    )
    sampler = build_sampler(setup.train_set, options, setup.batch_size)
    with tempfile.TemporaryDirectory() as ground:
        trainer.fit(setup.module, *build_loaders(setup, sampler, Path(ground)))
    rows = smooth_losses(trying.rates, trying.losses)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replace_file(folder / "learning_rates.csv") as partial,
        partial.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, ("lr", "loss", "smoothed"))
        writer.writeheader()
        writer.writerows(rows)
    best = steepest_rate(rows)
    draw_rates(rows, best, folder / "learning_rates.png")
    return FoundRate(best, folder / "learning_rates.png")


def smooth_losses(rates: Sequence[float], losses: Sequence[float]) -> list[dict[str, float]]:
    """Rows of rate, loss and smoothed loss, up to where training comes apart."""
    rows: list[dict[str, float]] = []
    running, least = 0.0, math.inf
    for step, (rate, loss) in enumerate(zip(rates, losses, strict=True), start=1):
        running = _SMOOTH * running + (1 - _SMOOTH) * loss
        smoothed = running / (1 - _SMOOTH**step)
        least = min(least, smoothed)
        if not math.isfinite(loss) or (step > _LEAST_STEPS and smoothed > _APART * least):
            break
        rows.append({"lr": rate, "loss": loss, "smoothed": smoothed})
    return rows


def steepest_rate(rows: Sequence[Mapping[str, float]]) -> float:
    """The rate at which the smoothed loss falls fastest per factor of the rate.

    Raises:
        ConfigError: If it falls nowhere.
    """
    if len(rows) > 2:
        logs = np.log([row["lr"] for row in rows])
        slopes = np.gradient(np.array([row["smoothed"] for row in rows]), logs)
        if slopes.min() < 0:
            return float(rows[int(slopes.argmin())]["lr"])
    raise ConfigError(
        "no learning rate makes the loss fall; look at the tiles' labels (tiles/labels.html), or "
        "at train.loss"
    )


class _RisingRate(Callback):
    """Sets a higher rate at each step and keeps its loss."""

    def __init__(self, steps: int) -> None:
        self._all = np.geomspace(LOWEST, HIGHEST, steps).tolist()
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        rate = self._all[trainer.global_step]
        self.rates.append(rate)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["share"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        if not math.isfinite(self.losses[-1]):
            trainer.should_stop = True
