"""Evaluation of class masks, pixel by pixel."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.data.labels import IGNORE, ClassScheme, Labels, read_labels, resolve_scheme
from geoseg.errors import ConfigError, GridMismatchError
from geoseg.evaluation.metrics import Confusion, count_classes
from geoseg.evaluation.report import check_report_folder, write_report
from geoseg.evaluation.training_area import warn_of_training_pixels
from geoseg.geo.aoi import AOI
from geoseg.geo.grid import Grid
from geoseg.geo.raster import NearestRaster, read_info, read_mask_classes
from geoseg.options import ClassOptions

# Rows read at a time, which bounds memory.
_STRIP_ROWS = 512


@dataclass(frozen=True)
class ClassReport:
    """Scores of a class mask.

    Attributes:
        classes: For each class its name, iou, f1, precision, recall and number of true pixels.
        mean_iou: Mean IoU of the classes that occur in the truth or the mask.
        mean_f1: Mean F1 of the same classes.
        accuracy: Share of the pixels with the right class.
        confusion: Number of pixels by true class (rows) and predicted class (columns).
        mask: Path of the mask.
        truth: Path of the truth.
        aoi: Path of the area of interest.
    """

    classes: tuple[dict[str, Any], ...]
    mean_iou: float
    mean_f1: float
    accuracy: float
    confusion: tuple[tuple[int, ...], ...]
    mask: str
    truth: str
    aoi: str | None = None

    @property
    def counts(self) -> Confusion:
        """Confusion matrix, which can be added over scenes."""
        return Confusion(np.array(self.confusion, dtype=np.int64))


def evaluate_mask(
    mask: str | Path,
    truth: str | Path,
    output: str | Path | None = None,
    *,
    classes: ClassOptions | None = None,
    aoi: str | Path | None = None,
    where: str | None = None,
    overwrite: bool = False,
) -> ClassReport:
    """Compare a class mask with the truth on the grid of the mask.

    Only pixels with a class in both the mask and the truth are compared.

    Args:
        mask: `mask.tif` written by predict.
        truth: Polygons or a mask raster, in any CRS.
        output: Folder for `report.json`; None writes nothing.
        classes: Classes of the truth, as used for tiling; None for buildings.
        aoi: Layer of polygons; only pixels whose centre is inside are compared.
        where: Attribute filter of the true polygons.
        overwrite: Replace an existing report.

    Returns:
        The scores.

    Raises:
        ConfigError: If the classes differ from those of the mask.
        OutputExistsError: If there is a report already and `overwrite` is False.
        GridMismatchError: If mask, truth and area of interest have no pixel in common.
        SceneReadError: If the file is not a class mask.
        DataError: If the truth cannot be read.
    """
    inputs = [file for file in (mask, truth, aoi) if file is not None]
    check_report_folder(output, overwrite, inputs)
    names = read_mask_classes(mask)
    scheme = resolve_scheme(classes)
    _check_names(mask, names, scheme)
    grid = read_info(mask).grid
    area = None if aoi is None else AOI.read_on(aoi, grid)
    confusion = _count_confusion(
        mask, grid, len(names), read_labels(truth, grid, scheme, where=where, scene_grid=grid), area
    )
    if not confusion.counts.any():
        inside = f" inside {aoi}" if aoi else ""
        raise GridMismatchError(
            f"{mask} and {truth}: no pixel{inside} has a class in both; check that they cover the "
            "same area, and tile.classes"
        )
    compared = grid.polygon if area is None else area.union.intersection(grid.polygon)
    warn_of_training_pixels(mask, compared, grid.crs.to_wkt())
    report = _build_report(confusion, names, str(mask), str(truth), str(aoi) if aoi else None)
    if output is not None:
        write_report(Path(output), asdict(report), {}, inputs=inputs, overwrite=overwrite)
    return report


def format_classes(report: ClassReport) -> str:
    """Format scores as a table of plain text, one row per class."""
    width = max(len(row["class"]) for row in (*report.classes, {"class": "mean"}))
    lines = [f"{'':{width}}  {'pixels':>12}  precision  recall      F1     IoU"]
    for row in report.classes:
        rates = f"{row['precision']:>9.4f} {row['recall']:>7.4f} {row['f1']:>7.4f}"
        lines.append(f"{row['class']:{width}}  {row['pixels']:>12,}  {rates} {row['iou']:>7.4f}")
    means = f"{report.mean_f1:>7.4f} {report.mean_iou:>7.4f}"
    lines.append(f"{'mean':{width}}  {'':12}  {'':17} {means}")
    return "\n".join(lines)


def _check_names(mask: str | Path, names: tuple[str, ...], scheme: ClassScheme) -> None:
    expected = scheme.names if scheme.exclusive else ("background", *scheme.names)
    if expected != names:
        remedy = (
            "use those of the training configuration"
            if scheme.exclusive
            else "pass the --config used for tiling"
        )
        raise ConfigError(
            f"{mask}: has the classes {', '.join(names)}, but tile.classes are "
            f"{', '.join(expected)}; {remedy}"
        )


def _count_confusion(
    mask: str | Path, grid: Grid, classes: int, truth: Labels, area: AOI | None
) -> Confusion:
    total = Confusion(np.zeros((classes, classes), dtype=np.int64))
    with NearestRaster(mask) as source:
        for window in grid.row_windows(_STRIP_ROWS):
            predicted, _ = source.read(grid, window, (int(window.height), int(window.width)))
            _, true = truth.read(window)
            # Larger values are nodata.
            known = (predicted[0] < classes) & (true != IGNORE)
            if area is not None:
                known &= area.covers(grid, window)
            total += count_classes(predicted[0], true, known, classes)
    return total


def _build_report(
    confusion: Confusion, names: tuple[str, ...], mask: str, truth: str, aoi: str | None
) -> ClassReport:
    rates = ("iou", "f1", "precision", "recall")
    rows = tuple(
        {"class": name, "pixels": one.tp + one.fn, **{rate: getattr(one, rate) for rate in rates}}
        for name, one in zip(names, confusion.per_class, strict=True)
    )
    return ClassReport(
        classes=rows,
        mean_iou=confusion.mean_iou,
        mean_f1=confusion.mean_f1,
        accuracy=confusion.accuracy,
        confusion=tuple(map(tuple, confusion.counts.tolist())),
        mask=mask,
        truth=truth,
        aoi=aoi,
    )
