"""Scenes that overlap, and the tiles that are left out for it."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geoseg.data.splits import SPLITS
from geoseg.geo.grid import Grid
from geoseg.geo.vector import to_crs_near

# A wrong or invented location is the usual reason why scenes overlap by much.
LOCATION_REMEDY = (
    "if these scenes do not show the same area, their location is wrong: remove it with "
    'gdal_edit.py -a_srs "" -unsetgt FILE, and give --assume-gsd METRES'
)


def describe_left_out(
    tiles: gpd.GeoDataFrame, close: pd.Series, paths: Sequence[str], grids: Sequence[Grid]
) -> str:
    """Describe the tiles that are left out because scenes overlap.

    Args:
        tiles: All tiles.
        close: Result of `find_close_tiles`.
        paths: Path of each scene.
        grids: Grid of each scene.

    Returns:
        A clause for a message; empty if no tile is left out for that reason.
    """
    lost = tiles.loc[close.index[close]]
    overlaps = "" if lost.empty else _describe_overlaps(paths, grids)
    if not overlaps:  # scenes next to each other, between which there is a gap
        return ""
    counts = [
        f"{count} of {int((tiles.split == split).sum())} {split}"
        for split in SPLITS
        if (count := int((lost.split == split).sum()))
    ]
    return (
        f"{overlaps}; left out, because they share pixels with a tile of "
        f"another split or are closer to it than the gap: {', '.join(counts)} tiles"
    )


def _describe_overlaps(paths: Sequence[str], grids: Sequence[Grid]) -> str:
    """Name the two scenes that overlap most, by how much, and the number of other pairs."""
    outlines = _outlines(grids)
    first, second = _pairs(outlines)
    areas = shapely.area(outlines)
    shared = shapely.area(shapely.intersection(outlines[first], outlines[second]))
    shares = shared / np.minimum(areas[first], areas[second])
    others = int((shares > 0).sum()) - 1
    if others < 0:
        return ""
    more = {0: "", 1: ", as does another pair"}.get(others, f", as do {others} other pairs")
    pair = int(shares.argmax())
    return f"{paths[first[pair]]} and {paths[second[pair]]} overlap by {shares[pair]:.0%}{more}"


def _outlines(grids: Sequence[Grid]) -> np.ndarray:
    """Return the outlines of grids in the CRS of the first (N,)."""
    outlines = []
    for grid in grids:
        layer = gpd.GeoDataFrame(geometry=[grid.polygon], crs=grid.crs.to_wkt())
        outlines.append(to_crs_near(layer, grids[0].crs, grids[0]).geometry.iloc[0])
    placed = np.array(outlines, dtype=object)
    placed[~np.isfinite(shapely.bounds(placed)).all(axis=1)] = shapely.Polygon()
    return placed


def _pairs(outlines: np.ndarray) -> np.ndarray:
    pairs: np.ndarray = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    return pairs[:, pairs[0] < pairs[1]]
