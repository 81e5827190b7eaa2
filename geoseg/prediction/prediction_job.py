"""Prediction jobs: a scene and its models, checked before anything is computed or written."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rasterio.crs import CRS

from geoseg.credentials import get_logger, hide_credentials
from geoseg.errors import (
    ConfigError,
    DataError,
    GeosegError,
    GridMismatchError,
    SceneReadError,
    counted,
)
from geoseg.geo.paths import absolute_path, is_missing, no_such_file
from geoseg.geo.raster import (
    SceneInfo,
    list_files,
    mark_all_blank_areas,
    read_info,
    write_scene_crop,
    write_scene_mosaic,
)
from geoseg.jobs.files import process_folder
from geoseg.networks.architectures import task_of
from geoseg.networks.model_file import ModelSpec, find_model, load_spec
from geoseg.options import PredictOptions
from geoseg.prediction.plan import (
    ScenePlan,
    plan_prediction,
    plan_scene,
    read_scene,
    warn_of_order,
)

logger = get_logger(__name__)

# Name of the mosaic of several scenes, in a folder of its own.
_JOINED = "scenes/scenes.vrt"

# Name of a rectangle of a scene in the working folder.
_CROPPED = "scene.vrt"

# Keys of a job's journal with numbers of panels begin with this.
PANELS = "panels"

# Models whose pixel sizes differ by more than this share are not averaged.
_GSD_TOLERANCE = 0.05

SceneNames = str | Path | Sequence[str | Path]
ModelNames = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class PredictionJob:
    """A prediction that can be made.

    Attributes:
        plan: Scene, grid and tiles.
        models: The model files; their probabilities are averaged.
        specs: Headers of the model files.
        options: Settings of the prediction.
        parts: Scenes that are joined into the one of the plan, the first on top; empty if that is
            a file of the user.
        left_out: Why other scenes were left out, by their names.
        documents: STAC documents that name the scenes.
    """

    plan: ScenePlan
    models: tuple[Path, ...]
    specs: tuple[ModelSpec, ...]
    options: PredictOptions
    parts: tuple[SceneInfo, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    documents: tuple[str, ...] = ()

    @property
    def finds_boxes(self) -> bool:
        """Whether the model finds boxes instead of probabilities per pixel."""
        return task_of(self.specs[0].arch) == "boxes"

    @property
    def label(self) -> str:
        """Name of the scene, or the number of joined ones in words."""
        return self.plan.scene.name

    @property
    def crs(self) -> CRS:
        """CRS of the outputs."""
        return self.plan.scene.grid.crs

    def list_input_files(self) -> list[str | Path]:
        """Return all files that the result depends on, sources of a VRT included."""
        crop = self.plan.crop
        own = self.plan.scene.path if crop is None else crop.path
        scenes = [scene.path for scene in self.parts] or [own]
        # QGIS writes statistics beside a scene that it opens; the result does not depend on them.
        files: list[str | Path] = [
            file for scene in scenes for file in list_files(scene) if not file.endswith(".aux.xml")
        ]
        return [*files, *self.models, *_list_layer_files(self.options.aoi)]

    def list_protected_files(self) -> list[str | Path]:
        """Return all files that no output may replace: inputs, documents, scenes left out."""
        return [*self.list_input_files(), *self.documents, *self.left_out]

    def join_scenes_in(self, folder: Path) -> PredictionJob:
        """Return the job with its scenes joined in another folder, which all workers can read.

        A rectangle of a scene is written there, too.
        """
        if self.plan.crop is not None:
            path = folder / _CROPPED
            write_scene_crop(path, self.plan.crop)
            scene = replace(self.plan.scene, path=str(path))
            return replace(self, plan=replace(self.plan, scene=scene))
        if not self.parts:
            return self
        path = folder / _JOINED
        path.parent.mkdir(exist_ok=True)
        write_scene_mosaic(path, self.parts, self.plan.spec.bands, are_near=True)  # was checked
        return replace(self, plan=replace(self.plan, scene=_read_joined(path, self.parts)))


def plan_job(
    scene: SceneNames,
    model: ModelNames = None,
    options: PredictOptions | None = None,
    failed: Mapping[str, GeosegError] | None = None,
) -> PredictionJob:
    """Check whether a scene can be predicted with a model, reading headers only.

    Args:
        scene: Any raster that GDAL opens; or several, which are joined if they have one pixel grid.
            Of several, those that cannot be read or do not suit the model are left out with a
            warning.
        model: A model file or the name of a shipped model, or several; None for the default model.
        options: Settings of the prediction.
        failed: Why further scenes cannot be used, by their names; they are left out, too.

    Raises:
        GeosegError: If scene, models and options do not fit together.
    """
    options = options or PredictOptions()
    models, specs = find_models(model, options)
    names = [str(scene)] if isinstance(scene, str | Path) else drop_repeated(scene)
    if len(names) == 1 and not failed:
        return PredictionJob(plan_prediction(names[0], specs[0], options), models, specs, options)
    parts, left_out = read_scenes(names, specs[0], options, failed or {})
    return plan_joined(parts, models, specs, options, left_out)


def find_models(
    model: ModelNames, options: PredictOptions
) -> tuple[tuple[Path, ...], tuple[ModelSpec, ...]]:
    """Return the files of models with their headers.

    Raises:
        GeosegError: If they do not fit together, or not to the options.
    """
    models = _find_files(model)
    specs = tuple(load_spec(path) for path in models)
    _check_same_kind(models, specs)
    if task_of(specs[0].arch) == "boxes" and options.backend != "torch":
        raise ConfigError(
            f"predict.backend: {models[0]} finds boxes, which only the backend torch supports"
        )
    return models, specs


def finds_boxes(model: ModelNames) -> bool:
    """Whether a model finds boxes instead of probabilities per pixel."""
    return task_of(load_spec(_find_files(model)[0]).arch) == "boxes"


def drop_repeated(names: Sequence[str | Path]) -> list[str]:
    """Return the names of different scenes, each as it was first spelt."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(absolute_path(name), str(name))
    return list(first.values())


