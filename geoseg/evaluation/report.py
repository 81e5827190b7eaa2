"""Report of an evaluation: table, `report.json` and the layers TP, FP and FN."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from pyproj import CRS

from geoseg.errors import ConfigError
from geoseg.evaluation.matching import Evaluation, geometry_array, layer_confidence
from geoseg.evaluation.metrics import AreaCounts, Score
from geoseg.geo.styles import FOUND_COLOUR, MISSED_COLOUR, WRONG_COLOUR, outline_style
from geoseg.geo.vector import column_aliases, to_crs_whole, write_layers
from geoseg.jobs.output import check_output, folder_output

REPORT_NAME = "report.json"
LAYERS_NAME = "report.gpkg"

# Columns that identify a footprint in its file, in the order in which they are looked for.
_ID_COLUMNS = ("id", "osm_id", "building_id", "buildingid", "gid", "objectid", "fid", "uuid")

# Types of values that do not identify anything, and the number below which reals are exact.
_NO_ID = (bool, np.bool_, dict, list, tuple, set, np.ndarray)
_MAX_EXACT = 2.0**53

# Text in the legend of QGIS and colour of each layer.
_LEGEND = {
    "TP": ("true positive: found", FOUND_COLOUR),
    "FP": ("false positive: not in the truth", WRONG_COLOUR),
    "FN": ("false negative: missed", MISSED_COLOUR),
}


@dataclass(frozen=True)
class Report:
    """Scores of an evaluation, with its inputs and options.

    Scores ending in `_pixel` compare the areas covered. They are the limit of a comparison of
    pixels as their size approaches zero, and are computed from the polygons.

    Attributes:
        tp: Number of matched footprints.
        fp: Number of unmatched footprints.
        fn: Number of unmatched true footprints.
        precision: Share of the footprints that are matched.
        recall: Share of the true footprints that are matched.
        f1: Harmonic mean of precision and recall.
        mean_iou: Mean IoU of the matched pairs, 0.0 without matches.
        iou_pixel: IoU of the areas covered.
        f1_pixel: F1 of the areas covered.
        precision_pixel: Share of the predicted area that is true.
        recall_pixel: Share of the true area that is predicted.
        average_precision: Average precision over all confidences, at the IoU of `threshold`; None
            if the footprints have no confidence, and for CSV files.
        threshold: IoU that a match must exceed.
        footprints: Path of the footprints.
        truth: Path of the truth.
        aoi: Path of the area of interest.
        boxes: Whether bounding boxes were compared.
        cut_footprints: Number of footprints that the area of interest cuts, which are counted by
            their part inside; None without an area of interest.
        cut_truth: Number of such true footprints.
        where: Attribute filter of the truth.
        min_area_m2: Minimum area of buildings; None for SpaceNet CSV files.
        min_area_px2: Minimum area in square pixels for SpaceNet CSV files; None for layers.
        spacenet_score: SpaceNet score, the mean F1 of the cities; CSV files only.
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
    average_precision: float | None = None
    boxes: bool = False
    cut_footprints: int | None = None
    cut_truth: int | None = None
    where: str | None = None
    min_area_m2: float | None = None
    min_area_px2: float | None = None
    spacenet_score: float | None = None
    cities: tuple[dict[str, Any], ...] = ()
    images: tuple[dict[str, Any], ...] = ()

    @property
    def counts(self) -> Score:
        """Counts of buildings, which can be added over scenes."""
        return Score(self.tp, self.fp, self.fn)

    def to_dict(self) -> dict[str, Any]:
        """Convert to the content of `report.json`."""
        return asdict(self)


def format_table(report: Report) -> str:
    """Format a report as a table of plain text, with the IoUs below it."""
    rows = [("buildings", report.to_dict())]
    rows += [(str(row["city"]), {k.lower(): v for k, v in row.items()}) for row in report.cities]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}  {'TP':>7} {'FP':>7} {'FN':>7}  precision  recall      F1"]
    for name, row in rows:
        counts = " ".join(f"{row[key]:>7}" for key in ("tp", "fp", "fn"))
        rates = f"{row['precision']:>9.4f} {row['recall']:>7.4f} {row['f1']:>7.4f}"
        lines.append(f"{name:{width}}  {counts}  {rates}")
    rates = f"{report.precision_pixel:>9.4f} {report.recall_pixel:>7.4f} {report.f1_pixel:>7.4f}"
    lines.append(f"{'pixels':{width}}  {'':23}  {rates}")
    lines.append(
        f"mean IoU of matched footprints {report.mean_iou:.4f}, pixel IoU {report.iou_pixel:.4f}"
    )
    if report.average_precision is not None:
        lines.append(
            f"average precision at IoU {report.threshold:g} over all confidences: "
            f"{report.average_precision:.4f}"
        )
    if report.cut_truth or report.cut_footprints:
        lines.append(
            f"cut by the area of interest, and counted by their part inside: {report.cut_truth} of "
            f"{report.tp + report.fn} true and {report.cut_footprints} of {report.tp + report.fp} "
            "predicted footprints"
        )
    if report.spacenet_score is not None:
        lines.append(f"SpaceNet score (mean F1 of the cities): {report.spacenet_score:.4f}")
    return "\n".join(lines)


