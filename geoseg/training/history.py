"""The callback that keeps time, sets learning rates and writes metrics."""

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

from geoseg.jobs.files import replace_file
from geoseg.jobs.progress import Report
from geoseg.options import TrainOptions
from geoseg.training.best_epoch import is_as_good
from geoseg.training.figures import draw_curves, draw_or_warn
from geoseg.training.loggers import close_loggers, open_loggers
from geoseg.training.schedule import momentum, rate_share
from geoseg.training.score_names import label_score, list_place_columns, tracker_name
from geoseg.training.state_file import COLUMNS, MONITOR

# Interval of progress messages within a long epoch.
_SECONDS_PER_LINE = 30.0

# Processes synchronise their clocks after so many batches; each time they wait for their devices.
_BATCHES_PER_SYNC = 8

# Minimum interval between drawings of the curves: an epoch may be shorter than drawing takes, and
# the device is idle meanwhile.
_SECONDS_PER_PICTURE = 10.0


class History(Callback):
    """Keeps time, sets learning rates by it, and writes `metrics.csv`, `curves.png` and logs.

    Args:
        folder: The run's folder.
        options: Training options.
        report: Called with one line per epoch.
        run: Settings of the run, from `describe_run`, against which a resumed run is checked.
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
        # Whether training has begun: a state that is resumed is restored before.
        self.started = False
        self._validated = False
        # Minutes before a resumption, and the time in minutes that all processes agree on.
        self._earlier = self._clock = 0.0
        self._start = self._reported = time.monotonic()
        self._drawn = -math.inf

    @property
    def minutes(self) -> float:
        """Minutes of training, including those before a resumption."""
        return self._earlier + (time.monotonic() - self._start) / 60

    @property
    def best_iou(self) -> float | None:
        """Validation pixel IoU of the best epoch so far; None before the first validation."""
        scored = [row for row in self.rows if not math.isnan(row.get(MONITOR, math.nan))]
        highest = max((row[MONITOR] for row in scored), default=0.0)
        good = [row for row in scored if is_as_good(row[MONITOR], highest)]
        return good[-1]["val_iou"] if good else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"minutes": self.minutes, "rows": self.rows, "run": self.run}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._earlier, self._start = state["minutes"], time.monotonic()
        self.rows = list(state["rows"])

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stop at once if the time limit was reached before."""
        spent, limit = checkpoint["callbacks"][self.state_key]["minutes"], self.options.max_minutes
        trainer.should_stop |= limit is not None and spent >= limit

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Open the loggers, and start the clock."""
        self.started = True
        if trainer.is_global_zero:
            self.loggers = open_loggers(self.options.loggers, self.folder)
        for logger in self.loggers:
            logger.log_hyperparams(self.options.model_dump(mode="json"))
        self._start = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Make sure that the last epoch is validated, whatever `val_every` is."""
        self._validated = False
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set learning rate and momentum."""
        if trainer.world_size == 1 or batch_idx % _BATCHES_PER_SYNC == 0:
            self._update_clock(trainer)
        self.progress = self._measure_progress(trainer, batch_idx)
        self.rate = self.options.lr * rate_share(self.progress, self.options)
        beta = momentum(self.progress, self.options)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rate * group["share"]
            if "betas" in group:
                group["betas"] = (beta, group["betas"][1])
            else:
                group["momentum"] = beta

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop at the time limit, and report progress within long epochs."""
        if time.monotonic() - self._reported > _SECONDS_PER_LINE:
            self._report_line(
                f"epoch {trainer.current_epoch + 1}: after {self.minutes:.1f} min, in progress, "
                f"batch {batch_idx + 1} of {trainer.num_training_batches}, "
                f"{self.progress:.0%} of the run"
            )
        if trainer.world_size == 1:
            self._update_clock(trainer)
        if self._is_time_up:
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Note that this epoch has scores: Lightning keeps the scores of earlier epochs."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Write a row of metrics; stop if validation reached the time limit."""
        self._update_clock(trainer)
        trainer.should_stop |= self._is_time_up and self._validated
        values = trainer.callback_metrics
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row |= {"minutes": round(self.minutes, 3), "lr": self.rate}
        names = [*COLUMNS[4:], *list_place_columns(values)]
        current = [name for name in names if self._validated or not name.startswith("val_")]
        row |= {name: float(values[name]) for name in current if name in values}
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write(row)

    def on_train_end(self, *_: Any) -> None:
        """Close the loggers."""
        close_loggers(self.loggers)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Kill the processes that this one started; they would wait for it forever."""
        launcher = trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(signal.SIGKILL)

    def draw(self) -> None:
        """Draw `curves.png`; during training it may lag some epochs behind `metrics.csv`."""
        draw_or_warn(lambda path: draw_curves(self.rows, path), self.folder / "curves.png")
        self._drawn = time.monotonic()

    def _write(self, row: dict[str, float]) -> None:
        for logger in self.loggers:
            named = {tracker_name(name): value for name, value in row.items()}
            logger.log_metrics(named, step=int(row["step"]))
        with (
            replace_file(self.folder / "metrics.csv") as partial,
            partial.open("w", newline="") as file,
        ):
            of_places = list_place_columns(name for one in self.rows for name in one)
            writer = csv.DictWriter(file, [*COLUMNS, *of_places])
            writer.writeheader()
            writer.writerows(self.rows)
        if time.monotonic() - self._drawn > _SECONDS_PER_PICTURE:
            self.draw()
        self._report_line(
            f"epoch {row['epoch']}: after {row['minutes']:.1f} min, "
            + ", ".join(
                f"{label_score(name, row)} {row[name]:.3f}" for name in COLUMNS[4:] if name in row
            )
        )

    def _report_line(self, line: str) -> None:
        self._reported = time.monotonic()
        self.report(line)

    def _update_clock(self, trainer: L.Trainer) -> None:
        self._clock = self.minutes
        if self.options.max_minutes is not None and trainer.world_size > 1:
            # With different clocks, processes would use different learning rates.
            self._clock = trainer.strategy.broadcast(self._clock)

    @property
    def _is_time_up(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and self._clock >= limit

    def _measure_progress(self, trainer: L.Trainer, batch_idx: int) -> float:
        """Return the completed share of the run, by steps or by time, whichever is larger."""
        accumulate, limit = self.options.accumulate, self.options.max_minutes
        steps = -(-int(trainer.num_training_batches) // accumulate)
        # Counted in epochs: a run may resume with another number of processes, and so of steps.
        epochs = trainer.current_epoch + batch_idx // accumulate / steps
        return max(epochs / self.options.epochs, self._clock / limit if limit else 0.0)
