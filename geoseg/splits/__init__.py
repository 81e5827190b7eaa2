"""Training, validation and test ground, separated before anything is tiled."""

from geoseg.splits.apart import count_shared_pixels, drop_near, merge_regions
from geoseg.splits.deal import deal
from geoseg.splits.regions import SPLITS, Ground, Region, Separation
from geoseg.splits.strategies import STRATEGIES

__all__ = [
    "SPLITS",
    "STRATEGIES",
    "Ground",
    "Region",
    "Separation",
    "count_shared_pixels",
    "deal",
    "drop_near",
    "merge_regions",
]
