"""Compares two vector layers, by building and by area."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.geometry.base import BaseGeometry

from geoseg.errors import GridMismatchError
from geoseg.evaluation.metrics import (
    AreaCounts,
    Matches,
    Score,
    compare_areas,
    match_footprints,
    spacenet_filter,
)
from geoseg.geo.vector import read_footprints, union_aoi

logger = logging.getLogger(__name__)

# A building that only touches the area of interest leaves a part of rounding size inside.
_SLIVER_SHARE = 1e-8

_POLYGONAL = (3, 6)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Two layers compared.

    Attributes:
        pred: The footprints that counted, clipped, with their index.
        truth: The truths that counted, clipped, with their index.
        matches: Which matched which, by position in `pred` and `truth`.
        area: Ground covered by both or one, in square units of the layers' CRS.
    """

    pred: gpd.GeoDataFrame
    truth: gpd.GeoDataFrame
    matches: Matches
    area: AreaCounts

    @property
    def score(self) -> Score:
        """Agreement in buildings."""
        return self.matches.score

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the matched pairs, 0.0 without any."""
        return self.matches.iou_sum / max(self.matches.tp, 1)


def read_layers(
    footprints: str | Path, truth: str | Path, aoi: str | Path | None, where: str | None
) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame, BaseGeometry | None, CRS]:
    """Footprints, truth and area of interest in the CRS to compare in, and the truth's CRS."""
    pred, true = read_footprints(footprints), read_footprints(truth, where=where)
    crs = true.crs
    working_crs = _equal_area_crs(pred if true.empty else true) if crs.is_geographic else crs
    pred, true = _project(pred, working_crs, footprints), _project(true, working_crs, truth)
    if aoi is None:
        _check_overlap(pred, true, footprints, truth)
        return pred, true, None, crs
    area = union_aoi(aoi, working_crs)
    shapely.prepare(area)
    if not any(shapely.intersects(area, geometry_array(layer)).any() for layer in (pred, true)):
        raise GridMismatchError(
            f"{aoi}: the area of interest meets neither {footprints} nor {truth}; check that it "
            "is of the same place"
        )
    return pred, true, area, crs


def _check_overlap(
    pred: gpd.GeoDataFrame, true: gpd.GeoDataFrame, footprints: str | Path, truth: str | Path
) -> None:
    """Refuses layers of two places, and says when most of the truth lies beyond the footprints."""
    if pred.empty or true.empty:
        return
    extent = shapely.box(*pred.total_bounds)
    outside = int((~shapely.intersects(extent, geometry_array(true))).sum())
    if outside == len(true):
        raise GridMismatchError(
            f"{footprints} and {truth} lie apart from each other; check that both are of the same "
            "place, and their CRS"
        )
    if outside > len(true) / 2:
        logger.warning(
            "%d of %d buildings of %s lie beyond the footprints and count as missed; restrict the "
            "area with --aoi",
            outside,
            len(true),
            truth,
        )


def evaluate_layers(
    pred: gpd.GeoDataFrame,
    truth: gpd.GeoDataFrame,
    *,
    aoi: BaseGeometry | None = None,
    threshold: float = 0.5,
    min_area_m2: float = 0.0,
) -> Evaluation:
    """Compares two layers of one CRS without touching a file.

    Args:
        pred: Valid footprints, with or without a column `confidence`; may be empty.
        truth: Valid truths; may be empty.
        aoi: Area in the same CRS to which both are clipped.
        threshold: IoU that a match must exceed.
        min_area_m2: Smaller footprints do not count, parts inside `aoi` included; in square
            units of the coordinates where the layers have no CRS.

    Returns:
        Matches, counts and areas.

    Raises:
        GridMismatchError: If the layers differ in CRS.
    """
    if pred.crs != truth.crs:
        raise GridMismatchError(
            f"the footprints lie in {pred.crs and pred.crs.name}, the truth in "
            f"{truth.crs and truth.crs.name}; bring both to one with to_crs"
        )
    if aoi is not None:
        pred, truth = _clip(pred, aoi), _clip(truth, aoi)
    in_pred, in_truth = spacenet_filter(
        _areas(pred, min_area_m2), _areas(truth, min_area_m2), min_area_m2
    )
    pred, truth = pred[in_pred], truth[in_truth]
    proposals, truths = geometry_array(pred), geometry_array(truth)
    matches = match_footprints(
        proposals, truths, confidence=layer_confidence(pred), threshold=threshold
    )
    return Evaluation(pred, truth, matches, compare_areas(proposals, truths))


