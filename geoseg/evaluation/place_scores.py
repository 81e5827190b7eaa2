"""Scores over several places that the largest does not dominate.

The score is the mean of the scores of the places with true objects: of pixels the plain mean, of
buildings one in which places with few of them count less. A place without any has no
score of its own: it would be 0 with one false object and undefined without. Its false objects are
distributed over the other places instead, in proportion to their true ones, so that each place has
the same number of them per true object. So false objects lower the score wherever they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geoseg.evaluation.metrics import AreaCounts, Confusion

# A place with so many buildings has half the weight of one with very many.
_HALF_WEIGHT = 50


def mean_iou(places: Sequence[AreaCounts]) -> float:
    """Return the mean IoU of places; 0 if none has true objects.

    Args:
        places: Counts of each place.
    """
    return _mean([one.iou for one in _distribute_false(places)])


def mean_f1(places: Sequence[AreaCounts]) -> float:
    """Return the mean F1 of places; 0 if none has true objects.

    Args:
        places: Counts of each place.
    """
    return _mean([one.f1 for one in _distribute_false(places)])


def mean_building_f1(places: Sequence[AreaCounts]) -> float:
    """Return the mean building F1 of places, in which few buildings count less; 0 without any.

    The F1 of five buildings is mostly chance: as much as that of a hundred, it would decide about
    the best epoch and the thresholds.

    Args:
        places: Counts of the buildings of each place.
    """
    known = _distribute_false(places)
    weights = weigh_places([one.tp + one.fn for one in known])
    scores = np.array([one.f1 for one in known])
    return float((weights * scores).sum() / weights.sum()) if known else 0.0


def weigh_places(counts: Sequence[float] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weights of places by their numbers of buildings; large ones weigh nearly alike."""
    buildings = np.asarray(counts, dtype=np.float64)
    return buildings / (buildings + _HALF_WEIGHT)


def mean_class_scores(places: Sequence[Confusion]) -> tuple[float, float]:
    """Return IoU and F1, for each class the mean over places, and then the mean over classes.

    Classes that occur nowhere do not count. So a class that only some places have is scored there.

    Args:
        places: Confusion matrix of each place.
    """
    by_class = zip(*(one.per_class for one in places), strict=True)
    occurring = [counts for counts in by_class if any(one.tp + one.fp + one.fn for one in counts)]
    return _mean([mean_iou(counts) for counts in occurring]), _mean(
        [mean_f1(counts) for counts in occurring]
    )


def has_truth(counts: AreaCounts) -> bool:
    """Return whether a place has true objects, and so a score of its own."""
    return counts.tp + counts.fn > 0


def _distribute_false(places: Sequence[AreaCounts]) -> list[AreaCounts]:
    known = [one for one in places if has_truth(one)]
    false = sum(one.fp for one in places if not has_truth(one))
    truth = sum(one.tp + one.fn for one in known)
    return [AreaCounts(one.tp, one.fp + false * (one.tp + one.fn) / truth, one.fn) for one in known]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
