"""Training states `last.ckpt` and `best.ckpt`: saving, checking and resuming."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from torch import Tensor

from geoseg.data.tiles import TilesInfo
from geoseg.errors import ConfigError, ModelFileError
from geoseg.jobs.files import disk_full_error, is_disk_full, replace_file
from geoseg.networks.model_file import MODEL_NAME
from geoseg.networks.starting_model import StartingModel
from geoseg.options import ModelOptions, TrainOptions
from geoseg.training.best_epoch import is_as_good
from geoseg.training.learner import Learner
from geoseg.training.state_file import MONITOR, check_module, check_optimizer, read_state

LAST_NAME, BEST_NAME = "last.ckpt", "best.ckpt"

# What a run writes, except for loggers and the mosaic.
RUN_NAMES = (
    *(LAST_NAME, BEST_NAME, MODEL_NAME),
    *("metrics.csv", "curves.png", "validation.png", "reliability.png"),
)

# Training settings that may change on resume: duration and device, which do not define the run,
# and lr and clip_norm, with which a diverged run can be rescued.
_FREE = {
    *("epochs", "max_minutes", "patience", "loggers", "workers", "devices", "nodes"),
    *("max_memory_gb", "device", "compile", "lr", "clip_norm"),
}

# Settings that states of earlier versions lack, with the value with which training is as it was.
_ADDED = {"train.augment.blank_share": 0}

_ABSENT = object()

# Folder of the mosaic's files during a run, if it does not fit into memory.
MOSAIC_NAME = "mosaic"


class RunCheckpoints(Checkpoint):
    """Save every epoch, validated or not, as `last.ckpt`, and the best of them as `best.ckpt`.

    The best is a copy of the last and is written after it. If a run is killed between the two,
    `last.ckpt` records that its epoch is the best, and the copy is made on resume.

    Among epochs whose scores are as good as the best one, the last is the best: differences of
    `is_as_good` are chance with a few hundred buildings, and later weights have seen more, at
    a lower learning rate.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.last, self.best = folder / LAST_NAME, folder / BEST_NAME
        self.best_score, self.best_epoch = -math.inf, -1
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make the copy that a killed run may have left out."""
        is_best = checkpoint["callbacks"][self.state_key]["best_epoch"] == checkpoint["epoch"]
        if is_best and trainer.is_global_zero:
            self._copy()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember that this epoch has a score, as Lightning keeps scores of earlier epochs."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the epoch."""
        if self._validated:
            score = float(trainer.callback_metrics[MONITOR])
            if score > self.best_score:
                self.best_score = score
            if is_as_good(score, self.best_score):
                self.best_epoch = trainer.current_epoch
        self._validated = False
        trainer.save_checkpoint(self.last)
        if self.best_epoch == trainer.current_epoch and trainer.is_global_zero:
            self._copy()

    def _copy(self) -> None:
        with replace_file(self.best) as partial:
            shutil.copyfile(self.last, partial)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints under a temporary name in the same folder, and rename them when complete.

    Lightning writes into the temporary folder of the system and copies from there, which a killed
    run leaves incomplete.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            DiskFullError: If the disk is full; the previous checkpoint is kept.
        """
        try:
            with replace_file(path) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
        except (RuntimeError, OSError) as error:  # torch does not mention the disk
            if is_disk_full(error, Path(path).parent):
                raise disk_full_error(Path(path).parent, resumable=True) from error
            raise


class Patience(EarlyStopping):
    """Early stopping after some validations without improvement, counted across resumptions.

    Args:
        patience: Number of validations.
    """

    def __init__(self, patience: int) -> None:
        super().__init__(MONITOR, patience=patience, mode="max", verbose=False)

    @property
    def state_key(self) -> str:
        """Key in a checkpoint."""
        return "Patience"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint, with the present patience."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stop at once if training had already ended."""
        waited = checkpoint["callbacks"].get(self.state_key, {}).get("wait_count", 0)
        trainer.should_stop |= waited >= self.patience


def mosaic_folder(folder: Path, rank: int) -> Path:
    """Return the folder for the mosaic files of a process."""
    return folder / (f"{MOSAIC_NAME}_{rank}" if rank else MOSAIC_NAME)


