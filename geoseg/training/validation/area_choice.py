"""Choice of the validation tiles that are vectorized and scored: all, or an even sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
import shapely

from geoseg.training.dataset import tile_boxes

# Returns a sample of groups of tiles that has at most so many pixels.
Choose = Callable[[list[pd.DataFrame], int], list[pd.DataFrame]]

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
    groups: list[pd.DataFrame],
    places: np.ndarray,
    merged: np.ndarray,
    size: int,
    most_pixels: int,
) -> list[pd.DataFrame]:
    """Return all groups or, if they are too large, an even sample of each place.

    Each place gets the same number of pixels, or all that it has, since each counts equally. Of a
    place with merged and with separate labels, both kinds share its pixels in the same way. The
    limit is exceeded only if a single tile of each place is more; then each place has one tile.

    Args:
        groups: Groups of tiles that touch each other.
        places: (tiles,), place of each tile.
        merged: bool (tiles,), whether the labels of each tile merge touching buildings.
        size: Side of a tile.
        most_pixels: Limit of the total number of pixels.
    """

    def choose(parts: list[pd.DataFrame], allowed: int) -> list[pd.DataFrame]:
        return _choose_of_place(parts, merged, size, allowed)

    return _share_out(groups, places, most_pixels, choose)


def _choose_of_place(
    groups: list[pd.DataFrame], merged: np.ndarray, size: int, most_pixels: int
) -> list[pd.DataFrame]:
    """Return all groups of a place, or a sample of those with separate and with merged labels."""
    if most_pixels < 2 * size**2 and sum(map(extent_px, groups)) > most_pixels:
        # One tile only: building F1 is measured where labels are separate.
        groups = [rows for rows in groups if not merged[rows.index[0]]] or groups

    def choose(parts: list[pd.DataFrame], allowed: int) -> list[pd.DataFrame]:
        return choose_evenly(parts, size, allowed)

    return _share_out(groups, merged, most_pixels, choose)


def _share_out(
    groups: list[pd.DataFrame], kinds: np.ndarray, most_pixels: int, choose: Choose
) -> list[pd.DataFrame]:
    """Return all groups or, if they are too large, a sample with equal parts of each kind.

    Args:
        groups: Groups of tiles that touch each other.
        kinds: (tiles,), kind of each tile; the same within a group.
        most_pixels: Limit of the total number of pixels.
        choose: Returns a sample of groups of one kind.
    """
    extents = [extent_px(rows) for rows in groups]
    if sum(extents) <= most_pixels:
        return groups
    by_kind: dict[int, list[pd.DataFrame]] = {}
    totals: dict[int, int] = {}
    for rows, extent in zip(groups, extents, strict=True):
        kind = int(kinds[rows.index[0]])
        by_kind.setdefault(kind, []).append(rows)
        totals[kind] = totals.get(kind, 0) + extent
    left, chosen = most_pixels, {}
    # Beginning with the smallest: what a kind does not need is left for the others.
    for number, kind in enumerate(sorted(by_kind, key=totals.__getitem__)):
        allowed = max(0, left // (len(by_kind) - number))
        chosen[kind] = choose(by_kind[kind], allowed)
        left -= max(min(totals[kind], allowed), sum(map(extent_px, chosen[kind])))
    return [part for kind in by_kind for part in chosen[kind]]


def choose_evenly(groups: list[pd.DataFrame], size: int, most_pixels: int) -> list[pd.DataFrame]:
    """Return all groups or, if they are too large, an even sample of parts of them.

    Args:
        groups: Groups of tiles that touch each other.
        size: Side of a tile.
        most_pixels: Limit of the total number of pixels; at least one tile is always chosen.
    """
    if sum(map(extent_px, groups)) <= most_pixels:
        return groups
    side = piece_side(size, most_pixels)
    pieces = [piece for group in groups for piece in split_group(group, size, side)]
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


def piece_side(size: int, most_pixels: int) -> int:
    """Return the side of the squares that are sampled from a limited number of pixels.

    They have a sixteenth of the pixels and at least two tiles a side; but if a single such square
    is more than the limit, they are as large as the limit, and at least a tile.

    Args:
        size: Side of a tile.
        most_pixels: The limit.
    """
    usual = max(2 * size, math.isqrt(most_pixels // _PIECES))
    return max(size, min(usual, math.isqrt(most_pixels)))


def split_group(rows: pd.DataFrame, size: int, side: int) -> list[pd.DataFrame]:
    """Split a group that is larger than a square into squares that do not overlap.

    Args:
        rows: Tiles that touch each other.
        size: Side of a tile.
        side: Side of the squares; at least `size`.
    """
    if extent_px(rows) <= side**2:
        return [rows]
    # Two tiles wide, as otherwise hardly any tile would be inside one cell; cut smaller afterwards.
    cell = max(side, 2 * size)
    top, left = rows.row_off - rows.row_off.min(), rows.col_off - rows.col_off.min()
    # Tiles across the border of two cells are dropped: they would be scored twice.
    inside = (top % cell + rows.height <= cell) & (left % cell + rows.width <= cell)
    parts = [part for _, part in rows[inside].groupby([top // cell, left // cell])]
    return [_cut_corner(part, side) for part in parts] or [rows.iloc[:1]]


def _cut_corner(rows: pd.DataFrame, side: int) -> pd.DataFrame:
    """Return the tiles inside a square at the upper left corner; one tile if there is none."""
    bottom = rows.row_off - rows.row_off.min() + rows.height
    right = rows.col_off - rows.col_off.min() + rows.width
    corner = rows[(bottom <= side) & (right <= side)]
    return corner if len(corner) else rows.iloc[:1]


def extent_px(rows: pd.DataFrame) -> int:
    """Return the number of pixels of the bounding grid of tiles."""
    west, north, east, south = shapely.total_bounds(tile_boxes(rows))
    return int((east - west) * (south - north))


def megapixels(groups: Iterable[pd.DataFrame]) -> float:
    """Return the megapixels that tiles cover, overlaps counted once."""
    return float(sum(shapely.union_all(tile_boxes(rows)).area for rows in groups)) / 1e6
