"""What training has in common, whatever the network finds, and what each kind brings itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from geoseg.data.tiles import TilesInfo
from geoseg.networks.architectures import Task
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models import encoder_of
from geoseg.options import TrainOptions
from geoseg.training.augmentation import Randomness
from geoseg.training.dataset import TileDataset
from geoseg.training.distributed import count_processes, reduce_on_first, take_from_first
from geoseg.training.validation.tuning import Tuned


class Learner(L.LightningModule):
    """A network and its optimiser, as Lightning runs them.

    Args:
        network: Takes normalised images (N, C, H, W).
        info: What the tiles are.
        options: How to train.
        pretrained: The encoder has learnt before, and learns at its own gentler rate.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        info: TilesInfo,
        options: TrainOptions,
        *,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.options = options
        self.encoder_share = options.encoder_lr if pretrained else 1.0
        self.register_buffer("mean", torch.tensor(info.mean), persistent=False)
        self.register_buffer("std", torch.tensor(info.std), persistent=False)
        self._val_loss, self._val_samples = torch.zeros(()), 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW or SGD; a gentler rate for an encoder that has learnt before."""
        encoder = list(encoder_of(self.network).parameters())
        known = {id(p) for p in encoder}
        rest = [p for p in self.network.parameters() if id(p) not in known]
        groups = [
            {"params": encoder, "share": self.encoder_share},
            {"params": rest, "share": 1.0},
        ]
        chosen, momentum = self.options, self.options.momentum
        common: dict[str, Any] = {"weight_decay": chosen.weight_decay, "fused": self._is_fused}
        if chosen.optimizer == "sgd":
            nesterov = momentum > 0
            return torch.optim.SGD(groups, chosen.lr, momentum, nesterov=nesterov, **common)
        return torch.optim.AdamW(groups, chosen.lr, (momentum, 0.999), **common)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scales long gradients down; Lightning itself refuses that for fused optimisers."""
        if not self._is_fused:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
        elif gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Makes what a network draws in training, such as dropout, a matter of the epoch alone."""
        if batch_idx:
            return
        # Not earlier, because a loader draws a number before its first batch.
        torch.manual_seed(self.epoch_seed)

    @property
    def epoch_seed(self) -> int:
        """Seed of what the network draws in this epoch, in this process."""
        seed = self.options.seed * 1_000_003 + self.current_epoch
        return seed * count_processes() + self.global_rank

    def on_validation_epoch_start(self) -> None:
        """Starts counting anew, in all processes with the same network."""
        # Statistics of batches are each process's own, unless it trains on a GPU.
        take_from_first(list(self.network.buffers()))
        self._val_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._val_samples = 0

    def on_validation_epoch_end(self) -> None:
        """Logs the mean loss of all samples, and the scores of what was found on them."""
        own = self._val_loss.item(), self._val_samples, self._findings()
        self.log_dict(reduce_on_first(own, self._judge), sync_dist=True)

    def _log_loss(self, loss: Tensor, count: int) -> None:
        """Takes note of a training batch's mean loss."""
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)

    def _add_loss(self, loss: Tensor, count: int) -> None:
        """Takes note of a validation batch's mean loss, without waiting for the device."""
        self._val_loss += loss.detach() * count
        self._val_samples += count

    def _judge(self, parts: list[tuple[float, int, Any]]) -> dict[str, float]:
        losses, counts, findings = zip(*parts, strict=True)
        return {"val_loss": sum(losses) / sum(counts), **self._score(list(findings))}

    @property
    def _is_fused(self) -> bool:
        # Gradients are scaled in 16 bits, and a fused optimiser takes that back only as it steps,
        # after they were clipped.
        return self.options.precision != "16-mixed"

    @property
    def scored_share(self) -> float:
        """Share of the validation ground whose buildings are counted while training."""
        return 1.0

    @abstractmethod
    def _findings(self) -> Any:
        """What this process has found on its validation tiles."""

    @abstractmethod
    def _score(self, findings: list[Any]) -> dict[str, float]:
        """The scores of what every process has found, by name."""

    @abstractmethod
    def training_images(self, batch: Any, number: int) -> Tensor:
        """Return the images of a training batch as the network takes them, (N, C, H, W).

        Args:
            batch: From the training loader, on the learner's device.
            number: How many batches come between the current step and it; it decides the
                augmentation.
        """

    def _randomness(self, count: int, ahead: int) -> Randomness:
        """Return random parameters for the samples of a batch, `ahead` batches after this step."""
        # A function of steps alone, so that a resumed run draws what it would have drawn.
        # Several batches may make one step.
        seed = self.options.seed * 1_000_003 + self.global_step * self.options.accumulate + ahead
        generator = torch.Generator().manual_seed(seed)
        return Randomness(generator, count, rank=self.global_rank, world=count_processes())


@dataclass(frozen=True)
class Recipe:
    """What of training depends on what a network finds.

    Attributes:
        task: What the networks predict: `pixels` or `boxes`, see `geoseg.networks.models.task_of`.
        datasets: Reads the training and the validation split of a folder of tiles.
        outputs: What the channels of the network's logits mean, for these tiles.
        learner: Puts a network together with its loss, for tiles to train on and tiles to
            validate; the last argument says whether the encoder has learnt before. It logs
            `train_loss`, `val_loss`, `val_iou`, `val_score`, and `val_f1_pixel`, `val_f1` or
            both of buildings. The greatest `val_score` is that of the best epoch.
        finish: Header, weights, device and validation tiles → the best thresholds, and the
            pictures to draw once the model is saved.
        windows: Whether it learns from windows of ground, or else from tiles.
    """

    task: Task
    datasets: Callable[[str | Path, TrainOptions], tuple[TileDataset, TileDataset]]
    outputs: Callable[[TilesInfo], tuple[str, ...]]
    learner: Callable[[nn.Module, TileDataset, TileDataset, TrainOptions, bool], Learner]
    finish: Callable[[ModelSpec, dict[str, Tensor], str, TileDataset], Tuned]
    windows: bool = False
