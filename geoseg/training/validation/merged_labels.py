"""Areas whose labels merge touching buildings: where building F1 counts, and what to report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import geopandas as gpd


class LabelledArea(Protocol):
    """A validation area of any kind of network."""

    @property
    def merged(self) -> bool:
        """Whether the labels merge touching buildings."""

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


def describe_merged(areas: Sequence[LabelledArea], merged_f1: float | None) -> tuple[str, ...]:
    """Return lines about what merged labels mean for building F1; none without such labels.

    Args:
        areas: Validation areas.
        merged_f1: Building F1 where it does not count; None if it counts everywhere.
    """
    if merged_f1 is not None:
        return (
            f"building F1 {merged_f1:.3f} where labels merge touching buildings; it neither counts "
            "nor chooses thresholds",
        )
    if any(area.merged for area in areas):
        return (
            "all labelled buildings of the validation tiles are in scenes whose labels merge "
            "touching buildings, so building F1 and thresholds are those of merged buildings; add "
            "a validation scene with separate buildings",
        )
    return ()
