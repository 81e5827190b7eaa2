"""How training tiles are varied."""

from __future__ import annotations

from pydantic import Field, model_validator

from geoseg.options.base import Fraction, Options


class AugmentOptions(Options):
    """How training tiles are varied at random, each sample its own way.

    Colours are counted in deviations of the training ground, so that one setting suits every
    sensor. A family is off at 0, or at a scale of 1. Networks of boxes stay on the pixel grid,
    whatever `free_share` says.
    """

    quarter_turns: bool = Field(True, description="Turn by quarters; pixels are copied")
    mirrors: bool = Field(True, description="Mirror half of the samples; pixels are copied")
    free_share: Fraction = Field(
        0.5,
        description="Share of samples that are also turned, scaled and bent off the pixel grid; "
        "none of networks of boxes",
    )
    turn_deg: float = Field(20.0, ge=0, le=180, description="Those turn by up to this, degrees")
    scale: float = Field(
        1.4, ge=1, le=4, description="Those shrink or grow by up to this factor, alike in size"
    )
    elastic_px: float = Field(
        0.0,
        ge=0,
        description="Those bend: std of displacements on a 3 x 3 grid, pixels; U-Net's 10",
    )
    brightness: float = Field(0.6, ge=0, le=3, description="Added to all bands: up to ±this")
    contrast: float = Field(0.4, ge=0, lt=1, description="Bands are multiplied by 1 ± this")
    gamma: float = Field(
        0.3, ge=0, le=1, description="Tone curve: light to the power of e^±this, black stays black"
    )
    band_gain: float = Field(0.1, ge=0, lt=1, description="Each band is multiplied by 1 ± this")
    band_shift: float = Field(0.15, ge=0, le=3, description="Added to each band: up to ±this")
    noise: float = Field(0.08, ge=0, le=3, description="Deviation of the grain, up to this")
    blur_px: float = Field(
        1.0, ge=0, le=10, description="Gaussian blur with a sigma of up to this, pixels"
    )
    blur_share: Fraction = Field(0.2, description="Share of samples that are blurred")
    band_dropout: Fraction = Field(
        0.0, description="Share of samples that lose one of their bands, which becomes its mean"
    )
    shadows: Fraction = Field(0.5, description="Share of samples with a soft-edged dark stripe")

    @property
    def leaves_grid(self) -> bool:
        """Whether some samples are turned, scaled or bent off the pixel grid."""
        return self.free_share > 0 and (self.turn_deg > 0 or self.scale > 1 or self.elastic_px > 0)

    @model_validator(mode="after")
    def _bends(self) -> AugmentOptions:
        if self.elastic_px and not self.free_share:
            raise ValueError("elastic_px bends free_share of the samples, which is 0")
        return self


# What the names under train.augment stand for.
AUGMENT_PRESETS: dict[str, AugmentOptions | None] = {
    "none": None,
    "light": AugmentOptions(turn_deg=0, scale=1, gamma=0, blur_px=0, shadows=0),
    "full": AugmentOptions(),
}
