"""How far probabilities can be taken at their word, and the temperature that mends them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from geoseg.training.validation.areas import ValidationArea

BINS = 15

# Logits are counted in bins, which is nearly exact and takes no memory. Beyond the reach lies
# what 16 bits call certain.
_REACH, _STEP = 12.0, 0.005
_EDGES = np.linspace(-_REACH, _REACH, round(2 * _REACH / _STEP) + 1)
_LOGITS = (_EDGES[1:] + _EDGES[:-1]) / 2

# Temperatures to search; a fit beyond them says more about the ground than about the network.
_COLDEST, _HOTTEST = 0.1, 10.0


@dataclass(frozen=True, eq=False)
class Reliability:
    """What was said to be likely, and how often it was so, in equal bins of probability.

    Attributes:
        said: (bins,) mean probability; NaN in empty bins.
        true: (bins,) share of buildings; NaN in empty bins.
        pixels: (bins,) pixels.
    """

    said: NDArray[np.float64]
    true: NDArray[np.float64]
    pixels: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of both, by pixels; 0.0 without any."""
        gaps = np.nan_to_num(np.abs(self.said - self.true))
        return float((gaps * self.pixels).sum() / max(1, self.pixels.sum()))


@dataclass(frozen=True, eq=False)
class Calibration:
    """A temperature, and what it changes.

    Attributes:
        temperature: Logits are divided by it.
        before: Reliability of the probabilities as they are.
        after: Reliability with the temperature.
    """

    temperature: float
    before: Reliability
    after: Reliability

    @property
    def summary(self) -> dict[str, float]:
        """What a model file keeps."""
        return {
            "temperature": self.temperature,
            "ece_before": round(self.before.ece, 5),
            "ece_after": round(self.after.ece, 5),
        }


def calibrate(grounds: Iterable[ValidationArea]) -> Calibration:
    """Fits one temperature to the probability of buildings (Guo et al. 2017, arXiv 1706.04599).

    Exclusive classes have none: their polygons' confidences are taken as they are.

    Args:
        grounds: Validation ground of buildings.
    """
    counts = np.zeros((2, len(_LOGITS)), dtype=np.int64)
    for ground in grounds:
        known = ground.known
        counts += count_logits(ground.prob[0][known], ground.target[known] > 0)
    return calibrate_counts(counts)


def count_logits(prob: NDArray[Any], true: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pixels of each logit.

    Args:
        prob: (N,) probabilities.
        true: (N,) whether it is so.

    Returns:
        (2, bins), what is not so and what is.
    """
    with np.errstate(divide="ignore"):
        logits = np.clip(logit(prob.astype(np.float64)), -_REACH, _REACH)
    return np.stack([np.histogram(logits[true == so], _EDGES)[0] for so in (False, True)])


def calibrate_counts(counts: NDArray[np.int64]) -> Calibration:
    """Fits a temperature to pixels that `count_logits` has counted."""
    temperature = fit_temperature(counts)
    return Calibration(
        temperature, measure_reliability(counts), measure_reliability(counts, temperature)
    )


def fit_temperature(counts: NDArray[np.int64]) -> float:
    """The temperature with the least negative log-likelihood, from 0.1 to 10.

    It is 1 where there is nothing to learn from: no pixel, pixels of one kind alone, or none on
    the wrong side of 0.5, which would make any probability certain.

    Args:
        counts: From `count_logits`.
    """
    no, yes = counts
    wrong = no[_LOGITS > 0].sum() + yes[_LOGITS < 0].sum()
    if not no.any() or not yes.any() or not wrong:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = _LOGITS / np.exp(log_temperature)
        return float((no * np.logaddexp(0, scaled) + yes * np.logaddexp(0, -scaled)).sum())

    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return round(float(np.exp(found.x)), 3)


def measure_reliability(counts: NDArray[np.int64], temperature: float = 1.0) -> Reliability:
    """Bins the pixels that `count_logits` has counted by their probability."""
    prob = expit(_LOGITS / temperature)
    bins = np.minimum((prob * BINS).astype(int), BINS - 1)
    pixels = np.bincount(bins, counts.sum(axis=0), BINS)
    sums = (np.bincount(bins, weights, BINS) for weights in (prob * counts.sum(axis=0), counts[1]))
    said, true = (
        np.divide(total, pixels, out=np.full(BINS, np.nan), where=pixels > 0) for total in sums
    )
    return Reliability(said, true, pixels.astype(np.int64))
