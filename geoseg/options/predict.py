"""How scenes are predicted, and refined."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from geoseg.options.base import Options


class CRFOptions(Options):
    """How a dense CRF refines probabilities: the weights and sigmas of its two kernels.

    Weights, the Gaussian's sigma and the steps are DeepLab's (arXiv 1606.00915), which searched
    bilateral sigmas of 30-100 pixels and 3-6 in colour.
    """

    gaussian_weight: float = Field(3.0, ge=0, description="Of the kernel on places; it smooths")
    gaussian_sigma: float = Field(3.0, ge=0.5, le=200, description="Its reach, pixels")
    bilateral_weight: float = Field(
        4.0, ge=0, description="Of the kernel on places and colours; it follows edges"
    )
    bilateral_sigma: float = Field(30.0, ge=0.5, le=200, description="Its reach, pixels")
    colour_sigma: float = Field(
        10.0, ge=0.5, description="Its reach in colour, where 8-bit colours span 0-255"
    )
    iterations: int = Field(10, ge=1, le=100, description="Steps of the mean field")

    @property
    def halo(self) -> int:
        """How far around a pixel others count, pixels: three of the larger sigma."""
        sigmas = (
            self.gaussian_sigma if self.gaussian_weight else 0,
            self.bilateral_sigma if self.bilateral_weight else 0,
        )
        return math.ceil(3 * max(sigmas))


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
    max_memory_gb: float = Field(
        4.0, ge=0.1, description="Very wide scenes are predicted in panels to stay below it"
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
