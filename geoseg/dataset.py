"""A folder of tiles as batches for a network."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import torch
from rasterio.windows import Window
from torch import Tensor
from torch.utils.data import Dataset

from geoseg.errors import EmptyDatasetError
from geoseg.grid import Grid
from geoseg.raster import Scene, read_info
from geoseg.tiles import TilesInfo, load_tiles_info, read_tiles

# Tiles are kept in memory up to this much, and read from disk beyond it.
CACHE_BYTES = 2 * 1024**3

Sample = dict[str, Tensor]


class TileDataset(Dataset[Sample]):
    """The tiles of one split.

    A sample holds `image` (C, size, size) float32 in the scene's units, `target`
    (2, size, size) uint8 and `valid` (1, size, size) bool, False on nodata.

    Args:
        folder: A folder made by `geoseg tile`.
        split: `train`, `val` or `test`.

    Raises:
        EmptyDatasetError: If the folder or the split is empty.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder = Path(folder)
        self.info: TilesInfo = load_tiles_info(folder)
        tiles = read_tiles(folder)
        self.tiles: gpd.GeoDataFrame = tiles[tiles.split == split].reset_index(drop=True)
        if self.tiles.empty:
            raise EmptyDatasetError(
                f"{folder}: has no tile in split {split}; tile again with other --fractions"
            )
        self._cache: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        pixel = np.dtype(self.info.dtype).itemsize * len(self.info.bands) + 3
        self._cached = min(len(self.tiles), CACHE_BYTES // (pixel * self.info.size**2))

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> Sample:
        image, target, valid = self._load(index)
        return {
            "image": torch.from_numpy(image.astype(np.float32)),
            "target": torch.tensor(target),  # a copy: the cache stays as it is
            "valid": torch.tensor(valid[None]),
        }

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if index in self._cache:
            return self._cache[index]
        name = f"{self.tiles.id[index]}.tif"
        with (
            Scene(self.folder / "images" / name) as image,
            Scene(self.folder / "targets" / name) as target,
        ):
            data, valid = image.read()
            burnt, known = target.read()
        burnt[:, ~known] = self.info.ignore
        loaded = data, burnt, valid
        if index < self._cached:
            self._cache[index] = loaded
        return loaded


def bounding_grid(tiles: TileDataset, rows: pd.DataFrame) -> Grid:
    """The lattice of tiles of one scene over all of them; any tile's file knows where it lies.

    Args:
        tiles: The tiles.
        rows: Those rows of `tiles.tiles` that the grid is to hold.
    """
    first = rows.iloc[0]
    placed = read_info(tiles.folder / "images" / f"{first.id}.tif").grid
    top, left = rows.row_off.min(), rows.col_off.min()
    corner = Window(left - first.col_off, top - first.row_off, 1, 1)
    height = (rows.row_off + rows.height).max() - top
    width = (rows.col_off + rows.width).max() - left
    return Grid(placed.crs, placed.window_transform(corner), int(height), int(width))


def normalise(image: Tensor, valid: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Brings bands to mean 0 and deviation 1; nodata becomes 0, the mean.

    Args:
        image: (N, C, H, W) in the scene's units.
        valid: (N, 1, H, W) bool.
        mean: (C,).
        std: (C,).

    Returns:
        float32 (N, C, H, W).
    """
    scaled = (image - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    return scaled * valid
