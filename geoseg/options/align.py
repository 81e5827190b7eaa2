"""Options of alignment."""

from __future__ import annotations

from pydantic import Field

from geoseg.options.base import Options


class AlignOptions(Options):
    """Options of `geoseg align`."""

    max_shift_m: float = Field(
        3.0, gt=0, le=50, description="Polygons are moved by at most this, metres"
    )
    ring_m: float = Field(
        1.5,
        gt=0,
        le=50,
        description="Width of the ring around a polygon in which no building is expected, metres",
    )
    least_prob: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Mean building probability that a polygon must reach somewhere within "
        "`max_shift_m`; another one only follows its neighbours, 0-1",
    )
    border_weight: float = Field(
        0.5, ge=0, le=4, description="Weight of the border probability, if the model predicts it"
    )
