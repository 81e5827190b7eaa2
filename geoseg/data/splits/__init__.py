"""Training, validation and test ground, separated before anything is tiled."""

from geoseg.data.splits.balancing import deal
from geoseg.data.splits.regions import SPLITS, Region, Separation, SplitScene
from geoseg.data.splits.separation import count_shared_pixels, drop_near, merge_regions
from geoseg.data.splits.strategies import STRATEGIES

__all__ = [
    "SPLITS",
    "STRATEGIES",
    "Region",
    "Separation",
    "SplitScene",
    "count_shared_pixels",
    "deal",
    "drop_near",
    "merge_regions",
]
