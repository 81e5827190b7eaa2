"""The area that a model was trained in, and a warning if its footprints are evaluated there."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
from shapely.geometry.base import BaseGeometry

from geoseg.credentials import get_logger
from geoseg.geo.crs import as_crs, has_location
from geoseg.geo.raster import TRAINING_AREA_TAG, is_raster, read_tags
from geoseg.geo.training_area import parse_area
from geoseg.geo.vector import to_crs_densified, wrap_lonlat
from geoseg.jobs.manifest import read_manifest

logger = get_logger(__name__)

# Raster in an output folder of predict whose tags describe all files in it.
_PROB_NAME = "prob.tif"

# Rounding may move the edge of an area that is next to that of the training by this share.
_LEAST_SHARE = 0.001


def read_training_area(predicted: str | Path) -> BaseGeometry | None:
    """Read the area of the training and validation tiles of the model that made a file.

    Args:
        predicted: A raster that predict wrote, or a layer in an output folder of predict.

    Returns:
        The area in longitude and latitude; None if it is not known.
    """
    path = Path(predicted)
    if not path.is_file():
        return None
    beside = path.parent / _PROB_NAME
    if {path.name, _PROB_NAME} <= read_manifest(path.parent) and beside.is_file():
        path = beside
    text = read_tags(path).get(TRAINING_AREA_TAG) if is_raster(path) else None
    return None if text is None else parse_area(text)


def warn_of_training_buildings(predicted: str | Path, truth: gpd.GeoDataFrame) -> None:
    """Warn if true buildings that are compared are where the model was trained."""
    if truth.empty or not has_location(truth.crs):
        return
    area = read_training_area(predicted)
    if area is None:
        return
    points = truth.geometry.representative_point().to_crs(4326)
    inside = int(points.intersects(area).sum())
    if inside:
        _warn(predicted, f"{inside} of {len(truth)} true buildings are")


def warn_of_training_pixels(predicted: str | Path, compared: BaseGeometry, crs: str) -> None:
    """Warn if part of the area that is compared, in a CRS, is where the model was trained."""
    area = read_training_area(predicted) if has_location(as_crs(crs)) else None
    if area is None:
        return
    layer = gpd.GeoDataFrame(geometry=[compared], crs=crs)
    whole = wrap_lonlat(to_crs_densified(layer, 4326).union_all())
    share = whole.intersection(area).area / whole.area if whole.area else 0.0
    if share > _LEAST_SHARE:
        _warn(predicted, f"{share:.0%} of the area is")


def _warn(predicted: str | Path, what: str) -> None:
    logger.warning(
        "%s: %s inside the training and validation areas of its model, so the scores are better "
        "than elsewhere; compare an area that was not used, such as --aoi TILES/test.geojson",
        predicted,
        what,
    )
