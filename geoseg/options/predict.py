"""How scenes are predicted, and refined."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geoseg.options.base import Options
from geoseg.options.crf import CRFOptions


class PredictOptions(Options):
    """How a scene is predicted."""

    bands: tuple[int | str, ...] | None = Field(
        None,
        min_length=1,
        description="The scene's bands in the model's order; matched by name when null",
    )
    assume_gsd_m: float | None = Field(
        None, gt=0, description="Metres per pixel of a scene that does not say where it lies"
    )
    overlap: int | None = Field(None, ge=0, description="Pixels; the model's when null")
    blend: Literal["cosine", "crop", "mean"] = Field(
        "cosine", description="How overlapping tiles meet: smoothly, at a line, or as their mean"
    )
    aoi: str | None = Field(
        None, description="Polygons of the ground to predict; the rest becomes nodata"
    )
    batch_size: int | None = Field(
        None, ge=1, le=1024, description="Tiles per step; what fits into memory when null"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="auto: a GPU where there is one"
    )
    backend: Literal["torch", "compile", "openvino"] = Field(
        "torch",
        description="What computes: torch as it is or compiled, or OpenVINO, often faster on a CPU",
    )
    floats: bool = Field(False, description="Probabilities as float32 instead of bytes")
    uncertainty: bool = Field(
        False, description="One more band: how far tiles, views and models disagree"
    )
    block_rows: int | None = Field(
        None, ge=1, description="Rows of tiles per task; what is best for the workers when null"
    )
    tta: Literal["none", "flips", "d4"] = Field(
        "none", description="Average over mirrored (4x) or also turned (8x) tiles; slower, better"
    )
    nms_iou: float = Field(
        0.5, gt=0, lt=1, description="Of two boxes that overlap by more, the better one stays"
    )
    footprints: bool = Field(True, description="Write footprints into a folder, too")
    keep_model_grid: bool = Field(
        False, description="Write rasters on the model's pixel size, not the scene's"
    )
    crf: CRFOptions | None = Field(
        None, description="Refine by the scene's colours with a dense CRF; off when null"
    )
