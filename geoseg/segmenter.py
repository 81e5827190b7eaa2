"""What is trained: a network with its loss and its optimiser, as Lightning runs them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geoseg.augment import augment
from geoseg.dataset import Sample, normalise
from geoseg.learner import Learner
from geoseg.losses import CompositeLoss, WeightMap
from geoseg.metrics import PixelCounts, count_pixels
from geoseg.models.deeplabv2 import DeepLabV2
from geoseg.options import TrainOptions
from geoseg.tiles import TilesInfo


class Segmenter(Learner):
    """A network, its loss and its optimiser, as Lightning runs them.

    Args:
        network: (N, C, H, W) → logits (N, outputs, H, W).
        info: What the tiles are.
        options: How to train.
        building_share: Share of building pixels in the training split; the weight map balances
            buildings and ground by it.
        pretrained: The encoder has learnt before, and learns at its own gentler rate.
    """

    def __init__(
        self,
        network: nn.Module,
        info: TilesInfo,
        options: TrainOptions,
        *,
        building_share: float | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__(network, info, options, pretrained=pretrained)
        self.outputs = len(info.targets)
        self.loss = CompositeLoss(options.loss, channels=self.outputs)
        self.weight_map = _build_weight_map(info, options, building_share)
        self.ignore = info.ignore
        self.counts = PixelCounts(0, 0, 0, 0)

    def training_step(self, batch: Sample, _: int) -> Tensor:
        """Loss of one augmented batch."""
        image, target, valid = self._prepare(batch)
        if self.options.augment != "none":
            image, target, valid = augment(
                image,
                target,
                valid,
                black=-self.mean / self.std,
                ignore=self.ignore,
                generator=self._generator(),
                full=self.options.augment == "full",
                elastic_px=self.options.elastic_px,
            )
        loss = self._loss(image, target)[0]
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(image))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Starts counting anew."""
        self.counts = PixelCounts(0, 0, 0, 0)

    def validation_step(self, batch: Sample, _: int) -> None:
        """Loss and pixel counts of one batch."""
        image, target, _valid = self._prepare(batch)
        loss, logits = self._loss(image, target)
        self.log("val_loss", loss, batch_size=len(image))
        body, truth = (logits[:, 0] > 0).cpu().numpy(), target[:, 0].cpu().numpy()
        self.counts += count_pixels(body, truth == 1, truth != self.ignore)

    def on_validation_epoch_end(self) -> None:
        """Scores of all validation pixels together."""
        self.log("val_iou", self.counts.iou)
        self.log("val_f1_pixel", self.counts.f1)

    def _prepare(self, batch: Sample) -> tuple[Tensor, Tensor, Tensor]:
        image = normalise(batch["image"], batch["valid"], self.mean, self.std)
        target = batch["target"]
        if self.weight_map:
            # One more target channel, so that augmentation moves it with the others.
            target = torch.cat([target, batch["separation"]], dim=1)
        return image, target, batch["valid"]

    def _loss(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        image = image.contiguous(memory_format=torch.channels_last)
        *others, logits = _all_logits(self.network, image)
        target, separation = target[:, : self.outputs], target[:, self.outputs :]
        known = target != self.ignore
        weights = self.weight_map(target, separation) if self.weight_map else None
        loss: Tensor = self.loss(logits, target, known, weights)
        for scores in others:
            loss = loss + self.loss(scores, target, known, weights)
        return loss, logits


def _all_logits(network: nn.Module, image: Tensor) -> list[Tensor]:
    """What the loss is summed over, the logits that count last."""
    if isinstance(network, DeepLabV2):
        return network.training_logits(image)
    return [network(image)]


def _build_weight_map(
    info: TilesInfo, options: TrainOptions, building_share: float | None
) -> WeightMap | None:
    weighing = options.weight_map
    if weighing is None:
        return None
    balanced = building_share if weighing.balance else None
    # How frequent the other targets are is not known without reading every tile.
    return WeightMap(weighing.w0, [balanced, *[None] * (len(info.targets) - 1)])
