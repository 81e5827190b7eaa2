"""A training run's clock and diary: the learning rate, `metrics.csv`, `curves.png`."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from geoseg.journal import replace_file
from geoseg.options import TrainOptions
from geoseg.pictures import draw_curves
from geoseg.schedule import momentum, rate_share

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
)

# An epoch that takes longer says so this often.
_SECONDS_PER_LINE = 30.0


class History(Callback):
    """Keeps time, sets the rate by it, and writes `metrics.csv` and `curves.png`.

    Args:
        folder: The run's folder.
        options: How to train.
        report: Told one line per epoch.
        monitor: The column that chooses the best epoch, the greatest being the best.
    """

    def __init__(
        self,
        folder: Path,
        options: TrainOptions,
        report: Callable[[str], None],
        monitor: str = "val_iou",
    ) -> None:
        self.folder, self.options, self.report, self.monitor = folder, options, report, monitor
        self.rows: list[dict[str, float]] = []
        self.rate = self.progress = 0.0
        self._before = self._clock = 0.0
        self._start = self._told = time.monotonic()

    @property
    def minutes(self) -> float:
        """Minutes in the loop, those before a resumption included."""
        return self._before + (time.monotonic() - self._start) / 60

    @property
    def best_iou(self) -> float:
        """Pixel IoU on validation tiles in the best epoch so far."""
        best = max(self.rows, key=lambda row: row[self.monitor], default={"val_iou": 0.0})
        return best["val_iou"]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {"minutes": self.minutes, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._before, self._start = state["minutes"], time.monotonic()
        self.rows = list(state["rows"])

    def on_train_start(self, *_: Any) -> None:
        """Starts the clock, unless a checkpoint has."""
        self._start = time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
    ) -> None:
        """Sets the learning rate and the momentum."""
        self._look_at_clock(trainer)
        self.rate = self.options.lr * rate_share(self.progress, self.options)
        moving = momentum(self.progress, self.options)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rate * group["share"]
            if "betas" in group:
                group["betas"] = (moving, group["betas"][1])
            else:
                group["momentum"] = moving

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stops when time is up, and says between long epochs that all is well."""
        if time.monotonic() - self._told > _SECONDS_PER_LINE:
            self._tell(f"epoch {trainer.current_epoch + 1}: {self.minutes:.1f} min, at work")
        limit = self.options.max_minutes
        if limit is not None and self._clock >= limit:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Writes a row."""
        values = trainer.callback_metrics
        row: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= {"minutes": round(self.minutes, 3), "lr": self.rate}
        row |= {name: float(values[name]) for name in COLUMNS[4:] if name in values}
        self.rows.append(row)
        with (
            replace_file(self.folder / "metrics.csv") as partial,
            partial.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        draw_curves(self.rows, self.folder / "curves.png")
        self._tell(
            f"epoch {row['epoch'] + 1}: {row['minutes']:.1f} min, "
            + ", ".join(f"{name} {row[name]:.3f}" for name in COLUMNS[4:] if name in row)
        )

    def _tell(self, line: str) -> None:
        self._told = time.monotonic()
        self.report(line)

    def _look_at_clock(self, trainer: L.Trainer) -> None:
        """How far the run is: the larger share of its steps and of its time."""
        self._clock = self.minutes
        limit = self.options.max_minutes
        if limit is not None and trainer.world_size > 1:
            # Processes whose clocks differ would learn at different rates.
            self._clock = trainer.strategy.broadcast(self._clock)
        steps = trainer.global_step / max(1, trainer.estimated_stepping_batches)
        self.progress = float(max(steps, self._clock / limit if limit else 0.0))
