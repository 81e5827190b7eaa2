"""Averages of the weights over the steps of a run, which are validated and saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader

from geoseg.training.learner import Learner

Progress = Callable[[], float]

# Training batches from which the statistics of batch normalization are recomputed, at most. With
# batches of 8 tiles of 256 pixels these are 16 million pixels.
_STATISTICS_BATCHES = 32


class RunningAverage(WeightAveraging):
    """Exponential moving average of the weights (EMA), with a decay that rises in the first steps.

    The decay of the n-th step is at most (1 + n) / (10 + n). Otherwise a short run would validate
    a mix of trained and initial weights, whose batch statistics fit neither.

    Args:
        decay: The final decay.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._update)
        self.decay = decay

    def share(self, step: int) -> float:
        """Return the share of the average that the weights after this step make up.

        Args:
            step: Number of the optimizer step, from 1.
        """
        return 1 - min(self.decay, (1 + step) / (10 + step))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Create the average, and keep its counter on the CPU."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # torch compares the counter at each step, which on a GPU would wait for the device.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def _update(
        self,
        average: tuple[Tensor, ...] | list[Tensor],
        weights: tuple[Tensor, ...] | list[Tensor],
        count: Tensor | int,
    ) -> None:
        """Move tensors of one data type towards the weights, after `count` earlier steps."""
        if average[0].is_floating_point():
            decay = 1 - self.share(int(count) + 1)
            blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            blend(average, weights, count)
        else:
            for old, new in zip(average, weights, strict=True):
                old.copy_(new)  # counters have no average


class LateAverage(RunningAverage):
    """Plain average of the weights over the last share of a run (SWA, arXiv 1803.05407).

    Before that share begins it equals the weights. The statistics of batch normalization are
    recomputed for the averaged weights before each validation, from up to 32 training batches.

    Args:
        last: The last share of the run.
        progress: Returns the share of the run that is done.
    """

    def __init__(self, last: float, progress: Progress) -> None:
        super().__init__(decay=0.0)
        self.last, self.progress = last, progress
        self._first_step: int | None = None

    def share(self, step: int) -> float:
        """See `RunningAverage`."""
        if self._first_step is None:
            if self.progress() >= 1 - self.last:
                self._first_step = step
            return 1.0
        return 1 / (step - self._first_step + 1)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Recompute the statistics, and validate the average."""
        if self._first_step is not None and self._average_model is not None:
            network = self._average_model.module.network
            assert isinstance(pl_module, Learner)
            assert isinstance(network, torch.nn.Module)
            if not pl_module.has_fixed_statistics:
                recompute_statistics(trainer, pl_module, network)
        super().on_validation_epoch_start(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {**super().state_dict(), "begun": self._first_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        super().load_state_dict(state_dict)
        self._first_step = state_dict["begun"]


def recompute_statistics(trainer: L.Trainer, learner: Learner, network: torch.nn.Module) -> None:
    """Recompute the statistics of batch normalization from the first batches of the epoch.

    A resumed run recomputes the same: batches, augmentation and dropout depend on the epoch alone.

    Args:
        trainer: The trainer, with its training loader.
        learner: Augments and normalizes the batches.
        network: The network to change, on the device of the learner.
    """
    gpus = [learner.device] if learner.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(gpus), trainer.precision_plugin.forward_context():
        torch.manual_seed(learner.epoch_seed)
        update_bn(_iter_images(trainer, learner), network)


def _iter_images(trainer: L.Trainer, learner: Learner) -> Iterator[Tensor]:
    """Yield augmented and normalized images of the epoch's first training batches."""
    used = trainer.train_dataloader
    assert isinstance(used, DataLoader)
    # A second iterator of the loader itself would stop its worker processes.
    loader: DataLoader[Any] = DataLoader(
        used.dataset,
        used.batch_size,
        sampler=used.sampler,
        collate_fn=used.collate_fn,
        drop_last=True,
    )
    for number, batch in enumerate(islice(loader, _STATISTICS_BATCHES)):
        moved = trainer.strategy.batch_to_device(batch, learner.device)
        yield learner.training_images(moved, number)
