"""A folder of tiles with the boxes of the buildings in each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch

from geoseg.boxes.box_arrays import LEAST_SHARE, valid_shares
from geoseg.data.tiles import read_tile_footprints
from geoseg.geo.grid import Grid
from geoseg.training.dataset import Sample, TileDataset, bounding_grid, tile_corners

# A box with a shorter side is too thin to be told from its neighbours.
_LEAST_SIDE = 2.0


class BoxDataset(TileDataset):
    """The tiles of one split, and the boxes of the footprints that lie in each.

    A sample holds besides what `TileDataset` gives: `boxes` (M, 4) float32, left, top, right and
    bottom in pixels of what lies in the tile, filled up with NaN so that all tiles have as many;
    and `learnt` (M,) bool, False for a box of which too little is to be seen, because the tile's
    edge or nodata cuts it off.

    Args:
        folder: A folder made by `geoseg tile`.
        split: `train`, `val` or `test`.

    Raises:
        EmptyDatasetError: If the folder or the split is empty.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        super().__init__(folder, split)
        table = _lay_boxes(self)
        counts = np.bincount(table[:, 0].astype(int), minlength=len(self))
        ordered = table[np.argsort(table[:, 0], kind="stable"), 1:]
        self.boxes = np.split(ordered, np.cumsum(counts)[:-1])
        self.most = max(1, int(counts.max()))

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        corners, shares = self.boxes[index][:, :4], self.boxes[index][:, 4]
        seen = shares * valid_shares(corners, sample["valid"][0].numpy())
        boxes = np.full((self.most, 4), np.nan, dtype=np.float32)
        learnt = np.zeros(self.most, dtype=bool)
        boxes[: len(corners)], learnt[: len(corners)] = corners, seen >= LEAST_SHARE
        return sample | {
            "boxes": torch.from_numpy(boxes),
            "learnt": torch.from_numpy(learnt),
        }


def iter_scenes(tiles: TileDataset) -> Iterator[tuple[pd.DataFrame, Grid, gpd.GeoDataFrame]]:
    """The rows of each scene's tiles, the grid over all of them, and its footprints there."""
    footprints = read_tile_footprints(tiles.folder)
    for scene, rows in tiles.tiles.groupby("scene", sort=False):
        grid = bounding_grid(tiles, rows)
        truth = footprints[footprints.scene == scene].to_crs(grid.crs.to_wkt())
        truth.geometry = shapely.make_valid(truth.geometry.to_numpy())
        yield rows, grid, truth


def _lay_boxes(tiles: TileDataset) -> np.ndarray:
    """(n, 6), for each footprint in each tile: tile, corners in its pixels, visible share."""
    parts = [np.zeros((0, 6))]
    for rows, grid, truth in iter_scenes(tiles):
        shapes = shapely.transform(truth.geometry.to_numpy(), partial(_to_pixels, grid))
        shapes = shapes[shapely.area(shapes) > 0]
        windows = tile_corners(rows)
        frames = shapely.box(*windows.T)
        tile, shape = shapely.STRtree(shapes).query(frames, predicate="intersects")
        seen = shapely.intersection(shapes[shape], frames[tile])
        corners = shapely.bounds(seen) - windows[tile][:, [0, 1, 0, 1]]
        shares = shapely.area(seen) / shapely.area(shapes[shape])
        thin = ((corners[:, 2:] - corners[:, :2]) < _LEAST_SIDE).any(axis=1)
        shares[thin] = 0.0
        table = np.column_stack([rows.index.to_numpy()[tile], corners, shares])
        parts.append(table[shapely.area(seen) > 0])
    return np.concatenate(parts)


def _to_pixels(grid: Grid, points: np.ndarray) -> np.ndarray:
    return np.column_stack(grid.to_pixels(points[:, 0], points[:, 1]))
