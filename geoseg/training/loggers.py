"""Experiment loggers: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from geoseg.errors import ConfigError

TENSORBOARD_NAME = "tensorboard"

# Files and folders that each logger writes into a run's folder.
LOGGED_NAMES = {
    "tensorboard": (TENSORBOARD_NAME,),
    "mlflow": ("mlflow.db", "mlflow"),
    "wandb": ("wandb",),
}

_PROJECT = "geoseg"


def check_loggers(names: Sequence[str]) -> None:
    """Check that the packages of loggers are installed.

    Raises:
        ConfigError: If one is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train.loggers: {name} is not installed; pip install 'geoseg[{name}]'"
            )


def open_loggers(names: Sequence[str], folder: Path) -> list[Logger]:
    """Open loggers that write into a run's folder, unless environment variables name a server.

    A resumed run continues in the same TensorBoard folder; in MLflow and W&B it is a new run.

    Args:
        names: `tensorboard` writes into `tensorboard/`; `mlflow` into `mlflow.db`, or to
            `MLFLOW_TRACKING_URI`; `wandb` into `wandb/`, and to its server only if
            `WANDB_API_KEY` is set.
        folder: The run's folder.
    """
    return [_OPEN[name](folder) for name in names]


def close_loggers(loggers: Sequence[Logger]) -> None:
    """Flush loggers and end their runs."""
    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            # Else the next training of this process would continue the same run.
            logger.experiment.finish()


def _open_tensorboard(folder: Path) -> Logger:
    return TensorBoardLogger(folder, name=TENSORBOARD_NAME, version="", default_hp_metric=False)


def _open_mlflow(folder: Path) -> Logger:
    folder = folder.resolve()
    address = os.environ.get("MLFLOW_TRACKING_URI")
    return MLFlowLogger(
        _PROJECT,
        run_name=folder.name,
        tracking_uri=address or f"sqlite:///{folder}/mlflow.db",
        artifact_location=None if address else (folder / "mlflow").as_uri(),
    )


def _open_wandb(folder: Path) -> Logger:
    offline = "WANDB_API_KEY" not in os.environ
    return WandbLogger(folder.resolve().name, folder, project=_PROJECT, offline=offline)


_OPEN = {"tensorboard": _open_tensorboard, "mlflow": _open_mlflow, "wandb": _open_wandb}
