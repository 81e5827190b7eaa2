"""Evaluation of SpaceNet submissions: two CSV files in pixel coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import shapely
from shapely.errors import ShapelyError

from geoseg.errors import VectorReadError
from geoseg.evaluation.matching import evaluate_layers
from geoseg.evaluation.metrics import AreaCounts, Score
from geoseg.evaluation.report import score_fields

_CSV_COLUMNS = ("ImageId", "PolygonWKT_Pix", "Confidence")
# For images that occur in one of the files only.
_NO_ROWS = gpd.GeoDataFrame(geometry=[])


def score_spacenet(
    footprints: str | Path, truth: str | Path, threshold: float, min_area_px2: float
) -> dict[str, Any]:
    """Score a submission; return the fields of its report: images, cities and sums."""
    pred, true = _read_csv(footprints), _read_csv(truth)
    images: dict[str, Score] = {}
    cities: dict[str, Score] = {}
    area, iou_sum = AreaCounts(0.0, 0.0, 0.0), 0.0
    for image in sorted(pred.keys() | true.keys()):
        evaluation = evaluate_layers(
            pred.get(image, _NO_ROWS),
            true.get(image, _NO_ROWS),
            threshold=threshold,
            min_area_m2=min_area_px2,
        )
        # Ids are like AOI_2_Vegas_img12: the city, then the image.
        city = image.rpartition("_")[0] or image
        images[image] = evaluation.score
        cities[city] = cities.get(city, Score(0, 0, 0)) + evaluation.score
        area += evaluation.area
        iou_sum += evaluation.matches.iou_sum
    return {
        **score_fields(sum(images.values(), Score(0, 0, 0)), area, iou_sum),
        "min_area_px2": min_area_px2,
        "spacenet_score": sum(score.f1 for score in cities.values()) / max(len(cities), 1),
        "cities": tuple(_row("city", *item) for item in cities.items()),
        "images": tuple(_row("ImageId", *item) for item in images.items()),
    }


def _read_csv(path: str | Path) -> dict[str, gpd.GeoDataFrame]:
    """Read a SpaceNet CSV as one layer in pixel coordinates per image."""
    try:
        rows = pd.read_csv(path, usecols=_CSV_COLUMNS.__contains__, dtype={"ImageId": str})
        wkt = rows["PolygonWKT_Pix"].fillna("POLYGON EMPTY").to_numpy(dtype=object)
        layer = gpd.GeoDataFrame(rows.rename(columns=str.lower), geometry=shapely.from_wkt(wkt))
        return dict(iter(layer.groupby("imageid")))
    except (OSError, ValueError, KeyError, TypeError, ShapelyError) as error:
        raise VectorReadError(
            f"{path}: cannot be read as a SpaceNet CSV ({type(error).__name__}: {error}); check "
            "that it has the columns ImageId and PolygonWKT_Pix, the latter with WKT polygons"
        ) from error


def _row(key: str, name: str, score: Score) -> dict[str, Any]:
    counts = {key: name, "TP": score.tp, "FP": score.fp, "FN": score.fn}
    return counts | {"precision": score.precision, "recall": score.recall, "f1": score.f1}
