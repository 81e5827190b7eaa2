"""Align the polygons of a layer with the probabilities of a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geoseg.alignment import (
    AlignSummary,
    add_shift_columns,
    align_polygons,
    summarize_alignment,
)
from geoseg.api.predict import ABOUT_DEFAULT, warn_of_drift_in
from geoseg.api.results import AlignResult
from geoseg.credentials import get_logger
from geoseg.data.labels.polygon_labels import (
    FootprintLabels,
    check_footprints,
    reproject_to_grid,
)
from geoseg.errors import ConfigError, GridMismatchError, SceneReadError
from geoseg.geo.crs import is_same_crs
from geoseg.geo.grid import Grid
from geoseg.geo.raster import ProbInfo, Scene, read_prob
from geoseg.geo.raster.block_cache import limited_block_cache
from geoseg.geo.vector import (
    LAYER_SUFFIXES,
    SAME_DIMENSION_SUFFIXES,
    as_crs,
    check_columns,
    check_layer,
    list_layer_files,
    read_footprints,
    write_footprints,
)
from geoseg.jobs.journal import describe_job
from geoseg.jobs.output import Work, check_output, file_output
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers
from geoseg.options import AlignOptions, PredictOptions
from geoseg.prediction.prediction_job import ModelNames, PredictionJob, plan_job
from geoseg.vectorization.prob_sources import SceneProb, prob_bands

logger = get_logger(__name__)

# Pixels by which the extents of a scene and of its probabilities may differ.
_EXTENT_PX = 2


@dataclass(frozen=True)
class AlignPlan:
    """An alignment with its output.

    Attributes:
        labels: File of the layer.
        layer: Its polygons.
        job: Prediction of the scene; None with given probabilities.
        prob: Given probabilities; None where they are predicted.
        output: The aligned layer.
        options: Options of the alignment.
        key: Text that differs for any two alignments whose outputs could differ.
    """

    labels: str
    layer: gpd.GeoDataFrame
    job: PredictionJob | None
    prob: ProbInfo | None
    output: Path
    options: AlignOptions
    key: str

    @property
    def grid(self) -> Grid:
        """Grid of the scene, or of the given probabilities."""
        return _grid_of(self.job, self.prob)

    @property
    def inputs(self) -> list[str | Path]:
        """All files that are read."""
        return [*list_layer_files(self.labels), *_raster_files(self.job, self.prob)]


def align(
    labels: str | Path,
    output: str | Path,
    *,
    scene: str | Path | None = None,
    model: ModelNames = None,
    prob: str | Path | None = None,
    layer: str | None = None,
    options: AlignOptions | None = None,
    predict: PredictOptions | None = None,
    overwrite: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> AlignResult:
    """Move each polygon by a few metres at most, to the best agreement with probabilities.

    Polygons that touch are moved together. One that the probabilities do not show is moved like
    its neighbours if these have a common shift, and stays where it is otherwise. The layer keeps
    its CRS, its columns, its features and their Z, and gets the columns `shift_x_m` and `shift_y_m`
    (metres to the east and to the north) and `shift_gain` (growth of the mean log likelihood per
    pixel).

    Args:
        labels: A layer of polygons.
        output: The aligned layer, in a format of `geoseg.geo.vector` that is chosen by its suffix.
        scene: The scene on which the polygons were drawn; only needed without `prob`.
        model: As of `geoseg.predict`.
        prob: Raster of building probabilities instead of a model, such as those of a model that
            was not trained on these labels.
        layer: Layer of `labels`, if the file has several.
        options: Settings of the alignment.
        predict: Settings of the prediction.
        overwrite: Replace an existing output.
        workers: Where the scene is predicted; the layer does not depend on it.
        progress: Called with the finished and the total number of tiles, then of polygons.

    Raises:
        ConfigError: If the suffix is not that of a layer, its format does not support a column, or
            model and probabilities are given.
        GridMismatchError: If no polygon is in the scene, or scene and probabilities differ.
        GeosegError: If the inputs cannot be read or do not fit together; nothing is written then.
    """
    workers = workers or Workers()
    with limited_block_cache():
        plan = plan_align(
            labels, output, scene=scene, model=model, prob=prob, layer=layer, options=options,
            predict=predict, overwrite=overwrite,
        )  # fmt: skip
        if plan.job is not None:
            if model is None:
                logger.warning("%s", ABOUT_DEFAULT)
            warn_of_drift_in(plan.job)
        with file_output(
            plan.output, job=plan.key, overwrite=overwrite, inputs=plan.inputs
        ) as work:
            if not work.is_complete:
                _write(plan, work, workers, progress)
            summary: AlignSummary | None = work.journal.find("summary", AlignSummary)
    if summary is None:  # the journal was damaged after the layer was complete
        raise SceneReadError(f"{plan.output}: was written, but its figures are lost; run it again")
    if summary.outside + summary.unsupported == summary.polygons:
        logger.warning(
            "%s: the probabilities have no building at any polygon, so none was moved by itself; "
            "check the model and the scene",
            plan.labels,
        )
    return AlignResult(plan.output, summary)


def plan_align(
    labels: str | Path,
    output: str | Path,
    *,
    scene: str | Path | None = None,
    model: ModelNames = None,
    prob: str | Path | None = None,
    layer: str | None = None,
    options: AlignOptions | None = None,
    predict: PredictOptions | None = None,
    overwrite: bool = False,
) -> AlignPlan:
    """Check inputs and output without reading pixels; arguments and errors as of `align`."""
    options = options or AlignOptions()
    suffix = _check_suffix(output)
    job, given = _plan_probabilities(scene, model, prob, predict)
    polygons = _plain_columns(read_footprints(labels, layer=layer, keeps_z=True))
    check_layer(output, polygons.crs)
    check_columns(output, add_shift_columns(polygons, np.zeros((3, len(polygons)))))
    grid = _grid_of(job, given)
    flat = polygons.set_geometry(polygons.geometry.force_2d())
    on_scene = FootprintLabels(grid, reproject_to_grid(flat, grid, labels))
    check_footprints([on_scene], labels, None, layer)
    files: list[str | Path] = [*list_layer_files(labels), *_raster_files(job, given)]
    check_output(output, overwrite=overwrite, inputs=files, is_file=True)
    settings = job.options.model_dump(exclude={"block_rows"}) if job else None
    key = describe_job("align", options.model_dump(), settings, layer, suffix, files=files)
    return AlignPlan(str(labels), polygons, job, given, Path(output), options, key)


def _plan_probabilities(
    scene: str | Path | None,
    model: ModelNames,
    prob: str | Path | None,
    predict: PredictOptions | None,
) -> tuple[PredictionJob | None, ProbInfo | None]:
    """Return the prediction to be made, or the given probabilities."""
    if prob is None:
        if scene is None:
            raise ConfigError(
                "--scene: is missing; give the scene on which the polygons were drawn, or its "
                "probabilities with --prob PROB.TIF"
            )
        return _plan_prediction(scene, model, predict), None
    if model is not None:
        raise ConfigError("--prob: replaces a model; leave out --model, or --prob")
    info = read_prob(prob)
    if info.classes:
        raise SceneReadError(
            f"{prob}: has probabilities of classes of land cover; give those of a model of "
            "buildings"
        )
    prob_bands(info)
    if scene is not None:
        with Scene(scene) as opened:
            _check_extents(scene, opened.grid, info)
    return None, info


def _plan_prediction(
    scene: str | Path, model: ModelNames, predict: PredictOptions | None
) -> PredictionJob:
    job = plan_job(scene, model, predict)
    if job.finds_boxes or job.specs[0].exclusive:
        kind = "finds boxes" if job.finds_boxes else "has classes of land cover"
        raise ConfigError(
            f"{job.models[0]}: {kind}, but polygons are aligned with probabilities of buildings; "
            "give a model of buildings"
        )
    return job


def _check_extents(scene: str | Path, grid: Grid, prob: ProbInfo) -> None:
    """Check that probabilities are those of a scene, on its own grid or that of the model."""
    allowed = _EXTENT_PX * max(
        abs(edge) for edge in (*grid.transform[:2], *prob.grid.transform[:2])
    )
    if is_same_crs(as_crs(grid.crs), as_crs(prob.grid.crs)) and np.allclose(
        grid.bounds, prob.grid.bounds, rtol=0, atol=allowed
    ):
        return
    raise GridMismatchError(
        f"{prob.path}: does not have the extent of {scene}; give the probabilities of this scene, "
        "or leave out --scene"
    )


def _check_suffix(output: str | Path) -> str:
    suffix = Path(output).suffix.lower()
    if suffix not in LAYER_SUFFIXES:
        raise ConfigError(
            f"{output}: cannot hold the columns of a layer; use one of {', '.join(LAYER_SUFFIXES)}"
        )
    return suffix


def _grid_of(job: PredictionJob | None, prob: ProbInfo | None) -> Grid:
    if job is not None:
        return job.plan.scene.grid
    assert prob is not None
    return prob.grid


def _raster_files(job: PredictionJob | None, prob: ProbInfo | None) -> list[str | Path]:
    if job is not None:
        return list(job.list_input_files())
    return list(prob.files) if prob is not None else []


def _write(plan: AlignPlan, work: Work, workers: Workers, progress: Progress | None) -> None:
    """Predict the scene if necessary, and write the aligned layer."""
    prob = plan.prob or read_prob(_predict(plan, work, workers, progress))
    with SceneProb(prob) as source:
        alignment = align_polygons(
            plan.layer, source, work.folder, options=plan.options, progress=progress
        )
    frame, raised = _with_same_dimension(alignment.frame, plan.output)
    shapes = frame.geometry.to_numpy()
    kinds = shapely.get_type_id(shapes)
    write_footprints(
        work.result, [frame], crs=frame.crs, is_review=False,
        keeps_parts=bool((kinds == shapely.GeometryType.MULTIPOLYGON).any()),
        has_z=bool(shapely.has_z(shapes).any()),
    )  # fmt: skip
    work.journal.add("summary", vars(summarize_alignment(alignment, raised)))


def _with_same_dimension(frame: gpd.GeoDataFrame, output: Path) -> tuple[gpd.GeoDataFrame, int]:
    """Return a layer whose polygons all have Z if some have, where the format of a file needs this.

    Returns:
        The layer, and the number of polygons that got Z = 0.
    """
    shapes = np.array(frame.geometry.array, dtype=object)
    flat = ~shapely.has_z(shapes)
    if output.suffix.lower() not in SAME_DIMENSION_SUFFIXES or flat.all():
        return frame, 0
    shapes = shapely.force_3d(shapes)
    raised = frame.set_geometry(gpd.GeoSeries(shapes, index=frame.index, crs=frame.crs))
    return raised, int(flat.sum())


def _predict(plan: AlignPlan, work: Work, workers: Workers, progress: Progress | None) -> Path:
    """Predict the scene into the working folder; finished parts of an earlier run are kept."""
    from geoseg.networks.device import count_gpus
    from geoseg.prediction.blocks import predict_block
    from geoseg.prediction.scene_prediction import predict_rasters

    job = plan.job
    assert job is not None
    workers = workers.with_default_processes(count_gpus(job.options.device))
    inputs = job.list_input_files()
    with workers.open(predict_block, inputs=inputs, folder=work.folder) as pool:
        return predict_rasters(
            job, work, {}, job.specs[0].thresholds, workers=workers, pool=pool, progress=progress
        )


def _plain_columns(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return a layer whose columns every format can hold: nested values become JSON."""
    nested = [name for name in frame.columns.drop("geometry") if _is_nested(frame[name])]
    return frame.assign(**{name: frame[name].map(_as_json) for name in nested})


def _is_nested(values: pd.Series) -> bool:
    return any(isinstance(value, dict | list | tuple | np.ndarray) for value in values)


def _as_json(value: Any) -> str | None:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)
