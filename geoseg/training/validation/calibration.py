"""Calibration of probabilities by temperature scaling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from geoseg.training.validation.areas import ValidationArea
from geoseg.training.validation.reliability import Reliability, bin_probabilities

BINS = 15

# Logits are counted in narrow bins, which is nearly exact and takes little memory. Larger logits
# are probabilities that 16 bits round to 0 or 1.
_MOST_LOGIT, _STEP = 12.0, 0.005
_EDGES = np.linspace(-_MOST_LOGIT, _MOST_LOGIT, round(2 * _MOST_LOGIT / _STEP) + 1)
_LOGITS = (_EDGES[1:] + _EDGES[:-1]) / 2

# Bounds of the search; a fit beyond them reflects the validation areas rather than the network.
_LOWEST, _HIGHEST = 0.1, 10.0


@dataclass(frozen=True, eq=False)
class Calibration:
    """A temperature, with the reliability before and after.

    Attributes:
        temperature: Divisor of the logits.
        before: Reliability of the network's own probabilities.
        after: Reliability of the probabilities with the temperature.
    """

    temperature: float
    before: Reliability
    after: Reliability

    @property
    def summary(self) -> dict[str, float]:
        """The values that a model file stores."""
        return {
            "temperature": self.temperature,
            "ece_before": round(self.before.ece, 5),
            "ece_after": round(self.after.ece, 5),
        }


def calibrate(areas: Iterable[ValidationArea]) -> Calibration:
    """Fit one temperature to the probability of buildings (Guo et al. 2017, arXiv 1706.04599).

    Models of exclusive classes are not calibrated. Places count equally, whatever their area.

    Args:
        areas: Validation areas of buildings, predicted.
    """
    places: dict[int, NDArray[np.int64]] = {}
    for area in areas:
        labelled = area.labelled
        counts = count_logits(area.prob[0][labelled], area.target[labelled] > 0)
        places[area.place] = places.get(area.place, 0) + counts
    return calibrate_counts(_weigh_equally(list(places.values())))


def _weigh_equally(places: Sequence[NDArray[np.int64]]) -> NDArray[Any]:
    """Return the sum of the counts of places, each scaled to the mean number of pixels."""
    present = [counts for counts in places if counts.any()]
    if len(present) < 2:
        return present[0] if present else np.zeros((2, len(_LOGITS)), dtype=np.int64)
    mean = sum(counts.sum() for counts in present) / len(present)
    weighted: NDArray[Any] = np.sum([counts * (mean / counts.sum()) for counts in present], axis=0)
    return weighted


def count_logits(prob: NDArray[Any], true: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count pixels by logit.

    Args:
        prob: (N,), probabilities.
        true: (N,), whether the pixel is a building.

    Returns:
        (2, bins), numbers of other pixels and of building pixels.
    """
    with np.errstate(divide="ignore"):
        logits = np.clip(logit(prob.astype(np.float64)), -_MOST_LOGIT, _MOST_LOGIT)
    return np.stack([np.histogram(logits[true == value], _EDGES)[0] for value in (False, True)])


def calibrate_counts(counts: NDArray[Any]) -> Calibration:
    """Fit a temperature to the counts of `count_logits`."""
    temperature = fit_temperature(counts)
    return Calibration(
        temperature, measure_reliability(counts), measure_reliability(counts, temperature)
    )


def fit_temperature(counts: NDArray[Any]) -> float:
    """Return the temperature with the least negative log-likelihood, from 0.1 to 10.

    It is 1 if it cannot be fitted: without pixels, with pixels of one class only, or without any
    misclassified pixel, where the best temperature would be 0.

    Args:
        counts: From `count_logits`.
    """
    negatives, positives = counts
    wrong = negatives[_LOGITS > 0].sum() + positives[_LOGITS < 0].sum()
    if not negatives.any() or not positives.any() or not wrong:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = _LOGITS / np.exp(log_temperature)
        losses = negatives * np.logaddexp(0, scaled) + positives * np.logaddexp(0, -scaled)
        return float(losses.sum())

    bounds = (np.log(_LOWEST), np.log(_HIGHEST))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return round(float(np.exp(best.x)), 3)


def measure_reliability(counts: NDArray[Any], temperature: float = 1.0) -> Reliability:
    """Bin the counts of `count_logits` by probability."""
    return bin_probabilities(expit(_LOGITS / temperature), counts.sum(axis=0), counts[1], BINS)
