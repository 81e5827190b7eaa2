"""Removal of tiles that are too close to another split, and a check for shared pixels."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geoseg.geo.grid import Grid
from geoseg.geo.vector import to_crs_near

# (split whose tiles are kept, split whose tiles are dropped); evaluation data is kept first.
_PRIORITY = (("test", "val"), ("test", "train"), ("val", "train"))

# Pixels by which rounding errors of a CRS conversion may move an outline.
_ROUNDING = 0.05

# Tiles that share less than this many pixels count as touching, not overlapping.
_TOUCHING = 0.5


def find_close_tiles(tiles: gpd.GeoDataFrame, grids: Sequence[Grid], gap: float = 0.0) -> pd.Series:
    """Find tiles that overlap a tile of another split, or are closer to it than the gap.

    Test tiles are kept before validation tiles, and those before training tiles. Distances are
    measured in pixels of the scene whose tile is kept: pixels differ between scenes and may not be
    square (in degrees), so a common CRS has no pixel size.

    Args:
        tiles: Tiles with `split`, `scene_index` and geometry, in one CRS.
        grids: Grid of each scene.
        gap: Minimum distance in pixels. If 0, tiles may share less than half a pixel.

    Returns:
        For each such tile, by its index, whether it is close to tiles of other scenes only.
    """
    between_scenes: dict[int, bool] = {}
    for kept_split, dropped_split in _PRIORITY:
        left = tiles.drop(index=list(between_scenes))
        others = left[left.split == dropped_split]
        for index, kept in left[left.split == kept_split].groupby("scene_index"):
            nearby = others.iloc[_find_nearby(kept, others, gap)]
            grid = grids[int(str(index))]
            close = _find_too_close(_in_pixels(kept, grid), _in_pixels(nearby, grid), gap)
            for tile, scene in nearby.scene_index.iloc[close].items():
                between_scenes[tile] = between_scenes.get(tile, True) and scene != index
    found = pd.Series(between_scenes, dtype=bool, name="between_scenes")
    return found.sort_index()


def _find_nearby(kept: gpd.GeoDataFrame, others: gpd.GeoDataFrame, gap: float) -> np.ndarray:
    """Return positions of a superset of the other tiles that are too close to one scene's."""
    # The pixel side in this CRS is estimated from a tile; twice the gap makes it safe.
    first = kept.iloc[0]
    pixel = np.sqrt(first.geometry.envelope.area / (first.height * first.width))
    area = shapely.box(*kept.total_bounds).buffer(2 * (gap + 1) * pixel)
    positions: np.ndarray = np.sort(others.sindex.query(area))
    return positions


def _in_pixels(tiles: gpd.GeoDataFrame, grid: Grid) -> np.ndarray:
    """Return the outlines of tiles in pixel coordinates of a grid (N,)."""
    outlines = to_crs_near(tiles, grid.crs, grid).geometry.to_numpy()
    pixels: np.ndarray = shapely.transform(
        outlines, lambda points: np.column_stack(grid.to_pixels(*points.T))
    )
    return pixels


def _find_too_close(kept: np.ndarray, others: np.ndarray, gap: float) -> np.ndarray:
    """Return positions of the others that are closer than the gap; outlines are in pixels."""
    tree = shapely.STRtree(others)
    if gap > 0:
        # Tiles exactly a gap apart must be kept in spite of rounding errors.
        positions: np.ndarray = tree.query(kept, predicate="dwithin", distance=gap - _ROUNDING)[1]
    else:
        pairs = tree.query(kept, predicate="intersects")
        shared = shapely.area(shapely.intersection(kept[pairs[0]], others[pairs[1]]))
        positions = pairs[1][shared > _TOUCHING]
    return np.unique(positions)


def count_shared_pixels(tiles: gpd.GeoDataFrame, pixel_area: float) -> int:
    """Count the pixels that are in tiles of two splits; 0 proves that splits do not leak."""
    parts = [part.geometry for _, part in tiles.groupby("split")]
    shared = 0.0
    for index, one in enumerate(parts):
        for other in parts[index + 1 :]:
            pairs = other.sindex.query(one.to_numpy(), predicate="intersects")
            common = shapely.intersection(one.to_numpy()[pairs[0]], other.to_numpy()[pairs[1]])
            shared += shapely.union_all(common).area
    return round(shared / pixel_area)


def merge_by_split(regions: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """Merge the regions of all scenes, in one CRS, to one row per split."""
    merged = gpd.GeoDataFrame(pd.concat(regions, ignore_index=True))
    return merged.dissolve("split", as_index=False)