def describe_run(
    info: TilesInfo,
    model: ModelOptions,
    options: TrainOptions,
    start: StartingModel | None = None,
) -> dict[str, Any]:
    """Return everything that must be the same on resume, as JSON values."""
    # Tiles that were cut before these were recorded keep the hash that they had.
    names = ("blank", "merged", "place_bands")
    absent = {name for name in names if not getattr(info, name)}
    if len(set(info.scene_places.values())) == len(info.scenes):  # as without `places`
        absent.add("places")
    tiles = info.model_dump_json(exclude=absent)
    return {
        # First, as another model changes settings below. Its name may change.
        "start": start.digest if start else None,
        "tiles": hashlib.sha256(tiles.encode()).hexdigest(),
        "model": model.model_dump(mode="json", exclude={"start_from"}),
        "train": options.model_dump(mode="json", exclude=_FREE),
    }


def check_state(path: Path, module: Learner, options: TrainOptions, run: Mapping[str, Any]) -> int:
    """Refuse a training state that is damaged, of another run, or of a finished run.

    Args:
        path: The state.
        module: The module to train.
        options: Training options.
        run: From `describe_run`.

    Returns:
        The number of finished epochs.

    Raises:
        ModelFileError: If the state cannot be read or used.
        ConfigError: If the run was started with other settings or tiles, or is finished.
    """
    state = read_state(path)
    _check_same(path, state.callbacks.history.run, run)
    check_module(path, state, module)
    check_optimizer(path, state, module.configure_optimizers())
    epochs, minutes = state.epoch + 1, state.callbacks.history.minutes
    waited = state.callbacks.patience.wait_count if state.callbacks.patience else 0
    finished = (
        epochs >= options.epochs
        or minutes >= (options.max_minutes or math.inf)
        or waited >= (options.patience or math.inf)
    )
    if finished and (path.parent / MODEL_NAME).is_file():
        raise ConfigError(
            f"{path.parent}: the run is finished, after {epochs} epochs and {minutes:.1f} minutes; "
            "raise train.epochs, train.max_minutes and train.patience to continue"
        )
    return epochs


def _check_same(path: Path, started: Mapping[str, Any] | None, run: Mapping[str, Any]) -> None:
    if started is None:
        raise ModelFileError(
            f"{path}: does not contain the settings of the run, as an earlier version of geoseg "
            "wrote it; start again with --overwrite"
        )
    name, old, new = next(_differences(started, run), ("", None, None))
    if name == "start":
        what = "from another model than the one that --from names" if new else "with --from MODEL"
        if old in (None, _ABSENT):
            what = "without --from"
        raise ConfigError(
            f"{path.parent}: the run was started {what}; resume with the --from it was started "
            "with, or start again with --overwrite"
        )
    if old is _ABSENT and name in _ADDED:
        raise ConfigError(
            f"{path.parent}: the run was started without {name}; resume with --set "
            f"{name}={_ADDED[name]}, or start again with --overwrite"
        )
    if old is _ABSENT:
        raise ConfigError(
            f"{path.parent}: the run was started by a version of geoseg without {name}, and cannot "
            f"continue with {_shorten(new)}; resume with that version, or start again with "
            "--overwrite"
        )
    if name == "tiles":
        raise ConfigError(
            f"{path.parent}: the run was started with other tiles; resume with them, or start "
            "again with --overwrite"
        )
    if name:
        raise ConfigError(
            f"{path.parent}: the run was started with {name}={_shorten(old)}, and cannot continue "
            f"with {_shorten(new)}; resume with the --config and --set it was started with, or "
            "start again with --overwrite"
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted names of settings that differ, with both values.

    The old value is `_ABSENT` if the run was started without the setting.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(old.keys() - new.keys())]:
            inner = f"{name}.{key}".lstrip(".")
            yield from _differences(old.get(key, _ABSENT), new.get(key), inner)
    elif (_ADDED.get(name) if old is _ABSENT else old) != new:
        yield name, old, new


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return textwrap.shorten(text, 60, placeholder=" …")


def best_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of the best epoch, or of the last if none was validated.

    Raises:
        ModelFileError: If no epoch was finished, or its state is damaged.
    """
    saved = [folder / name for name in (BEST_NAME, LAST_NAME) if (folder / name).is_file()]
    if not saved:
        raise ModelFileError(f"{folder}: no epoch was finished; raise train.max_minutes")
    state = read_state(saved[0]).state_dict
    prefix = "network."
    return {k[len(prefix) :]: v.clone() for k, v in state.items() if k.startswith(prefix)}
