"""Tiles of different splits kept apart, and the proof that they are."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geoseg.geo.grid import Grid

# The ground that is kept when two splits come too close: first that which is judged on.
_KEPT_FIRST = (("test", "val"), ("test", "train"), ("val", "train"))


# In pixels, what CRSs and their rounding errors may move an outline.
_ROUNDING = 0.05

# Tiles that share less than this of a pixel merely touch.
_TOUCHING = 0.5


def drop_close_tiles(
    tiles: gpd.GeoDataFrame, grids: Sequence[Grid], gap: float = 0.0
) -> gpd.GeoDataFrame:
    """Drops tiles that meet another split's, or come nearer to it than a gap.

    Test ground is kept before validation ground, and that before training ground. Distances are
    measured in pixels of the scene whose tile is kept: a pixel of a scene has sides of its own,
    unequal ones in degrees, and no CRS of several scenes knows them.

    Args:
        tiles: Tiles with `split`, `scene_index` and geometry, in one CRS.
        grids: The grid of each scene.
        gap: Least distance in pixels; at 0 tiles that share less than half a pixel merely touch.
    """
    for keeper, loser in _KEPT_FIRST:
        others = tiles[tiles.split == loser]
        lost: list[int] = []
        for place, kept in tiles[tiles.split == keeper].groupby("scene_index"):
            near = others.iloc[_around(kept, others, gap)]
            grid = grids[int(str(place))]
            found = _too_near(_in_pixels(kept, grid), _in_pixels(near, grid), gap)
            lost += near.index[found].tolist()
        tiles = tiles.drop(index=sorted(set(lost)))
    return tiles.reset_index(drop=True)


def _around(kept: gpd.GeoDataFrame, others: gpd.GeoDataFrame, gap: float) -> np.ndarray:
    """Positions of the others that may be too near to those of one scene, and some more."""
    # The side of a pixel in this CRS is about that of a tile over its pixels; twice it is enough.
    first = kept.iloc[0]
    pixel = np.sqrt(first.geometry.envelope.area / (first.height * first.width))
    area = shapely.box(*kept.total_bounds).buffer(2 * (gap + 1) * pixel)
    found: np.ndarray = np.sort(others.sindex.query(area))
    return found


def _in_pixels(tiles: gpd.GeoDataFrame, grid: Grid) -> np.ndarray:
    outlines = tiles.geometry.to_crs(grid.crs.to_wkt()).to_numpy()
    pixels: np.ndarray = shapely.transform(
        outlines, lambda points: np.column_stack(grid.to_pixels(*points.T))
    )
    return pixels


def _too_near(kept: np.ndarray, others: np.ndarray, gap: float) -> np.ndarray:
    """Positions of the others that are too near, in pixels."""
    tree = shapely.STRtree(others)
    if gap > 0:  # what lies a gap apart does so by rounding errors
        found: np.ndarray = tree.query(kept, predicate="dwithin", distance=gap - _ROUNDING)[1]
    else:
        pairs = tree.query(kept, predicate="intersects")
        shared = shapely.area(shapely.intersection(kept[pairs[0]], others[pairs[1]]))
        found = pairs[1][shared > _TOUCHING]
    return np.unique(found)


def count_shared_pixels(tiles: gpd.GeoDataFrame, pixel_area: float) -> int:
    """Pixels that lie in tiles of two splits; the proof that splits do not leak."""
    parts = [part.geometry for _, part in tiles.groupby("split")]
    shared = 0.0
    for place, one in enumerate(parts):
        for other in parts[place + 1 :]:
            pairs = other.sindex.query(one.to_numpy(), predicate="intersects")
            common = shapely.intersection(one.to_numpy()[pairs[0]], other.to_numpy()[pairs[1]])
            shared += shapely.union_all(common).area
    return round(shared / pixel_area)


def merge_by_split(regions: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """The ground of each split over all scenes, one row per split, in longitude and latitude."""
    everything = gpd.GeoDataFrame(pd.concat([r.to_crs(4326) for r in regions], ignore_index=True))
    return everything.dissolve("split", as_index=False)
