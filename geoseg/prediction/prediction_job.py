"""What is asked of a prediction, checked before anything is computed or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.errors import ConfigError, GridMismatchError
from geoseg.geo.raster import list_files
from geoseg.geo.vector import WRITABLE_SUFFIXES
from geoseg.jobs.journal import check_output, describe_job
from geoseg.networks.architectures import task_of
from geoseg.networks.model_file import ModelSpec, load_spec
from geoseg.options import PredictOptions, Thresholds, VectorizeOptions, check_thresholds
from geoseg.prediction.backends import check_backend
from geoseg.prediction.plan import PredictPlan, plan_prediction

RASTER_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class Job:
    """A prediction that can be made.

    Attributes:
        plan: Of the scene.
        models: Their files.
        specs: Their headers.
        thresholds: What makes a building.
        output: A folder or file that may be written.
        suffix: Of a file, in lower case; nothing for a folder.
        inputs: What the user named, which must not be overwritten.
        name: Differs for any two jobs whose results could.
    """

    plan: PredictPlan
    models: tuple[Path, ...]
    specs: tuple[ModelSpec, ...]
    thresholds: Thresholds
    output: Path
    suffix: str
    inputs: tuple[str | Path, ...]
    name: str

    @property
    def finds_boxes(self) -> bool:
        """Whether the model finds boxes rather than pixels."""
        return task_of(self.specs[0].arch) == "boxes"


def plan_job(
    scene: str | Path,
    model: str | Path | Sequence[str | Path],
    output: str | Path,
    options: PredictOptions,
    thresholds: VectorizeOptions | None = None,
    *,
    overwrite: bool = False,
) -> Job:
    """Checks whether a scene can be predicted as asked.

    Args:
        scene: Any raster that GDAL opens.
        model: A model file, or several.
        output: A folder or a file.
        options: How to predict.
        thresholds: Replace the model's.
        overwrite: Whether the output may be replaced.

    Raises:
        GeosegError: If scene, model, output and options do not work together.
    """
    models = _list_models(model)
    inputs = (scene, *models, *([options.aoi] if options.aoi else []))
    suffix = _check_suffix(Path(output))
    output = check_output(output, overwrite=overwrite, inputs=inputs, is_file=bool(suffix))
    check_backend(options.backend, options.device)
    specs = tuple(load_spec(path) for path in models)
    _check_company(models, specs)
    plan = plan_prediction(scene, specs[0], options)
    chosen = _choose_thresholds(specs[0], thresholds)
    kept = options.model_dump(exclude={"max_memory_gb", "block_rows"})
    files: list[str | Path] = [*list_files(scene), *models, *_area_files(options.aoi)]
    name = describe_job("predict", kept, chosen.model_dump(), suffix, files=files)
    job = Job(plan, models, specs, chosen, output, suffix, inputs, name)
    if job.finds_boxes and options.backend != "torch":
        raise ConfigError(f"predict.backend: {models[0]} finds boxes, which torch computes alone")
    return job


def _area_files(aoi: str | None) -> list[Path]:
    """Files of a layer; a Shapefile is several."""
    if aoi is None:
        return []
    path = Path(aoi)
    return sorted(path.parent.glob(f"{path.stem}.*")) if path.suffix == ".shp" else [path]


def _list_models(model: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    models = [model] if isinstance(model, str | Path) else list(model)
    if not models:
        raise ConfigError("no model is named; pass the model.safetensors that geoseg train wrote")
    return tuple(Path(model).absolute() for model in models)


def _check_company(models: Sequence[Path], specs: Sequence[ModelSpec]) -> None:
    """Refuses models that cannot be averaged with the first one."""
    first, *others = specs
    for path, spec in zip(models[1:], others, strict=True):
        if task_of(first.arch) == "boxes" or task_of(spec.arch) == "boxes":
            raise GridMismatchError(
                f"{path}: models of boxes have no probabilities that could be averaged; give one"
            )
        for name in ("bands", "outputs", "exclusive", "classes", "background", "size", "dtype"):
            mine, its = getattr(first, name), getattr(spec, name)
            if mine != its:
                raise GridMismatchError(
                    f"{path}: has {name} {_words(its)}, {models[0]} has {_words(mine)}; models "
                    "that are averaged must agree in that"
                )
        if abs(spec.gsd_m / first.gsd_m - 1) > 0.05:
            raise GridMismatchError(
                f"{path}: wants pixels of {spec.gsd_m:.3g} m, {models[0]} of {first.gsd_m:.3g} m; "
                "models that are averaged must agree in that"
            )


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _choose_thresholds(spec: ModelSpec, thresholds: VectorizeOptions | None) -> Thresholds:
    thresholds = thresholds or VectorizeOptions()
    if spec.exclusive:
        check_thresholds(thresholds)
    return thresholds.over(spec.thresholds)


def _check_suffix(output: Path) -> str:
    """The suffix of an output file, or nothing for a folder."""
    suffix = "" if output.is_dir() else output.suffix.lower()
    if suffix and suffix not in (*RASTER_SUFFIXES, *WRITABLE_SUFFIXES):
        choices = ", ".join((*RASTER_SUFFIXES[:1], *WRITABLE_SUFFIXES))
        raise ConfigError(
            f"{output}: cannot tell what to write by {suffix}; use a folder or one of {choices}"
        )
    return suffix
