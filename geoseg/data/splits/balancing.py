"""Pieces of ground dealt to groups, so that each gets its share of ground and of buildings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoseg.errors import ConfigError

# Random deals that are compared. Of a dozen pieces that is a good part of all there are.
_DEALS = 512


def assign_groups(
    ground: np.ndarray, built: np.ndarray, shares: Sequence[float], *, seed: int
) -> np.ndarray:
    """Deals pieces at random, by the deal of many that comes closest to the shares.

    A group gets its share of the number of pieces, one at the least; among the deals that do
    so the one is taken whose groups' shares of ground and of buildings differ least from it.

    Args:
        ground: Area of each piece, (N,).
        built: Area of buildings in each, (N,).
        shares: Of each group; they sum to 1.
        seed: The same seed deals the same.

    Returns:
        int (N,): the group of each piece.

    Raises:
        ConfigError: If there are fewer pieces than groups with a share.
    """
    groups = np.repeat(np.arange(len(shares)), _counts(len(ground), shares))
    rng = np.random.default_rng(seed)
    best, least = groups, np.inf
    for _ in range(_DEALS):
        dealt = groups[rng.permutation(len(groups))]
        miss = _miss(dealt, ground, shares) + _miss(dealt, built, shares)
        if miss < least:
            best, least = dealt, miss
    return best


def _miss(dealt: np.ndarray, amount: np.ndarray, shares: Sequence[float]) -> float:
    """How far the groups' shares of an amount are from those wanted, summed."""
    total = float(amount.sum())
    if total == 0:
        return 0.0
    got = np.bincount(dealt, weights=amount, minlength=len(shares)) / total
    return float(np.abs(got - shares).sum())


def _counts(pieces: int, shares: Sequence[float]) -> list[int]:
    """How many pieces each group gets; the first takes what rounding leaves."""
    counts = [max(int(share > 0), round(pieces * share)) for share in shares]
    least = int(shares[0] > 0)
    while pieces - sum(counts[1:]) < least and max(counts[1:]) > 1:
        counts[1 + int(np.argmax(counts[1:]))] -= 1  # halves that were both rounded up
    counts[0] = pieces - sum(counts[1:])
    if counts[0] < least:
        raise ConfigError(
            f"the ground makes only {pieces} pieces, too few for the splits; use smaller --block "
            "or --size, more scenes, or --split stripes"
        )
    return counts
