"""Scoring of boxes: merged as on a scene and compared with the reference footprints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry
from torch import Tensor

from geoseg.detection.box_arrays import Boxes, box_outlines
from geoseg.detection.box_dataset import iter_scenes
from geoseg.detection.detector import BoxPredictor
from geoseg.detection.merging import BoxMerger
from geoseg.evaluation import Evaluation, evaluate_layers
from geoseg.evaluation.metrics import AreaCounts, Score
from geoseg.evaluation.place_scores import mean_building_f1, mean_iou
from geoseg.geo.aoi import AOI
from geoseg.geo.grid import Grid
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.starting_model import StartingModel
from geoseg.options import Thresholds
from geoseg.training.dataset import TileDataset, tile_corners
from geoseg.training.validation.areas import read_area_labels
from geoseg.training.validation.gain import (
    are_few,
    count_buildings,
    describe_gain,
    is_comparable,
    load_start,
)
from geoseg.training.validation.merged_labels import (
    add_not_counted,
    count_buildings_in,
    describe_merged,
    list_counted_places,
    measure_merged_f1,
)
from geoseg.training.validation.tuning import Tuned, name_counts
from geoseg.vectorization.footprint_frames import concatenate_frames, georeference_outlines

Counts = TypeVar("Counts", bound=AreaCounts)

# Candidate score thresholds.
_CANDIDATES = tuple((np.arange(5, 100, 5) / 100).tolist())

_BATCH = 8


@dataclass(frozen=True, eq=False)
class BoxArea:
    """The validation tiles of one scene.

    Attributes:
        grid: Common grid of the tiles.
        windows: Each tile's window of the grid, by its row in the dataset.
        outline: Outline of the labelled pixels, in the grid's CRS.
        truth: Reference footprints, in the grid's CRS.
        merged: Whether the labels merge touching buildings.
        place: Number of its place.
    """

    grid: Grid
    windows: Mapping[int, Window]
    outline: BaseGeometry
    truth: gpd.GeoDataFrame
    merged: bool = False
    place: int = 0

    @property
    def aoi(self) -> AOI:
        """The area as an area of interest."""
        return AOI((self.outline,), self.truth.crs)

    def merge(self, predictions: Mapping[int, Boxes]) -> gpd.GeoDataFrame:
        """Return the boxes of the tiles as footprints, merged as in `geoseg predict`.

        Validation tiles overlap more than the tiles of a scene, so that more boxes are merged.
        """
        merger = BoxMerger()
        for index, window in self.windows.items():
            merger.add(window, predictions[index])
        outlines = [box_outlines(merger.flush())]
        return concatenate_frames(
            georeference_outlines(outlines, self.grid, Thresholds().min_area_m2), self.grid
        )


@dataclass(frozen=True)
class BoxScore:
    """Agreement of boxes with the reference; scores are means over places, see `place_scores`.

    Attributes:
        threshold: The score threshold with the highest building F1@0.5.
        f1: Building F1@0.5 at that threshold.
        iou: IoU of the areas that boxes above the threshold and footprints cover.
        buildings: Counts of the buildings of each place that count, by its number.
        merged: Counts of buildings where labels merge touching buildings and which `f1` does not
            contain, by the number of the place.
        pixels: Areas of each place, in pixels.
    """

    threshold: float
    f1: float
    iou: float
    buildings: Sequence[Score] = ()
    merged: Mapping[int, Score] = field(default_factory=dict)
    pixels: Sequence[AreaCounts] = ()


def build_areas(tiles: TileDataset) -> list[BoxArea]:
    """Build the validation area of each scene of a dataset."""
    areas = []
    for rows, grid, truth in iter_scenes(tiles):
        corners = tile_corners(rows)
        windows = {
            int(index): Window(left, top, right - left, bottom - top)
            for index, (left, top, right, bottom) in zip(rows.index, corners.tolist(), strict=True)
        }
        if _is_labelled(rows):
            outline = shapely.union_all(
                [grid.window_polygon(window) for window in windows.values()]
            )
            # Of other splits, too; an area must not seem to have their buildings.
            truth = truth[truth.intersects(outline)]
        else:
            _, _, outline, truth = read_area_labels(tiles, grid, windows, truth)
        place = int(tiles.places.scored.of_tile[rows.index[0]])
        merged = rows.scene.iloc[0] in tiles.info.merged
        areas.append(BoxArea(grid, windows, outline, truth, merged, place))
    return areas


def score_boxes(
    areas: Sequence[BoxArea],
    predictions: Mapping[int, Boxes],
    candidates: Sequence[float] = _CANDIDATES,
) -> BoxScore:
    """Find the best score threshold over all areas where buildings count, and score its boxes.

    Args:
        areas: Validation areas.
        predictions: Boxes of each tile, in pixels of the tile, by its row in the dataset.
        candidates: Score thresholds to choose from.
    """
    layers = [area.merge(predictions) for area in areas]
    evaluations = [
        evaluate_layers(layer, area.truth, aoi=area.aoi)
        for layer, area in zip(layers, areas, strict=True)
    ]
    counted = count_buildings_in(areas)
    counts = [
        _add_by_place(areas, _count_if(counted, evaluations, min_score)) for min_score in candidates
    ]
    f1 = np.array([mean_building_f1(places) for places in counts])
    # The middle of the best thresholds, which is the most robust choice.
    best = np.flatnonzero(f1 == f1.max())
    middle = int(best[len(best) // 2])
    threshold = float(candidates[middle])
    confident = [
        evaluate_layers(layer[layer.confidence >= threshold], area.truth, aoi=area.aoi)
        for layer, area in zip(layers, areas, strict=True)
    ]
    # In pixels, since the CRSs of scenes may have different units.
    pixels = _add_by_place(
        areas,
        [
            evaluation.area / area.grid.pixel_area
            for evaluation, area in zip(confident, areas, strict=True)
        ],
    )
    merged = add_not_counted(areas, [_count_buildings(one, threshold) for one in evaluations])
    return BoxScore(threshold, float(f1.max()), mean_iou(pixels), counts[middle], merged, pixels)


def tune_boxes(
    spec: ModelSpec,
    weights: dict[str, Tensor],
    device: str,
    tiles: TileDataset,
    start: StartingModel | None = None,
) -> Tuned:
    """Search the score threshold with the highest building F1@0.5 on validation tiles.

    Args:
        spec: The model's header.
        weights: Its state dict.
        device: `auto`, `cpu` or `gpu`.
        tiles: Validation tiles.
        start: The model that training continued from.

    Returns:
        Thresholds whose `body` is that threshold; with few validation buildings, that of the model
        that training continued from.
    """
    areas = build_areas(tiles)
    boxes = _predict_boxes(BoxPredictor(spec, weights, device), tiles)
    gain: tuple[str, ...] = ()
    before_weights = load_start(start) if start and is_comparable(start, spec) else None
    if start and before_weights:
        earlier = BoxPredictor(start.spec, before_weights, device)
        own, known = (start.spec.thresholds.body,), count_buildings(areas)
        before = score_boxes(areas, _predict_boxes(earlier, tiles), own)
        score = score_boxes(areas, boxes, own if are_few(known) else _CANDIDATES)
        gain = describe_gain(start.name, before.f1, score.f1, known)
    else:
        score = score_boxes(areas, boxes)
    names = tiles.places.scored.names
    counted = {place: score.buildings[place] for place in list_counted_places(areas)}
    merged_f1 = measure_merged_f1(score.merged)
    return Tuned(
        Thresholds(body=score.threshold),
        score.f1,
        merged_f1=merged_f1,
        notes=(*describe_merged(areas, merged_f1), *gain),
        places=name_counts(names, counted),
        merged_places=name_counts(names, score.merged),
    )


def _predict_boxes(predictor: BoxPredictor, tiles: TileDataset) -> dict[int, Boxes]:
    """Return the boxes of each tile, by its row."""
    predictions: dict[int, Boxes] = {}
    for first in range(0, len(tiles), _BATCH):
        indexes = range(first, min(first + _BATCH, len(tiles)))
        samples = [tiles[index] for index in indexes]
        data = np.stack([sample["image"].numpy() for sample in samples])
        valid = np.stack([sample["valid"][0].numpy() for sample in samples])
        predictions |= zip(indexes, predictor(data, valid), strict=True)
    return predictions


def _is_labelled(rows: pd.DataFrame) -> bool:
    """Whether tiles have neither nodata nor unlabelled pixels."""
    labelled = np.sum(rows.class_pixels.tolist(), axis=1)
    return bool((labelled == rows.height.to_numpy() * rows.width.to_numpy()).all())


def _add_by_place(areas: Sequence[BoxArea], counts: Sequence[Counts]) -> list[Counts]:
    """Return the sums of the counts of areas, for each place by its number."""
    places: dict[int, Counts] = {}
    for area, counted in zip(areas, counts, strict=True):
        known = places.get(area.place)
        places[area.place] = counted if known is None else known + counted
    return [places[number] for number in sorted(places)]


def _count_if(
    counted: Sequence[bool], evaluations: Sequence[Evaluation], min_score: float
) -> list[Score]:
    """Return the counts of the boxes of at least this score; none in areas that do not count."""
    return [
        _count_buildings(one, min_score) if is_counted else Score(0, 0, 0)
        for is_counted, one in zip(counted, evaluations, strict=True)
    ]


def _count_buildings(evaluation: Evaluation, min_score: float) -> Score:
    """Return the counts of the boxes of at least this score.

    Boxes are matched in descending order of score, so that removing boxes of lower scores does not
    change the other matches.
    """
    kept = evaluation.pred.confidence.to_numpy() >= min_score
    tp = int(np.count_nonzero(evaluation.matches.proposal_match[kept] >= 0))
    return Score(tp, int(kept.sum()) - tp, len(evaluation.truth) - tp)
