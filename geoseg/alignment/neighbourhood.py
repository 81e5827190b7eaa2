"""Shift that the surroundings of a group suggest, as a prior for its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

# Groups of a neighbourhood.
_NEIGHBOURS = 24

# With fewer groups no common shift is inferred.
_LEAST_GROUPS = 6

# A median shift counts if it is so many standard errors from what it is compared with.
_STANDARD_ERRORS = 3.0

# Least standard deviation around the median, in metres: labels are never more regular.
_LEAST_SPREAD_M = 0.3

# Ratio of the standard deviation to the MAD of a normal distribution, and of the standard error of
# its median to that of its mean.
_MAD_RATIO, _MEDIAN_RATIO = 1.4826, 1.2533


@dataclass(frozen=True)
class ShiftPrior:
    """Normal distributions of the shifts of groups.

    Attributes:
        mean_m: Means in metres along (columns, rows), (groups, 2).
        spread_m: Standard deviations in metres, the same in both directions, (groups,).
    """

    mean_m: np.ndarray
    spread_m: np.ndarray


def infer_prior(
    places: np.ndarray, shifts: np.ndarray, is_sure: np.ndarray, max_shift_m: float
) -> ShiftPrior:
    """Infer the prior of each group from the shifts of those around it.

    The mean is the median shift of the whole scene, or of the neighbourhood if this is clearly
    different; it is 0 unless the median is clearly not, so that labels without a common shift are
    not moved by chance.

    Args:
        places: Positions of the groups in metres (G, 2).
        shifts: The best shift of each by itself, in metres (G, 2).
        is_sure: Which of these are known well, bool (G,).
        max_shift_m: Greatest shift.
    """
    count = len(places)
    widest = max_shift_m / 2
    sure = np.flatnonzero(is_sure)
    if len(sure) < _LEAST_GROUPS:
        return ShiftPrior(np.zeros((count, 2)), np.full(count, widest))
    scene, _, scene_error = _summarize(shifts[sure][None])
    common = scene[0] if _differs(scene, np.zeros((1, 2)), scene_error)[0] else np.zeros(2)
    number = min(_NEIGHBOURS, len(sure))
    _, near = KDTree(places[sure]).query(places, k=number)
    medians, spreads, errors = _summarize(shifts[sure][near.reshape(count, number)])
    own = _differs(medians, common[None], errors)
    mean = np.where(own[:, None], medians, common)
    return ShiftPrior(mean, np.clip(spreads, min(_LEAST_SPREAD_M, widest), widest))


def _summarize(shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return median (G, 2), standard deviation (G,) and error of the median (G,).

    Both are estimated from the median of the absolute deviations, on which outliers have no effect.

    Args:
        shifts: Shifts of each neighbourhood (G, n, 2).
    """
    medians = np.median(shifts, axis=1)
    deviations = np.median(np.abs(shifts - medians[:, None]), axis=1)
    spreads = _MAD_RATIO * np.sqrt((deviations**2).mean(axis=1))
    return medians, spreads, _MEDIAN_RATIO * spreads / np.sqrt(shifts.shape[1])


def _differs(medians: np.ndarray, others: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return which medians (G, 2) differ from others (G, 2) by more than chance, bool (G,)."""
    differs: np.ndarray = np.hypot(*(medians - others).T) > _STANDARD_ERRORS * errors
    return differs
