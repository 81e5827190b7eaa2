"""The states of a run: `last.ckpt` and `best.ckpt`, how they are written, and taken up again."""

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
from torch import Tensor, nn

from geoseg.data.tiles import TilesInfo
from geoseg.errors import ConfigError, ModelFileError
from geoseg.jobs.files import disk_full_error, is_disk_full, replace_file
from geoseg.options import ModelOptions, TrainOptions
from geoseg.training.history import MONITOR
from geoseg.training.loading.mosaic import remove_mosaic
from geoseg.training.loggers import LOGGED_NAMES

LAST_NAME, BEST_NAME, MODEL_NAME = "last.ckpt", "best.ckpt", "model.safetensors"

# What a run writes, but for loggers and ground.
_KEPT_NAMES = (
    *(LAST_NAME, BEST_NAME, MODEL_NAME),
    *("metrics.csv", "curves.png", "validation.png", "reliability.png"),
)

# Settings of training that a run may go on with others of: when it ends, what computes, and what
# each step reads anew, to take a run up again that came apart.
_FREE = {
    *("epochs", "max_minutes", "patience", "loggers", "workers", "devices", "nodes"),
    *("max_memory_gb", "device", "compile", "lr", "clip_norm"),
}

# Where the training ground lies while a run needs it, if memory has no room for it.
GROUND_NAME = "ground"


class RunCheckpoints(Checkpoint):
    """Keeps every epoch, validated or not, as `last.ckpt`, and the best of them as `best.ckpt`.

    The best is a copy of the last, and made after it: a run that is killed between the two still
    knows from `last.ckpt` that its epoch is the best, and makes the copy when it goes on. Of epochs
    that score the same the last is the best: while nothing is found yet, all score 0.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.last, self.best = folder / LAST_NAME, folder / BEST_NAME
        self.best_score, self.best_epoch = -math.inf, -1
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Makes the copy that a killed run may not have come to."""
        is_best = checkpoint["callbacks"][self.state_key]["best_epoch"] == checkpoint["epoch"]
        if is_best and trainer.is_global_zero:
            self._copy()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Knows that this epoch has a score; Lightning keeps that of an earlier one."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the epoch."""
        if self._validated:
            score = float(trainer.callback_metrics[MONITOR])
            if score >= self.best_score:
                self.best_score, self.best_epoch = score, trainer.current_epoch
        self._validated = False
        trainer.save_checkpoint(self.last)
        if self.best_epoch == trainer.current_epoch and trainer.is_global_zero:
            self._copy()

    def _copy(self) -> None:
        with replace_file(self.best) as partial:
            shutil.copyfile(self.last, partial)


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints under another name beside their own, which they take when complete.

    Lightning itself writes into the temporary folder, and from there to another disk byte by byte.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Writes a checkpoint.

        Raises:
            DiskFullError: If there is no room for it; the one before stays.
        """
        try:
            with replace_file(path) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
        except (RuntimeError, OSError) as error:  # torch says nothing of the disk
            if is_disk_full(error, Path(path).parent):
                raise disk_full_error(Path(path).parent, resumable=True) from error
            raise


class Patience(EarlyStopping):
    """Ends training after so many validations without a better one, resumed or not.

    Args:
        patience: How many.
    """

    def __init__(self, patience: int) -> None:
        super().__init__(MONITOR, patience=patience, mode="max", verbose=False)

    @property
    def state_key(self) -> str:
        """Its name in a checkpoint."""
        return "Patience"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint, with the patience that it is given now."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Does not train on where training had ended."""
        waited = checkpoint["callbacks"].get(self.state_key, {}).get("wait_count", 0)
        trainer.should_stop |= waited >= self.patience


