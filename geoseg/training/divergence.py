"""Stops training when loss or weights become non-finite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.utils import get_total_norm

from geoseg.errors import TrainingError
from geoseg.training.checkpoints import LAST_NAME
from geoseg.training.distributed import reduce_on_first


class Divergence(Callback):
    """Raise an error in an epoch in which loss or weights become non-finite.

    The weights are checked, too, because the last step of an epoch may ruin them after its loss
    was computed.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.last = folder / LAST_NAME
        self._loss = torch.zeros(())

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the check."""
        self._loss = torch.zeros((), device=pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Remember whether the loss is finite, without waiting for the device."""
        # A product with 0 is 0 for finite losses. NaN and infinity make the sum NaN for good.
        self._loss += outputs["loss"].detach() * 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check before the validation, which cannot score such a network."""
        self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check epochs without a validation."""
        self._check(trainer, pl_module)

    def _check(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        own = bool(self._loss.isfinite()) and is_finite(list(module.state_dict().values()))
        if reduce_on_first(own, all):
            return
        epoch = trainer.current_epoch
        advice = "start again with --overwrite and a lower train.lr or train.clip_norm"
        if self.last.is_file():
            advice = (
                f"--resume continues from epoch {epoch}, the last good one: lower train.lr or "
                f"train.clip_norm with it, or set train.epochs={epoch} for a model of the best "
                "epoch so far"
            )
        raise TrainingError(
            f"{self.last.parent}: the loss became non-finite in epoch {epoch + 1}; {advice}. "
            "train.precision=32-true is slower but more stable"
        )


def is_finite(tensors: list[Tensor]) -> bool:
    """Return whether all values are finite, with a single transfer from the device."""
    floats = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return bool(get_total_norm(floats, math.inf).isfinite())
