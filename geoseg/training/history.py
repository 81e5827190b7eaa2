"""A training run's clock and diary: the learning rate, `metrics.csv`, `curves.png`."""

from __future__ import annotations

import csv
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from geoseg.jobs.files import replace_file
from geoseg.jobs.progress import Report
from geoseg.options import TrainOptions
from geoseg.training.figures import draw_curves, draw_or_warn
from geoseg.training.loggers import close_loggers, open_loggers
from geoseg.training.schedule import momentum, rate_share

COLUMNS = (
    "epoch",
    "step",
    "minutes",
    "lr",
    "train_loss",
    "val_loss",
    "val_iou",
    "val_f1_pixel",
    "val_f1",
    "val_score",
)

# The column that chooses the best epoch, the greatest being the best.
MONITOR = "val_score"

# An epoch that takes longer says so this often.
_SECONDS_PER_LINE = 30.0

# Processes agree on the time after so many batches; each time they wait for their devices.
_STEPS_PER_AGREEMENT = 8

# Epochs may be shorter than a picture takes, and the device waits for it.
_SECONDS_PER_PICTURE = 10.0


class History(Callback):
    """Keeps time, sets the rate by it, and writes `metrics.csv`, `curves.png` and loggers.

    Args:
        folder: The run's folder.
        options: How to train.
        report: Told one line per epoch.
        run: What the run began with, from `describe_run`, for those who resume it.
    """

    def __init__(
        self,
        folder: Path,
        options: TrainOptions,
        report: Report,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.options, self.report, self.run = folder, options, report, run
        self.rows: list[dict[str, float]] = []
        self.loggers: list[Logger] = []
        self.rate = self.progress = 0.0
        self._validated = False
        self._before = self._clock = 0.0  # minutes; the clock is what all processes agree on
        self._start = self._told = time.monotonic()
        self._drawn = -math.inf

    @property
    def minutes(self) -> float:
        """Minutes in the loop, those before a resumption included."""
        return self._before + (time.monotonic() - self._start) / 60

    @property
    def best_iou(self) -> float | None:
        """Pixel IoU on validation tiles in the best epoch so far; None if none was validated."""
        scored = [row for row in self.rows if MONITOR in row]
        return max(reversed(scored), key=lambda row: row[MONITOR])["val_iou"] if scored else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {"minutes": self.minutes, "rows": self.rows, "run": self.run}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._before, self._start = state["minutes"], time.monotonic()
        self.rows = list(state["rows"])

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Does not train on where time was up."""
        spent, limit = checkpoint["callbacks"][self.state_key]["minutes"], self.options.max_minutes
        trainer.should_stop |= limit is not None and spent >= limit

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Opens the loggers, and starts the clock, unless a checkpoint has."""
        if trainer.is_global_zero:
            self.loggers = open_loggers(self.options.loggers, self.folder)
        for logger in self.loggers:
            logger.log_hyperparams(self.options.model_dump(mode="json"))
        self._start = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Sees to it that the last epoch is validated, whatever `val_every` says."""
        self._validated = False
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets the learning rate and the momentum."""
        if trainer.world_size == 1 or batch_idx % _STEPS_PER_AGREEMENT == 0:
            self._look_at_clock(trainer)
        self.progress = self._measure_progress(trainer, batch_idx)
        self.rate = self.options.lr * rate_share(self.progress, self.options)
        moving = momentum(self.progress, self.options)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rate * group["share"]
            if "betas" in group:
                group["betas"] = (moving, group["betas"][1])
            else:
                group["momentum"] = moving

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stops when time is up, and says between long epochs how far they are."""
        if time.monotonic() - self._told > _SECONDS_PER_LINE:
            self._tell(
                f"epoch {trainer.current_epoch + 1}: {self.minutes:.1f} min, at work, batch "
                f"{batch_idx + 1} of {trainer.num_training_batches}, {self.progress:.0%} of the run"
            )
        if trainer.world_size == 1:
            self._look_at_clock(trainer)
        if self._is_time_up:
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Knows that this epoch has scores; Lightning keeps those of an earlier one."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Writes a row; stops if validating took the rest of the time."""
        self._look_at_clock(trainer)
        trainer.should_stop |= self._is_time_up and self._validated
        values = trainer.callback_metrics
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row |= {"minutes": round(self.minutes, 3), "lr": self.rate}
        known = [name for name in COLUMNS[4:] if self._validated or not name.startswith("val_")]
        row |= {name: float(values[name]) for name in known if name in values}
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write(row)

    def on_train_end(self, *_: Any) -> None:
        """Closes the loggers."""
        close_loggers(self.loggers)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Ends the processes that this one started; they would wait for it."""
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)

    def draw(self) -> None:
        """Draws `curves.png`, which may be some epochs behind `metrics.csv` until the end."""
        draw_or_warn(lambda path: draw_curves(self.rows, path), self.folder / "curves.png")
        self._drawn = time.monotonic()

    def _write(self, row: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(row, step=int(row["step"]))
        with (
            replace_file(self.folder / "metrics.csv") as partial,
            partial.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        if time.monotonic() - self._drawn > _SECONDS_PER_PICTURE:
            self.draw()
        self._tell(
            f"epoch {row['epoch']}: {row['minutes']:.1f} min, "
            + ", ".join(f"{name} {row[name]:.3f}" for name in COLUMNS[4:] if name in row)
        )

    def _tell(self, line: str) -> None:
        self._told = time.monotonic()
        self.report(line)

    def _look_at_clock(self, trainer: L.Trainer) -> None:
        self._clock = self.minutes
        if self.options.max_minutes is not None and trainer.world_size > 1:
            # Processes whose clocks differ would learn at different rates.
            self._clock = trainer.strategy.broadcast(self._clock)

    @property
    def _is_time_up(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and self._clock >= limit

    def _measure_progress(self, trainer: L.Trainer, batch_idx: int) -> float:
        """How far the run is: the larger share of its steps and of its time."""
        several, limit = self.options.accumulate, self.options.max_minutes
        steps = -(-int(trainer.num_training_batches) // several)
        # By epochs: a run may go on with other processes, whose steps are of another size.
        epochs = trainer.current_epoch + batch_idx // several / steps
        return max(epochs / self.options.epochs, self._clock / limit if limit else 0.0)
