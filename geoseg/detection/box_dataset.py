"""The dataset of tiles with the boxes of their buildings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch

from geoseg.data.tiles import read_tile_footprints
from geoseg.detection.box_arrays import LEAST_VISIBLE, valid_shares
from geoseg.geo.grid import Grid
from geoseg.geo.vector import to_crs_near
from geoseg.training.dataset import Sample, TileDataset, bounding_grid, tile_corners

# Boxes with a shorter side, in pixels, are ignored: they are too thin to separate.
_LEAST_SIDE = 2.0


class BoxDataset(TileDataset):
    """The tiles of one split with the boxes of the footprints inside each.

    In addition to the items of `TileDataset`, a sample holds `boxes` (M, 4) float32, left, top,
    right and bottom in pixels of the part inside the tile, padded with NaN to the same number for
    all tiles; and `is_target` (M,) bool, False for boxes to be ignored, because too little of the
    building is visible at the tile's edge or beside nodata.

    Args:
        folder: A folder made by `geoseg tile`.
        split: `train`, `val` or `test`.

    Raises:
        EmptyDatasetError: If the folder or the split is empty.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        super().__init__(folder, split)
        table = _box_table(self)
        counts = np.bincount(table[:, 0].astype(int), minlength=len(self))
        ordered = table[np.argsort(table[:, 0], kind="stable"), 1:]
        self.boxes = np.split(ordered, np.cumsum(counts)[:-1])
        self.max_boxes = max(1, int(counts.max()))

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        corners, shares = self.boxes[index][:, :4], self.boxes[index][:, 4]
        visible = shares * valid_shares(corners, sample["valid"][0].numpy())
        boxes = np.full((self.max_boxes, 4), np.nan, dtype=np.float32)
        is_target = np.zeros(self.max_boxes, dtype=bool)
        boxes[: len(corners)], is_target[: len(corners)] = corners, visible >= LEAST_VISIBLE
        return sample | {
            "boxes": torch.from_numpy(boxes),
            "is_target": torch.from_numpy(is_target),
        }


def iter_scenes(tiles: TileDataset) -> Iterator[tuple[pd.DataFrame, Grid, gpd.GeoDataFrame]]:
    """Yield for each scene the rows of its tiles, their common grid, and its footprints."""
    footprints = read_tile_footprints(tiles.folder)
    for scene, rows in tiles.tiles.groupby("scene", sort=False):
        grid = bounding_grid(tiles, rows)
        truth = to_crs_near(footprints[footprints.scene == scene], grid.crs, grid)
        truth.geometry = shapely.make_valid(truth.geometry.to_numpy())
        yield rows, grid, truth


def _box_table(tiles: TileDataset) -> np.ndarray:
    """Return (n, 6), for each footprint in each tile: row of the tile, corners, visible share."""
    parts = [np.zeros((0, 6))]
    for rows, grid, truth in iter_scenes(tiles):
        shapes = shapely.transform(truth.geometry.to_numpy(), partial(_to_pixels, grid))
        shapes = shapes[shapely.area(shapes) > 0]
        windows = tile_corners(rows)
        frames = shapely.box(*windows.T)
        tile, shape = shapely.STRtree(shapes).query(frames, predicate="intersects")
        inside = shapely.intersection(shapes[shape], frames[tile])
        corners = shapely.bounds(inside) - windows[tile][:, [0, 1, 0, 1]]
        shares = shapely.area(inside) / shapely.area(shapes[shape])
        thin = ((corners[:, 2:] - corners[:, :2]) < _LEAST_SIDE).any(axis=1)
        shares[thin] = 0.0
        table = np.column_stack([rows.index.to_numpy()[tile], corners, shares])
        parts.append(table[shapely.area(inside) > 0])
    return np.concatenate(parts)


def _to_pixels(grid: Grid, points: np.ndarray) -> np.ndarray:
    return np.column_stack(grid.to_pixels(points[:, 0], points[:, 1]))
