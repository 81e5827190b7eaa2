"""Tuning and calibration of a trained pixel network, and pictures of its validation tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import shapely
from torch import Tensor

from geoseg.evaluation import Evaluation
from geoseg.evaluation.metrics import compare_areas, count_classes
from geoseg.evaluation.place_scores import mean_building_f1
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.starting_model import StartingModel
from geoseg.options import Thresholds
from geoseg.prediction.predictor import Predictor
from geoseg.training.dataset import TileDataset, tile_corners
from geoseg.training.figures import (
    MaskedTile,
    OutlinedTile,
    draw_masked,
    draw_outlined,
    draw_reliability,
)
from geoseg.training.validation.areas import (
    Predict,
    ValidationArea,
    ValidationAreas,
    predict_tiles,
)
from geoseg.training.validation.calibration import calibrate
from geoseg.training.validation.gain import (
    are_few,
    count_buildings,
    describe_gain,
    is_comparable,
    score_start,
)
from geoseg.training.validation.merged_labels import (
    add_not_counted,
    describe_merged,
    list_counted_places,
    measure_merged_f1,
)
from geoseg.training.validation.rating import evaluate_areas, rate_areas
from geoseg.training.validation.tuning import Drawing, Tuned, name_counts, tune_thresholds

VALIDATION_NAME, RELIABILITY_NAME = "validation.png", "reliability.png"

# Tiles in a picture: the worst, then an even sample of the others.
_SHOWN, _WORST = 24, 8

# Overlapping tiles show the same buildings twice; those that share more of their area are skipped.
_MOST_SHARED = 0.25

_BATCH = 8

# Tiles with classes from which the shown ones are chosen.
_CANDIDATES = 400


class _Scored(Protocol):
    @property
    def iou(self) -> float:
        """IoU of the tile's prediction."""


AnyTile = TypeVar("AnyTile", bound=_Scored)


def finish(
    spec: ModelSpec,
    weights: dict[str, Tensor],
    device: str,
    tiles: TileDataset,
    start: StartingModel | None = None,
) -> Tuned:
    """Tune and calibrate a pixel network on the validation tiles.

    With few validation buildings a model keeps the thresholds and the rule of confidences of the
    one that its training continued from.

    Args:
        spec: The model's header.
        weights: Its state dict.
        device: `auto`, `cpu` or `gpu`.
        tiles: Validation tiles.
        start: The model that training continued from.

    Returns:
        The best thresholds with the temperature, or the defaults for exclusive classes. Its
        pictures are `validation.png` and, for buildings, `reliability.png`.
    """
    predictor = Predictor(spec, weights, device)
    if spec.exclusive:  # argmax needs no thresholds
        draw_classes = partial(_draw_classes, predictor, tiles, spec)
        return Tuned(Thresholds(), None, pictures={VALIDATION_NAME: draw_classes})
    areas = ValidationAreas(tiles)
    start = start if start and is_comparable(start, spec) else None
    before = score_start(start, areas, device) if start else None
    areas.predict(predictor)
    calibration = calibrate(areas.areas())
    known, used = count_buildings(areas.areas()), None
    if start and are_few(known):
        rated = evaluate_areas(areas, start.spec.thresholds)
    else:
        used = calibration.summary
        tuned = tune_thresholds(areas).model_copy(update={"temperature": calibration.temperature})
        rated = rate_areas(areas, tuned)
    evaluated = rated.evaluated
    buildings = [counted for counted, _ in areas.add_by_place(evaluated)]
    f1 = mean_building_f1(buildings)
    gain: tuple[str, ...] = ()
    if start and before is not None:
        gain = describe_gain(start.name, before, f1, known)
    merged = add_not_counted(areas.areas(), [one.score for _, one in evaluated])
    merged_f1 = measure_merged_f1(merged)
    pictures: dict[str, Drawing] = {
        RELIABILITY_NAME: partial(draw_reliability, calibration, footprints=rated.reliability),
        VALIDATION_NAME: partial(_draw_buildings, tiles, evaluated),
    }
    counted = {place: buildings[place] for place in list_counted_places(areas.areas())}
    names = areas.places.names
    return Tuned(
        rated.thresholds,
        f1,
        calibration=None if used is None else used | rated.summary,
        pictures=pictures,
        merged_f1=merged_f1,
        notes=(*describe_merged(areas.areas(), merged_f1), *gain),
        places=name_counts(names, counted),
        merged_places=name_counts(names, merged),
    )


def _draw_classes(predict: Predict, tiles: TileDataset, spec: ModelSpec, path: Path) -> None:
    if masked := _choose_masked(predict, tiles):
        draw_masked(masked, path, spec.classes, spec.colours)


def _draw_buildings(
    tiles: TileDataset, evaluated: Sequence[tuple[ValidationArea, Evaluation]], path: Path
) -> None:
    draw_outlined(choose_tiles(list(iter_outlined(tiles, evaluated))), path)


def choose_tiles(tiles: Sequence[AnyTile]) -> list[AnyTile]:
    """Return the tiles with the lowest IoU, then others evenly up to the best, at most 24."""
    ordered = sorted(tiles, key=lambda tile: tile.iou)
    if len(ordered) <= _SHOWN:
        return ordered
    others = np.linspace(_WORST, len(ordered) - 1, _SHOWN - _WORST).astype(int)
    return ordered[:_WORST] + [ordered[place] for place in others]


