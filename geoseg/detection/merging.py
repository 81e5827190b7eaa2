"""Merging of the boxes of overlapping tiles into one box per building.

Boxes of two tiles are the same building if they agree within the overlap of the tiles, or if a part
cut off by a tile's edge is inside the other box. The box of the tile that contains the whole
building is kept; if no tile does, because the building is wider than the overlap, the parts are
joined. The result depends on the boxes only, not on how tiles are batched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import shapely
from rasterio.windows import Window
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.detection.box_arrays import Boxes, concatenate_boxes
from geoseg.geo.tiling import Tile, TileGrid

# A side of a box that is this near to the tile's edge, in pixels, may be cut off there.
_CUT_MARGIN = 3.0

# Boxes with a larger IoU within the overlap of their tiles are the same building.
_LEAST_IOU = 0.5

# Direction into a tile from its left, top, right and bottom side.
_INWARD = np.array([1, 1, -1, -1])


class BoxMerger:
    """Keeps the boxes of tiles until no later tile can change them.

    Args:
        shape: (height, width) of the scene, whose edges do not cut boxes off; None for a scene
            without edges.
    """

    def __init__(self, shape: tuple[int, int] | None = None) -> None:
        height, width = shape or (math.inf, math.inf)
        first = 0.0 if shape else -math.inf
        self._frame = np.array([first, first, width, height])
        self._boxes = concatenate_boxes([])
        self._tiles = np.zeros((0, 4))

    def add(self, window: Window, boxes: Boxes) -> None:
        """Add the boxes of a tile, in pixels of the tile."""
        left, top = window.col_off, window.row_off
        tile = np.array([left, top, left + window.width, top + window.height], dtype=np.float64)
        # A box that ends at the scene's edge is not cut off there.
        edges = np.where((tile - self._frame) * _INWARD > 0, tile, -np.inf * _INWARD)
        self._boxes = concatenate_boxes([self._boxes, boxes.shifted(left, top)])
        self._tiles = np.concatenate([self._tiles, np.tile(edges, (len(boxes), 1))])

    def flush(self, row: float = math.inf) -> Boxes:
        """Return and remove the buildings that tiles from `row` downward cannot change.

        Returns:
            One box per building, from top to bottom; its score is the highest of all tiles.
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
        kept = _merge_groups(boxes[done], cut[done], number[pairs[done[pairs[:, 0]]]])
        return kept[np.lexsort((kept.corners[:, 0], kept.corners[:, 1]))]


def merge_boxes(plan: TileGrid, tiles: Iterable[tuple[Tile, Boxes]]) -> Iterator[Boxes]:
    """Merge the boxes of tiles, one row of tiles at a time.

    Args:
        plan: The grid of the tiles.
        tiles: Tiles with their boxes, in the grid's order; tiles may be missing.

    Yields:
        Boxes in pixels of the scene, from top to bottom.
    """
    merger, row = BoxMerger((plan.height, plan.width)), 0
    for tile, boxes in tiles:
        if tile.row > row:
            row = tile.row
            yield merger.flush(plan.rows.starts[row])
        merger.add(tile.window, boxes)
    yield merger.flush()


def _same_buildings(corners: np.ndarray, tiles: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Return pairs (n, 2), lower index first, of boxes of different tiles on the same building.

    Whole boxes are compared by their IoU. A box that is cut may be a narrow strip, whose area an
    error of one pixel doubles: such boxes are compared by intersection over the smaller area.
    """
    shapes = shapely.box(*corners.T)
    one, other = shapely.STRtree(shapes).query(shapes)
    different = (one < other) & (tiles[one] != tiles[other]).any(axis=1)
    one, other = one[different], other[different]
    # The part of each box within the overlap of both tiles.
    common = _intersection(tiles[one], tiles[other])
    parts = _intersection(corners[one], common), _intersection(corners[other], common)
    both = _area(_intersection(*parts))
    areas = _area(parts[0]), _area(parts[1])
    is_cut = cut[one].any(axis=1) | cut[other].any(axis=1)
    total = np.where(is_cut, np.minimum(*areas), areas[0] + areas[1] - both)
    ratio = np.divide(both, total, out=np.zeros_like(both), where=total > 0)
    pairs: np.ndarray = np.column_stack([one, other])[ratio > _LEAST_IOU]
    return pairs


def _merge_groups(boxes: Boxes, cut: np.ndarray, pairs: np.ndarray) -> Boxes:
    """Keep the best box of each building: the least cut one, then the one of the highest score."""
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
        parts = _take_building(best, neighbours, free, cut)
        outer = np.where(_INWARD > 0, corners[parts].min(axis=0), corners[parts].max(axis=0))
        corners[best] = np.where(cut[best], outer, corners[best])
        scores[best] = boxes.scores[parts].max()
        kept.append(best)
    return Boxes(corners[kept], scores[kept])


def _take_building(
    best: int, neighbours: list[list[int]], free: np.ndarray, cut: np.ndarray
) -> list[int]:
    """Return all boxes of one building; from cut boxes, their neighbours are followed further."""
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
    """Return the intersections of boxes (n, 4), pair by pair."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, 2:], other[:, 2:])
    return np.concatenate([low, high], axis=1)


def _area(corners: np.ndarray) -> np.ndarray:
    sides = (corners[:, 2:] - corners[:, :2]).clip(min=0)
    area: np.ndarray = sides[:, 0] * sides[:, 1]
    return area
