"""Boxes of validation tiles, stitched as on a scene and compared with the true footprints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry
from torch import Tensor

from geoseg.boxes.box_arrays import Boxes, outlines_of
from geoseg.boxes.box_dataset import iter_scenes
from geoseg.boxes.detector import BoxPredictor
from geoseg.boxes.merging import BoxMerger
from geoseg.evaluation import Evaluation, evaluate_layers
from geoseg.evaluation.metrics import AreaCounts, Score
from geoseg.geo.aoi import AOI
from geoseg.geo.grid import Grid
from geoseg.networks.model_file import ModelSpec
from geoseg.options import Thresholds
from geoseg.training.dataset import TileDataset, tile_corners
from geoseg.training.validation.areas import read_labelled
from geoseg.training.validation.tuning import Tuned
from geoseg.vectorization.footprint_frames import concatenate_frames, georeference_outlines

# Least scores to choose from.
_CANDIDATES = np.arange(5, 100, 5) / 100

_BATCH = 8


@dataclass(frozen=True, eq=False)
class BoxGround:
    """The validation ground of one scene.

    Attributes:
        grid: Place of its tiles on the ground.
        windows: Each tile's window of the grid, by its row in the dataset.
        area: Outline of what is known, in the grid's CRS.
        truth: Footprints, in the grid's CRS.
    """

    grid: Grid
    windows: Mapping[int, Window]
    area: BaseGeometry
    truth: gpd.GeoDataFrame

    @property
    def aoi(self) -> AOI:
        """The area as an area of interest."""
        return AOI((self.area,), self.truth.crs)

    def lay_out(self, found: Mapping[int, Boxes]) -> gpd.GeoDataFrame:
        """The boxes of the ground's tiles as footprints, stitched as `geoseg predict` does.

        Validation tiles overlap by more than a scene's, so ground is seen more often here.
        """
        stitcher = BoxMerger()
        for index, window in self.windows.items():
            stitcher.add(window, found[index])
        outlines = [outlines_of(stitcher.advance())]
        return concatenate_frames(
            georeference_outlines(outlines, self.grid, Thresholds().min_area_m2), self.grid
        )


@dataclass(frozen=True)
class Verdict:
    """How well boxes fit the truth.

    Attributes:
        threshold: The least score with which building F1@0.5 is greatest.
        f1: That F1.
        iou: Of the ground that those boxes and the footprints cover.
    """

    threshold: float
    f1: float
    iou: float


def build_grounds(tiles: TileDataset) -> list[BoxGround]:
    """The ground of each scene that a dataset has tiles of."""
    grounds = []
    for rows, grid, truth in iter_scenes(tiles):
        corners = tile_corners(rows)
        windows = {
            int(index): Window(left, top, right - left, bottom - top)
            for index, (left, top, right, bottom) in zip(rows.index, corners.tolist(), strict=True)
        }
        if _is_known(rows):
            area = shapely.union_all([grid.window_polygon(one) for one in windows.values()])
        else:
            _, _, area, truth = read_labelled(tiles, grid, windows, truth)
        grounds.append(BoxGround(grid, windows, area, truth))
    return grounds


def judge(grounds: Sequence[BoxGround], found: Mapping[int, Boxes]) -> Verdict:
    """Finds the least score that suits all grounds together, and what it reaches.

    Args:
        grounds: Validation ground.
        found: Boxes of each tile, in its own pixels, by its row in the dataset.
    """
    layers = [ground.lay_out(found) for ground in grounds]
    everything = [
        evaluate_layers(layer, ground.truth, aoi=ground.aoi)
        for layer, ground in zip(layers, grounds, strict=True)
    ]
    rates = np.array([_f1(everything, least) for least in _CANDIDATES])
    best = np.flatnonzero(rates == rates.max())
    threshold = float(_CANDIDATES[best[len(best) // 2]])  # far from where the next is worse
    sure = [
        evaluate_layers(layer[layer.confidence >= threshold], ground.truth, aoi=ground.aoi)
        for layer, ground in zip(layers, grounds, strict=True)
    ]
    # Scenes may have units of their own.
    areas = (one.area / ground.grid.pixel_area for one, ground in zip(sure, grounds, strict=True))
    return Verdict(threshold, float(rates.max()), sum(areas, AreaCounts(0.0, 0.0, 0.0)).iou)


def tune_boxes(
    spec: ModelSpec,
    weights: dict[str, Tensor],
    device: str,
    tiles: TileDataset,
) -> Tuned:
    """Searches the least score whose building F1@0.5 on validation ground is greatest.

    Args:
        spec: The model's header.
        weights: Its state dict.
        device: `auto`, `cpu` or `gpu`.
        tiles: Validation tiles.

    Returns:
        Thresholds whose `body` is that score.
    """
    predictor = BoxPredictor(spec, weights, device)
    found: dict[int, Boxes] = {}
    for start in range(0, len(tiles), _BATCH):
        indexes = range(start, min(start + _BATCH, len(tiles)))
        samples = [tiles[index] for index in indexes]
        data = np.stack([sample["image"].numpy() for sample in samples])
        valid = np.stack([sample["valid"][0].numpy() for sample in samples])
        found |= zip(indexes, predictor(data, valid), strict=True)
    verdict = judge(build_grounds(tiles), found)
    return Tuned(Thresholds(body=verdict.threshold), verdict.f1)


def _is_known(rows: pd.DataFrame) -> bool:
    """Whether tiles hold neither nodata nor ground that was not labelled."""
    known = np.sum(rows.class_pixels.tolist(), axis=1)
    return bool((known == (rows.height * rows.width).to_numpy()).all())


def _f1(evaluations: Sequence[Evaluation], least: float) -> float:
    """Building F1 of the boxes of at least some score.

    The surest choose first, so leaving out the others changes none of their matches.
    """
    total = Score(0, 0, 0)
    for one in evaluations:
        sure = one.pred.confidence.to_numpy() >= least
        tp = int(np.count_nonzero(one.matches.proposal_match[sure] >= 0))
        total += Score(tp, int(sure.sum()) - tp, len(one.truth) - tp)
    return total.f1
