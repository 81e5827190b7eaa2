"""Confidence of footprints: the probability that a footprint is a building."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from geoseg.credentials import get_logger
from geoseg.options import Thresholds
from geoseg.options.confidence import FEATURES, ConfidenceRule

logger = get_logger(__name__)

# Features that are means of a band.
_BANDS = ("border", "contact")

# Probabilities nearer to 0 and 1 have the logits of these.
_LEAST_PROB = 1e-3

_SMALL_M2, _LARGE_M2 = 50.0, 200.0


def compute_features(columns: Mapping[str, np.ndarray]) -> NDArray[np.float64]:
    """Return the features of footprints.

    Args:
        columns: Arrays (n,): `mean_prob`, `conf_p10`, `border`, `contact`, `edge` and `touching`
            as in `trace_buildings`, `area_m2` and `perimeter_m`.

    Returns:
        Features (n, features) in the order of `FEATURES`, see `ConfidenceRule`.
    """
    area = np.maximum(columns["area_m2"], 1e-6)
    values = {
        "mean_prob": _bounded_logit(columns["mean_prob"]),
        "conf_p10": _bounded_logit(columns["conf_p10"]),
        "border": columns["border"],
        "contact": columns["contact"],
        "small": np.minimum(0, np.log2(area / _SMALL_M2)),
        "large": np.maximum(0, np.log2(area / _LARGE_M2)),
        "compactness": 4 * np.pi * area / np.maximum(columns["perimeter_m"], 1e-3) ** 2,
        "edge": columns["edge"],
        "touching": columns["touching"],
    }
    return np.column_stack([np.asarray(values[name], dtype=np.float64) for name in FEATURES])


def rate_footprints(rule: ConfidenceRule, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the confidences (n,) of footprints.

    Args:
        rule: Rule of the model.
        features: Features (n, features) of `compute_features`.
    """
    weights = np.array([getattr(rule, name) for name in FEATURES])
    # Not `@`: its sums depend on the number of rows, and so would files on the block size.
    confidences: NDArray[np.float64] = expit(rule.constant + (features * weights).sum(axis=1))
    return confidences


def without_unusable_rule(thresholds: Thresholds, bands: Iterable[str]) -> Thresholds:
    """Return the thresholds, without a rule that needs a band which is missing.

    Args:
        thresholds: Thresholds of footprints.
        bands: Names of the bands of probabilities.
    """
    rule, present = thresholds.confidence, set(bands)
    if rule is None:
        return thresholds
    missing = [name for name in _BANDS if getattr(rule, name) and name not in present]
    if not missing:
        return thresholds
    logger.warning(
        "the confidences of this model depend on the band %s, which is missing; they are mean "
        "probabilities instead, and no footprint is dropped for its confidence",
        missing[0],
    )
    return thresholds.model_copy(update={"confidence": None, "min_confidence": 0.0})


def _bounded_logit(prob: ArrayLike) -> NDArray[np.float64]:
    bounded: NDArray[np.float64] = logit(np.clip(prob, _LEAST_PROB, 1 - _LEAST_PROB))
    return bounded
