"""Validation ground: predicted tiles put together, made into footprints and compared with truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from geoseg.data.tiles import has_footprints, read_tile_footprints
from geoseg.evaluation import Evaluation, evaluate_layers
from geoseg.evaluation.metrics import AreaCounts, Score
from geoseg.geo.aoi import AOI
from geoseg.geo.grid import Grid
from geoseg.geo.tiling import blend_weights
from geoseg.options import Thresholds
from geoseg.training.dataset import TileDataset, bounding_grid, tile_corners
from geoseg.vectorization.layer import vectorize_arrays

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Of more validation ground, parts are taken: predictions of it all are held in memory, and
# vectorized again and again.
MOST_PIXELS = 16_000_000

# Parts are a sixteenth of that, so that they are many, and hardly any building is cut.
_PIECES = 16

# Tiles keep their probabilities in 16 bits: bytes would lose what calibration is about.
_LEVELS = 65535


@dataclass(frozen=True, eq=False)
class ValidationArea:
    """Validation tiles of one scene, predicted and put together.

    Attributes:
        prob: float32 (outputs, H, W).
        outputs: Their names.
        target: uint8 (H, W), the first target band.
        known: (H, W), False outside the tiles, on nodata and on ground that was not labelled.
        grid: Place on the ground.
        area: Outline of what is known, in the grid's CRS.
        truth: Footprints, in the grid's CRS.
        windows: Each tile's window of the grid, by its row in the dataset.
    """

    prob: np.ndarray
    outputs: tuple[str, ...]
    target: np.ndarray
    known: np.ndarray
    grid: Grid
    area: BaseGeometry
    truth: gpd.GeoDataFrame
    windows: Mapping[int, Window]

    @property
    def aoi(self) -> AOI:
        """The area as an area of interest."""
        return AOI((self.area,), self.truth.crs)

    def evaluate(self, thresholds: Thresholds) -> Evaluation:
        """Compares the footprints that the thresholds give with the truth."""
        bands = dict(zip(self.outputs, self.prob, strict=True))
        found = vectorize_arrays(
            self.prob[0], bands.get("border"), self.known, self.grid, thresholds,
            bands.get("contact"),
        )  # fmt: skip
        return evaluate_layers(found, self.truth, aoi=self.aoi)


class ValidationAreas:
    """The ground of validation tiles, planned once and filled with predictions many times.

    Tiles are kept by their row in the dataset, so it does not matter in which order they come,
    nor whether some come twice.

    Args:
        tiles: Validation tiles of buildings.
        most_pixels: Of more ground, parts from all over it are taken that hold so many pixels.

    Attributes:
        tiles: The tiles.
        covered_mpx: Megapixels of the ground.
        total_mpx: Those that all validation tiles cover.
        found: uint16 (outputs, size, size) of each tile that was added, by its row.
    """

    def __init__(self, tiles: TileDataset, *, most_pixels: int = MOST_PIXELS) -> None:
        self.tiles = tiles
        self.found: dict[int, np.ndarray] = {}
        groups = list(_iter_groups(tiles.tiles))
        chosen = _choose_evenly(groups, tiles.info.size, most_pixels)
        self.covered_mpx, self.total_mpx = _megapixels(chosen), _megapixels(groups)
        footprints = read_footprints_of_scenes(tiles.folder)
        self._plots = [_Plot(tiles, rows, footprints.get(rows.scene.iloc[0])) for rows in chosen]
        self._grounds: list[ValidationArea] | None = None

    @property
    def indices(self) -> list[int]:
        """Rows of the tiles that make up the ground."""
        return [index for plot in self._plots for index in plot.windows]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is predicted of each pixel."""
        return self.tiles.info.targets

    def start(self) -> None:
        """Forgets what was added."""
        self.found, self._grounds = {}, None

    def add(self, indices: Sequence[int], prob: np.ndarray) -> None:
        """Adds predicted tiles.

        Args:
            indices: Rows of the tiles in the dataset; tiles of ground that is left out are, too.
            prob: (N, outputs, size, size) in 0..1.
        """
        wanted = set(self.indices)
        for index, one in zip(indices, prob, strict=True):
            if index in wanted:
                levels = np.rint(np.clip(one, 0, 1) * np.float32(_LEVELS))
                self.found[index] = levels.astype(np.uint16)
        self._grounds = None

    def predict(self, predict: Predict, batch_size: int = 8) -> None:
        """Fills the ground anew.

        Args:
            predict: (N, C, size, size), (N, size, size) → probabilities (N, outputs, size, size).
            batch_size: Tiles per prediction.
        """
        self.start()
        indices = self.indices
        for first in range(0, len(indices), batch_size):
            part = indices[first : first + batch_size]
            self.add(part, predict_tiles(predict, self.tiles, part))

    def grounds(self) -> list[ValidationArea]:
        """The ground of each scene, in as many parts as hang together.

        Raises:
            KeyError: If a tile is missing.
        """
        if self._grounds is None:
            self._grounds = [plot.stitch(self.found) for plot in self._plots]
        return self._grounds

    def score(self, thresholds: Thresholds) -> tuple[Score, AreaCounts]:
        """Agreement of the footprints that the thresholds give with the truth, on all ground.

        Args:
            thresholds: What makes a building.

        Returns:
            In buildings, matched at an IoU of 0.5, and in pixels.
        """
        buildings, pixels = Score(0, 0, 0), AreaCounts(0.0, 0.0, 0.0)
        for ground in self.grounds():
            found = ground.evaluate(thresholds)
            buildings += found.score
            # Scenes may have units of their own.
            pixels += found.area / ground.grid.pixel_area
        return buildings, pixels


