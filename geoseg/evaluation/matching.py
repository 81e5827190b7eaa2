"""Comparison of two vector layers, by building and by area."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.geometry import Polygon

from geoseg.credentials import get_logger
from geoseg.errors import GridMismatchError, MissingCRSError
from geoseg.evaluation.metrics import (
    AreaCounts,
    Matches,
    Score,
    compare_areas,
    match_footprints,
    spacenet_filter,
)
from geoseg.geo.aoi import AOI
from geoseg.geo.crs import build_transformer, has_location, is_same_crs, x_period
from geoseg.geo.grid import unit_m
from geoseg.geo.vector import check_range, keep_polygons, read_footprints

logger = get_logger(__name__)

# Layers of a village in which nothing was found right are this near, metres.
_NEAR_M = 1000.0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Result of comparing two layers.

    Attributes:
        pred: Footprints that were compared, clipped, with their original index.
        truth: True footprints that were compared, clipped, with their original index.
        matches: Matches by position in `pred` and `truth`.
        area: Areas of both layers and one layer only, in square units of their CRS.
    """

    pred: gpd.GeoDataFrame
    truth: gpd.GeoDataFrame
    matches: Matches
    area: AreaCounts

    @property
    def score(self) -> Score:
        """Counts of buildings."""
        return self.matches.score

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the matched pairs, 0.0 without matches."""
        return self.matches.iou_sum / max(self.matches.tp, 1)


def read_layers(
    footprints: str | Path,
    truth: str | Path,
    aoi: str | Path | None,
    where: str | None,
    *,
    boxes: bool = False,
) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame, AOI | None, CRS]:
    """Read the layers and the area of interest, reprojected to one CRS.

    Args:
        footprints: See `evaluate_footprints`.
        truth: See `evaluate_footprints`.
        aoi: See `evaluate_footprints`.
        where: See `evaluate_footprints`.
        boxes: Replace all footprints by their bounding boxes in the CRS of `footprints`.

    Returns:
        Footprints, truth and area of interest in the CRS of the comparison, and the CRS of the
        truth.
    """
    pred = read_footprints(footprints, numbered=True)
    true = read_footprints(truth, where=where, numbered=True)
    for layer, path in ((pred, footprints), (true, truth)):
        check_range(layer, path)
    crs = true.crs
    if boxes:
        true = _project(true, pred.crs, truth)
        pred, true = (_set_geometries(one, one.geometry.envelope.array) for one in (pred, true))
    working_crs = crs
    if _needs_local_crs(crs, pred, true):
        working_crs = _equal_area_crs(pred if true.empty else true)
    pred, true = _project(pred, working_crs, footprints), _project(true, working_crs, truth)
    if aoi is None:
        _check_overlap(pred, true, footprints, truth)
        return pred, true, None, crs
    bounds = pd.concat([pred.geometry, true.geometry]).total_bounds
    area = AOI.read(aoi, working_crs, bounds=tuple(bounds))
    if not any(area.intersects(layer).any() for layer in (pred, true)):
        raise GridMismatchError(
            f"{aoi}: the area of interest intersects neither {footprints} nor {truth}; check that "
            "it covers the same area"
        )
    return pred, true, area, crs


def _check_overlap(
    pred: gpd.GeoDataFrame, true: gpd.GeoDataFrame, footprints: str | Path, truth: str | Path
) -> None:
    """Raise if the layers are far apart; warn if most of the truth is outside the footprints.

    Footprints that are all wrong need not overlap the truth: a score of 0 is a score.
    """
    if pred.empty or true.empty:
        return
    extents = [shapely.box(*layer.total_bounds) for layer in (pred, true)]
    outside = int((~shapely.intersects(extents[0], geometry_array(true))).sum())
    near = max(*(np.hypot(*_sides(extent)) for extent in extents), _NEAR_M / unit_m(pred.crs))
    if extents[0].distance(extents[1]) > near:
        raise GridMismatchError(
            f"{footprints} and {truth}: do not overlap and are far apart; check that both cover "
            "the same area, and their CRS"
        )
    if outside > len(true) / 2:
        logger.warning(
            "%d of %d buildings of %s are outside the extent of the footprints and count as "
            "missed; restrict the area with --aoi",
            outside,
            len(true),
            truth,
        )


def _sides(extent: Polygon) -> tuple[float, float]:
    left, bottom, right, top = extent.bounds
    return right - left, top - bottom


def evaluate_layers(
    pred: gpd.GeoDataFrame,
    truth: gpd.GeoDataFrame,
    *,
    aoi: AOI | None = None,
    threshold: float = 0.5,
    min_area_m2: float = 0.0,
) -> Evaluation:
    """Compare two layers in memory.

    Args:
        pred: Valid footprints, optionally with a column `confidence`; may be empty.
        truth: Valid true footprints in the same CRS; may be empty.
        aoi: Area of interest in the same CRS, to which both layers are clipped.
        threshold: IoU that a match must exceed.
        min_area_m2: Smaller footprints are ignored, after clipping to `aoi`; in square units of
            the coordinates if the layers have no CRS.

    Returns:
        Matches, counts and areas.

    Raises:
        GridMismatchError: If the layers differ in CRS.
    """
    if pred.crs != truth.crs:
        raise GridMismatchError(
            f"the CRS of the footprints is {pred.crs and pred.crs.name}, that of the truth "
            f"{truth.crs and truth.crs.name}; reproject one of them with to_crs"
        )
    if aoi is not None:
        pred, truth = aoi.clip(pred), aoi.clip(truth)
    in_pred, in_truth = spacenet_filter(
        _areas(pred, min_area_m2), _areas(truth, min_area_m2), min_area_m2
    )
    pred, truth = pred[in_pred], truth[in_truth]
    proposals, truths = geometry_array(pred), geometry_array(truth)
    matches = match_footprints(
        proposals, truths, confidence=layer_confidence(pred), threshold=threshold
    )
    return Evaluation(pred, truth, matches, compare_areas(proposals, truths))


def _needs_local_crs(crs: CRS, *layers: gpd.GeoDataFrame) -> bool:
    """Return whether layers cannot be compared in a CRS: it is in degrees, or ends among them."""
    if not has_location(crs):
        return False
    return bool(crs.is_geographic) or any(_crosses_end_of_x(layer, crs) for layer in layers)


def _crosses_end_of_x(layer: gpd.GeoDataFrame, crs: CRS) -> bool:
    """Return whether a layer is at both ends of a periodic CRS or continues beyond one of them."""
    period = x_period(crs)
    if period is None or layer.empty:
        return False
    try:
        left, _, right, _ = _project(layer, crs, "layer").total_bounds
    except (GridMismatchError, MissingCRSError):  # reported later
        return False
    rounding = 1e-9 * period.size
    inside = left >= period.range[0] - rounding and right <= period.range[1] + rounding
    return not inside or right - left > period.size / 2


def _equal_area_crs(layer: gpd.GeoDataFrame) -> CRS:
    """Return a Lambert azimuthal equal-area CRS centred on a layer."""
    bounds = (0.0, 0.0, 0.0, 0.0) if layer.empty else tuple(layer.total_bounds)
    try:
        to_degrees = Transformer.from_crs(layer.crs, 4326, always_xy=True)
        west, south, east, north = to_degrees.transform_bounds(*bounds)
        # Across the antimeridian `east` is less than `west`.
        longitude, latitude = west + (east - west) % 360 / 2, (south + north) / 2
        if (east - west) % 360 > 180:  # at both ends of the longitudes
            longitude = _mean_longitude(layer, to_degrees)
        return CRS(f"+proj=laea +lat_0={latitude:.6f} +lon_0={longitude:.6f} +datum=WGS84")
    except ProjError as error:
        raise GridMismatchError(
            f"coordinates near ({bounds[0]:.6g}, {bounds[1]:.6g}) are not valid in "
            f"{layer.crs.name}; assign the layer's true CRS with ogr2ogr -a_srs EPSG:CODE"
        ) from error


def _mean_longitude(layer: gpd.GeoDataFrame, to_degrees: Transformer) -> float:
    """Return the mean direction of a layer's vertices from the Earth's axis, in degrees."""
    longitudes, _ = to_degrees.transform(*shapely.get_coordinates(layer.geometry.array).T)
    angles = np.radians(longitudes[np.isfinite(longitudes)])
    return float(np.degrees(np.arctan2(np.sin(angles).sum(), np.cos(angles).sum())))


def _project(layer: gpd.GeoDataFrame, crs: CRS, path: str | Path) -> gpd.GeoDataFrame:
    if layer.crs == crs:
        return layer
    if is_same_crs(layer.crs, crs):
        return layer.set_crs(crs, allow_override=True)
    build_transformer(layer.crs, crs, path)  # raises if one of the two is a local CRS
    try:
        layer = layer.to_crs(crs)
        finite = layer.empty or bool(np.isfinite(layer.total_bounds).all())
    except ProjError:
        finite = False
    if not finite:
        raise GridMismatchError(
            f"{path}: cannot be reprojected to {crs.name} for the comparison; check that both "
            "layers cover the same area and have the right CRS"
        )
    return _set_geometries(layer, keep_polygons(shapely.make_valid(geometry_array(layer))))


def _areas(layer: gpd.GeoDataFrame, min_area_m2: float) -> np.ndarray:
    """Return areas in square metres, or in CRS units if there is no minimum area."""
    if min_area_m2 > 0 and layer.crs is not None and not layer.empty:
        if not has_location(layer.crs):
            return np.asarray(shapely.area(geometry_array(layer)) * unit_m(layer.crs) ** 2)
        layer = layer.to_crs(_equal_area_crs(layer))
    areas: np.ndarray = shapely.area(geometry_array(layer))
    return areas


def geometry_array(layer: gpd.GeoDataFrame) -> np.ndarray:
    """Return the geometries of a layer as a new array (N,)."""
    return np.array(layer.geometry.array, dtype=object)


def _set_geometries(layer: gpd.GeoDataFrame, geometries: np.ndarray) -> gpd.GeoDataFrame:
    return layer.set_geometry(gpd.GeoSeries(geometries, index=layer.index, crs=layer.crs))


def layer_confidence(pred: gpd.GeoDataFrame) -> np.ndarray | None:
    """Return the confidence of each footprint (N,), or None if the layer has no such column."""
    if "confidence" not in pred:
        return None
    numbers = pd.to_numeric(pred["confidence"], errors="coerce")
    confidence: np.ndarray = numbers.to_numpy(dtype=float, na_value=np.nan)
    return confidence
