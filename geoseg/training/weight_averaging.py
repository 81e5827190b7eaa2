"""Averages of the weights over the steps of a run, which are what is validated and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

Progress = Callable[[], float]


class RunningAverage(WeightAveraging):
    """The exponential moving average of the weights, which forgets faster in its first steps.

    Of n steps it keeps (1 + n) / (10 + n) at the most: else a short run would validate a mix of
    trained and initial weights, whose batch statistics belong to neither.

    Args:
        decay: Share of the average that a step keeps in the end.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def share(self, step: int) -> float:
        """Share of the average that the weights after this step make, the first step being 1."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Takes the weights into the average, once per step of the optimiser."""
        step = trainer.global_step
        if step == self._latest_update_step or self._average_model is None:
            return
        self._latest_update_step = step
        # Unlike the library's, which waits for the device at each step.
        _blend(self._average_model.module, pl_module, self.share(step))


class LateAverage(RunningAverage):
    """The plain average of the weights over the last share of a run (SWA, arXiv 1803.05407).

    Before that it is the weights themselves.

    Args:
        last: The last share of the run.
        progress: Says which share of the run is done.
    """

    def __init__(self, last: float, progress: Progress) -> None:
        super().__init__(decay=0.0)
        self.last, self.progress = last, progress
        self._begun: int | None = None

    def share(self, step: int) -> float:
        """See `RunningAverage`."""
        if self._begun is None:
            if self.progress() >= 1 - self.last:
                self._begun = step
            return 1.0
        return 1 / (step - self._begun + 1)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {**super().state_dict(), "begun": self._begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        super().load_state_dict(state_dict)
        self._begun = state_dict["begun"]


@torch.no_grad()
def _blend(average: nn.Module, weights: nn.Module, share: float) -> None:
    pairs = list(zip(_tensors(average), _tensors(weights), strict=True))
    blended = [pair for pair in pairs if pair[0].is_floating_point()]
    counted = [pair for pair in pairs if not pair[0].is_floating_point()]
    if blended:
        old, new = (list(side) for side in zip(*blended, strict=True))
        torch._foreach_lerp_(old, new, share)
    if counted:
        old, new = (list(side) for side in zip(*counted, strict=True))
        torch._foreach_copy_(old, new)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())
