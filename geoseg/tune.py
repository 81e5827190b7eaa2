"""Thresholds tuned on validation ground, through the real vectorize."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from geoseg.dataset import TileDataset, bounding_grid
from geoseg.evaluate import Evaluation, evaluate_layers
from geoseg.grid import Grid
from geoseg.metrics import AreaCounts, Score
from geoseg.options import Thresholds
from geoseg.tiles import read_tile_footprints, tile_window
from geoseg.tiling import blend_weights
from geoseg.vectorize import vectorize_arrays

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Candidates, searched one coordinate after the other: each is a full vectorize.
_CANDIDATES = {
    "body": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "seed": (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
    "border": (0.7, 1.0, 1.4, 2.0),
    "min_area_m2": (3.0, 6.0, 12.0, 20.0),
}
_ROUNDS = 2

# Less than this is the noise of some hundred buildings, and no reason to leave a default.
_LEAST_GAIN = 0.005

# Validation ground beyond this many pixels is left out of the search.
_MOST_PIXELS = 16_000_000


@dataclass(frozen=True)
class Tuned:
    """The best thresholds and the building F1@0.5 that they reach on validation ground.

    None where there is nothing to tune, since each pixel is of its likeliest class.
    """

    thresholds: Thresholds
    f1: float | None


@dataclass(frozen=True)
class Ground:
    """Validation tiles of one scene, predicted and put together.

    Attributes:
        prob: float32 (outputs, H, W).
        outputs: Their names.
        valid: (H, W), False outside the tiles.
        grid: Place on the ground.
        area: Outline of the tiles, in the grid's CRS.
        truth: Footprints, in the grid's CRS.
    """

    prob: np.ndarray
    outputs: tuple[str, ...]
    valid: np.ndarray
    grid: Grid
    area: BaseGeometry
    truth: gpd.GeoDataFrame

    def evaluate(self, thresholds: Thresholds) -> Evaluation:
        """Compares the footprints that the thresholds give with the truth."""
        bands = dict(zip(self.outputs, self.prob, strict=True))
        found = vectorize_arrays(
            self.prob[0], bands.get("border"), self.valid, self.grid, thresholds,
            bands.get("contact"),
        )  # fmt: skip
        return evaluate_layers(found, self.truth, aoi=self.area)


def tune_thresholds(predict: Predict, tiles: TileDataset, *, batch_size: int = 8) -> Tuned:
    """Searches the thresholds: the body's by pixel IoU, the others by building F1@0.5 and it.

    The body's threshold says how far buildings reach, which many pixels tell reliably; building
    F1 is a matter of some hundred buildings, and its noise would move every outline. What
    separates and drops buildings is chosen by the sum of both.

    Args:
        predict: (N, C, H, W), (N, H, W) → probabilities (N, outputs, H, W).
        tiles: Validation tiles.
        batch_size: Tiles per prediction.

    Returns:
        The best thresholds; the defaults where the ground holds no building.
    """
    grounds = list(_iter_grounds(predict, tiles, batch_size))
    scores: dict[Thresholds, tuple[float, float]] = {}

    def score(thresholds: Thresholds) -> tuple[float, float]:
        if thresholds not in scores:
            found = [ground.evaluate(thresholds) for ground in grounds]
            buildings = sum((one.score for one in found), Score(0, 0, 0))
            area = sum((one.area for one in found), AreaCounts(0.0, 0.0, 0.0))
            scores[thresholds] = buildings.f1, area.iou
        return scores[thresholds]

    best = Thresholds()
    for _ in range(_ROUNDS):
        before = best
        for name, values in _CANDIDATES.items():
            choices = [best.model_copy(update={name: value}) for value in values]
            goal = _covered if name == "body" else sum
            winner = max(choices, key=lambda choice: goal(score(choice)))
            if goal(score(winner)) > goal(score(best)) + _LEAST_GAIN:
                best = winner
        if best == before:
            break
    return Tuned(best, score(best)[0])


def _covered(scores: tuple[float, float]) -> float:
    return scores[1]


def _iter_grounds(predict: Predict, tiles: TileDataset, batch_size: int) -> Iterator[Ground]:
    footprints = read_tile_footprints(tiles.folder)
    pixels = 0
    for scene, rows in tiles.tiles.groupby("scene", sort=False):
        for part in _runs(rows, _MOST_PIXELS - pixels, tiles.info.size):
            truth = footprints[footprints.scene == scene]
            ground = _assemble(predict, tiles, part, truth, batch_size)
            pixels += ground.valid.size
            yield ground


def _runs(rows: pd.DataFrame, pixels: int, size: int) -> Iterator[pd.DataFrame]:
    """Tiles that touch each other, as many groups as fit into `pixels`."""
    tree = shapely.box(
        rows.col_off, rows.row_off, rows.col_off + rows.width, rows.row_off + rows.height
    )
    merged = shapely.union_all(tree)
    for area in shapely.get_parts(merged):
        part = rows[shapely.intersects(tree, area.buffer(-0.5))]
        west, north, east, south = area.bounds
        if (east - west) * (south - north) > pixels:  # the top of it, at least a row of tiles
            rows_left = max(size, pixels // (east - west))
            part = part[part.row_off + part.height <= north + rows_left]
            south = north + rows_left
        pixels -= int((east - west) * (south - north))
        yield part
        if pixels <= 0:
            return


def _assemble(
    predict: Predict,
    tiles: TileDataset,
    rows: pd.DataFrame,
    truth: gpd.GeoDataFrame,
    batch_size: int,
) -> Ground:
    grid = bounding_grid(tiles, rows)
    top, left = rows.row_off.min(), rows.col_off.min()
    outputs, size = len(tiles.info.targets), tiles.info.size
    total = np.zeros((outputs, *grid.shape), np.float32)
    weight = np.zeros(grid.shape, np.float32)
    valid = np.zeros(grid.shape, bool)
    # Flanks on every side: the weight is divided out where nothing else covers them.
    flank = blend_weights(size, size // 4)
    flanks = np.outer(flank, flank)
    for start in range(0, len(rows), batch_size):
        part = rows.iloc[start : start + batch_size]
        samples = [tiles[index] for index in part.index]
        data = np.stack([sample["image"].numpy() for sample in samples])
        masks = np.stack([sample["valid"].numpy()[0] for sample in samples])
        for row, prob, mask in zip(part.itertuples(), predict(data, masks), masks, strict=True):
            height, width = row.height, row.width
            y, x = row.row_off - top, row.col_off - left
            place = (..., slice(y, y + height), slice(x, x + width))
            total[place] += prob[:, :height, :width] * flanks[:height, :width]
            weight[place] += flanks[:height, :width]
            valid[place] |= mask[:height, :width]
    prob = np.divide(total, weight, out=total, where=weight > 0)
    area = shapely.union_all([_polygon(row, grid, left, top) for row in rows.itertuples()])
    in_crs = truth.to_crs(grid.crs.to_wkt())
    in_crs.geometry = shapely.make_valid(in_crs.geometry.values)
    return Ground(prob, tiles.info.targets, valid, grid, area, in_crs)


def _polygon(row: object, grid: Grid, left: int, top: int) -> BaseGeometry:
    window = tile_window(row)
    return grid.window_polygon(
        Window(window.col_off - left, window.row_off - top, window.width, window.height)
    )
