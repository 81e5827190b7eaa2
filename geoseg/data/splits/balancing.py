"""Random assignment of regions to groups, balanced by area and by building area."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoseg.errors import ConfigError

# Random assignments that are compared; of a dozen regions, a good part of all possible ones.
_CANDIDATES = 512


def assign_groups(
    areas: np.ndarray, building_areas: np.ndarray, fractions: Sequence[float], *, seed: int
) -> np.ndarray:
    """Assign regions to groups at random, choosing the best balanced of many assignments.

    Each group gets its fraction of the number of regions, but at least one. Of many random
    assignments of these sizes the one is returned whose fractions of area and of building area
    differ least from the requested ones.

    Args:
        areas: Area of each region (N,).
        building_areas: Building area in each region (N,).
        fractions: Fraction of each group; they sum to 1.
        seed: Random seed; the same seed gives the same assignment.

    Returns:
        Group of each region, int (N,).

    Raises:
        ConfigError: If there are fewer regions than groups with a fraction above 0.
    """
    groups = np.repeat(np.arange(len(fractions)), _group_sizes(len(areas), fractions))
    rng = np.random.default_rng(seed)
    best, least = groups, np.inf
    for _ in range(_CANDIDATES):
        candidate = groups[rng.permutation(len(groups))]
        error = _imbalance(candidate, areas, fractions)
        error += _imbalance(candidate, building_areas, fractions)
        if error < least:
            best, least = candidate, error
    return best


def _imbalance(groups: np.ndarray, amounts: np.ndarray, fractions: Sequence[float]) -> float:
    """Return the sum of differences between the groups' fractions of an amount and the wanted."""
    total = float(amounts.sum())
    if total == 0:
        return 0.0
    actual = np.bincount(groups, weights=amounts, minlength=len(fractions)) / total
    return float(np.abs(actual - fractions).sum())


def _group_sizes(regions: int, fractions: Sequence[float]) -> list[int]:
    """Return the number of regions of each group; the first gets what rounding leaves."""
    sizes = [max(int(fraction > 0), round(regions * fraction)) for fraction in fractions]
    minimum = int(fractions[0] > 0)
    while regions - sum(sizes[1:]) < minimum and max(sizes[1:]) > 1:
        sizes[1 + int(np.argmax(sizes[1:]))] -= 1  # several groups were rounded up
    sizes[0] = regions - sum(sizes[1:])
    if sizes[0] < minimum:
        raise ConfigError(
            f"too few blocks or scenes for the splits ({regions}); use smaller blocks (--set "
            "tile.block=PIXELS) or tiles (--size), more scenes, or --split stripes"
        )
    return sizes
