"""Compares a mask of classes with the truth, pixel by pixel."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.data.labels import IGNORE, Labels, ClassScheme, read_labels, resolve_scheme
from geoseg.errors import ConfigError, GridMismatchError
from geoseg.evaluation.metrics import Confusion, count_classes
from geoseg.evaluation.report import REPORT_NAME, check_report_folder
from geoseg.geo.grid import Grid
from geoseg.geo.raster import NearestRaster, read_info, read_mask_classes
from geoseg.jobs.journal import replace_file
from geoseg.options import ClassOptions

_ROWS = 512


@dataclass(frozen=True)
class ClassReport:
    """What comparing a mask with the truth found.

    Attributes:
        classes: Per class its name, iou, f1, precision, recall, and pixels of the truth.
        mean_iou: Mean IoU of the classes that occur in truth or mask.
        mean_f1: Mean F1 of the same.
        accuracy: Share of the pixels whose class is right.
        confusion: Pixels per class of the truth (rows) and of the mask (columns).
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
        """The confusion, which adds up over scenes."""
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
    """Compares a mask with the truth on the mask's pixels, some rows at a time.

    Pixels count where the mask has data and the truth names a class.

    Args:
        mask: The mask.tif that predict wrote.
        truth: Polygons or a mask raster, in any CRS.
        output: Folder for `report.json`; None writes nothing.
        classes: What the truth calls the mask's classes; None of buildings.
        aoi: Layer of polygons; pixels whose centre lies inside count.
        where: Filter on the attributes of polygons.
        overwrite: Replace an earlier report.

    Raises:
        ConfigError: If the classes are not the mask's.
        GridMismatchError: If no pixel of the mask lies on the truth, or in the area of interest.
        SceneReadError: If the mask is none.
        DataError: If the truth cannot be read.
    """
    folder = check_report_folder(output, overwrite)
    names = read_mask_classes(mask)
    scheme = resolve_scheme(classes)
    _check_names(mask, names, scheme)
    grid = read_info(mask).grid
    area = None if aoi is None else read_labels(aoi, grid)
    confusion = _count(
        mask, grid, len(names), read_labels(truth, grid, scheme, where=where, scene_grid=grid), area
    )
    if not confusion.counts.any():
        inside = f" inside {aoi}" if aoi else ""
        raise GridMismatchError(
            f"{mask} and {truth}: share no pixel{inside} whose class both name; check that they "
            "are of the same place, and tile.classes"
        )
    report = _describe(confusion, names, str(mask), str(truth), str(aoi) if aoi else None)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / REPORT_NAME) as partial:
            partial.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    return report


def format_classes(report: ClassReport) -> str:
    """Lays a report out as plain text, one row per class, for a terminal."""
    width = max(len(row["class"]) for row in (*report.classes, {"class": "mean"}))
    lines = [f"{'':{width}}  {'pixels':>12}  precision  recall      F1     IoU"]
    for row in report.classes:
        rates = f"{row['precision']:>9.4f} {row['recall']:>7.4f} {row['f1']:>7.4f}"
        lines.append(f"{row['class']:{width}}  {row['pixels']:>12,}  {rates} {row['iou']:>7.4f}")
    means = f"{report.mean_f1:>7.4f} {report.mean_iou:>7.4f}"
    lines.append(f"{'mean':{width}}  {'':12}  {'':17} {means}")
    return "\n".join(lines)


def _check_names(mask: str | Path, names: tuple[str, ...], scheme: ClassScheme) -> None:
    wanted = scheme.names if scheme.exclusive else ("background", *scheme.names)
    if wanted != names:
        remedy = (
            "name those of the training configuration"
            if scheme.exclusive
            else "pass the --config that the tiles were made with"
        )
        raise ConfigError(
            f"{mask}: holds the classes {', '.join(names)}, but tile.classes are "
            f"{', '.join(wanted)}; {remedy}"
        )


def _count(
    mask: str | Path, grid: Grid, classes: int, truth: Labels, area: Labels | None
) -> Confusion:
    total = Confusion(np.zeros((classes, classes), dtype=np.int64))
    with NearestRaster(mask) as source:
        for window in grid.row_windows(_ROWS):
            found, _ = source.read(grid, window, (int(window.height), int(window.width)))
            _, true = truth.read(window)
            known = (found[0] < classes) & (true != IGNORE)
            if area is not None:
                known &= area.read(window)[1] == 1
            total += count_classes(found[0], true, known, classes)
    return total


def _describe(
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
