"""Evaluation of footprints and masks against the truth."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import shapely

from geoseg.credentials import get_logger
from geoseg.errors import ConfigError, GridMismatchError
from geoseg.evaluation.average_precision import average_precision
from geoseg.evaluation.mask_scores import ClassReport, evaluate_mask, format_classes
from geoseg.evaluation.matching import (
    Evaluation,
    evaluate_layers,
    layer_confidence,
    read_layers,
)
from geoseg.evaluation.report import (
    LAYERS_NAME,
    REPORT_NAME,
    Report,
    build_report_layers,
    check_report_folder,
    format_table,
    score_fields,
    write_report,
)
from geoseg.evaluation.spacenet import score_spacenet
from geoseg.evaluation.training_area import warn_of_training_buildings

SPACENET_MIN_AREA_PX2 = 20.0

logger = get_logger(__name__)


def evaluate_footprints(
    footprints: str | Path,
    truth: str | Path,
    output: str | Path | None = None,
    *,
    aoi: str | Path | None = None,
    where: str | None = None,
    threshold: float = 0.5,
    min_area_m2: float | None = None,
    boxes: bool = False,
    overwrite: bool = False,
) -> Report:
    """Compare footprints with the truth by the SpaceNet-2 building metric.

    Vector layers are compared in the CRS of the truth, or in a local equal-area CRS if that CRS
    is geographic. Two `.csv` files are read as a SpaceNet submission and its truth, scored per
    image, and the counts are summed per city.

    Args:
        footprints: Layer to evaluate. Footprints are matched in order of the column
            `confidence`, highest first, or in file order if there is no such column.
        truth: Layer of true footprints.
        output: Folder for `report.json` and, for vector layers, `report.gpkg` with the layers
            TP, FP and FN in the CRS of the truth; None writes nothing.
        aoi: Layer of polygons to which both layers are clipped.
        where: Attribute filter of the truth, e.g. `label = 1`.
        threshold: IoU that a match must exceed, in [0, 1).
        min_area_m2: Smaller buildings are ignored; in square pixels for CSV files. None means 0,
            or 20 as in SpaceNet for CSV files.
        boxes: Compare bounding boxes in the CRS of `footprints`, as detectors predict them.
        overwrite: Replace an existing report.

    Returns:
        The report.

    Raises:
        ConfigError: If an option is out of range or does not apply to the files.
        OutputExistsError: If there is a report already and `overwrite` is False.
        GridMismatchError: If the area of interest intersects neither layer, or the layers cannot
            be reprojected to one CRS.
        MissingCRSError: If a layer has no CRS.
        VectorReadError: If a file cannot be read.
    """
    _check_options(threshold, min_area_m2)
    inputs = [file for file in (footprints, truth, aoi) if file is not None]
    check_report_folder(output, overwrite, inputs)
    layers: dict[str, gpd.GeoDataFrame] = {}
    if _are_spacenet_files(footprints, truth, aoi, where):
        if boxes:
            raise ConfigError("--boxes: applies only to vector layers; leave it out for CSV files")
        min_area_px2 = SPACENET_MIN_AREA_PX2 if min_area_m2 is None else min_area_m2
        fields = score_spacenet(footprints, truth, threshold, min_area_px2)
    else:
        pred, true, area, crs = read_layers(footprints, truth, aoi, where, boxes=boxes)
        evaluation = evaluate_layers(
            pred, true, aoi=area, threshold=threshold, min_area_m2=min_area_m2 or 0.0
        )
        fields = score_fields(evaluation.score, evaluation.area, evaluation.matches.iou_sum)
        _check_compared(evaluation, footprints, truth, aoi)
        if area is not None:
            fields |= {
                "cut_footprints": int(area.cuts(pred.loc[evaluation.pred.index]).sum()),
                "cut_truth": int(area.cuts(true.loc[evaluation.truth.index]).sum()),
            }
        if _overlap(evaluation):
            warn_of_training_buildings(footprints, evaluation.truth)
        fields |= {
            "aoi": aoi and str(aoi),
            "where": where,
            "min_area_m2": float(min_area_m2 or 0),
            "average_precision": _average_precision(evaluation),
            "boxes": boxes,
        }
        layers = build_report_layers(evaluation, crs)
    report = Report(**fields, footprints=str(footprints), truth=str(truth), threshold=threshold)
    if output is not None:
        write_report(Path(output), report.to_dict(), layers, inputs=inputs, overwrite=overwrite)
    return report


def _average_precision(evaluation: Evaluation) -> float | None:
    """Return the average precision; None without confidences or true footprints."""
    confidence = layer_confidence(evaluation.pred)
    if confidence is None:
        return None
    matched = evaluation.matches.proposal_match >= 0
    return average_precision(confidence, matched, len(evaluation.truth))


def _check_compared(
    evaluation: Evaluation, footprints: str | Path, truth: str | Path, aoi: str | Path | None
) -> None:
    """Check that there is something to compare; warn if one of the layers has nothing.

    Raises:
        GridMismatchError: If no footprint of either layer is left inside an area of interest.
    """
    where = "" if aoi is None else f" inside {aoi}"
    if aoi is not None and evaluation.pred.empty and evaluation.truth.empty:
        raise GridMismatchError(
            f"{aoi}: no footprint of {footprints} or {truth} is inside, or all are smaller than "
            "the minimum area; check that it covers the same area"
        )
    if evaluation.pred.empty and len(evaluation.truth):
        logger.warning(
            "%s: has no footprint%s, so every true one counts as missed (%d); check that it "
            "covers the same area",
            *(footprints, where, len(evaluation.truth)),
        )
    if evaluation.truth.empty and len(evaluation.pred):
        logger.warning(
            "%s: has no footprint%s, so every one of %s counts as false (%d); check that the area "
            "was labelled",
            *(truth, where, footprints, len(evaluation.pred)),
        )


def _overlap(evaluation: Evaluation) -> bool:
    """Whether a true building is where the footprints are, so that a score says something."""
    if evaluation.pred.empty:
        return False
    extent = shapely.box(*evaluation.pred.total_bounds)
    return bool(evaluation.truth.intersects(extent).any())


def _check_options(threshold: float, min_area_m2: float | None) -> None:
    if not 0 <= threshold < 1:
        raise ConfigError(f"the IoU threshold is {threshold}; give a number from 0 to below 1")
    if min_area_m2 is not None and not min_area_m2 >= 0:
        raise ConfigError(f"the minimum area is {min_area_m2}; give 0 or more")


def _are_spacenet_files(
    footprints: str | Path, truth: str | Path, aoi: str | Path | None, where: str | None
) -> bool:
    are_csv = {Path(path).suffix.lower() == ".csv" for path in (footprints, truth)}
    if len(are_csv) > 1:
        raise ConfigError(
            f"{footprints}, {truth}: only one is a SpaceNet CSV; give two CSV files or two layers"
        )
    is_csv = are_csv.pop()
    if is_csv and (aoi or where):
        raise ConfigError(
            f"{truth}: a SpaceNet CSV has pixel coordinates and no attributes; remove the area of "
            "interest and the filter, or give vector layers"
        )
    return is_csv


__all__ = [
    "LAYERS_NAME",
    "REPORT_NAME",
    "ClassReport",
    "Evaluation",
    "Report",
    "evaluate_footprints",
    "evaluate_layers",
    "evaluate_mask",
    "format_classes",
    "format_table",
]
