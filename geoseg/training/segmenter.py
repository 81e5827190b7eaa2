"""What is trained: a network with its loss and its optimiser, as Lightning runs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.data.labels import FULL_SCALE_VALUES
from geoseg.data.tiles import TilesInfo
from geoseg.errors import ConfigError
from geoseg.evaluation.metrics import Confusion, count_classes
from geoseg.networks.losses import CompositeLoss, WeightMap, build_batch, sample_losses
from geoseg.networks.models.deeplabv2 import DeepLabV2
from geoseg.networks.normalization import normalise
from geoseg.options import USUAL_LOSS, USUAL_LOSS_OF_CLASSES, Thresholds, TrainOptions
from geoseg.training.augmentation import augment
from geoseg.training.dataset import Sample
from geoseg.training.learner import Learner
from geoseg.training.validation.areas import ValidationAreas

# Right angles take time, and hardly a building is found or lost by them.
_WHILE_TRAINING = Thresholds(regularize=False)


class Segmenter(Learner):
    """A network, its loss and its optimiser, as Lightning runs them.

    Args:
        network: (N, C, H, W) → logits (N, outputs, H, W).
        info: What the tiles are.
        options: How to train.
        building_share: Share of building pixels in the training split; the weight map balances
            buildings and ground by it.
        pretrained: The encoder has learnt before, and learns at its own gentler rate.
        ground: The validation tiles put together, where buildings are to be counted, too.

    Attributes:
        tile_losses: (N,) of the last training batch, where sampling asks for them.
    """

    full: Tensor
    tile_losses: Tensor | None = None

    def __init__(
        self,
        network: nn.Module,
        info: TilesInfo,
        options: TrainOptions,
        *,
        building_share: float | None = None,
        pretrained: bool = True,
        ground: ValidationAreas | None = None,
    ) -> None:
        super().__init__(network, info, options, pretrained=pretrained)
        self.info, self.ground = info, ground
        self.loss = _build_loss(info, options)
        self.weight_map = _build_weight_map(info, options, building_share)
        self.register_buffer("full", _full_values(info), persistent=False)
        self.confusion = self._nothing_counted()

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Return the loss of one augmented batch."""
        image, target = self._augment(batch, batch_idx % self.options.accumulate)
        loss = self._loss(image, target)[0]
        self._log_loss(loss, len(image))
        return loss

    def training_images(self, batch: Sample, number: int) -> Tensor:
        """See `Learner`."""
        image, _ = self._augment(batch, number)
        return image.contiguous(memory_format=torch.channels_last)

    def _augment(self, batch: Sample, ahead: int) -> tuple[Tensor, Tensor]:
        image, target, valid = self._prepare(batch)
        image, target, _ = augment(
            image,
            target,
            valid,
            size=self.info.size,
            black=-self.mean / self.std,
            ignore=self.info.ignore,
            options=self.options.augment,
            random=self._randomness(len(image), ahead),
        )
        return image, target

    def on_validation_epoch_start(self) -> None:
        """Starts counting anew."""
        super().on_validation_epoch_start()
        self.confusion = self._nothing_counted()
        if self.ground:
            self.ground.reset()

    def validation_step(self, batch: Sample, _: int) -> None:
        """Loss, pixel counts and probabilities of one batch."""
        image, target, _valid = self._prepare(batch)
        loss, logits = self._loss(image, target)
        self._add_loss(loss, len(image))
        found = logits.argmax(dim=1) if self.info.exclusive else logits[:, 0] > 0
        truth = target[:, 0].cpu().numpy()
        self.confusion += count_classes(
            found.cpu().numpy(), truth, truth != self.info.ignore, len(self.confusion.counts)
        )
        if self.ground:
            prob = logits.float().sigmoid()
            self.ground.add(batch["index"].tolist(), prob.cpu().numpy())

    @property
    def scored_share(self) -> float:
        """Share of the validation ground whose buildings are counted; 1 where none are."""
        return self.ground.covered_mpx / self.ground.total_mpx if self.ground else 1.0

    def _findings(self) -> tuple[Confusion, dict[int, np.ndarray]]:
        return self.confusion, self.ground.predictions if self.ground else {}

    def _score(self, findings: list[Any]) -> dict[str, float]:
        """Scores of all validation pixels together: of buildings, or the mean of the classes'.

        `val_f1` is building F1@0.5 of the footprints that the usual thresholds give on the
        validation ground. `val_score` is the mean of it and pixel IoU, which steadies it, as
        some hundred buildings are few; of exclusive classes it is their mean IoU.
        """
        confusion = sum((counted for counted, _ in findings), self._nothing_counted())
        if self.info.exclusive:
            iou, f1 = confusion.mean_iou, confusion.mean_f1
        else:
            building = confusion.per_class[1]
            iou, f1 = building.iou, building.f1
        scores = {"val_iou": iou, "val_f1_pixel": f1, "val_score": iou}
        if self.ground:
            for _, found in findings:
                self.ground.predictions |= found
            buildings, _ = self.ground.score(_WHILE_TRAINING)
            self.ground.reset()
            scores |= {"val_f1": buildings.f1, "val_score": (iou + buildings.f1) / 2}
        return scores

    def _nothing_counted(self) -> Confusion:
        classes = len(self.info.classes) if self.info.exclusive else 2
        return Confusion(np.zeros((classes, classes), dtype=np.int64))

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
        bands = len(self.info.targets)
        target, separation = target[:, :bands], target[:, bands:]
        known = target != self.info.ignore
        weights = self.weight_map(target, separation) if self.weight_map else None
        if self.info.exclusive:
            target, known = target[:, 0], known[:, 0]
        else:
            target = target / self.full
        loss: Tensor = self.loss(logits, target, known, weights)
        if self.training and self.options.sampling == "hard":
            scored = build_batch(logits.detach(), target, known, self.loss.mode)
            self.tile_losses = sample_losses(scored)
        for scores in others:
            loss = loss + self.loss(scores, target, known, weights)
        return loss, logits


def _all_logits(network: nn.Module, image: Tensor) -> list[Tensor]:
    """What the loss is summed over, the logits that count last."""
    if isinstance(network, DeepLabV2):
        return network.training_logits(image)
    return [network(image)]


def _build_loss(info: TilesInfo, options: TrainOptions) -> CompositeLoss:
    if info.exclusive:
        loss = options.loss or USUAL_LOSS_OF_CLASSES
        return CompositeLoss(loss, channels=len(info.outputs), mode="multiclass")
    loss = options.loss or USUAL_LOSS
    graded = next((name for name in info.targets if name in FULL_SCALE_VALUES), None)
    if graded and loss.lovasz_hinge:
        raise ConfigError(
            f"train.loss.lovasz_hinge: tells yes from no, and the target {graded} is a matter of "
            "degree; leave one of them out"
        )
    return CompositeLoss(loss, channels=len(info.outputs))


def _full_values(info: TilesInfo) -> Tensor:
    """What is learnt as 1 in each target band, (bands, 1, 1)."""
    return torch.tensor([[[float(FULL_SCALE_VALUES.get(name, 1))]] for name in info.targets])


def _build_weight_map(
    info: TilesInfo, options: TrainOptions, building_share: float | None
) -> WeightMap | None:
    weighing = options.weight_map
    if weighing is None:
        return None
    if info.exclusive:
        raise ConfigError(
            "train.weight_map: weighs ground between buildings, and these tiles hold exclusive "
            "classes; leave it out"
        )
    balanced = building_share if weighing.balance else None
    # How frequent the other targets are is not known without reading every tile.
    return WeightMap(weighing.w0, [balanced, *[None] * (len(info.targets) - 1)])
