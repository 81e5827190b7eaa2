"""What is learnt by: the terms of the loss, and how pixels are weighed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from geoseg.options.base import Options, Positive


class TermOptions(Options):
    """One term of the loss; a bare number in its place is its weight."""

    weight: float = Field(1.0, ge=0, description="Factor in the sum; 0 leaves the term out")


class BceOptions(TermOptions):
    """Binary cross-entropy of independent channels."""

    pos_weight: tuple[Positive, ...] = Field(
        (1.0,), min_length=1, description="Weight of positive pixels: one, or one per channel"
    )

    @field_validator("pos_weight", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)


class CrossEntropyOptions(TermOptions):
    """Softmax cross-entropy of exclusive classes."""

    class_weights: tuple[Positive, ...] | None = Field(None, description="Weight of each class")


class FocalOptions(TermOptions):
    """Focal loss."""

    gamma: float = Field(2.0, ge=0, description="How far sure pixels are turned down")
    alpha: float | None = Field(
        None, gt=0, lt=1, description="Weight of positives, 1-α of negatives; neither when null"
    )
    class_weights: tuple[Positive, ...] | None = Field(
        None, description="Weight of each of exclusive classes, in place of α"
    )
    normalise: Literal["pixels", "positives"] = Field(
        "pixels", description="Mean over pixels, or sum over the number of positives (the paper)"
    )


class OverlapOptions(TermOptions):
    """Soft Dice or soft Jaccard."""

    smooth: float = Field(
        1.0,
        ge=0,
        description="Added above and below the fraction; at 0 empty ground teaches nothing",
    )


class TverskyOptions(OverlapOptions):
    """Tversky loss: Dice at α = β = 0.5 (with half the smoothing), Jaccard at α = β = 1."""

    alpha: float = Field(0.3, gt=0, description="Weight of false positives")
    beta: float = Field(0.7, ge=0, description="Weight of false negatives")


class LovaszHingeOptions(TermOptions):
    """Lovász hinge of independent channels."""

    per_image: bool = Field(False, description="Mean over tiles, instead of the batch as one")


class LovaszSoftmaxOptions(LovaszHingeOptions):
    """Lovász-Softmax of exclusive classes."""

    classes: Literal["present", "all"] = Field("present", description="Classes of the mean")


class LossOptions(Options):
    """The terms of the loss, their weights and parameters; what is not named is left out."""

    bce: BceOptions | None = None
    cross_entropy: CrossEntropyOptions | None = None
    dice: OverlapOptions | None = None
    focal: FocalOptions | None = None
    jaccard: OverlapOptions | None = None
    lovasz_hinge: LovaszHingeOptions | None = None
    lovasz_softmax: LovaszSoftmaxOptions | None = None
    tversky: TverskyOptions | None = None

    @property
    def terms(self) -> dict[str, TermOptions]:
        """The terms with a weight, by name."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: term for name, term in named if term is not None and term.weight > 0}

    @field_validator("*", mode="before")
    @classmethod
    def _bare_weight(cls, value: Any) -> Any:
        whole = value is None or isinstance(value, dict | TermOptions)
        return value if whole else {"weight": value}

    @model_validator(mode="after")
    def _not_empty(self) -> LossOptions:
        if not self.terms:
            raise ValueError("no term has a positive weight")
        return self

    @model_serializer(mode="wrap")
    def _only_terms(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: term for name, term in handler(self).items() if term is not None}


# What is learnt by when nothing is said, of buildings and of exclusive classes.
USUAL_LOSS = LossOptions(bce=BceOptions(), dice=OverlapOptions())
USUAL_LOSS_OF_CLASSES = LossOptions(cross_entropy=CrossEntropyOptions(), dice=OverlapOptions())

# The terms that count pixel by pixel, so that a pixel's weight means something to them.
PIXELWISE = ("bce", "cross_entropy", "focal")


class WeightMapOptions(Options):
    """U-Net's weights of pixels, w_c + w0·exp(-(d1+d2)²/2σ²)."""

    w0: float = Field(10.0, ge=0, description="Weight of the gap between touching buildings")
    sigma_px: float = Field(5.0, gt=0, description="σ: how wide gaps still weigh, pixels")
    sigma_m: float | None = Field(None, gt=0, description="σ in metres, in place of sigma_px")
    balance: bool = Field(True, description="w_c: building and ground weigh the same in sum")

    def sigma(self, gsd_m: float) -> float:
        """σ in pixels of this size."""
        return self.sigma_px if self.sigma_m is None else self.sigma_m / gsd_m
