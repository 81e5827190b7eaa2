"""Which epochs of a run are as good as the best one."""

from __future__ import annotations

# With a few hundred buildings `val_score` varies by as much by chance.
EQUAL_SCORES = 0.02


def is_as_good(score: float, highest: float) -> bool:
    """Return whether a score is as good as the highest one but for chance."""
    # The margin of low scores is smaller: to find nothing is not as good as to find little.
    return score >= highest - min(EQUAL_SCORES, 0.1 * highest)
