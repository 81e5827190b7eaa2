"""Options of prediction and of the dense CRF."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geoseg.options.base import Options
from geoseg.options.crf import CRFOptions


class PredictOptions(Options):
    """Options of `geoseg predict`."""

    keep_blank: bool = Field(
        False,
        description="Use large areas of one constant value, such as white margins, as an image",
    )
    asset: str | None = Field(
        None, min_length=1, description="Asset of STAC items that is the scene; by role when null"
    )
    bands: tuple[int | str, ...] | None = Field(
        None,
        min_length=1,
        description="Bands of the scene in the order of the model; matched by name when null",
    )
    assume_gsd_m: float | None = Field(
        None, gt=0, description="Pixel size of a scene that has no georeferencing, metres"
    )
    gsd_m: float | None = Field(
        None,
        gt=0,
        description="Pixel size at which the scene is read and rasters are written, metres; needed "
        "for tile services, where null is that of the model",
    )
    overlap: int | None = Field(
        None, ge=0, description="Pixels shared by neighbouring tiles; the model's overlap when null"
    )
    blend: Literal["cosine", "crop", "mean"] = Field(
        "cosine", description="Tile blending: smooth weights, a cut in the middle, or the mean"
    )
    aoi: str | None = Field(
        None, description="Vector layer of the area to predict; pixels outside become nodata"
    )
    prefer: Literal["first", "newest", "inner"] = Field(
        "first",
        description="Which scene is used where several overlap: the first in the order given, the "
        "newest by its date of acquisition, or the one whose edge is farthest",
    )
    layer_crs: str | None = Field(
        None,
        description="CRS of the footprints of several scenes, such as EPSG:32645; the commonest "
        "one of the scenes when null",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Tiles per batch; chosen by tile size (CPU) or memory (GPU) when null",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Device; auto uses a GPU if there is one"
    )
    backend: Literal["torch", "compile", "openvino"] = Field(
        "torch",
        description="Inference backend: torch, torch.compile, or OpenVINO (often faster on a CPU)",
    )
    floats: bool = Field(False, description="Write probabilities as float32 instead of uint8")
    uncertainty: bool = Field(
        False, description="Add a band: standard deviation over tiles, views and models"
    )
    block_rows: int | None = Field(
        None, ge=1, description="Tile rows per task; chosen by the number of workers when null"
    )
    tta: Literal["none", "flips", "d4"] = Field(
        "none",
        description="Average over mirrored (4x) or also turned (8x) tiles; more accurate, slower",
    )
    nms_iou: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="IoU above which the less certain of two boxes is removed (box models)",
    )
    footprints: bool = Field(True, description="Also write footprints if the output is a folder")
    keep_model_grid: bool = Field(
        False, description="Write rasters with the pixel size of the model instead of the scene"
    )
    crf: CRFOptions | None = Field(
        None,
        description="Refine probabilities by the colours of the scene with a dense CRF; null: off",
    )
