"""Settings of the dense CRF."""

from __future__ import annotations

import math

from pydantic import Field

from geoseg.options.base import Options


class CRFOptions(Options):
    """Options of the dense CRF that refines probabilities: weights and sigmas of two kernels.

    The weights, the sigma of the Gaussian kernel and the number of iterations are those of DeepLab
    (arXiv 1606.00915), which tried bilateral sigmas of 30-100 pixels and 3-6 colour levels.
    """

    gaussian_weight: float = Field(
        3.0, ge=0, description="Weight of the Gaussian kernel, which smooths"
    )
    gaussian_sigma: float = Field(
        3.0, ge=0.5, le=200, description="Standard deviation of the Gaussian kernel, pixels"
    )
    bilateral_weight: float = Field(
        4.0, ge=0, description="Weight of the bilateral kernel, which follows colour edges"
    )
    bilateral_sigma: float = Field(
        30.0, ge=0.5, le=200, description="Standard deviation of the bilateral kernel, pixels"
    )
    colour_sigma: float = Field(
        10.0,
        ge=0.5,
        description="Standard deviation of the bilateral kernel in colour, on a scale of 0-255",
    )
    iterations: int = Field(10, ge=1, le=100, description="Mean-field iterations")

    @property
    def halo(self) -> int:
        """Radius around a pixel in which others influence it: three times the larger sigma."""
        sigmas = (
            self.gaussian_sigma if self.gaussian_weight else 0,
            self.bilateral_sigma if self.bilateral_weight else 0,
        )
        return math.ceil(3 * max(sigmas))
