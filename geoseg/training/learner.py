"""Base class of the modules that Lightning trains, and recipes for what a network predicts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from geoseg.data.tiles import TilesInfo
from geoseg.networks.architectures import Task
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models import encoder_of
from geoseg.networks.starting_model import StartingModel
from geoseg.options import TrainOptions
from geoseg.training.dataset import TileDataset
from geoseg.training.depthwise import compute_depthwise_in_float32
from geoseg.training.distributed import broadcast_from_first, count_processes, reduce_on_first
from geoseg.training.randomness import Randomness
from geoseg.training.validation.tuning import Tuned


class Learner(L.LightningModule):
    """Base class of a network with its loss and optimizer, trained by Lightning.

    Args:
        network: Takes normalised images (N, C, H, W).
        info: Description of the tiles.
        options: Training options.
        pretrained: The encoder is pretrained, and learns at a lower rate.
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
        compute_depthwise_in_float32(self.network)
        self.options = options
        self.encoder_share = options.encoder_lr if pretrained else 1.0
        self.register_buffer("mean", torch.tensor(info.mean), persistent=False)
        self.register_buffer("std", torch.tensor(info.std), persistent=False)
        self._val_loss, self._val_samples = torch.zeros(()), 0
        self.has_fixed_statistics = False

    def fix_statistics(self) -> None:
        """Normalize by the statistics that the network has, in training, too, and keep them.

        A network that continues on a few tiles would otherwise be normalized by the statistics of
        these, which are not those that it knows: its predictions fall apart, and what it knew is
        lost before it has learned anything.
        """
        self.has_fixed_statistics = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; fixed statistics stay in that of evaluation."""
        super().train(mode)
        if self.has_fixed_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW or SGD, with a lower rate for a pretrained encoder."""
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
        """Clip gradients by their norm; Lightning itself refuses that for fused optimizers."""
        if not self._is_fused:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
        elif gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout and other draws of the network, once per epoch."""
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
        """Reset the counts; all processes validate the network of the first."""
        # On CPUs each process has its own statistics of batch normalization.
        broadcast_from_first(list(self.network.buffers()))
        self._val_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._val_samples = 0

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss of all samples and the scores of their predictions."""
        own = self._val_loss.item(), self._val_samples, self._findings()
        self.log_dict(reduce_on_first(own, self._reduce), sync_dist=True)

    def _log_loss(self, loss: Tensor, count: int) -> None:
        """Log the mean loss of a training batch."""
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)

    def _add_loss(self, loss: Tensor, count: int) -> None:
        """Add the mean loss of a validation batch, without waiting for the device."""
        self._val_loss += loss.detach() * count
        self._val_samples += count

    def _reduce(self, parts: list[tuple[float, int, Any]]) -> dict[str, float]:
        losses, counts, findings = zip(*parts, strict=True)
        return {"val_loss": sum(losses) / sum(counts), **self._score(list(findings))}

    @property
    def _is_fused(self) -> bool:
        # With float16, gradients are scaled, and a fused optimizer unscales them only in its step,
        # after they were clipped.
        return self.options.precision != "16-mixed"

    @property
    def scored_share(self) -> float:
        """Share of the validation area whose buildings are scored during training."""
        return 1.0

    @abstractmethod
    def _findings(self) -> Any:
        """Return the predictions of this process on its validation tiles, or counts of them."""

    @abstractmethod
    def _score(self, findings: list[Any]) -> dict[str, float]:
        """Return the scores of the findings of all processes, by name."""

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
    """Parts of training that depend on what a network predicts.

    Attributes:
        task: What the networks predict: `pixels` or `boxes`, see `geoseg.networks.models.task_of`.
        datasets: Reads the training and the validation split of a folder of tiles.
        outputs: Returns the names of the network's output bands for these tiles.
        learner: Builds the module from network, training tiles, validation tiles, options and
            whether the encoder is pretrained. The module logs `train_loss`, `val_loss`, `val_iou`,
            `val_score` and, for buildings, `val_f1_pixel`, `val_f1` or both. The epoch with the
            highest `val_score` is the best.
        finish: Returns the best thresholds, and the pictures to draw after the model is saved,
            for header, weights, device, validation tiles and the model that training continued
            from, if any.
        windows: Whether training samples are windows of the mosaic; tiles otherwise.
    """

    task: Task
    datasets: Callable[[str | Path, TrainOptions], tuple[TileDataset, TileDataset]]
    outputs: Callable[[TilesInfo], tuple[str, ...]]
    learner: Callable[[nn.Module, TileDataset, TileDataset, TrainOptions, bool], Learner]
    finish: Callable[[ModelSpec, dict[str, Tensor], str, TileDataset, StartingModel | None], Tuned]
    windows: bool = False
