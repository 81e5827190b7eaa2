"""Evaluate footprints or a mask against the truth."""

from __future__ import annotations

from pathlib import Path

from geoseg.errors import ConfigError
from geoseg.evaluation import ClassReport, Report, evaluate_footprints, evaluate_mask
from geoseg.geo.raster import is_mask
from geoseg.geo.raster.block_cache import limited_block_cache
from geoseg.options import ClassOptions


def evaluate(
    footprints: str | Path,
    truth: str | Path,
    output: str | Path | None = None,
    *,
    aoi: str | Path | None = None,
    where: str | None = None,
    iou: float = 0.5,
    min_area_m2: float | None = None,
    boxes: bool = False,
    classes: ClassOptions | None = None,
    overwrite: bool = False,
) -> Report | ClassReport:
    """Score footprints by the SpaceNet building metric, or a mask by class and pixel.

    Args:
        footprints: A layer of footprints, a SpaceNet CSV, or the `mask.tif` of `geoseg.predict`.
        truth: Layer, SpaceNet CSV or, for a mask, polygons or a mask raster.
        output: Folder for `report.json` and, for layers, `report.gpkg` with the layers TP, FP and
            FN; None writes nothing.
        aoi: Polygons; only what is inside counts.
        where: Filter on the attributes of the truth, such as `label = 1`.
        iou: IoU that a match must exceed; layers and CSV only.
        min_area_m2: Smaller buildings do not count; layers and CSV only.
        boxes: Compare bounding boxes in the CRS of `footprints`; layers only.
        classes: How the truth names the classes of a mask; None for buildings.
        overwrite: Replace an existing report.

    Returns:
        A `Report` for footprints, a `ClassReport` for a mask.

    Raises:
        GeosegError: If the files cannot be read or do not fit together.
    """
    with limited_block_cache():
        if not is_mask(footprints):
            return evaluate_footprints(
                footprints, truth, output, aoi=aoi, where=where, threshold=iou,
                min_area_m2=min_area_m2, boxes=boxes, overwrite=overwrite,
            )  # fmt: skip
        if min_area_m2 is not None:
            raise ConfigError("--min-area-m2: applies only to footprints; remove it for a mask")
        if boxes:
            raise ConfigError("--boxes: applies only to footprints; remove it for a mask")
        return evaluate_mask(
            footprints, truth, output, classes=classes, aoi=aoi, where=where, overwrite=overwrite
        )
