"""Splitting scenes into training, validation and test regions before they are tiled."""

from geoseg.data.splits.balancing import assign_groups
from geoseg.data.splits.regions import SPLITS, Region, SplitRegions, SplitScene
from geoseg.data.splits.scene_patterns import check_patterns, matches_any
from geoseg.data.splits.separation import (
    count_shared_pixels,
    find_close_tiles,
    merge_by_split,
)
from geoseg.data.splits.strategies import STRATEGIES

__all__ = [
    "SPLITS",
    "STRATEGIES",
    "Region",
    "SplitRegions",
    "SplitScene",
    "assign_groups",
    "check_patterns",
    "count_shared_pixels",
    "find_close_tiles",
    "matches_any",
    "merge_by_split",
]
