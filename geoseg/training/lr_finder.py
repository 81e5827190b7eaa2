"""Learning-rate finder: one short training with a rising rate (arXiv 1506.01186)."""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import numpy as np
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from numpy.lib.stride_tricks import sliding_window_view

from geoseg.errors import ConfigError
from geoseg.jobs.files import replace_file
from geoseg.jobs.output import check_output
from geoseg.jobs.progress import Report
from geoseg.options import ModelOptions, TrainOptions
from geoseg.training.distributed import count_started
from geoseg.training.figures import draw_or_warn, draw_rates
from geoseg.training.learner import Recipe
from geoseg.training.loading.loaders import build_sampler
from geoseg.training.loop import describe_hardware
from geoseg.training.session import quiet_session
from geoseg.training.setup import Setup, build_loaders, prepare

LOWEST, HIGHEST = 1e-6, 1.0

# Decay of the smoothed loss, which is drawn.
_SMOOTH = 0.9

# Training has diverged when the loss exceeds this many times the lowest; the losses of the first
# steps are too few to tell.
_DIVERGED = 4.0
_LEAST_STEPS = 20

# The rates of the first steps are too low to change anything. Lines are fitted over 25 steps, a
# factor of 30 in the rate, because the loss of a single batch is noisy.
_SKIPPED = 10
_FITTED = 25


@dataclass(frozen=True)
class FoundRate:
    """Result of the search.

    Attributes:
        lr: A good peak learning rate.
        picture: Path of the plot of loss by rate.
    """

    lr: float
    picture: Path


@quiet_session()
def find_lr(
    tiles: str | Path,
    output: str | Path,
    *,
    model: ModelOptions | None = None,
    options: TrainOptions | None = None,
    recipe: Recipe | None = None,
    steps: int = 100,
    overwrite: bool = False,
    report: Report = lambda _: None,
) -> FoundRate:
    """Train for some steps with rates from 1e-6 to 1, and discard the network.

    Args:
        tiles: A folder made by `geoseg tile`.
        output: Folder of a run, which is not changed. `OUTPUT_learning_rates.csv` and
            `OUTPUT_learning_rates.png` are written next to it.
        model: Options of the network.
        options: Options of training.
        recipe: Recipe for what the network predicts; the pixel recipe when None.
        steps: Number of rates.
        overwrite: Replace these two files if they exist.
        report: Called with the progress, ten times.

    Returns:
        The rate at which the loss falls fastest.

    Raises:
        GeosegError: If tiles, network and options do not fit together, the output cannot be
            written, or the loss falls at no rate.
    """
    if count_started():
        raise ConfigError("--find-lr runs in one process; leave torchrun or srun out")
    table, picture = (Path(f"{Path(output)}_learning_rates.{kind}") for kind in ("csv", "png"))
    for path in (table, picture):
        check_output(path, overwrite=overwrite, is_file=True)
    options = (options or TrainOptions()).model_copy(update={"devices": 1, "nodes": 1})
    setup = prepare(tiles, model or ModelOptions(), options, recipe=recipe)
    # Opened first, so that an unwritable output is refused before the work.
    with replace_file(table) as partial, partial.open("w", newline="") as file:
        rows = _try_rates(setup, steps, report)
        writer = csv.DictWriter(file, ("lr", "loss", "smoothed"))
        writer.writeheader()
        writer.writerows(rows)
    best = steepest_rate(rows)
    draw_or_warn(lambda path: draw_rates(rows, best, path), picture)
    return FoundRate(best, picture)


def smooth_losses(rates: Sequence[float], losses: Sequence[float]) -> list[dict[str, float]]:
    """Return rows of rate, loss and smoothed loss, up to where training diverges."""
    rows: list[dict[str, float]] = []
    running, least = 0.0, math.inf
    for step, (rate, loss) in enumerate(zip(rates, losses, strict=True), start=1):
        running = _SMOOTH * running + (1 - _SMOOTH) * loss
        smoothed = running / (1 - _SMOOTH**step)
        least = min(least, smoothed)
        if not math.isfinite(loss) or (step > _LEAST_STEPS and smoothed > _DIVERGED * least):
            break
        rows.append({"lr": rate, "loss": loss, "smoothed": smoothed})
    return rows


def steepest_rate(rows: Sequence[Mapping[str, float]]) -> float:
    """Return the rate around which the loss falls fastest per factor of the rate, by fitted lines.

    Raises:
        ConfigError: If the loss falls at no rate.
    """
    rows = rows[_SKIPPED:]
    width = min(_FITTED, len(rows))
    if width > 2:
        logs, losses = (
            sliding_window_view(np.array(column), width)
            for column in zip(*((math.log(row["lr"]), row["loss"]) for row in rows), strict=True)
        )
        away = logs - logs.mean(axis=1, keepdims=True)
        slopes = (away * losses).sum(axis=1) / (away**2).sum(axis=1)
        if slopes.min() < 0:
            return float(rows[int(slopes.argmin()) + width // 2]["lr"])
    raise ConfigError(
        "the loss falls at no learning rate; check the labels of the tiles (tiles/labels.html) and "
        "train.loss"
    )


def _try_rates(setup: Setup, steps: int, report: Report) -> list[dict[str, float]]:
    """Train with rising rates; return rows of rate, loss and smoothed loss."""
    options, rising = setup.options, _RisingRate(steps, report)
    trainer = L.Trainer(
        **describe_hardware(options, setup.device),
        max_steps=steps,
        callbacks=[rising],
        # One process, even in a SLURM job.
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.clip_norm or None,
    )
    sampler = build_sampler(setup.train_set, options, setup.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer.fit(setup.module, *build_loaders(setup, sampler, Path(folder)))
    return smooth_losses(rising.rates, [fmean(losses) for losses in rising.losses])


class _RisingRate(Callback):
    """Set a higher rate at each step, and record the losses of its batches."""

    def __init__(self, steps: int, report: Report) -> None:
        self._all, self._report = np.geomspace(LOWEST, HIGHEST, steps).tolist(), report
        self.rates: list[float] = []
        self.losses: list[list[float]] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step < len(self.rates):
            return  # another batch of the same step
        rate = self._all[trainer.global_step]
        if trainer.global_step % max(1, len(self._all) // 10) == 0:
            self._report(f"learning rate {rate:.0e}: {trainer.global_step} of {len(self._all)}")
        self.rates.append(rate)
        self.losses.append([])
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["share"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        self.losses[-1].append(loss)
        if not math.isfinite(loss):
            trainer.should_stop = True
