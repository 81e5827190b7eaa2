"""Confidences of the footprints of validation areas, and the limit from which they are kept."""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np

from geoseg.evaluation import Evaluation
from geoseg.options import Thresholds
from geoseg.options.confidence import ConfidenceRule
from geoseg.training.validation.areas import ValidationArea, ValidationAreas
from geoseg.training.validation.confidence import (
    choose_least_confidence,
    collect_footprints,
    cross_rate,
    fit_rule,
    measure_footprints,
)
from geoseg.training.validation.merged_labels import count_buildings_in
from geoseg.training.validation.reliability import Reliability
from geoseg.vectorization.confidence import compute_features, rate_footprints
from geoseg.vectorization.footprints import MEASURED_COLUMNS


@dataclass(frozen=True, eq=False)
class RatedAreas:
    """Validation areas with their footprints, rated and chosen by confidence.

    Attributes:
        thresholds: Thresholds with the rule of confidences and `min_confidence`.
        evaluated: The areas with their evaluation.
        reliability: Of confidences by rules that did not see the footprints; None without a rule,
            or if no other rule could be fitted.
    """

    thresholds: Thresholds
    evaluated: list[tuple[ValidationArea, Evaluation]]
    reliability: Reliability | None = None

    @property
    def summary(self) -> dict[str, float]:
        """The values that a model file stores; empty without a reliability."""
        if self.reliability is None:
            return {}
        return {
            "footprints": int(self.reliability.counts.sum()),
            "footprint_ece": round(self.reliability.ece, 4),
        }


def evaluate_areas(areas: ValidationAreas, thresholds: Thresholds) -> RatedAreas:
    """Find and evaluate footprints by thresholds that stay as they are.

    Args:
        areas: Validation areas, predicted.
        thresholds: Thresholds of the footprints, with a rule or without.
    """
    return RatedAreas(thresholds, [(area, area.evaluate(thresholds)) for area in areas.areas()])


def rate_areas(areas: ValidationAreas, thresholds: Thresholds) -> RatedAreas:
    """Fit how confidences follow from features, and choose the confidence from which to keep.

    Areas in which building F1 does not count are rated, but the rule is not fitted to them. With
    too few footprints the thresholds stay as they are.

    Args:
        areas: Validation areas, predicted.
        thresholds: Thresholds of the footprints.
    """
    every = areas.areas()
    found = [area.find(thresholds) for area in every]
    evaluated = [(area, area.compare(layer)) for area, layer in zip(every, found, strict=True)]
    is_counted = count_buildings_in(every)
    counted = [pair for pair, counts in zip(evaluated, is_counted, strict=True) if counts]
    footprints = collect_footprints((area.place, one) for area, one in counted)
    rule = fit_rule(footprints)
    if rule is None:
        return RatedAreas(thresholds, evaluated)
    missed = [0] * len(areas.places.names)
    for area, one in counted:
        missed[area.place] += one.score.fn
    unseen = cross_rate(footprints)
    known = np.isfinite(unseen)
    confidences = np.where(known, unseen, rate_footprints(rule, footprints.features))
    least = choose_least_confidence(confidences, footprints, missed)
    kept = (keep_confident(layer, rule, least) for layer in found)
    return RatedAreas(
        thresholds.model_copy(update={"confidence": rule, "min_confidence": least}),
        [(area, area.compare(layer)) for area, layer in zip(every, kept, strict=True)],
        measure_footprints(unseen, footprints.found) if known.any() else None,
    )


def keep_confident(
    footprints: gpd.GeoDataFrame, rule: ConfidenceRule, least: float
) -> gpd.GeoDataFrame:
    """Return footprints with their confidence by a rule, as `vectorize` computes it.

    Args:
        footprints: Footprints with the columns `MEASURED_COLUMNS`.
        rule: The rule.
        least: Footprints below this confidence are dropped.
    """
    features = compute_features({name: footprints[name].to_numpy() for name in MEASURED_COLUMNS})
    rated = footprints.assign(confidence=rate_footprints(rule, features).round(4))
    return rated[rated["confidence"] >= least]
