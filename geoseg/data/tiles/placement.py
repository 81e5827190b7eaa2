"""Which tiles are cut of the regions of a split, and where these have labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any

import numpy as np
import shapely
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from geoseg.data.splits import SPLITS, Region
from geoseg.geo.grid import Grid
from geoseg.geo.tiling import TileGrid
from geoseg.options import TileOptions

# Labelled share of a tile of a drawn area from which it is used.
_LEAST_LABELLED = 0.5

# Least part of a tile with labels that other tiles do not have, if less than half of it has labels.
_LEAST_GAIN = 0.1


def place_tiles(
    prefix: str, grid: Grid, regions: Sequence[Region], options: TileOptions
) -> list[dict[str, Any]]:
    """Return the rows of the tile table for the tiles of a scene, without its name.

    Tiles are completely inside a region, unless it is loose.

    Args:
        prefix: Beginning of the ids.
        grid: Grid of the scene.
        regions: Regions of the splits.
        options: Tiling options.
    """
    others = {
        split: _join_areas(grid, regions, [other for other in SPLITS if other != split])
        for split in _list_loose(regions)
    }
    # Areas may begin at the same pixel, and share tiles.
    tiles: dict[tuple[str, str], dict[str, Any]] = {}
    for region in regions:
        for window, outline in _iter_windows(grid, region, others.get(region.split), options):
            id_ = f"{prefix}_{window.row_off:06d}_{window.col_off:06d}"
            tiles[id_, region.split] = {
                "id": id_,
                "row_off": int(window.row_off),
                "col_off": int(window.col_off),
                "height": int(window.height),
                "width": int(window.width),
                "split": region.split,
                "geometry": outline,
            }
    return list(tiles.values())


def find_labelled(grid: Grid, regions: Sequence[Region]) -> dict[str, BaseGeometry]:
    """Return the area outside of which tiles of a split have no labels, for splits with such tiles.

    Args:
        grid: Grid of a scene.
        regions: Its regions.
    """
    return {split: _join_areas(grid, regions, [split]) for split in _list_loose(regions)}


def _list_loose(regions: Sequence[Region]) -> list[str]:
    """Return the splits with loose regions."""
    loose = {region.split for region in regions if region.is_loose}
    return [split for split in SPLITS if split in loose]


def _iter_windows(
    grid: Grid, region: Region, others: BaseGeometry | None, options: TileOptions
) -> Iterator[tuple[Window, BaseGeometry]]:
    """Yield window and outline of each tile of a region.

    Args:
        grid: Grid of the scene.
        region: The region.
        others: Regions of other splits, in which no tile of a loose region may be.
        options: Tiling options.
    """
    windows = _list_windows(region.window, options)
    outlines = np.array([grid.window_polygon(window) for window in windows])
    chosen = np.ones(len(windows), dtype=bool)
    if region.area is not None:
        # Tolerate rounding errors where a tile shares an edge with the region.
        tolerance = 1e-6 * _pixel_side(grid)
        chosen = shapely.covers(region.area.buffer(tolerance), outlines)
        if region.is_loose:
            free = shapely.area(shapely.intersection(outlines, others)) <= grid.pixel_area / 2
            chosen |= _choose_labelled(outlines, region.area, free)
    yield from zip(compress(windows, chosen), outlines[chosen], strict=True)


def _list_windows(bounds: Window, options: TileOptions) -> list[Window]:
    """Return the windows of the tiles of a window, the first at its first pixel."""
    return [
        Window(
            bounds.col_off + tile.window.col_off,
            bounds.row_off + tile.window.row_off,
            tile.window.width,
            tile.window.height,
        )
        for tile in TileGrid(bounds.height, bounds.width, options.size, options.overlap_px)
    ]


def _choose_labelled(outlines: np.ndarray, area: BaseGeometry, free: np.ndarray) -> np.ndarray:
    """Return which tiles are used of an area of any shape.

    Tiles of which half is labelled, and then others in the order of their labelled share, if they
    add a tenth of a tile that no other tile covers.

    Args:
        outlines: Outlines of the tiles (n,).
        area: The area.
        free: Whether a tile may be used (n,).
    """
    sizes = shapely.area(outlines)
    shares = shapely.area(shapely.intersection(outlines, area)) / sizes
    chosen: np.ndarray = free & (shares >= _LEAST_LABELLED)
    left = shapely.difference(area, shapely.union_all(outlines[chosen]))
    for position in np.argsort(-shares, kind="stable"):
        if chosen[position] or not free[position] or not shares[position]:
            continue
        gain = shapely.area(shapely.intersection(outlines[position], left)) / sizes[position]
        if gain >= _LEAST_GAIN or not chosen.any():
            chosen[position] = True
            left = shapely.difference(left, outlines[position])
    return chosen


def _join_areas(grid: Grid, regions: Sequence[Region], splits: Sequence[str]) -> BaseGeometry:
    """Return the union of the regions of some splits."""
    return shapely.union_all([one.polygon(grid) for one in regions if one.split in splits])


def _pixel_side(grid: Grid) -> float:
    """Return the length of a pixel's longer side in units of the CRS."""
    transform = grid.transform
    return max(math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e))
