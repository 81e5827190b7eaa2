"""The rule by which the confidence of a footprint follows from its features."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from geoseg.options.base import Options

MOST_WEIGHT = 1e4
Weight = Annotated[float, Field(ge=-MOST_WEIGHT, le=MOST_WEIGHT)]


class ConfidenceRule(Options):
    """Logistic rule: the logit of a confidence is the weighted sum of features of a footprint.

    A confidence is the probability that the footprint is a building: that a true footprint has an
    IoU above 0.5 with it. Training fits the rule to validation footprints. Each field but
    `constant` is the weight of the feature with its name.
    """

    constant: Weight = Field(0.0, description="Added to the sum")
    mean_prob: Weight = Field(0.0, description="Logit of the mean probability inside")
    conf_p10: Weight = Field(0.0, description="Logit of the tenth percentile of the probability")
    border: Weight = Field(0.0, description="Mean border probability of pixels at the outline")
    contact: Weight = Field(0.0, description="Mean contact probability of pixels at the outline")
    small: Weight = Field(0.0, description="log2(area / 50 m²), at most 0")
    large: Weight = Field(0.0, description="log2(area / 200 m²), at least 0")
    compactness: Weight = Field(0.0, description="4 pi area / perimeter²: 1 of a circle")
    edge: Weight = Field(0.0, description="1 at the edge of the scene or at nodata, else 0")
    touching: Weight = Field(0.0, description="1 if it shares a wall with another building, else 0")


FEATURES = tuple(name for name in ConfidenceRule.model_fields if name != "constant")
