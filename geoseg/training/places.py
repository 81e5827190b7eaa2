"""Places of the tiles of a split, and the columns with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from geoseg.evaluation.metrics import AreaCounts
from geoseg.evaluation.place_scores import has_truth
from geoseg.training.score_names import place_column

# With more places each has too few buildings for a score of its own, and `metrics.csv` would have
# hundreds of columns: plain images without georeferencing are each their own place.
MOST_SCORED = 50


@dataclass(frozen=True, eq=False)
class Places:
    """Places of the tiles of a split.

    Attributes:
        names: Names of the places that have tiles, in the order of their first scenes.
        of_tile: (tiles,), position in `names` of each tile's place.
    """

    names: tuple[str, ...]
    of_tile: np.ndarray

    @property
    def scored(self) -> Places:
        """The places that get scores of their own; a single one if there are too many."""
        if len(self.names) <= MOST_SCORED:
            return self
        return Places(("all",), np.zeros_like(self.of_tile))


def rate_places(places: Sequence[AreaCounts], rate: str) -> dict[int, float]:
    """Return a rate, `f1` or `iou`, of each place with true buildings, by its number."""
    return {n: getattr(counts, rate) for n, counts in enumerate(places) if has_truth(counts)}


def name_place_scores(
    places: Places, scores: Mapping[str, Mapping[int, float]]
) -> dict[str, float]:
    """Return scores of places by their column; none if there is a single place.

    Args:
        places: The places.
        scores: For each score, `val_f1` or `val_iou`, its value by the number of the place.
    """
    if len(places.names) == 1:
        return {}
    return {
        place_column(score, places.names[number]): value
        for score, values in scores.items()
        for number, value in values.items()
    }