def separate_tiles(tiles: TileDataset, among: Iterable[int]) -> list[int]:
    """Return rows of tiles that hardly overlap, in the dataset's order.

    Args:
        tiles: The tiles.
        among: Rows to choose from.
    """
    chosen: list[int] = []
    for _, rows in tiles.tiles.loc[sorted(among)].groupby("scene", sort=False):
        boxes = shapely.box(*tile_corners(rows).T)
        tree, kept = shapely.STRtree(boxes), np.zeros(len(boxes), dtype=bool)
        for place, (index, box) in enumerate(zip(rows.index.tolist(), boxes, strict=True)):
            near = tree.query(box)
            shared = shapely.area(shapely.intersection(box, boxes[near[kept[near]]]))
            if shared.sum() <= _MOST_SHARED * box.area:
                kept[place] = True
                chosen.append(index)
    return chosen


def iter_outlined(
    tiles: TileDataset, evaluated: Sequence[tuple[ValidationArea, Evaluation]]
) -> Iterator[OutlinedTile]:
    """Yield tiles with the outlines of found, false and missed buildings.

    Args:
        tiles: Validation tiles.
        evaluated: Their areas, with the evaluation of each.
    """
    for area, evaluation in evaluated:
        layers = _layers_of(evaluation)
        for index in separate_tiles(tiles, area.windows):
            window = area.windows[index]
            frame = area.grid.window_polygon(window)
            clipped = {name: _clip(polygons, frame) for name, polygons in layers.items()}
            to_tile = _to_pixels(area, window.col_off, window.row_off)
            sample = tiles[index]
            yield OutlinedTile(
                sample["image"].numpy(),
                sample["valid"].numpy()[0],
                _iou(
                    np.concatenate([clipped["found"], clipped["false"]]),
                    np.concatenate([clipped["truth"], clipped["missed"]]),
                ),
                {name: shapely.transform(polygons, to_tile) for name, polygons in clipped.items()},
            )


def _layers_of(evaluation: Evaluation) -> dict[str, np.ndarray]:
    correct = evaluation.matches.proposal_match >= 0
    detected = evaluation.matches.truth_match >= 0
    pred = np.asarray(evaluation.pred.geometry.to_numpy(), dtype=object)
    truth = np.asarray(evaluation.truth.geometry.to_numpy(), dtype=object)
    return {
        "truth": truth[detected],
        "found": pred[correct],
        "false": pred[~correct],
        "missed": truth[~detected],
    }


def _clip(polygons: np.ndarray, frame: shapely.Geometry) -> np.ndarray:
    """Return the parts of polygons inside a frame, without lines and points."""
    near = polygons[shapely.intersects(polygons, frame)]
    parts = shapely.get_parts(shapely.intersection(near, frame))
    parts = shapely.get_parts(parts)
    polygonal: np.ndarray = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    return polygonal


def _iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the IoU of the covered areas; 1 if both are empty."""
    return compare_areas(found, truth).iou if len(found) or len(truth) else 1.0


def _to_pixels(area: ValidationArea, left: int, top: int) -> Callable[[np.ndarray], np.ndarray]:
    def to_pixels(points: np.ndarray) -> np.ndarray:
        columns, rows = area.grid.to_pixels(points[:, 0], points[:, 1])
        return np.column_stack([columns - left, rows - top])

    return to_pixels


@dataclass(frozen=True)
class _ScoredRow:
    """Row of a tile in the dataset, and the mean IoU of its classes."""

    index: int
    iou: float


def _choose_masked(predict: Predict, tiles: TileDataset) -> list[MaskedTile]:
    """Return the tiles to show, chosen from some hundred; only the chosen ones stay in memory."""
    rows = separate_tiles(tiles, range(len(tiles)))
    if len(rows) > _CANDIDATES:
        rows = [rows[place] for place in np.linspace(0, len(rows) - 1, _CANDIDATES).astype(int)]
    scored = []
    for index, tile in zip(rows, _iter_masked(predict, tiles, rows), strict=True):
        if (tile.truth != tiles.info.ignore).any():
            scored.append(_ScoredRow(index, tile.iou))
    shown = [tile.index for tile in choose_tiles(scored)]
    return list(_iter_masked(predict, tiles, shown))


def _iter_masked(
    predict: Predict, tiles: TileDataset, indices: Sequence[int]
) -> Iterator[MaskedTile]:
    classes = len(tiles.info.classes)
    for first in range(0, len(indices), _BATCH):
        part = indices[first : first + _BATCH]
        for index, prob in zip(part, predict_tiles(predict, tiles, part), strict=True):
            sample, found = tiles[index], prob.argmax(axis=0).astype(np.uint8)
            truth = sample["target"].numpy()[0]
            counts = count_classes(found, truth, truth != tiles.info.ignore, classes)
            yield MaskedTile(
                sample["image"].numpy(), sample["valid"].numpy()[0], counts.mean_iou, truth, found
            )
