"""How a network of boxes is trained."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from geoseg.boxes.box_arrays import Boxes
from geoseg.boxes.box_augmentation import augment_boxes
from geoseg.boxes.box_dataset import BoxDataset
from geoseg.boxes.detector import LEAST_SCORE, find_boxes
from geoseg.boxes.scoring import build_grounds, judge, tune_boxes
from geoseg.data.tiles import load_tiles_info
from geoseg.errors import ConfigError
from geoseg.networks.models.retinanet import RetinaNet
from geoseg.options import PredictOptions, TrainOptions
from geoseg.training.dataset import Sample, TileDataset, normalise
from geoseg.training.learner import Learner, Recipe


class BoxLearner(Learner):
    """A network of boxes, as Lightning trains it.

    Its `val_f1`, which is its `val_score`, is building F1@0.5 against the true footprints, with
    the least score that suits best, and its `val_iou` that of the ground that these boxes cover.

    Args:
        network: A `RetinaNet`.
        tiles: The tiles to validate on.
        options: How to train; the loss is the network's own.
        pretrained: The encoder has learnt before.
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
        self.grounds = build_grounds(tiles)
        self.found: dict[int, Boxes] = {}

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Loss of one augmented batch."""
        image, boxes, valid = self._augment(batch, batch_idx % self.options.accumulate)
        loss = self._retinanet.loss(self._say(image), boxes, batch["learnt"], valid)
        self._log_loss(loss, len(image))
        return loss

    def training_images(self, batch: Sample, number: int) -> Tensor:
        """See `Learner`."""
        image, _, _ = self._augment(batch, number)
        return image.contiguous(memory_format=torch.channels_last)

    def _augment(self, batch: Sample, ahead: int) -> tuple[Tensor, Tensor, Tensor]:
        image, boxes, valid = self._normal(batch), batch["boxes"], batch["valid"]
        if self.options.augment is None:
            return image, boxes, valid
        return augment_boxes(
            image,
            boxes,
            valid,
            black=-self.mean / self.std,
            options=self.options.augment,
            chance=self._randomness(len(image), ahead),
        )

    def on_validation_epoch_start(self) -> None:
        """Forgets the boxes of the epoch before."""
        super().on_validation_epoch_start()
        self.found = {}

    def validation_step(self, batch: Sample, _: int) -> None:
        """Loss and boxes of one batch."""
        valid = batch["valid"]
        said = self._say(self._normal(batch))
        loss = self._retinanet.loss(said, batch["boxes"], batch["learnt"], valid)
        self._add_loss(loss, len(valid))
        found = find_boxes(
            self._retinanet, said, valid, least=LEAST_SCORE, iou=PredictOptions().nms_iou
        )
        self.found |= zip(batch["index"].tolist(), found, strict=True)

    def _findings(self) -> dict[int, Boxes]:
        return self.found

    def _score(self, findings: list[dict[int, Boxes]]) -> dict[str, float]:
        """Scores of all validation ground together."""
        verdict = judge(self.grounds, dict(chain.from_iterable(map(dict.items, findings))))
        return {"val_iou": verdict.iou, "val_f1": verdict.f1, "val_score": verdict.f1}

    @property
    def _retinanet(self) -> RetinaNet:
        return cast(RetinaNet, self.network)

    def _normal(self, batch: Sample) -> Tensor:
        return normalise(batch["image"], batch["valid"], self.mean, self.std)

    def _say(self, image: Tensor) -> tuple[Tensor, Tensor]:
        said: tuple[Tensor, Tensor] = self.network(
            image.contiguous(memory_format=torch.channels_last)
        )
        return said


def _load_tiles(folder: str | Path, options: TrainOptions) -> tuple[TileDataset, TileDataset]:
    if options.weight_map or (options.augment and options.augment.elastic_px):
        raise ConfigError(
            "train.weight_map and train.augment.elastic_px are of networks of pixels; leave them "
            "out"
        )
    if options.sampling == "hard":
        raise ConfigError(
            "train.sampling: hard is of networks of pixels; choose uniform or balanced"
        )
    if options.loss is not None:
        raise ConfigError(
            "train.loss: is of networks of pixels; networks of boxes bring their own, leave it out"
        )
    if load_tiles_info(folder).exclusive:
        raise ConfigError(
            f"{folder}: holds exclusive classes, but networks of boxes detect buildings only; "
            "choose a network that predicts pixels (geoseg models)"
        )
    return BoxDataset(folder, "train"), BoxDataset(folder, "val")


def _learn(
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
    learner=_learn,
    finish=tune_boxes,
)
