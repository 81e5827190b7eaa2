"""Training and validation steps of pixel networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.data.labels import BACKGROUND_VALUES, FULL_SCALE_VALUES
from geoseg.data.tiles import TilesInfo
from geoseg.errors import ConfigError
from geoseg.evaluation.metrics import Confusion, count_classes
from geoseg.evaluation.place_scores import mean_building_f1, mean_class_scores, mean_f1, mean_iou
from geoseg.networks.losses import CompositeLoss, WeightMap, build_batch, sample_losses
from geoseg.networks.models.deeplabv2 import DeepLabV2
from geoseg.networks.normalization import normalise
from geoseg.options import USUAL_LOSS, USUAL_LOSS_OF_CLASSES, Thresholds, TrainOptions
from geoseg.training.augmentation import WHITE, augment
from geoseg.training.dataset import Sample
from geoseg.training.learner import Learner
from geoseg.training.places import Places, name_place_scores, rate_places
from geoseg.training.validation.areas import ValidationAreas

# Regularizing takes time and hardly changes which buildings match.
_WHILE_TRAINING = Thresholds(regularize=False)


class Segmenter(Learner):
    """A pixel network with its loss and optimizer, trained by Lightning.

    Args:
        network: (N, C, H, W) → logits (N, outputs, H, W).
        info: Description of the tiles.
        options: Training options.
        building_share: Share of building pixels in the training split, by which the weight map
            balances buildings and background.
        pretrained: The encoder is pretrained, and learns at a lower rate.
        areas: Areas of the validation tiles, to score buildings there; None for exclusive classes.
        places: Place of each validation tile; a single place when None.

    Attributes:
        tile_losses: (N,) of the last training batch, for hard sampling.
    """

    full: Tensor
    background: Tensor
    tile_losses: Tensor | None = None

    def __init__(
        self,
        network: nn.Module,
        info: TilesInfo,
        options: TrainOptions,
        *,
        building_share: float | None = None,
        pretrained: bool = True,
        areas: ValidationAreas | None = None,
        places: Places | None = None,
    ) -> None:
        super().__init__(network, info, options, pretrained=pretrained)
        self.info, self.areas = info, areas
        self.places = places.scored if places else None
        self.loss = _build_loss(info, options)
        self.weight_map = _build_weight_map(info, options, building_share)
        self.register_buffer("full", _full_values(info), persistent=False)
        separation = [0] if self.weight_map else []
        background = torch.tensor([*_background_values(info), *separation], dtype=torch.uint8)
        self.register_buffer("background", background, persistent=False)
        self._confusions = self._empty_confusions()

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
        image, target, valid = self._normalise(batch)
        image, target, _ = augment(
            image,
            target,
            valid,
            size=self.info.size,
            black=-self.mean / self.std,
            white=self._white(),
            ignore=self.info.ignore,
            background=self.background,
            options=self.options.augment,
            random=self._randomness(len(image), ahead),
        )
        return image, target

    def _white(self) -> Tensor:
        """Return the normalised value of white; of data other than bytes it is not known."""
        if self.info.dtype == "uint8":
            return (255 - self.mean) / self.std
        return torch.full_like(self.mean, WHITE)

    def on_validation_epoch_start(self) -> None:
        """Reset the counts."""
        super().on_validation_epoch_start()
        self._confusions = self._empty_confusions()
        if self.areas:
            self.areas.reset()

    def validation_step(self, batch: Sample, _: int) -> None:
        """Add loss, pixel counts and probabilities of one batch."""
        image, target, _valid = self._normalise(batch)
        loss, logits = self._loss(image, target)
        self._add_loss(loss, len(image))
        found = (logits.argmax(dim=1) if self.info.exclusive else logits[:, 0] > 0).cpu().numpy()
        truth = target[:, 0].cpu().numpy()
        for place, rows in self._iter_places(batch):
            self._confusions[place] += count_classes(
                found[rows], truth[rows], truth[rows] != self.info.ignore, self._class_count
            )
        if self.areas:
            prob = logits.float().sigmoid()
            self.areas.add(batch["index"].tolist(), prob.cpu().numpy())

    @property
    def scored_share(self) -> float:
        """Share of the validation area whose buildings are scored; 1 for exclusive classes."""
        return self.areas.covered_mpx / self.areas.total_mpx if self.areas else 1.0

    def _findings(self) -> tuple[list[Confusion], dict[int, np.ndarray]]:
        return self._confusions, self.areas.predictions if self.areas else {}

    def _score(self, findings: list[Any]) -> dict[str, float]:
        """Return the scores of the validation pixels: of buildings, or the mean over classes.

        `val_f1` is building F1@0.5 of the footprints from the default thresholds. `val_score` is
        the mean of it and pixel IoU, which is less noisy, as some hundred buildings are few; for
        exclusive classes it is the mean IoU. All are means over places (`place_scores`); if there
        are several, each with true buildings has its own values, too.
        """
        parts = [counted for counted, _ in findings]
        places = [sum(part[1:], part[0]) for part in zip(*parts, strict=True)]
        if self.info.exclusive:
            iou, f1 = mean_class_scores(places)
            by_place = {"val_iou": {i: one.mean_iou for i, one in enumerate(places)}}
        else:
            pixels = [one.per_class[1] for one in places]
            iou, f1 = mean_iou(pixels), mean_f1(pixels)
            by_place = {"val_iou": rate_places(pixels, "iou")}
        scores = {"val_iou": iou, "val_f1_pixel": f1, "val_score": iou}
        if self.areas:
            for _, found in findings:
                self.areas.predictions |= found
            buildings = [counted for counted, _ in self.areas.score_places(_WHILE_TRAINING)]
            self.areas.reset()
            building_f1 = mean_building_f1(buildings)
            scores |= {"val_f1": building_f1, "val_score": (iou + building_f1) / 2}
            by_place["val_f1"] = rate_places(buildings, "f1")
        return scores | (name_place_scores(self.places, by_place) if self.places else {})

    def _iter_places(self, batch: Sample) -> Iterator[tuple[int, Any]]:
        """Yield the places of a validation batch, with the samples of each."""
        if self.places is None or len(self.places.names) == 1:
            yield 0, slice(None)
            return
        of_sample = self.places.of_tile[batch["index"].cpu().numpy()]
        for place in np.unique(of_sample).tolist():
            yield place, of_sample == place

    @property
    def _class_count(self) -> int:
        return len(self.info.classes) if self.info.exclusive else 2

    def _empty_confusions(self) -> list[Confusion]:
        shape, count = (self._class_count,) * 2, len(self.places.names) if self.places else 1
        return [Confusion(np.zeros(shape, dtype=np.int64)) for _ in range(count)]

    def _normalise(self, batch: Sample) -> tuple[Tensor, Tensor, Tensor]:
        image = normalise(batch["image"], batch["valid"], self.mean, self.std)
        target = batch["target"]
        if self.weight_map:
            # As one more target band, so that augmentation moves it with the others.
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
    """Return all logits with a loss; the last are the prediction."""
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
            f"train.loss.lovasz_hinge: needs binary targets, but {graded} is graded; leave one of "
            "them out"
        )
    return CompositeLoss(loss, channels=len(info.outputs))


def _full_values(info: TilesInfo) -> Tensor:
    """Return the value that stands for 1 in each target band, (bands, 1, 1)."""
    return torch.tensor([[[float(FULL_SCALE_VALUES.get(name, 1))]] for name in info.targets])


def _background_values(info: TilesInfo) -> list[int]:
    """Return the value of each target band far from any building; ignored if it has no class."""
    if info.exclusive:
        return [0 if info.background is not None else info.ignore]
    return [BACKGROUND_VALUES.get(name, 0) for name in info.targets]


def _build_weight_map(
    info: TilesInfo, options: TrainOptions, building_share: float | None
) -> WeightMap | None:
    weighing = options.weight_map
    if weighing is None:
        return None
    if info.exclusive:
        raise ConfigError(
            "train.weight_map: is for tiles of buildings, and these hold exclusive classes; leave "
            "it out"
        )
    balanced = building_share if weighing.balance else None
    # The frequency of other targets is unknown without reading every tile.
    return WeightMap(weighing.w0, [balanced, *[None] * (len(info.targets) - 1)])
