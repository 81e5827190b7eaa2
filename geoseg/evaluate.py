"""Compares footprints with the truth, by building and by area, and writes a report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from geoseg.errors import ConfigError, GridMismatchError, OutputExistsError, VectorReadError
from geoseg.metrics import (
    AreaCounts,
    Matches,
    Score,
    match_footprints,
    measure_areas,
    spacenet_filter,
)
from geoseg.vector import read_footprints, union_aoi, write_layers

REPORT_NAME = "report.json"
LAYERS_NAME = "report.gpkg"

SPACENET_MIN_AREA_PX2 = 20.0

_CSV_COLUMNS = ("ImageId", "PolygonWKT_Pix", "Confidence")
_NO_ROWS = gpd.GeoDataFrame(geometry=[])

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


@dataclass(frozen=True)
class Report:
    """What an evaluation found, and of what.

    The first numbers count buildings. Those in `_pixel` compare the ground covered: what
    counting pixels tends to as pixels shrink, computed from the polygons without any raster.

    Attributes:
        tp: Footprints that match a truth.
        fp: Footprints that match none.
        fn: Truths that no footprint matches.
        precision: Share of the footprints that match.
        recall: Share of the truths that are matched.
        f1: Harmonic mean of precision and recall.
        mean_iou: Mean IoU of the matched pairs, 0.0 without any.
        iou_pixel: IoU of the ground covered.
        f1_pixel: F1 of the ground covered.
        precision_pixel: Share of the predicted ground that is built on.
        recall_pixel: Share of the built ground that is predicted.
        threshold: IoU that a match had to exceed.
        footprints: Path of the footprints.
        truth: Path of the truth.
        aoi: Path of the area of interest.
        where: Filter on the truth.
        min_area_m2: Smaller buildings did not count; None for SpaceNet CSV files.
        min_area_px2: The same for SpaceNet CSV files, None for vector layers.
        spacenet_score: The contest's score, the mean of the cities' F1; CSV files only.
        cities: Counts and rates of each city; CSV files only.
        images: Counts and rates of each image; CSV files only.
    """

    tp: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float
    mean_iou: float
    iou_pixel: float
    f1_pixel: float
    precision_pixel: float
    recall_pixel: float
    threshold: float
    footprints: str
    truth: str
    aoi: str | None = None
    where: str | None = None
    min_area_m2: float | None = None
    min_area_px2: float | None = None
    spacenet_score: float | None = None
    cities: tuple[dict[str, Any], ...] = ()
    images: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `report.json` holds them."""
        return asdict(self)


def evaluate(
    footprints: str | Path,
    truth: str | Path,
    output: str | Path | None = None,
    *,
    aoi: str | Path | None = None,
    where: str | None = None,
    threshold: float = 0.5,
    min_area_m2: float | None = None,
    overwrite: bool = False,
) -> Report:
    """Compares footprints with the truth as the SpaceNet-2 contest does.

    Vector layers are compared in the truth's CRS, or in an equal-area one around them where
    that is in degrees. Two `.csv` files are read as a contest submission and its truth, scored
    per image, and the counts summed per city.

    Args:
        footprints: Layer to judge; its column `confidence`, if there is one, says who chooses
            first, else the order of the file does.
        truth: Layer to judge by.
        output: Folder for `report.json` and, for vector layers, `report.gpkg` with the layers
            TP, FP and FN in the truth's CRS; None writes nothing.
        aoi: Layer of polygons; buildings count by their part inside.
        where: Filter on the truth's attributes, e.g. `label = 1`.
        threshold: IoU that a match must exceed, in [0, 1).
        min_area_m2: Smaller buildings do not count; square pixels for CSV files. None stands
            for 0, for CSV files for the contest's 20.
        overwrite: Replace an earlier report.

    Returns:
        The report.

    Raises:
        ConfigError: If an option is out of range or does not fit the files.
        OutputExistsError: If a report is there already and `overwrite` is False.
        GridMismatchError: If the area of interest meets neither layer, or the layers cannot be
            brought to one CRS.
        MissingCRSError: If a layer has no CRS.
        VectorReadError: If a file cannot be read.
    """
    _check_options(threshold, min_area_m2)
    folder = _report_folder(output, overwrite)
    layers: dict[str, gpd.GeoDataFrame] = {}
    if _are_contest_files(footprints, truth, aoi, where):
        min_area_px2 = SPACENET_MIN_AREA_PX2 if min_area_m2 is None else min_area_m2
        fields = _score_contest(footprints, truth, threshold, min_area_px2)
    else:
        pred, true, area, crs = _read_layers(footprints, truth, aoi, where)
        evaluation = evaluate_layers(
            pred, true, aoi=area, threshold=threshold, min_area_m2=min_area_m2 or 0.0
        )
        fields = _numbers(evaluation.score, evaluation.area, evaluation.matches.iou_sum)
        fields |= {"aoi": aoi and str(aoi), "where": where, "min_area_m2": float(min_area_m2 or 0)}
        layers = _report_layers(evaluation, crs)
    report = Report(**fields, footprints=str(footprints), truth=str(truth), threshold=threshold)
    if folder is not None:
        _write_report(folder, report, layers)
    return report


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
    proposals, truths = _shapes(pred), _shapes(truth)
    matches = match_footprints(proposals, truths, confidence=_confidence(pred), threshold=threshold)
    return Evaluation(pred, truth, matches, measure_areas(proposals, truths))


