"""The end of a run whose network is lost, before it is scored and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from geoseg.errors import TrainingError
from geoseg.training.checkpoints import LAST_NAME
from geoseg.training.distributed import reduce_on_first


class Divergence(Callback):
    """Refuses the epoch in which loss or weights cease to be finite numbers.

    The weights count, too: the last step of an epoch may ruin what had a loss until then.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.last = folder / LAST_NAME
        self._loss = torch.zeros(())

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts anew."""
        self._loss = torch.zeros((), device=pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Takes note of a loss, without waiting for the device."""
        # Zero, or else not a number from here on.
        self._loss += outputs["loss"].detach() * 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses before all that would stumble over such numbers."""
        self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses epochs that are not validated."""
        self._check(trainer, pl_module)

    def _check(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        own = bool(self._loss.isfinite()) and is_finite(list(module.state_dict().values()))
        if reduce_on_first(own, all):
            return
        epoch = trainer.current_epoch
        advice = "start anew with --overwrite and a lower train.lr or train.clip_norm"
        if self.last.is_file():
            advice = (
                f"--resume goes on from epoch {epoch}, the last good one: lower train.lr or "
                f"train.clip_norm with it, or set train.epochs={epoch} for a model of what was "
                "best until then"
            )
        raise TrainingError(
            f"{self.last.parent}: in epoch {epoch + 1} the loss is no longer a number; {advice}. "
            "train.precision=32-true is slower and safer, from the start"
        )


def is_finite(tensors: list[Tensor]) -> bool:
    """Whether all numbers of tensors on one device are finite, which is asked only once."""
    floats = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    greatest = torch._foreach_norm(floats, float("inf"))
    return bool(torch.stack([one.float() for one in greatest]).isfinite().all())
