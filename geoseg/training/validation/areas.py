"""Validation areas: predicted tiles, stitched, vectorized and compared with the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from geoseg.geo.vector import to_crs_near
from geoseg.options import Thresholds
from geoseg.training.dataset import TileDataset, bounding_grid
from geoseg.training.validation.area_choice import choose_by_place, iter_groups, megapixels
from geoseg.training.validation.merged_labels import count_buildings_in
from geoseg.vectorization.footprints import MEASURED_COLUMNS
from geoseg.vectorization.layer import vectorize_arrays

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Larger validation splits are sampled: predictions of all areas are kept in memory, and vectorized
# many times.
MOST_PIXELS = 16_000_000

# Probabilities are kept in 16 bits: 8 bits are too coarse near 0 and 1 to calibrate.
_LEVELS = 65535


@dataclass(frozen=True, eq=False)
class ValidationArea:
    """Validation tiles of one scene that touch each other, predicted and stitched.

    Attributes:
        prob: float32 (outputs, H, W), probabilities.
        outputs: Names of the outputs.
        target: uint8 (H, W), the first target band.
        labelled: bool (H, W), False outside the tiles, on nodata and on unlabelled pixels.
        grid: Georeferencing of the area.
        outline: Outline of the labelled pixels, in the grid's CRS.
        truth: Reference footprints, in the grid's CRS.
        windows: Each tile's window of the grid, by its row in the dataset.
        merged: Whether the labels merge touching buildings.
        place: Number of its place.
    """

    prob: np.ndarray
    outputs: tuple[str, ...]
    target: np.ndarray
    labelled: np.ndarray
    grid: Grid
    outline: BaseGeometry
    truth: gpd.GeoDataFrame
    windows: Mapping[int, Window]
    merged: bool = False
    place: int = 0

    @property
    def aoi(self) -> AOI:
        """The area as an area of interest."""
        return AOI((self.outline,), self.truth.crs)

    def find(self, thresholds: Thresholds) -> gpd.GeoDataFrame:
        """Return the footprints that the thresholds give, with the columns `MEASURED_COLUMNS`."""
        bands = dict(zip(self.outputs, self.prob, strict=True))
        return vectorize_arrays(
            self.prob[0], bands.get("border"), self.labelled, self.grid, thresholds,
            bands.get("contact"), columns=MEASURED_COLUMNS,
        )  # fmt: skip

    def compare(self, footprints: gpd.GeoDataFrame) -> Evaluation:
        """Compare footprints with the reference."""
        return evaluate_layers(footprints, self.truth, aoi=self.aoi)

    def evaluate(self, thresholds: Thresholds) -> Evaluation:
        """Compare the footprints that the thresholds give with the reference."""
        return self.compare(self.find(thresholds))


class ValidationAreas:
    """The areas of validation tiles, planned once and filled with predictions many times.

    Predictions are kept by their row in the dataset, so that tiles may be added in any order, and
    more than once.

    Args:
        tiles: Validation tiles of buildings.
        most_pixels: Areas of more pixels in total are sampled down to this number: each place gets
            the same number of them, or all that it has, but at least one tile.

    Attributes:
        tiles: The tiles.
        places: The places that are scored.
        covered_mpx: Megapixels of the areas.
        total_mpx: Megapixels that all validation tiles cover.
        predictions: uint16 (outputs, size, size) of each tile that was added, by its row.
    """

    def __init__(self, tiles: TileDataset, *, most_pixels: int = MOST_PIXELS) -> None:
        self.tiles, self.places = tiles, tiles.places.scored
        self.predictions: dict[int, np.ndarray] = {}
        groups = list(iter_groups(tiles.tiles))
        merged = tiles.tiles.scene.isin(tiles.info.merged).to_numpy()
        chosen = choose_by_place(groups, self.places.of_tile, merged, tiles.info.size, most_pixels)
        self.covered_mpx, self.total_mpx = megapixels(chosen), megapixels(groups)
        footprints = read_footprints_of_scenes(tiles.folder)
        self._plans = [
            _AreaPlan(
                tiles,
                rows,
                footprints.get(rows.scene.iloc[0]),
                int(self.places.of_tile[rows.index[0]]),
            )
            for rows in chosen
        ]
        self._areas: list[ValidationArea] | None = None

    @property
    def indices(self) -> list[int]:
        """Rows of the tiles that belong to the areas."""
        return [index for plan in self._plans for index in plan.windows]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are predicted for each pixel."""
        return self.tiles.info.targets

    def reset(self) -> None:
        """Remove all predictions."""
        self.predictions, self._areas = {}, None

    def add(self, indices: Sequence[int], prob: np.ndarray) -> None:
        """Add predicted tiles.

        Args:
            indices: Rows of the tiles in the dataset; tiles outside the areas are ignored.
            prob: (N, outputs, size, size) in 0..1.
        """
        used = set(self.indices)
        for index, one in zip(indices, prob, strict=True):
            if index in used:
                levels = np.rint(np.clip(one, 0, 1) * np.float32(_LEVELS))
                self.predictions[index] = levels.astype(np.uint16)
        self._areas = None

    def predict(self, predict: Predict, batch_size: int = 8) -> None:
        """Predict all tiles of the areas, replacing earlier predictions.

        Args:
            predict: (N, C, size, size), (N, size, size) → probabilities (N, outputs, size, size).
            batch_size: Tiles per prediction.
        """
        self.reset()
        indices = self.indices
        for first in range(0, len(indices), batch_size):
            part = indices[first : first + batch_size]
            self.add(part, predict_tiles(predict, self.tiles, part))

    def areas(self) -> list[ValidationArea]:
        """Return the areas: for each scene, one per connected group of tiles.

        Raises:
            KeyError: If the prediction of a tile is missing.
        """
        if self._areas is None:
            self._areas = [plan.stitch(self.predictions) for plan in self._plans]
        return self._areas

    def score_places(self, thresholds: Thresholds) -> list[tuple[Score, AreaCounts]]:
        """Compare the footprints that the thresholds give with the reference.

        Args:
            thresholds: Thresholds of `vectorize`.

        Returns:
            For each place, in the order of `places.names`: counts of buildings, matched at an IoU
            of 0.5, in the areas of `count_buildings_in`; areas in pixels, of all.
        """
        areas = self.areas()
        return self.add_by_place([(area, area.evaluate(thresholds)) for area in areas])

    def add_by_place(
        self, evaluated: Iterable[tuple[ValidationArea, Evaluation]]
    ) -> list[tuple[Score, AreaCounts]]:
        """Add the counts of areas, for each place in the order of `places.names`.

        Buildings are counted only in the areas of `count_buildings_in`.

        Args:
            evaluated: Areas with their evaluation.
        """
        totals = [(Score(0, 0, 0), AreaCounts(0.0, 0.0, 0.0)) for _ in self.places.names]
        evaluated = list(evaluated)
        counted = count_buildings_in([area for area, _ in evaluated])
        for is_counted, (area, evaluation) in zip(counted, evaluated, strict=True):
            buildings, pixels = totals[area.place]
            # In pixels, since the CRSs of scenes may have different units.
            pixels += evaluation.area / area.grid.pixel_area
            if is_counted:
                buildings += evaluation.score
            totals[area.place] = buildings, pixels
        return totals


