"""Prediction jobs: a scene and its models, checked before anything is computed or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.errors import ConfigError, GridMismatchError
from geoseg.geo.raster import list_files
from geoseg.networks.architectures import task_of
from geoseg.networks.model_file import ModelSpec, find_model, load_spec
from geoseg.options import PredictOptions
from geoseg.prediction.plan import ScenePlan, plan_prediction

# Models whose pixel sizes differ by more than this share are not averaged.
_GSD_TOLERANCE = 0.05

ModelNames = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class PredictionJob:
    """A prediction that can be made.

    Attributes:
        plan: Scene, grid and tiles.
        models: The model files; their probabilities are averaged.
        specs: Headers of the model files.
        options: Settings of the prediction.
    """

    plan: ScenePlan
    models: tuple[Path, ...]
    specs: tuple[ModelSpec, ...]
    options: PredictOptions

    @property
    def finds_boxes(self) -> bool:
        """Whether the model finds boxes instead of probabilities per pixel."""
        return task_of(self.specs[0].arch) == "boxes"

    def list_input_files(self) -> list[str | Path]:
        """Return all files that the result depends on, sources of a VRT included."""
        # QGIS writes statistics beside a scene that it opens; the result does not depend on them.
        scene: list[str | Path] = [
            file for file in list_files(self.plan.scene.path) if not file.endswith(".aux.xml")
        ]
        return [*scene, *self.models, *_list_layer_files(self.options.aoi)]


def plan_job(
    scene: str | Path, model: ModelNames = None, options: PredictOptions | None = None
) -> PredictionJob:
    """Check whether a scene can be predicted with a model, reading headers only.

    Args:
        scene: Any raster that GDAL opens.
        model: A model file or the name of a shipped model, or several; None for the default model.
        options: Settings of the prediction.

    Raises:
        GeosegError: If scene, models and options do not fit together.
    """
    options = options or PredictOptions()
    models = _find_models(model)
    specs = tuple(load_spec(path) for path in models)
    _check_same_kind(models, specs)
    plan = plan_prediction(scene, specs[0], options)
    job = PredictionJob(plan, models, specs, options)
    if job.finds_boxes and options.backend != "torch":
        raise ConfigError(
            f"predict.backend: {models[0]} finds boxes, which only the backend torch supports"
        )
    return job


def _list_layer_files(aoi: str | None) -> list[Path]:
    """Return the files of a layer; a Shapefile has several."""
    if aoi is None:
        return []
    # Imported here: geopandas is slow to load, and most predictions have no area of interest.
    from geoseg.geo.vector import list_layer_files

    return list_layer_files(aoi)


def _find_models(model: ModelNames) -> tuple[Path, ...]:
    names = [model] if model is None or isinstance(model, str | Path) else list(model)
    if not names:
        raise ConfigError("no model was given; pass the model.safetensors that geoseg train wrote")
    return tuple(find_model(name).absolute() for name in names)


def _check_same_kind(models: Sequence[Path], specs: Sequence[ModelSpec]) -> None:
    """Check that the probabilities of all models can be averaged with those of the first."""
    first, *others = specs
    for path, spec in zip(models[1:], others, strict=True):
        if task_of(first.arch) == "boxes" or task_of(spec.arch) == "boxes":
            raise GridMismatchError(
                f"{path}: models of boxes have no probabilities to average; give a single model"
            )
        for name in ("bands", "outputs", "exclusive", "classes", "background", "size", "dtype"):
            own, other = getattr(first, name), getattr(spec, name)
            if own != other:
                raise GridMismatchError(
                    f"{path}: has {name} {_format(other)}, {models[0]} has {_format(own)}; models "
                    "that are averaged must agree in this"
                )
        if abs(spec.gsd_m / first.gsd_m - 1) > _GSD_TOLERANCE:
            raise GridMismatchError(
                f"{path}: needs pixels of {spec.gsd_m:.3g} m, {models[0]} of {first.gsd_m:.3g} m; "
                "models that are averaged must agree in this"
            )


def _format(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
