"""The rule for the confidence of footprints, fitted to validation footprints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from geoseg.evaluation import Evaluation
from geoseg.evaluation.place_scores import weigh_places
from geoseg.options.confidence import FEATURES, MOST_WEIGHT, ConfidenceRule
from geoseg.training.validation.reliability import Reliability, bin_probabilities
from geoseg.vectorization.confidence import compute_features, rate_footprints
from geoseg.vectorization.footprints import MEASURED_COLUMNS

BINS = 10

# With fewer footprints, or fewer true or false ones, no rule is fitted. Cross-validation fits rules
# to parts of the footprints.
_LEAST_FOOTPRINTS, _LEAST_OF_EACH = 40, 8
_LEAST_OF_PART = 20

# Features that can only raise a confidence, and those that can only lower it.
_RAISING, _LOWERING = ("mean_prob", "conf_p10", "border", "small", "compactness"), ("edge",)

# Weight of the squared weights of standardised features, which a few footprints could inflate.
_PENALTY = 1.0

# A feature that varies less has no weight: it would be large, and decide in another place.
_LEAST_STD = 0.01

# Half of F1 is the best limit of perfectly calibrated confidences.
_LIMITS = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)

# Smaller gains of F1 are noise and change nothing.
_LEAST_GAIN = 0.005

# Parts of a cross-validation if there is a single place.
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class RatedFootprints:
    """Footprints whose truth is known.

    Attributes:
        features: (n, features), see `compute_features`.
        found: bool (n,), whether a true footprint matches, with an IoU above 0.5.
        place: int (n,), number of the place.
    """

    features: NDArray[np.float64]
    found: NDArray[np.bool_]
    place: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.found)

    def pick(self, chosen: NDArray[np.bool_]) -> RatedFootprints:
        """Return the footprints at a mask."""
        return RatedFootprints(self.features[chosen], self.found[chosen], self.place[chosen])


def collect_footprints(evaluated: Iterable[tuple[int, Evaluation]]) -> RatedFootprints:
    """Collect footprints from evaluations.

    Args:
        evaluated: Number of the place, and an evaluation whose footprints have the columns
            `MEASURED_COLUMNS`.
    """
    features = [np.zeros((0, len(FEATURES)))]
    found = [np.zeros(0, dtype=bool)]
    places = [np.zeros(0, dtype=np.int64)]
    for place, evaluation in evaluated:
        columns = {name: evaluation.pred[name].to_numpy() for name in MEASURED_COLUMNS}
        features.append(compute_features(columns))
        found.append(evaluation.matches.proposal_match >= 0)
        places.append(np.full(len(evaluation.pred), place))
    return RatedFootprints(np.concatenate(features), np.concatenate(found), np.concatenate(places))


def fit_rule(footprints: RatedFootprints, least: int = _LEAST_FOOTPRINTS) -> ConfidenceRule | None:
    """Fit a rule by logistic regression.

    Large places count equally, and small ones less. Weights of features that can only raise or only
    lower a confidence have that sign.

    Args:
        footprints: Footprints whose truth is known.
        least: Least number of footprints.

    Returns:
        The rule; None with too few footprints, or too few true or false ones.
    """
    found = footprints.found
    if len(found) < least or min(found.sum(), (~found).sum()) < _LEAST_OF_EACH:
        return None
    mean, std = footprints.features.mean(axis=0), footprints.features.std(axis=0)
    used = std > _LEAST_STD
    scaled = (footprints.features[:, used] - mean[used]) / std[used]
    names = [name for name, is_used in zip(FEATURES, used, strict=True) if is_used]
    share = _weigh_places(footprints.place)
    sign = np.where(found, 1.0, -1.0)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = sign * (values[0] + scaled @ values[1:])
        slopes = -share * sign / (1 + np.exp(np.clip(margins, -50, 50)))
        total = (share * np.logaddexp(0, -margins)).sum()
        total += 0.5 * _PENALTY * (values[1:] ** 2).sum()
        gradient = np.append(slopes.sum(), slopes @ scaled + _PENALTY * values[1:])
        return float(total), gradient

    start = np.zeros(1 + len(names))
    bounds = [(-50.0, 50.0), *map(_bounds, names)]
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = best[1:] / std[used]
    constant = best[0] - (weights * mean[used]).sum()
    values = np.clip([constant, *weights], -MOST_WEIGHT, MOST_WEIGHT).round(4)
    return ConfidenceRule(**dict(zip(("constant", *names), values.tolist(), strict=True)))


def cross_rate(footprints: RatedFootprints) -> NDArray[np.float64]:
    """Return the confidences (n,) by rules that did not see the footprint.

    Args:
        footprints: Footprints whose truth is known. The rule for those of a place is fitted to all
            other places; with a single place, a fifth is left out in turn, in their order.

    Returns:
        Confidences; NaN where no rule could be fitted to the others.
    """
    groups = footprints.place
    if len(np.unique(groups)) < 2:
        groups = np.arange(len(footprints)) * _FOLDS // max(1, len(footprints))
    confidences = np.full(len(footprints), np.nan)
    for group in np.unique(groups):
        rule = fit_rule(footprints.pick(groups != group), _LEAST_OF_PART)
        if rule is not None:
            own = groups == group
            confidences[own] = rate_footprints(rule, footprints.features[own])
    return confidences


def measure_footprints(confidences: NDArray[np.float64], found: NDArray[np.bool_]) -> Reliability:
    """Bin confidences (n,), and compare them with the share of footprints that are buildings."""
    known = np.isfinite(confidences)
    return bin_probabilities(confidences[known], np.ones(known.sum()), found[known], BINS)


def choose_least_confidence(
    confidences: NDArray[np.float64],
    footprints: RatedFootprints,
    missed: Sequence[int],
) -> float:
    """Return the confidence from which footprints are kept: that of the best F1.

    F1 is the mean over places, of which small ones count less.

    Args:
        confidences: (n,), of the footprints.
        footprints: All footprints that would be kept without a limit.
        missed: Number of true footprints that none of them matches, for each place.
    """
    places = [footprints.place == number for number in range(len(missed))]
    true = np.array([(footprints.found & own).sum() for own in places]) + np.array(missed)
    weights = weigh_places(true)

    def mean_f1(limit: float) -> float:
        kept = confidences >= limit
        hits = np.array([(footprints.found & own & kept).sum() for own in places])
        counts = np.array([(own & kept).sum() for own in places])
        scores = 2 * hits / np.maximum(true + counts, 1)
        return float((weights * scores).sum() / max(weights.sum(), 1e-9))

    best = max(_LIMITS, key=mean_f1)
    return best if mean_f1(best) > mean_f1(0.0) + _LEAST_GAIN else 0.0


def _weigh_places(place: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return weights (n,) with the mean 1; their sums hardly depend on the size of large places."""
    _, index, counts = np.unique(place, return_inverse=True, return_counts=True)
    shares = (weigh_places(counts) / counts)[index]
    weights: NDArray[np.float64] = shares / shares.mean()
    return weights


def _bounds(name: str) -> tuple[float | None, float | None]:
    if name in _RAISING:
        return 0.0, None
    return (None, 0.0) if name in _LOWERING else (None, None)
