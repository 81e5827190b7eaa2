"""Training of networks of boxes: the Lightning module and the recipe."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from geoseg.data.tiles import load_tiles_info
from geoseg.detection.box_arrays import Boxes
from geoseg.detection.box_augmentation import augment_boxes
from geoseg.detection.box_dataset import BoxDataset
from geoseg.detection.detector import MIN_SCORE, detect_boxes
from geoseg.detection.scoring import build_areas, score_boxes, tune_boxes
from geoseg.errors import ConfigError
from geoseg.networks.models.retinanet import RetinaNet
from geoseg.networks.normalization import normalise
from geoseg.options import PredictOptions, TrainOptions
from geoseg.training.dataset import Sample, TileDataset
from geoseg.training.learner import Learner, Recipe
from geoseg.training.places import name_place_scores, rate_places


class BoxLearner(Learner):
    """The Lightning module of a network of boxes.

    `val_f1`, which is also `val_score`, is building F1@0.5 against the reference footprints at the
    best score threshold; `val_iou` is the IoU of the areas that boxes and footprints cover.

    Args:
        network: A `RetinaNet`.
        tiles: Validation tiles.
        options: Training options; the loss is the network's own.
        pretrained: Whether the encoder is pretrained.
    """

    def __init__(
        self,
        network: nn.Module,
        tiles: TileDataset,
        options: TrainOptions,
        *,
        pretrained: bool = True,
    ) -> None:
        super().__init__(network, tiles.info, options, pretrained=pretrained)
        self.areas, self.places = build_areas(tiles), tiles.places.scored
        self.predictions: dict[int, Boxes] = {}

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Return the loss of an augmented batch."""
        image, boxes, valid = self._augment(batch, batch_idx % self.options.accumulate)
        outputs = self._forward(image)
        loss = self._retinanet.loss(outputs, boxes, batch["is_target"], valid)
        self._log_loss(loss, len(image))
        return loss

    def training_images(self, batch: Sample, number: int) -> Tensor:
        """Return the augmented images of a batch, see `Learner`."""
        image, _, _ = self._augment(batch, number)
        return image.contiguous(memory_format=torch.channels_last)

    def _augment(self, batch: Sample, ahead: int) -> tuple[Tensor, Tensor, Tensor]:
        image, boxes, valid = self._normalise(batch), batch["boxes"], batch["valid"]
        if self.options.augment is None:
            return image, boxes, valid
        return augment_boxes(
            image,
            boxes,
            valid,
            black=-self.mean / self.std,
            options=self.options.augment,
            random=self._randomness(len(image), ahead),
        )

    def on_validation_epoch_start(self) -> None:
        """Remove the boxes of the previous epoch."""
        super().on_validation_epoch_start()
        self.predictions = {}

    def validation_step(self, batch: Sample, _: int) -> None:
        """Compute loss and boxes of a batch."""
        valid = batch["valid"]
        outputs = self._forward(self._normalise(batch))
        loss = self._retinanet.loss(outputs, batch["boxes"], batch["is_target"], valid)
        self._add_loss(loss, len(valid))
        boxes = detect_boxes(
            self._retinanet, outputs, valid, min_score=MIN_SCORE, iou=PredictOptions().nms_iou
        )
        self.predictions |= zip(batch["index"].tolist(), boxes, strict=True)

    def _findings(self) -> dict[int, Boxes]:
        return self.predictions

    def _score(self, findings: list[dict[int, Boxes]]) -> dict[str, float]:
        """Return the scores over all validation areas, and those of each place."""
        boxes = dict(chain.from_iterable(map(dict.items, findings)))
        score = score_boxes(self.areas, boxes)
        by_place = {
            "val_iou": rate_places(score.pixels, "iou"),
            "val_f1": rate_places(score.buildings, "f1"),
        }
        means = {"val_iou": score.iou, "val_f1": score.f1, "val_score": score.f1}
        return means | name_place_scores(self.places, by_place)

    @property
    def _retinanet(self) -> RetinaNet:
        return cast(RetinaNet, self.network)

    def _normalise(self, batch: Sample) -> Tensor:
        return normalise(batch["image"], batch["valid"], self.mean, self.std)

    def _forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = self.network(
            image.contiguous(memory_format=torch.channels_last)
        )
        return outputs


def _load_tiles(folder: str | Path, options: TrainOptions) -> tuple[TileDataset, TileDataset]:
    if options.weight_map or (options.augment and options.augment.elastic_px):
        raise ConfigError(
            "train.weight_map and train.augment.elastic_px apply only to networks that predict "
            "pixels; remove them"
        )
    if options.sampling == "hard":
        raise ConfigError(
            "train.sampling: hard applies only to networks that predict pixels; choose uniform, "
            "balanced or places"
        )
    if options.loss is not None:
        raise ConfigError(
            "train.loss: applies only to networks that predict pixels; remove it, networks of "
            "boxes have their own loss"
        )
    if load_tiles_info(folder).exclusive:
        raise ConfigError(
            f"{folder}: holds exclusive classes, but networks of boxes detect buildings only; "
            "choose a network that predicts pixels (geoseg models)"
        )
    return BoxDataset(folder, "train"), BoxDataset(folder, "val")


def _build_learner(
    network: nn.Module,
    _: TileDataset,
    val_set: TileDataset,
    options: TrainOptions,
    pretrained: bool,
) -> BoxLearner:
    return BoxLearner(network, val_set, options, pretrained=pretrained)


BOX_RECIPE = Recipe(
    task="boxes",
    datasets=_load_tiles,
    outputs=lambda info: info.classes,
    learner=_build_learner,
    finish=tune_boxes,
)
