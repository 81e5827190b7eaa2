"""Options of vectorization."""

from __future__ import annotations

from pydantic import Field

from geoseg.errors import ConfigError
from geoseg.options.base import Options
from geoseg.options.confidence import ConfidenceRule
from geoseg.options.crf import CRFOptions

# The largest pixel has 1e6 m, and the Earth 5e14 m².
MAX_LENGTH_M, MAX_AREA_M2 = 1e6, 1e15


class Thresholds(Options):
    """Thresholds for vectorizing probabilities.

    The seeds of buildings are connected pixels whose seed score
    `p_body * (1 - border * p_border) * (1 - contact * p_contact)` reaches `seed`. Box models use
    `body` as the least score of a box, and `min_area_m2`; the other fields have no effect.
    """

    body: float = Field(0.5, gt=0, lt=1, description="Least building probability, 0-1")
    seed: float = Field(
        0.6, gt=0, lt=1, description="Lowest score of a seed, from which one building grows, 0-1"
    )
    border: float = Field(1.0, ge=0, le=4, description="Weight of the border probability")
    contact: float = Field(1.0, ge=0, le=4, description="Weight of the contact probability")
    split_m: float = Field(
        0.0,
        ge=0,
        le=MAX_LENGTH_M,
        description="Separate parts whose passage is narrower than each by twice this, m; 0: off",
    )
    min_area_m2: float = Field(
        5.0, ge=0, le=MAX_AREA_M2, description="Smaller footprints are dropped, m²"
    )
    min_part_m2: float | None = Field(
        None,
        ge=0,
        le=MAX_AREA_M2,
        description="A smaller part of touching buildings is merged into its neighbour, m²; "
        "null: the model's `min_area_m2`",
    )
    simplify_m: float = Field(
        0.25,
        ge=0,
        le=MAX_LENGTH_M,
        description="Simplification tolerance: distance of removed vertices, metres",
    )
    subpixel: bool = Field(
        True, description="Trace outlines where the probability crosses `body`, not along pixels"
    )
    regularize: bool = Field(
        True,
        description="Make outlines right-angled where walls are nearly so; corners move by at most "
        "a metre or two pixels, whichever is more",
    )
    min_hole_m2: float | None = Field(
        None,
        ge=0,
        le=MAX_AREA_M2,
        description="Smaller holes are filled, m²; null: the model's `min_area_m2`",
    )
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="Footprints with a lower confidence are dropped, 0-1"
    )
    temperature: float = Field(
        1.0,
        ge=0.05,
        le=20,
        description="Calibration of probabilities inside footprints: logits are divided by it",
    )
    confidence: ConfidenceRule | None = Field(
        None, description="How confidences follow from features; null: they are mean probabilities"
    )


class VectorizeOptions(Options):
    """Thresholds that replace the model's; null keeps them."""

    body: float | None = Field(None, gt=0, lt=1)
    seed: float | None = Field(None, gt=0, lt=1)
    border: float | None = Field(None, ge=0, le=4)
    contact: float | None = Field(None, ge=0, le=4)
    split_m: float | None = Field(None, ge=0, le=MAX_LENGTH_M)
    min_area_m2: float | None = Field(None, ge=0, le=MAX_AREA_M2)
    min_part_m2: float | None = Field(None, ge=0, le=MAX_AREA_M2)
    simplify_m: float | None = Field(None, ge=0, le=MAX_LENGTH_M)
    subpixel: bool | None = None
    regularize: bool | None = None
    min_hole_m2: float | None = Field(None, ge=0, le=MAX_AREA_M2)
    min_confidence: float | None = Field(None, ge=0, le=1)
    block_px: int | None = Field(
        None, ge=1, description="Rows and columns processed at a time; chosen by memory when null"
    )
    crf: CRFOptions | None = Field(
        None, description="Dense CRF that refines the probabilities first, with --crf SCENE"
    )

    def over(self, thresholds: Thresholds) -> Thresholds:
        """Return the thresholds with the options that are set replaced.

        Another minimum area only drops footprints: the sizes of parts and holes that follow the
        model's minimum area stay as they were.
        """
        changes = self.model_dump(exclude={"block_px", "crf"}, exclude_none=True)
        sizes = {name: getattr(thresholds, name) for name in ("min_part_m2", "min_hole_m2")}
        if "min_area_m2" in changes:
            followed = {name for name, size in sizes.items() if size is None}
            changes = {**dict.fromkeys(followed, thresholds.min_area_m2), **changes}
        return thresholds.model_copy(update=changes)


# Thresholds that have no meaning for exclusive classes.
_ONLY_BUILDINGS = (
    *("body", "seed", "border", "contact", "split_m", "subpixel", "regularize", "min_hole_m2"),
    "min_part_m2",
    "temperature",
    "confidence",
)


def check_thresholds(
    thresholds: VectorizeOptions | Thresholds, defaults: Thresholds | None = None
) -> None:
    """Refuse thresholds that have no meaning for exclusive classes.

    Args:
        thresholds: The fields that are set are checked.
        defaults: Thresholds of the model or raster; fields may repeat their values.

    Raises:
        ConfigError: If a threshold is set that applies only to building models.
    """
    values = thresholds.model_dump(exclude_unset=True, exclude_none=True)
    for name in _ONLY_BUILDINGS:
        if name in values and (defaults is None or values[name] != getattr(defaults, name)):
            raise ConfigError(
                f"vectorize.{name}: applies only to building models, not to exclusive classes; "
                "remove it"
            )
