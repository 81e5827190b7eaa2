"""A training run's clock and diary: the learning rate, `metrics.csv`, `curves.png`, its states."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor

from geoseg.journal import replace_file
from geoseg.loggers import open_loggers
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
    "val_score",
)

# The column that chooses the best epoch, the greatest being the best.
MONITOR = "val_score"

# An epoch that takes longer says so this often.
_SECONDS_PER_LINE = 30.0


class History(Callback):
    """Keeps time, sets the rate by it, and writes `metrics.csv`, `curves.png` and loggers.

    Args:
        folder: The run's folder.
        options: How to train.
        report: Told one line per epoch.
    """

    def __init__(self, folder: Path, options: TrainOptions, report: Callable[[str], None]) -> None:
        self.folder, self.options, self.report = folder, options, report
        self.rows: list[dict[str, float]] = []
        self.loggers: list[Logger] = []
        self.rate = self.progress = 0.0
        self._validated = False
        self._before = self._clock = 0.0
        self._start = self._told = time.monotonic()

    @property
    def minutes(self) -> float:
        """Minutes in the loop, those before a resumption included."""
        return self._before + (time.monotonic() - self._start) / 60

    @property
    def best_iou(self) -> float:
        """Pixel IoU on validation tiles in the best epoch so far."""
        scored = [row for row in self.rows if MONITOR in row]
        return max(scored, key=lambda row: row[MONITOR], default={"val_iou": 0.0})["val_iou"]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {"minutes": self.minutes, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._before, self._start = state["minutes"], time.monotonic()
        self.rows = list(state["rows"])

    def on_train_start(self, *_: Any) -> None:
        """Opens the loggers, and starts the clock, unless a checkpoint has."""
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
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Knows that this epoch has scores; Lightning keeps those of an earlier one."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Writes a row."""
        values = trainer.callback_metrics
        row: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= {"minutes": round(self.minutes, 3), "lr": self.rate}
        known = [name for name in COLUMNS[4:] if self._validated or not name.startswith("val_")]
        row |= {name: float(values[name]) for name in known if name in values}
        self.rows.append(row)
        for logger in self.loggers:
            logger.log_metrics(row, step=trainer.global_step)
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

    def on_train_end(self, *_: Any) -> None:
        """Closes the loggers."""
        for logger in self.loggers:
            logger.finalize("success")

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


class RunCheckpoints(ModelCheckpoint):
    """Keeps the best epoch as `best.ckpt` and every epoch, validated or not, as `last.ckpt`.

    The best score is kept when the run's folder was moved. Of epochs that score the same the
    last is the best: while nothing is found yet, all score 0.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            "best",
            monitor=MONITOR,
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self._validated = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Knows that this epoch has a score; Lightning keeps that of an earlier one."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the epoch."""
        if self._validated:
            super().on_train_epoch_end(trainer, pl_module)
        self._validated = False
        trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Whether an epoch is as good as the best."""
        better: bool = super().check_monitor_top_k(trainer, current)
        best = self.best_model_score
        return better or (current is not None and best is not None and bool(current == best))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the state of an earlier process, its paths in the folder of this one."""
        folder = Path(str(self.dirpath))

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath}
        )
