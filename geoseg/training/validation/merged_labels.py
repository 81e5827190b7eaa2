"""Areas whose labels merge touching buildings: where building F1 counts, and what to report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import geopandas as gpd

from geoseg.evaluation.metrics import Score
from geoseg.evaluation.place_scores import has_truth, mean_building_f1


class LabelledArea(Protocol):
    """A validation area of any kind of network."""

    @property
    def merged(self) -> bool:
        """Whether the labels merge touching buildings."""

    @property
    def place(self) -> int:
        """Number of its place."""

    @property
    def truth(self) -> gpd.GeoDataFrame:
        """Reference footprints."""


def count_buildings_in(areas: Sequence[LabelledArea]) -> list[bool]:
    """Return in which areas building F1 is measured.

    Where labels merge touching buildings, a network that separates them correctly matches none, so
    these areas count only if no other area has a building.
    """
    if any(not area.merged and len(area.truth) for area in areas):
        return [not area.merged for area in areas]
    return [True] * len(areas)


def add_not_counted(areas: Sequence[LabelledArea], scores: Sequence[Score]) -> dict[int, Score]:
    """Add the counts of buildings of the areas where building F1 does not count.

    Args:
        areas: Validation areas.
        scores: Counts of buildings of each area.

    Returns:
        The sum for each place with such areas, by its number.
    """
    places: dict[int, Score] = {}
    counted = count_buildings_in(areas)
    for is_counted, area, score in zip(counted, areas, scores, strict=True):
        if not is_counted:
            places[area.place] = places.get(area.place, Score(0, 0, 0)) + score
    return places


def list_counted_places(areas: Sequence[LabelledArea]) -> list[int]:
    """Return the numbers of the places with areas where building F1 counts, in order."""
    counted = count_buildings_in(areas)
    return sorted({area.place for own, area in zip(counted, areas, strict=True) if own})


def measure_merged_f1(places: Mapping[int, Score]) -> float | None:
    """Return building F1 where labels merge touching buildings, `mean_building_f1`.

    Args:
        places: Result of `add_not_counted`.

    Returns:
        Building F1; None without true buildings there.
    """
    scores = list(places.values())
    return mean_building_f1(scores) if any(map(has_truth, scores)) else None


def describe_merged(areas: Sequence[LabelledArea], merged_f1: float | None) -> tuple[str, ...]:
    """Return lines about what merged labels mean for building F1; none without such labels.

    Args:
        areas: Validation areas.
        merged_f1: Result of `measure_merged_f1`.
    """
    if merged_f1 is not None:
        return (
            f"building F1 {merged_f1:.3f} where labels merge touching buildings; it neither counts "
            "nor chooses thresholds",
        )
    has_merged = any(area.merged and len(area.truth) for area in areas)
    if has_merged and all(count_buildings_in(areas)):
        return (
            "all labelled buildings of the validation tiles are in scenes whose labels merge "
            "touching buildings, so building F1 and thresholds are those of merged buildings; add "
            "a validation scene with separate buildings",
        )
    return ()