def clear_run(folder: Path, processes: int) -> None:
    """Removes all that an earlier run left, which nobody must take for this one's.

    Args:
        folder: The run's folder.
        processes: That train now; each looks after its own ground.
    """
    # The state goes first: without it nobody takes up what is left.
    for name in _KEPT_NAMES:
        (folder / name).unlink(missing_ok=True)
    for name in LOGGED_NAMES:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    own = {mosaic_folder(folder, rank) for rank in range(1, processes)}
    for ground in {folder / GROUND_NAME, *folder.glob(f"{GROUND_NAME}_*/")} - own:
        remove_mosaic(ground)


def mosaic_folder(folder: Path, rank: int) -> Path:
    """Where the training ground of one of several processes lies."""
    return folder / (f"{GROUND_NAME}_{rank}" if rank else GROUND_NAME)


def describe_run(info: TilesInfo, model: ModelOptions, options: TrainOptions) -> dict[str, Any]:
    """All that must be the same when a run goes on, as JSON takes it."""
    return {
        "tiles": hashlib.sha256(info.model_dump_json().encode()).hexdigest(),
        "model": model.model_dump(mode="json"),
        "train": options.model_dump(mode="json", exclude=_FREE),
    }


def check_state(
    path: Path, module: nn.Module, options: TrainOptions, run: Mapping[str, Any]
) -> int:
    """Refuses a training state that is damaged, of another run, or of a finished one.

    Args:
        path: The state.
        module: What is trained.
        options: How.
        run: From `describe_run`.

    Returns:
        How many epochs are finished.

    Raises:
        ModelFileError: If the state cannot be read or used.
        ConfigError: If the run began with other settings or tiles, or is finished.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state, history = checkpoint["state_dict"], checkpoint["callbacks"]["History"]
    except Exception as error:
        raise ModelFileError(
            f"{path}: cannot be read as a training state; start anew with --overwrite"
        ) from error
    _check_same(path, history.get("run"), run)
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if {name: tensor.shape for name, tensor in state.items()} != wanted:
        raise ModelFileError(
            f"{path}: is the state of another network, though of the same settings; resume with "
            "the geoseg that began the run, or start anew with --overwrite"
        )
    epochs, minutes = int(checkpoint["epoch"]) + 1, history["minutes"]
    waited = checkpoint["callbacks"].get("Patience", {}).get("wait_count", 0)
    finished = (
        epochs >= options.epochs
        or minutes >= (options.max_minutes or math.inf)
        or waited >= (options.patience or math.inf)
    )
    if finished and (path.parent / MODEL_NAME).is_file():
        raise ConfigError(
            f"{path.parent}: the run is finished, after {epochs} epochs and {minutes:.1f} minutes; "
            "raise train.epochs, train.max_minutes and train.patience to go on"
        )
    return epochs


def _check_same(path: Path, began: Mapping[str, Any] | None, run: Mapping[str, Any]) -> None:
    if began is None:
        raise ModelFileError(
            f"{path}: does not say which settings the run began with, as it is of an earlier "
            "geoseg; start anew with --overwrite"
        )
    name, old, new = next(_differences(began, run), ("", None, None))
    if name == "tiles":
        raise ConfigError(
            f"{path.parent}: the run began with other tiles; resume with them, or start anew with "
            "--overwrite"
        )
    if name:
        raise ConfigError(
            f"{path.parent}: the run began with {name}={_shorten(old)}, and cannot go on with "
            f"{_shorten(new)}; resume with the --config and --set that it began with, or start "
            "anew with --overwrite"
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted names of what differs, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(old.keys() - new.keys())]:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield name, old, new


def _shorten(value: Any) -> str:
    said = value if isinstance(value, str) else json.dumps(value)
    return textwrap.shorten(said, 60, placeholder=" …")


def best_weights(folder: Path) -> dict[str, Tensor]:
    """The network's weights after a run's best epoch, or its last where none was validated.

    Raises:
        ModelFileError: If no epoch was finished.
    """
    kept = [folder / name for name in (BEST_NAME, LAST_NAME) if (folder / name).is_file()]
    if not kept:
        raise ModelFileError(f"{folder}: no epoch was finished; allow more train.max_minutes")
    state = torch.load(kept[0], map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