def read_scenes(
    names: Sequence[str],
    spec: ModelSpec,
    options: PredictOptions,
    known: Mapping[str, GeosegError],
) -> tuple[tuple[SceneInfo, ...], dict[str, str]]:
    """Read the descriptions of scenes; return those that can be used, and why others cannot.

    Args:
        names: The scenes.
        spec: Header of the model.
        options: Settings of the prediction.
        known: Why others cannot be used.

    Raises:
        SceneReadError: If a file does not exist.
        GeosegError: If none can be used.
    """
    missing = next((name for name in names if ":" not in name and is_missing(name)), None)
    if missing is not None:
        raise SceneReadError(no_such_file(missing))
    found: list[SceneInfo] = []
    failed = dict(known)
    for name in names:
        try:
            found.append(_read_part(name, spec, options))
        except (DataError, ConfigError) as error:  # the latter if it lacks one of --bands
            failed[name] = error
    warn_of_order(found, spec, options)
    if not options.keep_blank:
        found = mark_all_blank_areas(found, are_parts=True, failed=failed)
    if not found:
        raise next(iter(failed.values()))
    left_out = {hide_credentials(name): str(error) for name, error in failed.items()}
    for message in left_out.values():
        logger.warning("left out: %s", message)
    return tuple(found), left_out


def _read_part(name: str, spec: ModelSpec, options: PredictOptions) -> SceneInfo:
    """Read the description of a scene that is to be joined with others."""
    info = read_scene(name, spec, options)
    if info.is_service:
        raise GridMismatchError(
            f"{name}: is a tile service, which cannot be joined with other scenes; predict it alone"
        )
    return info


def plan_joined(
    parts: Sequence[SceneInfo],
    models: tuple[Path, ...],
    specs: tuple[ModelSpec, ...],
    options: PredictOptions,
    left_out: Mapping[str, str],
    *,
    are_near: bool = False,
) -> PredictionJob:
    """Plan the prediction of scenes that are joined, for now in a folder of this process.

    Args:
        parts: The scenes, the first on top.
        models: The model files.
        specs: Their headers.
        options: Settings of the prediction.
        left_out: Why other scenes were left out, by their names.
        are_near: Whether they come from `group_scenes`.

    Raises:
        GridMismatchError: If they do not have one pixel grid, or are far apart.
    """
    path = process_folder() / secrets.token_hex(8) / _JOINED
    path.parent.mkdir(parents=True)
    write_scene_mosaic(path, parts, specs[0].bands, are_near=are_near)
    plan = plan_scene(_read_joined(path, parts), specs[0], options)
    return PredictionJob(plan, models, specs, options, tuple(parts), left_out)


def _read_joined(path: Path, parts: Sequence[SceneInfo]) -> SceneInfo:
    return replace(read_info(path), label=counted(len(parts), "scene"))


def _list_layer_files(aoi: str | None) -> list[Path]:
    """Return the files of a layer; a Shapefile has several."""
    if aoi is None:
        return []
    # Imported here: geopandas is slow to load, and most predictions have no area of interest.
    from geoseg.geo.vector import list_layer_files

    return list_layer_files(aoi)


def _find_files(model: ModelNames) -> tuple[Path, ...]:
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