def _equal_area_crs(layer: gpd.GeoDataFrame) -> CRS:
    """Lambert azimuthal equal-area around a layer, in which IoU and areas are true."""
    bounds = (0.0, 0.0, 0.0, 0.0) if layer.empty else tuple(layer.total_bounds)
    try:
        to_degrees = Transformer.from_crs(layer.crs, 4326, always_xy=True)
        west, south, east, north = to_degrees.transform_bounds(*bounds)
        # East of the antimeridian `east` is the smaller one.
        longitude, latitude = west + (east - west) % 360 / 2, (south + north) / 2
        return CRS(f"+proj=laea +lat_0={latitude:.6f} +lon_0={longitude:.6f} +datum=WGS84")
    except ProjError as error:
        raise GridMismatchError(
            f"coordinates of about ({bounds[0]:.6g}, {bounds[1]:.6g}) are no place in "
            f"{layer.crs.name}; name the layer's true CRS with ogr2ogr -a_srs EPSG:CODE"
        ) from error


def _project(layer: gpd.GeoDataFrame, crs: CRS, path: str | Path) -> gpd.GeoDataFrame:
    if layer.crs == crs:
        return layer
    try:
        layer = layer.to_crs(crs)
        placed = layer.empty or bool(np.isfinite(layer.total_bounds).all())
    except ProjError:
        placed = False
    if not placed:
        raise GridMismatchError(
            f"{path}: cannot be brought to {crs.name}, in which the two are compared; check that "
            "both are of the same place and name the right CRS"
        )
    return _with_shapes(layer, _polygonal(shapely.make_valid(geometry_array(layer))))


def _clip(layer: gpd.GeoDataFrame, aoi: BaseGeometry) -> gpd.GeoDataFrame:
    shapely.prepare(aoi)
    layer = layer[shapely.intersects(aoi, geometry_array(layer))]
    shapes = geometry_array(layer)
    border = ~shapely.covers(aoi, shapes)
    whole = shapely.area(shapes)
    shapes[border] = _polygonal(shapely.intersection(shapes[border], aoi))
    return _with_shapes(layer, shapes)[shapely.area(shapes) > _SLIVER_SHARE * whole]


def _polygonal(shapes: np.ndarray) -> np.ndarray:
    """Drops the points and lines that an overlay leaves beside polygons."""
    mixed = ~np.isin(shapely.get_type_id(shapes), _POLYGONAL)
    shapes[mixed] = shapely.buffer(shapes[mixed], 0)
    return shapes


def _areas(layer: gpd.GeoDataFrame, min_area_m2: float) -> np.ndarray:
    """Areas in square metres, or in any unit where nothing depends on it."""
    if min_area_m2 > 0 and layer.crs is not None and not layer.empty:
        layer = layer.to_crs(_equal_area_crs(layer))
    areas: np.ndarray = shapely.area(geometry_array(layer))
    return areas


def geometry_array(layer: gpd.GeoDataFrame) -> np.ndarray:
    """The geometries of a layer, as an array of one's own."""
    return np.array(layer.geometry.array, dtype=object)


def _with_shapes(layer: gpd.GeoDataFrame, shapes: np.ndarray) -> gpd.GeoDataFrame:
    return layer.set_geometry(gpd.GeoSeries(shapes, index=layer.index, crs=layer.crs))


def layer_confidence(pred: gpd.GeoDataFrame) -> np.ndarray | None:
    """The confidence of each footprint, or None where the layer says nothing of it."""
    if "confidence" not in pred:
        return None
    numbers = pd.to_numeric(pred["confidence"], errors="coerce")
    confidence: np.ndarray = numbers.to_numpy(dtype=float, na_value=np.nan)
    return confidence
