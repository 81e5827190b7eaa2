"""Datasets of tiles, and the normalisation of their images."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
from rasterio.windows import Window
from torch import Tensor
from torch.utils.data import Dataset

from geoseg.data.labels import FootprintLabels
from geoseg.data.tiles import (
    TilesInfo,
    find_tile_places,
    load_tiles_info,
    read_tile_footprints,
    read_tiles,
)
from geoseg.errors import EmptyDatasetError, counted
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, read_info, without_georeferencing_warnings
from geoseg.geo.vector import to_crs_near
from geoseg.networks.losses import burn_separation, separation_reach
from geoseg.training.places import Places

# Decoded tiles are cached up to this many bytes; the others are read again each time.
CACHE_BYTES = 2 * 1024**3

# GDAL decodes without holding Python's lock, so threads help.
_THREADS = min(4, os.cpu_count() or 1)

Sample = dict[str, Tensor]


class TileDataset(Dataset[Sample]):
    """The tiles of one split.

    A sample holds `image` (C, size, size) float32 in the scene's units, `target`
    (K, size, size) uint8, `valid` (1, size, size) bool, False on nodata, and `index`, its row
    of `tiles`; with `sigma_px` also `separation` (1, size, size) uint8, see
    `geoseg.networks.losses.burn_separation`.

    Args:
        folder: A folder made by `geoseg tile`.
        split: `train`, `val` or `test`.
        sigma_px: Width in pixels of the gaps between buildings that the weight map emphasises;
            no `separation` when None.

    Attributes:
        folder: The folder.
        info: Its metadata.
        tiles: One row per tile of the split.
        places: Place of each tile.
        sigma_px: See above.

    Raises:
        EmptyDatasetError: If the folder or the split is empty.
    """

    def __init__(self, folder: str | Path, split: str, *, sigma_px: float | None = None) -> None:
        self.folder = Path(folder)
        self.info: TilesInfo = load_tiles_info(folder)
        tiles = read_tiles(folder)
        self.tiles: gpd.GeoDataFrame = tiles[tiles.split == split].reset_index(drop=True)
        if self.tiles.empty:
            raise EmptyDatasetError(
                f"{folder}: split {split} has no tiles; tile again with other --fractions, or with "
                "larger --areas"
            )
        self.places = self._find_places()
        self.sigma_px = sigma_px
        self._footprints = self._read_footprints() if sigma_px else {}
        self._cache: dict[int, dict[str, np.ndarray]] = {}
        pixel = np.dtype(self.info.dtype).itemsize * len(self.info.bands) + 3 + bool(sigma_px)
        self._cache_size = min(len(self.tiles), CACHE_BYTES // (pixel * self.info.size**2))

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def building_share(self) -> float:
        """Share of building pixels among valid pixels."""
        valid = self.tiles.valid_fraction
        return float((self.tiles.building_fraction * valid).sum() / valid.sum())

    def __getitem__(self, index: int) -> Sample:
        # Copies, so that changes of a sample do not reach the cache.
        loaded = dict(self._load(index))
        image = torch.from_numpy(loaded.pop("image").astype(np.float32))
        labels = {name: torch.tensor(array) for name, array in loaded.items()}
        return {"image": image, "index": torch.tensor(index)} | labels

    def __getitems__(self, indices: list[int]) -> list[Sample]:
        """Return several samples; those that are not in memory are decoded by threads."""
        if all(index in self._cache for index in indices):
            return [self[index] for index in indices]
        with without_georeferencing_warnings(), ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(self.__getitem__, indices))

    def __getstate__(self) -> dict[str, Any]:
        # Processes that load tiles fill caches of their own.
        return self.__dict__ | {"_cache": {}}

    def _load(self, index: int) -> dict[str, np.ndarray]:
        if index in self._cache:
            return self._cache[index]
        loaded = self.read(index)
        if index < self._cache_size:
            self._cache[index] = loaded
        return loaded

    def read(self, index: int) -> dict[str, np.ndarray]:
        """Read a tile from its files: the arrays of a sample, with the image in its data type."""
        name = f"{self.tiles.id[index]}.tif"
        with (
            Scene(self.folder / "images" / name) as image,
            Scene(self.folder / "targets" / name) as target,
        ):
            self._check_tile(image, len(self.info.bands), self.info.dtype)
            self._check_tile(target, len(self.info.targets), "uint8")
            data, valid = image.read()
            classes, labelled = target.read()
        classes[:, ~labelled] = self.info.ignore
        loaded = {"image": data, "target": classes, "valid": valid[None]}
        if self.sigma_px:
            loaded["separation"] = self._burn_separation(index, image.grid, self.sigma_px)[None]
        return loaded

    def _check_tile(self, raster: Scene, bands: int, dtype: str) -> None:
        """Check bands, data type and size of a tile, before memory is allocated for it."""
        found = len(raster.info.bands), raster.info.dtype, raster.grid.shape
        side = self.info.size
        if found != (bands, dtype, (side, side)):
            height, width = raster.grid.shape
            raise EmptyDatasetError(
                f"{raster.info.path}: has {counted(found[0], 'band')} of {found[1]} in {height} x "
                f"{width} pixels, but tiles.json says {counted(bands, 'band')} of {dtype} in "
                f"{side} x {side}; tile the scenes again"
            )

    def _burn_separation(self, index: int, grid: Grid, sigma_px: float) -> np.ndarray:
        # Gaps between buildings inside and outside the tile count, too.
        halo = separation_reach(sigma_px)
        padded = Window(-halo, -halo, grid.width + 2 * halo, grid.height + 2 * halo)
        ids = FootprintLabels(grid, self._footprints[self.tiles.scene[index]]).rasterize_ids(padded)
        return burn_separation(ids, sigma_px)[halo:-halo, halo:-halo]

    def _find_places(self) -> Places:
        names = find_tile_places(self.folder, self.info, self.tiles)
        present = set(names)
        ordered = dict.fromkeys(self.info.scene_places.values())
        numbers = {name: n for n, name in enumerate(one for one in ordered if one in present)}
        return Places(tuple(numbers), np.array([numbers[name] for name in names]))

    def _read_footprints(self) -> dict[str, gpd.GeoDataFrame]:
        """Read the footprints of each scene, in its CRS."""
        footprints = read_tile_footprints(self.folder)
        grids = {
            scene: read_info(self.folder / "images" / f"{rows.id.iloc[0]}.tif").grid
            for scene, rows in self.tiles.groupby("scene")
        }
        return {
            scene: to_crs_near(footprints[footprints.scene == scene], grid.crs, grid)
            for scene, grid in grids.items()
        }


def bounding_grid(tiles: TileDataset, rows: pd.DataFrame) -> Grid:
    """Return the grid of tiles of one scene, over their common extent.

    Args:
        tiles: The tiles.
        rows: The rows of `tiles.tiles` that the grid covers.
    """
    # All tiles of a scene share its grid, so any of them gives the georeferencing.
    first = rows.iloc[0]
    tile_grid = read_info(tiles.folder / "images" / f"{first.id}.tif").grid
    top, left = rows.row_off.min(), rows.col_off.min()
    corner = Window(left - first.col_off, top - first.row_off, 1, 1)
    height = (rows.row_off + rows.height).max() - top
    width = (rows.col_off + rows.width).max() - left
    return Grid(tile_grid.crs, tile_grid.window_transform(corner), int(height), int(width))


def tile_boxes(rows: pd.DataFrame) -> np.ndarray:
    """Return tiles of one scene as shapely boxes (n,), in the pixels of `tile_corners`."""
    boxes: np.ndarray = shapely.box(*tile_corners(rows).T)
    return boxes


def tile_corners(rows: pd.DataFrame) -> np.ndarray:
    """Return left, top, right and bottom of tiles of one scene, in pixels from their first.

    Args:
        rows: Rows of `TileDataset.tiles`.

    Returns:
        float64 (n, 4). It is an array because shapely gives results for a pandas column the
        labels of that column, which are rows of the whole dataset and not positions.
    """
    begins = rows[["col_off", "row_off"]].to_numpy(np.float64)
    begins = begins - begins.min(axis=0)
    return np.hstack([begins, begins + rows[["width", "height"]].to_numpy(np.float64)])
