"""Plan of a prediction and its outputs, checked before anything is computed or written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geoseg.errors import ConfigError, SceneReadError
from geoseg.geo.paths import may_be_stac
from geoseg.geo.scene_names import FoundScene, find_scenes
from geoseg.jobs.journal import describe_job
from geoseg.jobs.output import check_output
from geoseg.options import PredictOptions, Thresholds, VectorizeOptions, check_thresholds
from geoseg.prediction.backend_names import check_backend
from geoseg.prediction.mosaic_job import MosaicJob, plan_mosaics
from geoseg.prediction.prediction_job import (
    ModelNames,
    PredictionJob,
    SceneNames,
    drop_repeated,
    finds_boxes,
    plan_job,
)

_RASTER_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class PredictPlan:
    """A prediction with its output.

    Attributes:
        job: Scene or scenes, models and settings.
        thresholds: Thresholds of mask and footprints.
        output: The output as it was given.
        suffix: Suffix of an output file in lower case; empty for a folder.
        key: Text that differs for any two predictions whose outputs could differ.
    """

    job: PredictionJob | MosaicJob
    thresholds: Thresholds
    output: Path
    suffix: str
    key: str

    @property
    def is_layer(self) -> bool:
        """Whether the only output is a layer of footprints."""
        return _is_layer(self.suffix)


def plan_predict(
    scene: SceneNames,
    output: str | Path,
    *,
    model: ModelNames = None,
    options: PredictOptions | None = None,
    vectorize: VectorizeOptions | None = None,
    overwrite: bool = False,
) -> PredictPlan:
    """Check scene, model and output, reading headers only; arguments and errors as of `predict`."""
    options = options or PredictOptions()
    suffix = _check_suffix(output)
    if _is_layer(suffix) and not options.footprints:
        raise ConfigError(
            f"{output}: --rasters-only writes no footprints; use a folder or a file that ends in "
            ".tif"
        )
    check_backend(options.backend, options.device)
    failed: dict[str, SceneReadError] = {}
    scenes = find_scenes(scene, options.asset, failed)
    job = _plan(scenes, model, options, suffix, failed)
    given = [scene] if isinstance(scene, str | Path) else scene
    job = replace(job, documents=tuple(filter(may_be_stac, map(str, given))))
    if _is_layer(suffix):
        # geopandas, which this imports, is slow to load.
        from geoseg.geo.vector import check_layer

        check_layer(output, job.crs)
    if isinstance(job, MosaicJob):
        _check_many(job, output, suffix)
    elif job.finds_boxes:
        _check_boxes(job, Path(output), suffix)
    check_output(
        output, overwrite=overwrite, inputs=job.list_protected_files(), is_file=bool(suffix)
    )
    thresholds = _choose_thresholds(job, vectorize)
    settings = options.model_dump(exclude={"block_rows"})
    key = describe_job(
        "predict", settings, thresholds.model_dump(), suffix, files=job.list_input_files()
    )
    return PredictPlan(job, thresholds, Path(output), suffix, key)


def _plan(
    scenes: Sequence[FoundScene],
    model: ModelNames,
    options: PredictOptions,
    suffix: str,
    failed: Mapping[str, SceneReadError],
) -> PredictionJob | MosaicJob:
    """Plan the prediction of one scene, or of several; one raster needs one pixel grid."""
    several = len(drop_repeated([scene.name for scene in scenes])) + len(failed) > 1
    if several and suffix not in _RASTER_SUFFIXES and not finds_boxes(model):
        return plan_mosaics(scenes, model, options, failed)
    if options.layer_crs is not None:
        raise ConfigError(
            "--layer-crs: applies to the layer of several scenes; the outputs of one scene, and of "
            "models of boxes, have its CRS"
        )
    return plan_job([scene.name for scene in scenes], model, options, failed)


def _check_many(job: MosaicJob, output: str | Path, suffix: str) -> None:
    if suffix == ".csv" and len(job.mosaics) > 1:
        raise ConfigError(
            f"{output}: a SpaceNet CSV has coordinates in pixels of one raster, but the scenes "
            "have several pixel grids; use the suffix .gpkg"
        )


def _is_layer(suffix: str) -> bool:
    return suffix not in ("", *_RASTER_SUFFIXES)


def _choose_thresholds(
    job: PredictionJob | MosaicJob, vectorize: VectorizeOptions | None
) -> Thresholds:
    vectorize = vectorize or VectorizeOptions()
    if vectorize.crf is not None:
        raise ConfigError(
            "vectorize.crf: applies only to geoseg vectorize; use predict.crf, or --crf"
        )
    if job.specs[0].exclusive:
        check_thresholds(vectorize)
    return vectorize.over(job.specs[0].thresholds)


def _check_suffix(output: str | Path) -> str:
    """Return the suffix of an output file in lower case, or an empty text for a folder."""
    is_folder = str(output).endswith(("/", os.sep)) or Path(output).is_dir()
    suffix = "" if is_folder else Path(output).suffix.lower()
    if not suffix or suffix in _RASTER_SUFFIXES:
        return suffix
    # geopandas, which this imports, is slow to load.
    from geoseg.geo.vector import WRITABLE_SUFFIXES

    if suffix not in WRITABLE_SUFFIXES:
        choices = ", ".join((*_RASTER_SUFFIXES[:1], *WRITABLE_SUFFIXES))
        raise ConfigError(
            f"{output}: unknown suffix {suffix}; use a folder, or a file that ends in one of "
            f"{choices}"
        )
    return suffix


def _check_boxes(job: PredictionJob, output: Path, suffix: str) -> None:
    """Check that neither output nor options need probabilities per pixel.

    Args:
        job: Scene, model and settings.
        output: The output as it was given.
        suffix: Its suffix; empty for a folder.

    Raises:
        ConfigError: If one of them does.
    """
    # geopandas, which this imports, is slow to load.
    from geoseg.geo.vector import WRITABLE_SUFFIXES

    arch, options = job.specs[0].arch, job.options
    if suffix and suffix not in WRITABLE_SUFFIXES:
        raise ConfigError(
            f"{output}: cannot be written, since {arch} predicts boxes, not probabilities per "
            f"pixel; use a folder or one of {', '.join(WRITABLE_SUFFIXES)}"
        )
    is_set = {
        "tta": options.tta != "none",
        "crf": options.crf is not None,
        "uncertainty": options.uncertainty,
        "floats": options.floats,
        "aoi": options.aoi is not None,
    }
    for name, value in is_set.items():
        if value:
            raise ConfigError(
                f"predict.{name}: needs probabilities per pixel, but {arch} predicts boxes; "
                "remove it"
            )
