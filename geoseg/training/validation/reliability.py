"""Reliability of probabilities: how often what is predicted is observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted probability and observed share of buildings, in equal bins of probability.

    Attributes:
        predicted: (bins,), mean probability; NaN in empty bins.
        observed: (bins,), share of pixels or footprints that are buildings; NaN in empty bins.
        counts: (bins,), number of pixels, weighted so that several places count equally, or of
            footprints.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of both, weighted by counts; 0 without any."""
        gaps = np.nan_to_num(np.abs(self.predicted - self.observed))
        return float((gaps * self.counts).sum() / max(1, self.counts.sum()))


def bin_probabilities(
    prob: NDArray[np.float64], counts: NDArray[Any], buildings: NDArray[Any], bins: int
) -> Reliability:
    """Bin probabilities, and compare them with the share of buildings.

    Args:
        prob: (N,), probabilities.
        counts: (N,), how many pixels or footprints have each probability.
        buildings: (N,), how many of them are buildings.
        bins: Number of bins.
    """
    places = np.minimum((prob * bins).astype(int), bins - 1)
    totals = np.bincount(places, counts, bins)
    sums = (np.bincount(places, weights, bins) for weights in (prob * counts, buildings))
    predicted, observed = (
        np.divide(total, totals, out=np.full(bins, np.nan), where=totals > 0) for total in sums
    )
    return Reliability(predicted, observed, np.rint(totals).astype(np.int64))
