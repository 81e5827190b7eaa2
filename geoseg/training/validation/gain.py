"""Fine-tuning: whether thresholds are kept, and the gain in building F1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from geoseg.errors import GeosegError, counted
from geoseg.evaluation.place_scores import mean_building_f1
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.starting_model import StartingModel
from geoseg.prediction.predictor import Predictor
from geoseg.training.validation.areas import ValidationAreas
from geoseg.training.validation.merged_labels import LabelledArea, count_buildings_in

# With fewer validation buildings, thresholds that fit them best are mostly chance.
_LEAST_BUILDINGS = 40

# With fewer buildings than this, a smaller difference of F1 can be chance: its standard error is
# about 0.5 / sqrt(n), less what both models find.
_MANY_BUILDINGS, _CLEAR_GAIN = 100, 0.1


def is_comparable(start: StartingModel, spec: ModelSpec) -> bool:
    """Return whether a starting model predicts the same outputs from the same images."""
    return start.spec.outputs == spec.outputs and start.spec.mean == spec.mean


def load_start(start: StartingModel) -> dict[str, Tensor] | None:
    """Return the weights of a starting model; None if its file is gone since training began."""
    try:
        return start.load_weights()
    except GeosegError:  # no reason to lose the run
        return None


def score_start(start: StartingModel, areas: ValidationAreas, device: str) -> float | None:
    """Return the building F1 of a starting model by its own thresholds, `mean_building_f1`.

    Args:
        start: A model that predicts the outputs of the areas.
        areas: Validation areas; their predictions are replaced.
        device: `auto`, `cpu` or `gpu`.

    Returns:
        Building F1; None without its weights.
    """
    weights = load_start(start)
    if weights is None:
        return None
    areas.predict(Predictor(start.spec, weights, device))
    return mean_building_f1([one for one, _ in areas.score_places(start.spec.thresholds)])


def count_buildings(areas: Sequence[LabelledArea]) -> int:
    """Return the number of true buildings by which validation areas are scored."""
    is_counted = count_buildings_in(areas)
    return sum(len(area.truth) for use, area in zip(is_counted, areas, strict=True) if use)


def are_few(buildings: int) -> bool:
    """Return whether so many validation buildings are too few to tune thresholds on them."""
    return buildings < _LEAST_BUILDINGS


def describe_gain(name: str, before: float, after: float, buildings: int) -> tuple[str, ...]:
    """Return lines about the thresholds that are kept, and about building F1 before and after.

    Args:
        name: Name of the starting model.
        before: Its building F1 on the validation tiles.
        after: That of the new model.
        buildings: Number of true buildings there.
    """
    number = counted(buildings, "validation building")
    kept = f"{number}, too few to tune thresholds; keeping those of {name}"
    if not buildings:
        return (kept,)
    gain = (
        f"building F1 on {number}: {before:.3f} with the model {name}, {after:.3f} with the new one"
    )
    if are_few(buildings):
        return kept, f"{gain}; with so few buildings this is uncertain"
    if round(after, 3) > round(before, 3):
        is_small = buildings < _MANY_BUILDINGS and after - before < _CLEAR_GAIN
        return (f"{gain}; so small a difference can be chance" if is_small else gain,)
    return (f"{gain}; that is no gain, so keep {name}, or label more buildings and train again",)
