"""Choice of the validation tiles that are vectorized and scored: all, or an even sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import shapely

from geoseg.training.dataset import tile_boxes

# Sampled areas are at most a sixteenth of the limit: there are many of them, yet they are large
# enough that few buildings are cut.
_PIECES = 16


def iter_groups(tiles: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the groups of tiles that touch each other, scene by scene."""
    for _, rows in tiles.groupby("scene", sort=False):
        boxes = tile_boxes(rows)
        for part in shapely.get_parts(shapely.union_all(boxes)):
            # Shrunk, so that tiles that touch this part in a corner only do not belong to it.
            yield rows[shapely.intersects(boxes, part.buffer(-0.5))]


def choose_by_place(
    groups: list[pd.DataFrame], places: np.ndarray, size: int, most_pixels: int
) -> list[pd.DataFrame]:
    """Return all groups or, if they are too large, an even sample of each place.

    Each place gets the same number of pixels, or all that it has, since each counts equally. At
    least one part of each is chosen.

    Args:
        groups: Groups of tiles that touch each other.
        places: (tiles,), place of each tile.
        size: Side of a tile.
        most_pixels: Limit of the total number of pixels.
    """
    if sum(map(extent_px, groups)) <= most_pixels:
        return groups
    by_place: dict[int, list[pd.DataFrame]] = {}
    for group in groups:
        by_place.setdefault(int(places[group.index[0]]), []).append(group)
    left, chosen = most_pixels, {}
    extents = {place: sum(map(extent_px, parts)) for place, parts in by_place.items()}
    # Beginning with the smallest: what a place does not need is left for the others.
    for number, place in enumerate(sorted(by_place, key=extents.__getitem__)):
        allowed = left // (len(by_place) - number)
        chosen[place] = choose_evenly(by_place[place], size, allowed)
        left -= min(extents[place], allowed)
    return [part for place in by_place for part in chosen[place]]


def choose_evenly(groups: list[pd.DataFrame], size: int, most_pixels: int) -> list[pd.DataFrame]:
    """Return all groups or, if they are too large, an even sample of parts of them.

    Args:
        groups: Groups of tiles that touch each other.
        size: Side of a tile.
        most_pixels: Limit of the total number of pixels; one part is always chosen.
    """
    if sum(map(extent_px, groups)) <= most_pixels:
        return groups
    pieces = [
        piece for group in groups for piece in split_group(group, size, most_pixels // _PIECES)
    ]
    share = most_pixels / sum(map(extent_px, pieces))
    chosen: list[pd.DataFrame] = []
    passed = kept = 0
    for piece in pieces:
        extent = extent_px(piece)
        passed += extent
        if kept + extent <= share * passed:
            kept += extent
            chosen.append(piece)
    return chosen or [pieces[len(pieces) // 2]]


def split_group(rows: pd.DataFrame, size: int, pixels: int) -> list[pd.DataFrame]:
    """Split a group of more pixels than the limit into squares that do not overlap."""
    if extent_px(rows) <= pixels:
        return [rows]
    side = max(2 * size, math.isqrt(pixels))
    top, left = rows.row_off - rows.row_off.min(), rows.col_off - rows.col_off.min()
    # Tiles across the border of two squares are dropped: they would be scored twice.
    inside = (top % side + rows.height <= side) & (left % side + rows.width <= side)
    parts = [part for _, part in rows[inside].groupby([top // side, left // side])]
    return parts or [rows.iloc[:1]]


def extent_px(rows: pd.DataFrame) -> int:
    """Return the number of pixels of the bounding grid of tiles."""
    west, north, east, south = shapely.total_bounds(tile_boxes(rows))
    return int((east - west) * (south - north))


def megapixels(groups: Iterable[pd.DataFrame]) -> float:
    """Return the megapixels that tiles cover, overlaps counted once."""
    return float(sum(shapely.union_all(tile_boxes(rows)).area for rows in groups)) / 1e6
