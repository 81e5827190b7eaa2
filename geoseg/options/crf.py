"""Settings of the dense CRF."""

from __future__ import annotations

import math

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
