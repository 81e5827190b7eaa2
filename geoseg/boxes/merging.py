"""One box for each building, out of what overlapping tiles say of it.

Two tiles see the same building where, on the ground that both see, their boxes agree, or where
a part that a tile's edge has cut off lies in the other's box. The box of the tile that sees the
building whole is kept; where no tile does, because the building is wider than the tiles'
overlap, the parts are joined. Which boxes belong together depends on nothing but the boxes, so
the result is the same however tiles come in batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import shapely
from rasterio.windows import Window
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.boxes.box_arrays import Boxes, join_boxes
from geoseg.geo.tiling import Tile, TileGrid

# A side of a box that comes this near to the tile's edge, in pixels, may be cut there.
_CUT_MARGIN = 3.0

# Boxes that share more than this of the ground that both tiles see are one building.
_SAME = 0.5

# The direction into a tile from its left, top, right and bottom.
_INWARD = np.array([1, 1, -1, -1])


class BoxMerger:
    """Holds the boxes of tiles until no later tile can change them.

    Args:
        shape: (height, width) of the scene, whose own edges cut nothing off; None for a scene
            without end.
    """

    def __init__(self, shape: tuple[int, int] | None = None) -> None:
        height, width = shape or (math.inf, math.inf)
        first = 0.0 if shape else -math.inf
        self._frame = np.array([first, first, width, height])
        self._boxes = join_boxes([])
        self._tiles = np.zeros((0, 4))

    def add(self, window: Window, boxes: Boxes) -> None:
        """Takes the boxes of a tile, in its own pixels."""
        left, top = window.col_off, window.row_off
        tile = np.array([left, top, left + window.width, top + window.height], dtype=np.float64)
        # What ends at the scene's edge is not cut off there.
        reach = np.where((tile - self._frame) * _INWARD > 0, tile, -np.inf * _INWARD)
        self._boxes = join_boxes([self._boxes, boxes.moved(left, top)])
        self._tiles = np.concatenate([self._tiles, np.tile(reach, (len(boxes), 1))])

    def advance(self, row: float = math.inf) -> Boxes:
        """Gives away what tiles from `row` downward cannot change, from top to bottom.

        Returns:
            One box for each building; its score is the best that any tile gave it.
        """
        boxes, tiles = self._boxes, self._tiles
        if not len(boxes):
            return boxes
        cut = (boxes.corners - tiles) * _INWARD < _CUT_MARGIN
        pairs = _same_buildings(boxes.corners, tiles, cut)
        links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(boxes), len(boxes)))
        groups, group = connected_components(links, directed=False)
        bottoms = np.full(groups, -np.inf)
        np.maximum.at(bottoms, group, boxes.corners[:, 3])
        done = bottoms[group] <= row
        self._boxes, self._tiles = boxes[~done], tiles[~done]
        number = np.cumsum(done) - 1
        kept = _merge(boxes[done], cut[done], number[pairs[done[pairs[:, 0]]]])
        return kept[np.lexsort((kept.corners[:, 0], kept.corners[:, 1]))]


def stitch_boxes(plan: TileGrid, tiles: Iterable[tuple[Tile, Boxes]]) -> Iterator[Boxes]:
    """Merges the boxes of tiles, one row of tiles at a time.

    Args:
        plan: The plan that the tiles come from.
        tiles: Tiles with their boxes, in the plan's order; tiles may be left out.

    Yields:
        Boxes in pixels of the plan, from the top of the scene to its bottom.
    """
    stitcher, row = BoxMerger((plan.height, plan.width)), 0
    for tile, boxes in tiles:
        if tile.row > row:
            row = tile.row
            yield stitcher.advance(plan.rows.starts[row])
        stitcher.add(tile.window, boxes)
    yield stitcher.advance()


def _same_buildings(corners: np.ndarray, tiles: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Pairs (n, 2), the lower first, of boxes of different tiles that are the same building.

    Whole boxes must agree: what they share counts against what either covers. Of a building
    that is cut there may be a sliver, which an error of a pixel doubles: there what they share
    counts against the smaller of the two.
    """
    shapes = shapely.box(*corners.T)
    one, other = shapely.STRtree(shapes).query(shapes)
    apart = (one < other) & (tiles[one] != tiles[other]).any(axis=1)
    one, other = one[apart], other[apart]
    # What each box leaves on the ground that both tiles see.
    common = _intersection(tiles[one], tiles[other])
    seen = _intersection(corners[one], common), _intersection(corners[other], common)
    both = _area(_intersection(*seen))
    areas = _area(seen[0]), _area(seen[1])
    partly = cut[one].any(axis=1) | cut[other].any(axis=1)
    whole = np.where(partly, np.minimum(*areas), areas[0] + areas[1] - both)
    ratio = np.divide(both, whole, out=np.zeros_like(both), where=whole > 0)
    pairs: np.ndarray = np.column_stack([one, other])[ratio > _SAME]
    return pairs


def _merge(boxes: Boxes, cut: np.ndarray, pairs: np.ndarray) -> Boxes:
    """Lets the best box of each building stand for it: the least cut one, then the surest."""
    corners, scores = boxes.corners.copy(), boxes.scores.copy()
    neighbours: list[list[int]] = [[] for _ in range(len(boxes))]
    for one, other in pairs.tolist():
        neighbours[one].append(other)
        neighbours[other].append(one)
    order = np.lexsort((corners[:, 0], corners[:, 1], -scores, cut.sum(axis=1)))
    free, kept = np.ones(len(boxes), dtype=bool), []
    for best in order.tolist():
        if not free[best]:
            continue
        parts = _take(best, neighbours, free, cut)
        outer = np.where(_INWARD > 0, corners[parts].min(axis=0), corners[parts].max(axis=0))
        corners[best] = np.where(cut[best], outer, corners[best])
        scores[best] = boxes.scores[parts].max()
        kept.append(best)
    return Boxes(corners[kept], scores[kept])


def _take(best: int, neighbours: list[list[int]], free: np.ndarray, cut: np.ndarray) -> list[int]:
    """All boxes of one building; what is cut leads on to what its own neighbours see of it."""
    parts, at = [best], 0
    free[best] = False
    while at < len(parts):
        if at == 0 or (cut[best].any() and cut[parts[at]].any()):
            for other in neighbours[parts[at]]:
                if free[other]:
                    free[other] = False
                    parts.append(other)
        at += 1
    return parts


def _intersection(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Common ground of boxes (n, 4), pair by pair."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, 2:], other[:, 2:])
    return np.concatenate([low, high], axis=1)


def _area(corners: np.ndarray) -> np.ndarray:
    sides = (corners[:, 2:] - corners[:, :2]).clip(min=0)
    area: np.ndarray = sides[:, 0] * sides[:, 1]
    return area