def score_fields(score: Score, area: AreaCounts, iou_sum: float) -> dict[str, Any]:
    """Return the fields of a report that vector layers and CSV files have in common."""
    return {
        **asdict(score),
        **{name: getattr(score, name) for name in ("precision", "recall", "f1")},
        **{f"{name}_pixel": getattr(area, name) for name in ("iou", "f1", "precision", "recall")},
        "mean_iou": iou_sum / max(score.tp, 1),
    }


def build_report_layers(evaluation: Evaluation, crs: CRS) -> dict[str, gpd.GeoDataFrame]:
    """Build the layers TP, FP and FN.

    `id` and `truth_id` identify a footprint and a true one in their files, see `_identify`.
    """
    pred, truth, matches = evaluation.pred, evaluation.truth, evaluation.matches
    confidence = layer_confidence(pred)
    proposals = gpd.GeoDataFrame(
        {
            "id": _identify(pred),
            "confidence": np.full(len(pred), np.nan) if confidence is None else confidence,
            "iou": matches.proposal_iou,
        },
        geometry=geometry_array(pred),
        crs=pred.crs,
    )
    truths = gpd.GeoDataFrame(
        {"truth_id": _identify(truth), "iou": matches.truth_iou},
        geometry=geometry_array(truth),
        crs=truth.crs,
    )
    proposals, truths = to_crs_whole(proposals, crs), to_crs_whole(truths, crs)
    matched = matches.proposal_match >= 0
    true_positives = proposals[matched]
    true_positives.insert(
        3, "truth_id", truths["truth_id"].to_numpy()[matches.proposal_match[matched]]
    )
    return {"TP": true_positives, "FP": proposals[~matched], "FN": truths[matches.truth_match < 0]}


def _identify(layer: gpd.GeoDataFrame) -> np.ndarray:
    """Return what identifies each feature of a layer in its file.

    This is the first column of `_ID_COLUMNS`, in any case of letters, that has a different value
    for each feature; without one, the number of the feature in the file, which is the index.
    """
    columns = {str(column).lower(): layer[column] for column in layer.columns}
    found = [columns[name] for name in _ID_COLUMNS if name in columns]
    values = next(filter(_can_identify, found), layer.index.to_series())
    if _are_exact_integers(values):
        numbers: np.ndarray = values.to_numpy(np.int64)
        return numbers
    texts: np.ndarray = values.astype(str).to_numpy(object)
    return texts


def _can_identify(values: pd.Series) -> bool:
    """Return whether values are numbers or texts, all different; lists and the like are neither."""
    if not values.notna().all() or values.map(lambda one: isinstance(one, _NO_ID)).any():
        return False
    return bool(values.is_unique and values.astype(str).is_unique)


def _are_exact_integers(values: pd.Series) -> bool:
    """Return whether values are numbers that int64 holds without a change."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_complex_dtype(values):
        return False
    if pd.api.types.is_float_dtype(values):
        return bool(((values % 1 == 0) & (values.abs() < _MAX_EXACT)).all())
    return bool((values <= np.iinfo(np.int64).max).all())


def write_report(
    folder: Path,
    report: dict[str, Any],
    layers: Mapping[str, gpd.GeoDataFrame],
    *,
    inputs: Iterable[str | Path],
    overwrite: bool = False,
) -> None:
    """Write the folder of a report, which appears only when complete.

    Args:
        folder: The folder.
        report: Contents of `report.json`.
        layers: Layers of `report.gpkg`; no such file without any.
        inputs: Files that were compared, which the folder must not contain.
        overwrite: Replace an earlier report.
    """
    with folder_output(folder, overwrite=overwrite, inputs=inputs) as work:
        if layers:
            write_layers(work.result / LAYERS_NAME, layers, _make_styles(layers))
        text = json.dumps(report, indent=2) + "\n"
        (work.result / REPORT_NAME).write_text(text, encoding="utf-8")


def _make_styles(layers: Mapping[str, gpd.GeoDataFrame]) -> dict[str, str]:
    return {
        name: outline_style(column_aliases(layer.columns), *_LEGEND[name])
        for name, layer in layers.items()
    }


def check_report_folder(
    output: str | Path | None, overwrite: bool, inputs: Iterable[str | Path]
) -> None:
    """Check that a report may be written into a folder, before anything is computed.

    Raises:
        ConfigError: If the name is that of a file.
        OutputExistsError: If the folder exists and may not be replaced.
    """
    if output is None:
        return
    if Path(output).suffix.lower() in (".json", ".gpkg", ".csv"):
        raise ConfigError(f"{output}: looks like a file; give a folder for the report")
    check_output(output, overwrite=overwrite, inputs=inputs)