def format_table(report: Report) -> str:
    """Lays a report out as plain text, one row per count, for a terminal."""
    rows = [("buildings", report.to_dict())]
    rows += [(str(row["city"]), {k.lower(): v for k, v in row.items()}) for row in report.cities]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}  {'TP':>7} {'FP':>7} {'FN':>7}  precision  recall      F1     IoU"]
    for name, row in rows:
        counts = " ".join(f"{row[key]:>7}" for key in ("tp", "fp", "fn"))
        rates = f"{row['precision']:>9.4f} {row['recall']:>7.4f} {row['f1']:>7.4f}"
        iou = f" {row['mean_iou']:>7.4f}" if "mean_iou" in row else ""
        lines.append(f"{name:{width}}  {counts}  {rates}{iou}")
    rates = f"{report.precision_pixel:>9.4f} {report.recall_pixel:>7.4f} {report.f1_pixel:>7.4f}"
    lines.append(f"{'area':{width}}  {'':23}  {rates} {report.iou_pixel:>7.4f}")
    if report.spacenet_score is not None:
        lines.append(f"SpaceNet score (mean F1 of the cities): {report.spacenet_score:.4f}")
    return "\n".join(lines)


# Vector layers


def _read_layers(
    footprints: str | Path, truth: str | Path, aoi: str | Path | None, where: str | None
) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame, BaseGeometry | None, CRS]:
    """Footprints, truth and area of interest in the CRS to compare in, and the truth's CRS."""
    pred, true = read_footprints(footprints), read_footprints(truth, where=where)
    crs = true.crs
    working_crs = _equal_area_crs(pred if true.empty else true) if crs.is_geographic else crs
    pred, true = _project(pred, working_crs, footprints), _project(true, working_crs, truth)
    if aoi is None:
        return pred, true, None, crs
    area = union_aoi(aoi, working_crs)
    shapely.prepare(area)
    if not any(shapely.intersects(area, _shapes(layer)).any() for layer in (pred, true)):
        raise GridMismatchError(
            f"{aoi}: the area of interest meets neither {footprints} nor {truth}; check that it "
            "is of the same place"
        )
    return pred, true, area, crs


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
    return _with_shapes(layer, _polygonal(shapely.make_valid(_shapes(layer))))


def _clip(layer: gpd.GeoDataFrame, aoi: BaseGeometry) -> gpd.GeoDataFrame:
    shapely.prepare(aoi)
    layer = layer[shapely.intersects(aoi, _shapes(layer))]
    shapes = _shapes(layer)
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
    areas: np.ndarray = shapely.area(_shapes(layer))
    return areas


def _shapes(layer: gpd.GeoDataFrame) -> np.ndarray:
    return np.array(layer.geometry.array, dtype=object)


def _with_shapes(layer: gpd.GeoDataFrame, shapes: np.ndarray) -> gpd.GeoDataFrame:
    return layer.set_geometry(gpd.GeoSeries(shapes, index=layer.index, crs=layer.crs))


def _confidence(pred: gpd.GeoDataFrame) -> np.ndarray | None:
    if "confidence" not in pred:
        return None
    return np.asarray(pd.to_numeric(pred["confidence"], errors="coerce"), dtype=float)


# SpaceNet CSV files


def _score_contest(
    footprints: str | Path, truth: str | Path, threshold: float, min_area_px2: float
) -> dict[str, Any]:
    """Fields of a report on a submission: images, cities and their sums."""
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
        city = image.rpartition("_")[0] or image
        images[image] = evaluation.score
        cities[city] = cities.get(city, Score(0, 0, 0)) + evaluation.score
        area += evaluation.area
        iou_sum += evaluation.matches.iou_sum
    return {
        **_numbers(sum(images.values(), Score(0, 0, 0)), area, iou_sum),
        "min_area_px2": min_area_px2,
        "spacenet_score": sum(score.f1 for score in cities.values()) / max(len(cities), 1),
        "cities": tuple(_row("city", *item) for item in cities.items()),
        "images": tuple(_row("ImageId", *item) for item in images.items()),
    }


