"""Tiles of different splits kept apart, and the proof that they are."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

# The ground that is kept when two splits come too close: first that which is judged on.
_KEPT_FIRST = (("test", "val"), ("test", "train"), ("val", "train"))


def drop_near(tiles: gpd.GeoDataFrame, pixel_area: float, gap: float = 0.0) -> gpd.GeoDataFrame:
    """Drops tiles that meet another split's, or come nearer to it than a gap.

    Test ground is kept before validation ground, and that before training ground.

    Args:
        tiles: Tiles with `split` and geometry, in one CRS.
        pixel_area: Area of a pixel in that CRS; tiles that share less than half of it merely
            touch.
        gap: Least distance, in the CRS's unit.
    """
    reach = gap - 0.01 * pixel_area**0.5  # what lies a gap apart does so by rounding errors
    for keeper, loser in _KEPT_FIRST:
        kept, others = tiles[tiles.split == keeper], tiles[tiles.split == loser]
        if kept.empty or others.empty:
            continue
        if gap > 0:
            near = others.sindex.query(kept.geometry.values, predicate="dwithin", distance=reach)
            lost = np.unique(near[1])
        else:
            lost = np.unique(_overlaps(kept, others, pixel_area / 2)[1])
        tiles = tiles.drop(others.index[lost])
    return tiles.reset_index(drop=True)


def count_shared_pixels(tiles: gpd.GeoDataFrame, pixel_area: float) -> int:
    """Pixels that lie in tiles of two splits; the proof that splits do not leak."""
    parts = [part for _, part in tiles.groupby("split")]
    shared = 0.0
    for place, one in enumerate(parts):
        for other in parts[place + 1 :]:
            pairs = _overlaps(one, other, 0.0)
            common = shapely.intersection(
                one.geometry.values[pairs[0]], other.geometry.values[pairs[1]]
            )
            shared += shapely.union_all(common).area
    return round(shared / pixel_area)


def _overlaps(one: gpd.GeoDataFrame, other: gpd.GeoDataFrame, least: float) -> np.ndarray:
    """Positions (2, N) of pairs that share more than some area."""
    pairs = other.sindex.query(one.geometry.values, predicate="intersects")
    shared = shapely.area(
        shapely.intersection(one.geometry.values[pairs[0]], other.geometry.values[pairs[1]])
    )
    found: np.ndarray = pairs[:, shared > least]
    return found


def merge_regions(regions: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """The ground of each split over all scenes, one row per split, in longitude and latitude."""
    everything = gpd.GeoDataFrame(pd.concat([r.to_crs(4326) for r in regions], ignore_index=True))
    return everything.dissolve("split", as_index=False)