def predict_tiles(predict: Predict, tiles: TileDataset, indices: Sequence[int]) -> np.ndarray:
    """Predict probabilities (N, outputs, size, size) of tiles, given by their rows."""
    samples = [tiles[index] for index in indices]
    data = np.stack([sample["image"].numpy() for sample in samples])
    return predict(data, np.stack([sample["valid"].numpy()[0] for sample in samples]))


class _AreaPlan:
    """A connected group of tiles, with everything that does not depend on predictions."""

    def __init__(
        self,
        tiles: TileDataset,
        rows: pd.DataFrame,
        footprints: gpd.GeoDataFrame | None,
        place: int,
    ) -> None:
        self.grid = bounding_grid(tiles, rows)
        top, left = rows.row_off.min(), rows.col_off.min()
        self.windows = {
            index: Window(row.col_off - left, row.row_off - top, row.width, row.height)
            for index, row in zip(rows.index.tolist(), rows.itertuples(), strict=True)
        }
        self._merged = rows.scene.iloc[0] in tiles.info.merged
        self._tiles, self._footprints, self._place = tiles, footprints, place
        self._labels: AreaLabels | None = None

    def stitch(self, predictions: Mapping[int, np.ndarray]) -> ValidationArea:
        """Blend predicted tiles into a validation area."""
        info = self._tiles.info
        total = np.zeros((len(info.targets), *self.grid.shape), np.float32)
        weight = np.zeros(self.grid.shape, np.float32)
        # Weights fall towards all edges; dividing by their sum restores pixels of a single tile.
        ramp = blend_weights(info.size, info.size // 4)
        tile_weights = np.outer(ramp, ramp)
        for index, window in self.windows.items():
            rows_columns = window.toslices()
            weights = tile_weights[: window.height, : window.width]
            prediction = predictions[index][:, : window.height, : window.width]
            total[(..., *rows_columns)] += prediction * (weights / np.float32(_LEVELS))
            weight[rows_columns] += weights
        prob = np.divide(total, weight, out=total, where=weight > 0)
        if self._labels is None:
            self._labels = read_area_labels(self._tiles, self.grid, self.windows, self._footprints)
        target, labelled, outline, truth = self._labels
        return ValidationArea(
            prob, info.targets, target, labelled, self.grid, outline, truth, self.windows,
            self._merged, self._place,
        )  # fmt: skip


class AreaLabels(NamedTuple):
    """Labels of an area; the fields are those of `ValidationArea`."""

    target: np.ndarray
    labelled: np.ndarray
    outline: BaseGeometry
    truth: gpd.GeoDataFrame


def read_area_labels(
    tiles: TileDataset,
    grid: Grid,
    windows: Mapping[int, Window],
    footprints: gpd.GeoDataFrame | None,
) -> AreaLabels:
    """Read the labels of some tiles.

    Args:
        tiles: All tiles of a split.
        grid: Grid of the area.
        windows: Windows of the area's tiles on that grid, by their row in the dataset.
        footprints: Labels in any CRS; None if the labels are a mask, of which each connected
            region then is a building.
    """
    target = np.full(grid.shape, tiles.info.ignore, np.uint8)
    labelled = np.zeros(grid.shape, bool)
    for index, window in windows.items():
        sample, rows_columns = tiles[index], window.toslices()
        inside = (0, slice(int(window.height)), slice(int(window.width)))
        target[rows_columns] = sample["target"].numpy()[inside]
        labelled[rows_columns] |= sample["valid"].numpy()[inside]
    labelled &= target != tiles.info.ignore
    outline = shapely.union_all(_trace_mask(labelled, grid).geometry.to_numpy())
    if footprints is None:
        return AreaLabels(target, labelled, outline, _trace_mask(labelled & (target > 0), grid))
    truth = to_crs_near(footprints, grid.crs, grid)
    truth.geometry = shapely.make_valid(truth.geometry.to_numpy())
    return AreaLabels(target, labelled, outline, truth[truth.intersects(outline)])


def read_footprints_of_scenes(folder: Path) -> dict[str, gpd.GeoDataFrame]:
    """Read the footprints of each scene labelled by polygons, in longitude and latitude."""
    if not has_footprints(folder):
        return {}
    return dict(iter(read_tile_footprints(folder).groupby("scene")))


def _trace_mask(mask: np.ndarray, grid: Grid) -> gpd.GeoDataFrame:
    """Return the outlines of connected regions, along pixel edges."""
    exact = Thresholds(
        body=0.5, seed=0.5, border=0, contact=0, min_area_m2=0, min_hole_m2=0, simplify_m=0,
        subpixel=False, regularize=False,
    )  # fmt: skip
    return vectorize_arrays(mask.astype(np.float32), None, np.ones_like(mask), grid, exact)
