"""Models that continue from another one: what they keep of it, and what they gained."""

from __future__ import annotations

from collections.abc import Sequence

from geoseg.errors import counted
from geoseg.evaluation.place_scores import mean_building_f1
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.starting_model import StartingModel
from geoseg.prediction.predictor import Predictor
from geoseg.training.validation.areas import ValidationAreas
from geoseg.training.validation.merged_labels import LabelledArea, count_buildings_in

# With fewer validation buildings, thresholds that fit them best are mostly chance.
_LEAST_BUILDINGS = 40


def is_comparable(start: StartingModel, spec: ModelSpec) -> bool:
    """Return whether a starting model predicts the same outputs from the same images."""
    return start.spec.outputs == spec.outputs and start.spec.mean == spec.mean


def score_start(start: StartingModel, areas: ValidationAreas, device: str) -> float:
    """Return the building F1 of a starting model by its own thresholds, `mean_building_f1`.

    Args:
        start: A model that predicts the outputs of the areas.
        areas: Validation areas; their predictions are replaced.
        device: `auto`, `cpu` or `gpu`.
    """
    areas.predict(Predictor(start.spec, start.load_weights(), device))
    return mean_building_f1([one for one, _ in areas.score_places(start.spec.thresholds)])


def has_few_buildings(areas: Sequence[LabelledArea]) -> bool:
    """Return whether validation areas have too few buildings to tune thresholds on them."""
    return _count_buildings(areas) < _LEAST_BUILDINGS


def describe_kept(name: str, areas: Sequence[LabelledArea]) -> str:
    """Return a line about the thresholds that are kept, see `has_few_buildings`."""
    number = counted(_count_buildings(areas), "building")
    return (
        f"{number} in the validation tiles are too few to tune thresholds; keeping those of {name}"
    )


def describe_gain(name: str, before: float, after: float) -> str:
    """Return a line about building F1 before and after.

    Args:
        name: Name of the starting model.
        before: Its building F1 on the validation tiles.
        after: That of the new model.
    """
    scores = f"building F1 on the validation tiles: {before:.3f} with {name}, {after:.3f} now"
    if after > before:
        return scores
    return f"{scores}; that is no gain, so keep {name}, or label more buildings and train again"


def _count_buildings(areas: Sequence[LabelledArea]) -> int:
    is_counted = count_buildings_in(areas)
    return sum(len(area.truth) for use, area in zip(is_counted, areas, strict=True) if use)