def _read_csv(path: str | Path) -> dict[str, gpd.GeoDataFrame]:
    """The rows of each image of a contest CSV, as a layer in pixel coordinates."""
    try:
        rows = pd.read_csv(path, usecols=_CSV_COLUMNS.__contains__, dtype={"ImageId": str})
        wkt = rows["PolygonWKT_Pix"].fillna("POLYGON EMPTY").to_numpy(dtype=object)
        layer = gpd.GeoDataFrame(rows.rename(columns=str.lower), geometry=shapely.from_wkt(wkt))
        return dict(iter(layer.groupby("imageid")))
    except (OSError, ValueError, KeyError, TypeError, ShapelyError) as error:
        raise VectorReadError(
            f"{path}: cannot be read as a SpaceNet CSV ({type(error).__name__}: {error}); it needs "
            "the columns ImageId and PolygonWKT_Pix, the latter holding WKT polygons"
        ) from error


def _row(key: str, name: str, score: Score) -> dict[str, Any]:
    counts = {key: name, "TP": score.tp, "FP": score.fp, "FN": score.fn}
    return counts | {"precision": score.precision, "recall": score.recall, "f1": score.f1}


# Reports


def _numbers(score: Score, area: AreaCounts, iou_sum: float) -> dict[str, Any]:
    """Fields of a report that both kinds of files fill."""
    return {
        **asdict(score),
        **{name: getattr(score, name) for name in ("precision", "recall", "f1")},
        **{f"{name}_pixel": getattr(area, name) for name in ("iou", "f1", "precision", "recall")},
        "mean_iou": iou_sum / max(score.tp, 1),
    }


def _report_layers(evaluation: Evaluation, crs: CRS) -> dict[str, gpd.GeoDataFrame]:
    """The layers TP, FP and FN; `truth_id` is a truth's row in its file as read."""
    pred, truth, matches = evaluation.pred, evaluation.truth, evaluation.matches
    confidence = _confidence(pred)
    proposals = gpd.GeoDataFrame(
        {
            "confidence": np.full(len(pred), np.nan) if confidence is None else confidence,
            "iou": matches.proposal_iou,
        },
        geometry=_shapes(pred),
        crs=pred.crs,
    ).to_crs(crs)
    truths = gpd.GeoDataFrame(
        {"truth_id": truth.index.to_numpy(dtype=np.int64), "iou": matches.truth_iou},
        geometry=_shapes(truth),
        crs=truth.crs,
    ).to_crs(crs)
    hit = matches.proposal_match >= 0
    found = proposals[hit]
    found.insert(2, "truth_id", truths["truth_id"].to_numpy()[matches.proposal_match[hit]])
    return {"TP": found, "FP": proposals[~hit], "FN": truths[matches.truth_match < 0]}


def _write_report(folder: Path, report: Report, layers: Mapping[str, gpd.GeoDataFrame]) -> None:
    """Writes the folder, `report.json` last: where it is, the report is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    if layers:
        write_layers(folder / LAYERS_NAME, layers)
    else:
        (folder / LAYERS_NAME).unlink(missing_ok=True)
    partial = folder / f".{REPORT_NAME}.partial"
    partial.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / REPORT_NAME)


# Checks


def _check_options(threshold: float, min_area_m2: float | None) -> None:
    if not 0 <= threshold < 1:
        raise ConfigError(f"the IoU threshold is {threshold}; give a number from 0 to below 1")
    if min_area_m2 is not None and not min_area_m2 >= 0:
        raise ConfigError(f"the minimum area is {min_area_m2}; give 0 or more")


def _are_contest_files(
    footprints: str | Path, truth: str | Path, aoi: str | Path | None, where: str | None
) -> bool:
    kinds = {Path(path).suffix.lower() == ".csv" for path in (footprints, truth)}
    if len(kinds) > 1:
        raise ConfigError(
            f"{footprints}, {truth}: one is a SpaceNet CSV, the other is not; give two of a kind"
        )
    is_csv = kinds.pop()
    if is_csv and (aoi or where):
        raise ConfigError(
            f"{truth}: a SpaceNet CSV lies in pixels and has no attributes; leave out the area of "
            "interest and the filter, or give vector layers"
        )
    return is_csv


def _report_folder(output: str | Path | None, overwrite: bool) -> Path | None:
    """The folder to write to, which holds no report that must stay."""
    if output is None:
        return None
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder}: is a file; give a folder for the report")
    for name in (REPORT_NAME, LAYERS_NAME):
        if (folder / name).exists() and not overwrite:
            raise OutputExistsError(
                f"{folder / name}: exists; pass --overwrite to replace it or name another folder"
            )
    return folder
