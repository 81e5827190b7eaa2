"""Options of the loss: its terms, and the weights of pixels."""

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
    """One term of the loss; in a configuration a number is short for its weight."""

    weight: float = Field(1.0, ge=0, description="Weight of the term in the sum; 0 removes it")


class BceOptions(TermOptions):
    """Binary cross-entropy of independent channels."""

    pos_weight: tuple[Positive, ...] = Field(
        (1.0,), min_length=1, description="Weight of positive pixels: one value, or one per channel"
    )

    @field_validator("pos_weight", mode="before")
    @classmethod
    def _number_as_tuple(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)


class CrossEntropyOptions(TermOptions):
    """Softmax cross-entropy of exclusive classes."""

    class_weights: tuple[Positive, ...] | None = Field(None, description="Weight of each class")


class FocalOptions(TermOptions):
    """Focal loss (Lin et al. 2017)."""

    gamma: float = Field(
        2.0, ge=0, description="Focusing exponent γ: reduces the loss of confident pixels"
    )
    alpha: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Weight of positive pixels, 1-α of negative ones; null for no weights",
    )
    class_weights: tuple[Positive, ...] | None = Field(
        None, description="Weight of each class instead of α; exclusive classes only"
    )
    normalise: Literal["pixels", "positives"] = Field(
        "pixels",
        description="Divisor of the sum: number of pixels, or of positive pixels (as in the paper)",
    )


class OverlapOptions(TermOptions):
    """Soft Dice or soft Jaccard loss."""

    smooth: float = Field(
        1.0,
        ge=0,
        description="Smoothing term of numerator and denominator; with 0, images without a "
        "building have no gradient",
    )


class TverskyOptions(OverlapOptions):
    """Tversky loss; α = β = 0.5 is Dice (with half the smoothing), α = β = 1 is Jaccard."""

    alpha: float = Field(0.3, gt=0, description="Weight of false positives")
    beta: float = Field(0.7, ge=0, description="Weight of false negatives")


class LovaszHingeOptions(TermOptions):
    """Lovász hinge loss of independent channels."""

    per_image: bool = Field(False, description="Mean over tiles instead of one loss over the batch")


class LovaszSoftmaxOptions(LovaszHingeOptions):
    """Lovász-Softmax loss of exclusive classes."""

    classes: Literal["present", "all"] = Field(
        "present", description="Classes to average over: those present in the target, or all"
    )


class LossOptions(Options):
    """Terms of the loss, with weights and parameters; terms that are not named are not used."""

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
        """The terms with a positive weight, by name."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: term for name, term in named if term is not None and term.weight > 0}

    @field_validator("*", mode="before")
    @classmethod
    def _number_as_weight(cls, value: Any) -> Any:
        is_term = value is None or isinstance(value, dict | TermOptions)
        return value if is_term else {"weight": value}

    @model_validator(mode="after")
    def _not_empty(self) -> LossOptions:
        if not self.terms:
            raise ValueError("no term has a positive weight")
        return self

    @model_serializer(mode="wrap")
    def _only_terms(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: term for name, term in handler(self).items() if term is not None}


# Default losses of independent channels (buildings) and of exclusive classes.
USUAL_LOSS = LossOptions(bce=BceOptions(), dice=OverlapOptions())
USUAL_LOSS_OF_CLASSES = LossOptions(cross_entropy=CrossEntropyOptions(), dice=OverlapOptions())

# Terms that are sums over pixels, which can therefore be weighted by a weight map.
PIXELWISE = ("bce", "cross_entropy", "focal")


class WeightMapOptions(Options):
    """Pixel weights of U-Net, w_c + w0·exp(-(d1+d2)²/2σ²)."""

    w0: float = Field(10.0, ge=0, description="Weight of gaps between buildings")
    sigma_px: float = Field(
        5.0, gt=0, description="σ in pixels: gap width up to which the weight is high"
    )
    sigma_m: float | None = Field(None, gt=0, description="σ in metres, instead of sigma_px")
    balance: bool = Field(
        True, description="Balance: building and background pixels have equal total weight (w_c)"
    )

    def sigma(self, gsd_m: float) -> float:
        """Return σ in pixels of a size in metres."""
        return self.sigma_px if self.sigma_m is None else self.sigma_m / gsd_m