def predict_tiles(predict: Predict, tiles: TileDataset, indices: Sequence[int]) -> np.ndarray:
    """Probabilities (N, outputs, size, size) of some tiles, by their rows in the dataset."""
    samples = [tiles[index] for index in indices]
    data = np.stack([sample["image"].numpy() for sample in samples])
    return predict(data, np.stack([sample["valid"].numpy()[0] for sample in samples]))


class _Plot:
    """Tiles that hang together, and what does not change between predictions of them."""

    def __init__(
        self, tiles: TileDataset, rows: pd.DataFrame, footprints: gpd.GeoDataFrame | None
    ) -> None:
        self.grid = bounding_grid(tiles, rows)
        top, left = rows.row_off.min(), rows.col_off.min()
        self.windows = {
            index: Window(row.col_off - left, row.row_off - top, row.width, row.height)
            for index, row in zip(rows.index.tolist(), rows.itertuples(), strict=True)
        }
        self._tiles, self._footprints = tiles, footprints
        self._labels: Labelled | None = None

    def stitch(self, found: Mapping[int, np.ndarray]) -> ValidationArea:
        """The ground that predicted tiles make."""
        info = self._tiles.info
        total = np.zeros((len(info.targets), *self.grid.shape), np.float32)
        weight = np.zeros(self.grid.shape, np.float32)
        # Flanks on every side: the weight is divided out where nothing else covers them.
        flank = blend_weights(info.size, info.size // 4)
        flanks = np.outer(flank, flank)
        for index, window in self.windows.items():
            place, inside = window.toslices(), flanks[: window.height, : window.width]
            seen = found[index][:, : window.height, : window.width]
            total[(..., *place)] += seen * (inside / np.float32(_LEVELS))
            weight[place] += inside
        prob = np.divide(total, weight, out=total, where=weight > 0)
        if self._labels is None:
            self._labels = read_labelled(self._tiles, self.grid, self.windows, self._footprints)
        target, known, area, truth = self._labels
        return ValidationArea(
            prob, info.targets, target, known, self.grid, area, truth, self.windows
        )


class Labelled(NamedTuple):
    """What is known of the ground of some tiles: the fields of `Ground` of these names."""

    target: np.ndarray
    known: np.ndarray
    area: BaseGeometry
    truth: gpd.GeoDataFrame


def read_labelled(
    tiles: TileDataset,
    grid: Grid,
    windows: Mapping[int, Window],
    footprints: gpd.GeoDataFrame | None,
) -> Labelled:
    """Reads what is known of the ground of some tiles.

    Args:
        tiles: All tiles of a split.
        grid: Over those tiles.
        windows: Theirs on that grid, by their row in the dataset.
        footprints: Labels in any CRS; None where they were a mask, of which each piece that hangs
            together is a building then.
    """
    target = np.full(grid.shape, tiles.info.ignore, np.uint8)
    known = np.zeros(grid.shape, bool)
    for index, window in windows.items():
        sample, place = tiles[index], window.toslices()
        inside = (0, slice(int(window.height)), slice(int(window.width)))
        target[place] = sample["target"].numpy()[inside]
        known[place] |= sample["valid"].numpy()[inside]
    known &= target != tiles.info.ignore
    area = shapely.union_all(_outline(known, grid).geometry.to_numpy())
    if footprints is None:
        return Labelled(target, known, area, _outline(known & (target > 0), grid))
    truth = footprints.to_crs(grid.crs.to_wkt())
    truth.geometry = shapely.make_valid(truth.geometry.to_numpy())
    return Labelled(target, known, area, truth[truth.intersects(area)])


def read_footprints_of_scenes(folder: Path) -> dict[str, gpd.GeoDataFrame]:
    """The labels of each scene that has outlines, not a mask, in longitude and latitude."""
    if not has_footprints(folder):
        return {}
    return dict(iter(read_tile_footprints(folder).groupby("scene")))


def _outline(mask: np.ndarray, grid: Grid) -> gpd.GeoDataFrame:
    """Outlines of what hangs together, along the pixels."""
    bare = Thresholds(
        body=0.5, seed=0.5, border=0, contact=0, min_area_m2=0, min_hole_m2=0, simplify_m=0,
        subpixel=False, regularize=False,
    )  # fmt: skip
    return vectorize_arrays(mask.astype(np.float32), None, np.ones_like(mask), grid, bare)


def _iter_groups(tiles: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Tiles that touch each other, of one scene after the other."""
    for _, rows in tiles.groupby("scene", sort=False):
        boxes = _boxes(rows)
        for area in shapely.get_parts(shapely.union_all(boxes)):
            yield rows[shapely.intersects(boxes, area.buffer(-0.5))]


def _choose_evenly(groups: list[pd.DataFrame], size: int, most_pixels: int) -> list[pd.DataFrame]:
    """The groups, or where they are too much ground parts of them from all over it.

    Args:
        groups: Tiles that touch each other.
        size: Of a tile.
        most_pixels: What the chosen may hold; one piece is always chosen.
    """
    if sum(map(_extent, groups)) <= most_pixels:
        return groups
    pieces = [piece for group in groups for piece in _cut(group, size, most_pixels // _PIECES)]
    share = most_pixels / sum(map(_extent, pieces))
    chosen: list[pd.DataFrame] = []
    passed = kept = 0
    for piece in pieces:
        extent = _extent(piece)
        passed += extent
        if kept + extent <= share * passed:
            kept += extent
            chosen.append(piece)
    return chosen or [pieces[len(pieces) // 2]]


def _cut(rows: pd.DataFrame, size: int, pixels: int) -> list[pd.DataFrame]:
    """Squares of tiles that share no ground, where a group has more than so many pixels."""
    if _extent(rows) <= pixels:
        return [rows]
    side = max(2 * size, math.isqrt(pixels))
    top, left = rows.row_off - rows.row_off.min(), rows.col_off - rows.col_off.min()
    # A tile that lies across would be judged twice, and its square be larger than the others.
    inside = (top % side + rows.height <= side) & (left % side + rows.width <= side)
    parts = [part for _, part in rows[inside].groupby([top // side, left // side])]
    return parts or [rows.iloc[:1]]


def _extent(rows: pd.DataFrame) -> int:
    """Pixels of the grid that holds tiles."""
    west, north, east, south = shapely.total_bounds(_boxes(rows))
    return int((east - west) * (south - north))


def _megapixels(groups: Iterable[pd.DataFrame]) -> float:
    """The ground that tiles cover, counted once."""
    return float(sum(shapely.union_all(_boxes(rows)).area for rows in groups)) / 1e6


def _boxes(rows: pd.DataFrame) -> np.ndarray:
    boxes: np.ndarray = shapely.box(*tile_corners(rows).T)
    return boxes
