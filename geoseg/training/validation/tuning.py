"""Thresholds tuned on validation ground, through the real vectorize."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geoseg.options import Thresholds
from geoseg.training.validation.areas import ValidationAreas

# Building F1 and pixel IoU of thresholds, and what of both is wanted.
Scoring = Callable[[Thresholds], tuple[float, float]]
Goal = Callable[[tuple[float, float]], float]

# Writes a picture to a path.
Drawing = Callable[[Path], None]

# Candidates, searched one coordinate after the other: each is a full vectorize.
_CANDIDATES = {
    "body": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "seed": (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
    "border": (0.7, 1.0, 1.4, 2.0),
    "contact": (0.5, 1.0, 1.5, 2.0),
    "min_area_m2": (3.0, 6.0, 12.0, 20.0),
}
_ROUNDS = 2

# Of F1 no more than this may be lost against the defaults, however much ground is gained.
_MOST_LOSS = 0.02

# Less than this is the noise of some hundred buildings, and no reason to leave a default.
_LEAST_GAIN = 0.005


@dataclass(frozen=True)
class Tuned:
    """The best thresholds, and what they reach on validation ground.

    Attributes:
        thresholds: They; of exclusive classes the defaults, as there is nothing to tune where
            each pixel is of its likeliest class.
        f1: Their building F1@0.5; None of exclusive classes.
        calibration: What the model file keeps of the calibration, see `validation.calibration`;
            None where confidences are not calibrated.
        pictures: File name → what draws it, to be called after the model is saved.
    """

    thresholds: Thresholds
    f1: float | None
    calibration: dict[str, float] | None = None
    pictures: Mapping[str, Drawing] = field(default_factory=dict)


def tune_thresholds(ground: ValidationAreas) -> Thresholds:
    """Searches the thresholds: the body's by pixel IoU, the others by building F1@0.5 and it.

    The body's threshold says how far buildings reach, which many pixels tell reliably; building
    F1 is a matter of some hundred buildings, and its noise would move every outline. What
    separates and drops buildings is chosen by the sum of both. Of a network that has learnt
    little, much ground may be won by joining buildings: where F1 suffers, the body's threshold
    is chosen by the sum, too, and if that does not help the defaults stay.

    Args:
        ground: Validation ground, predicted.

    Returns:
        The best thresholds; the defaults where the ground holds no building.
    """
    scores: dict[Thresholds, tuple[float, float]] = {}

    def score(thresholds: Thresholds) -> tuple[float, float]:
        if thresholds not in scores:
            buildings, area = ground.score(thresholds)
            scores[thresholds] = buildings.f1, area.iou
        return scores[thresholds]

    # Right angles take most of the time, and hardly a building is found or lost by them.
    usual = Thresholds(regularize=False)
    least = score(usual)[0] - _MOST_LOSS
    found = (_search(usual, score, ground.outputs, goal) for goal in (_covered, sum))
    best = next((one for one in found if score(one)[0] >= least), usual)
    return best.model_copy(update={"regularize": True})


def _search(usual: Thresholds, score: Scoring, outputs: Sequence[str], of_body: Goal) -> Thresholds:
    """Searches one coordinate after the other, that of the body by a goal of its own."""
    best = usual
    for _ in range(_ROUNDS):
        before = best
        for name, values in _CANDIDATES.items():
            if name in ("border", "contact") and name not in outputs:
                continue
            choices = [best.model_copy(update={name: value}) for value in values]
            goal = of_body if name == "body" else sum
            winner = max(choices, key=lambda choice: goal(score(choice)))
            if goal(score(winner)) > goal(score(best)) + _LEAST_GAIN:
                best = winner
        if best == before:
            break
    return best


def _covered(scores: tuple[float, float]) -> float:
    return scores[1]
