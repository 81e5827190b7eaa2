"""Search of the vectorization thresholds on validation areas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geoseg.evaluation.metrics import Score
from geoseg.evaluation.place_scores import has_truth, mean_building_f1, mean_iou
from geoseg.options import Thresholds
from geoseg.training.validation.areas import ValidationAreas

# Building F1 and pixel IoU of thresholds, and the objective made of both.
Scoring = Callable[[Thresholds], tuple[float, float]]
Objective = Callable[[tuple[float, float]], float]

# Draws a figure into a file.
Drawing = Callable[[Path], None]

# Candidate values, searched one threshold at a time, since each score vectorizes all areas.
_CANDIDATES = {
    "body": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "seed": (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
    "border": (0.7, 1.0, 1.4, 2.0),
    "contact": (0.5, 1.0, 1.5, 2.0),
    "min_area_m2": (3.0, 6.0, 12.0, 20.0),
}
_ROUNDS = 2

# Largest accepted loss of F1 against the default thresholds, whatever IoU is gained.
_MOST_F1_LOSS = 0.02

# Smaller gains are within the noise of a few hundred buildings and do not change a threshold.
_LEAST_GAIN = 0.005


@dataclass(frozen=True)
class Tuned:
    """The best thresholds, and their score on the validation areas.

    Attributes:
        thresholds: The best thresholds; the defaults for exclusive classes, whose mask is the
            argmax.
        f1: Their building F1@0.5, `mean_building_f1`; None for exclusive classes.
        places: Counts of buildings of each place that counts in `f1`, if there are several places.
        merged_places: Counts of buildings where labels merge touching buildings and which `f1`
            does not contain, of each place that has such areas; only if there are several places.
            A place with both kinds of labels is also in `places`.
        merged_f1: Building F1@0.5 of the buildings that `f1` does not contain for that reason, the
            `mean_building_f1`; None without any.
        notes: Lines for the user.
        calibration: For the model file, the `summary` of the calibration and that of `RatedAreas`;
            None without a calibration.
        pictures: Functions that draw figures, by file name; called after the model is saved.
    """

    thresholds: Thresholds
    f1: float | None
    calibration: dict[str, float] | None = None
    pictures: Mapping[str, Drawing] = field(default_factory=dict)
    places: Mapping[str, Score] = field(default_factory=dict)
    merged_f1: float | None = None
    notes: tuple[str, ...] = ()
    merged_places: Mapping[str, Score] = field(default_factory=dict)

    def describe_places(self) -> dict[str, Any]:
        """Return building F1 of places as a model file stores it: None without true buildings."""
        not_counted = list_not_counted(self.places, self.merged_places)
        counted = {name: one for name, one in self.places.items() if name not in not_counted}
        named = {"val_f1_by_place": counted, "val_f1_merged_by_place": self.merged_places}
        return {
            key: {n: round(one.f1, 4) if has_truth(one) else None for n, one in scores.items()}
            for key, scores in named.items()
            if scores
        }


def name_counts(names: Sequence[str], counts: Mapping[int, Score]) -> dict[str, Score]:
    """Return counts by the name of their place; empty if there is a single place.

    Args:
        names: Name of each place.
        counts: Counts of buildings by the number of the place.
    """
    return {names[number]: counts[number] for number in sorted(counts)} if len(names) > 1 else {}


def list_not_counted(places: Mapping[str, Score], merged_places: Mapping[str, Score]) -> list[str]:
    """Return the places without a score because labels merge their buildings.

    Args:
        places: See `Tuned`.
        merged_places: See `Tuned`.
    """
    return [name for name in merged_places if name not in places or not has_truth(places[name])]


def tune_thresholds(areas: ValidationAreas) -> Thresholds:
    """Search the thresholds: `body` by pixel IoU, the others by building F1@0.5 plus pixel IoU.

    `body` determines the extent of all buildings, which pixel IoU measures reliably; building F1
    is computed from a few hundred buildings, and its noise would move every outline. The
    thresholds that separate and remove buildings are chosen by the sum of both. With a weak
    network, pixel IoU may rise by merging buildings: if F1 falls too much, `body` is chosen by the
    sum as well, and if that does not help the defaults are kept. All scores are means over
    places (`place_scores`).

    Args:
        areas: Validation areas, predicted.

    Returns:
        The best thresholds; the defaults if there are no buildings.
    """
    scores: dict[Thresholds, tuple[float, float]] = {}

    def score(thresholds: Thresholds) -> tuple[float, float]:
        if thresholds not in scores:
            buildings, pixels = zip(*areas.score_places(thresholds), strict=True)
            scores[thresholds] = mean_building_f1(buildings), mean_iou(pixels)
        return scores[thresholds]

    # Regularization takes most of the time, and hardly changes the scores.
    default = Thresholds(regularize=False)
    least_f1 = score(default)[0] - _MOST_F1_LOSS
    results = (_search(default, score, areas.outputs, by) for by in (_pixel_iou, sum))
    best = next((result for result in results if score(result)[0] >= least_f1), default)
    return best.model_copy(update={"regularize": True})


def _search(
    default: Thresholds, score: Scoring, outputs: Sequence[str], body_objective: Objective
) -> Thresholds:
    """Search one threshold at a time, `body` with its own objective, the others with the sum."""
    best = default
    for _ in range(_ROUNDS):
        before = best
        for name, values in _CANDIDATES.items():
            if name in ("border", "contact") and name not in outputs:
                continue
            choices = [best.model_copy(update={name: value}) for value in values]
            objective = body_objective if name == "body" else sum
            winner = max(choices, key=lambda choice: objective(score(choice)))
            if objective(score(winner)) > objective(score(best)) + _LEAST_GAIN:
                best = winner
        if best == before:
            break
    return best


def _pixel_iou(scores: tuple[float, float]) -> float:
    return scores[1]
