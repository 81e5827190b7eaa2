"""Options of data augmentation."""

from __future__ import annotations

from pydantic import Field, model_validator

from geoseg.options.base import Fraction, Options


class AugmentOptions(Options):
    """Random augmentation of training tiles, drawn for each sample.

    Brightness, shift and noise are in standard deviations of the training pixels, so that one
    setting is suitable for every sensor. An augmentation is off at 0, or at a scale of 1.
    Networks that detect boxes ignore `free_share`, since their tiles stay on the pixel grid, and
    `blank_share`.
    """

    quarter_turns: bool = Field(
        True, description="Rotate by multiples of 90 degrees, without resampling"
    )
    mirrors: bool = Field(True, description="Mirror half of the samples, without resampling")
    free_share: Fraction = Field(
        0.5,
        description="Share of samples that are also rotated, scaled and deformed by resampling; "
        "ignored by networks that detect boxes",
    )
    turn_deg: float = Field(
        20.0, ge=0, le=180, description="Largest rotation of resampled tiles, degrees"
    )
    scale: float = Field(
        1.4, ge=1, le=4, description="Largest factor by which resampled tiles shrink or grow"
    )
    elastic_px: float = Field(
        0.0,
        ge=0,
        description="Elastic deformation of resampled tiles: standard deviation of the shifts "
        "of a 3 x 3 grid, pixels; 10 in the U-Net paper",
    )
    brightness: float = Field(
        0.6, ge=0, le=3, description="Largest shift of all bands together, up or down"
    )
    contrast: float = Field(
        0.4, ge=0, lt=1, description="All bands are multiplied by 1 ± up to this"
    )
    gamma: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Tone curve: exponents between e^-this and e^this; black is kept",
    )
    band_gain: float = Field(
        0.1, ge=0, lt=1, description="Each band is multiplied by 1 ± up to this"
    )
    band_shift: float = Field(
        0.15, ge=0, le=3, description="Largest shift of each band, up or down"
    )
    noise: float = Field(0.08, ge=0, le=3, description="Largest standard deviation of added noise")
    blur_px: float = Field(
        1.0, ge=0, le=10, description="Largest sigma of the Gaussian blur, pixels"
    )
    blur_share: Fraction = Field(0.2, description="Share of samples that are blurred")
    band_dropout: Fraction = Field(
        0.0, description="Share of samples in which one band is replaced by its mean"
    )
    shadows: Fraction = Field(
        0.5, description="Share of samples with a dark stripe with soft edges"
    )
    blank_share: Fraction = Field(
        0.05,
        description="Share of samples of which a part at the edge is black, white or the mean, "
        "without buildings; ignored by networks that detect boxes",
    )

    @property
    def leaves_grid(self) -> bool:
        """Whether some samples are rotated, scaled or deformed by resampling."""
        return self.free_share > 0 and (self.turn_deg > 0 or self.scale > 1 or self.elastic_px > 0)

    @model_validator(mode="after")
    def _check_elastic(self) -> AugmentOptions:
        if self.elastic_px and not self.free_share:
            raise ValueError(
                "elastic_px has no effect, because free_share is 0; set free_share above 0"
            )
        return self


# Values of train.augment by name.
AUGMENT_PRESETS: dict[str, AugmentOptions | None] = {
    "none": None,
    "light": AugmentOptions(turn_deg=0, scale=1, gamma=0, blur_px=0, shadows=0),
    "full": AugmentOptions(),
}
