"""Average precision, which detectors are compared by: precision over all confidences."""

from __future__ import annotations

import numpy as np

# Recalls at which precision is averaged, as in COCO.
_RECALLS = np.linspace(0, 1, 101)


def average_precision(confidence: np.ndarray, matched: np.ndarray, truth: int) -> float | None:
    """Return the average precision of footprints (Lin et al. 2014, arXiv 1405.0312).

    Footprints are taken in order of falling confidence; at each of 101 recalls, the best precision
    at that recall or a higher one counts, and 0 where no confidence reaches it.

    Args:
        confidence: (P,), of each footprint; NaN comes last.
        matched: bool (P,), whether it matches a true footprint.
        truth: Number of true footprints.

    Returns:
        The average precision from 0 to 1; None without true footprints.
    """
    if not truth:
        return None
    order = np.argsort(-np.nan_to_num(confidence, nan=-np.inf), kind="stable")
    found = np.cumsum(matched[order])
    recall, precision = found / truth, found / np.arange(1, len(order) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    # Rounding must not move a recall such as 0.58 beyond its own mark.
    return float(best[np.searchsorted(recall, _RECALLS - 1e-12)].mean())
