"""Predict a shard of a job, and merge the shards to the outputs of the whole job."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from geoseg.api.predict import count_gpus_of, warn_of_drift_in
from geoseg.api.predict_outputs import (
    find_outputs,
    open_output,
    open_workers,
    write_outputs,
)
from geoseg.api.predict_plan import PredictPlan, plan_predict
from geoseg.api.results import PredictResult, ShardResult
from geoseg.credentials import get_logger, hide_credentials
from geoseg.errors import ConfigError, GridMismatchError, SceneReadError
from geoseg.geo.paths import is_remote
from geoseg.geo.raster.block_cache import limited_block_cache
from geoseg.geo.tiling import TileGrid
from geoseg.jobs.files import read_text
from geoseg.jobs.journal import describe_job
from geoseg.jobs.output import Work, folder_output
from geoseg.jobs.pool import Pool
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers
from geoseg.options import PredictOptions, VectorizeOptions
from geoseg.options.headers import first_problem
from geoseg.prediction.mosaic_job import MosaicJob, find_damaged
from geoseg.prediction.prediction_job import (
    ModelNames,
    PredictionJob,
    SceneNames,
)
from geoseg.prediction.scheduling import list_strips, split_panels
from geoseg.prediction.shards import Shard, StripScene, pick_shard

if TYPE_CHECKING:
    from rasterio.windows import Window

    from geoseg.prediction.strips import Strips

logger = get_logger(__name__)

# Description of a shard in its folder, and the folder of its strips.
SHARD_FILE = "shard.json"
_STRIPS = "strips"

# A folder with millions of scenes.
_MOST_BYTES = 500_000_000


class ShardHeader(BaseModel):
    """Description of a shard: the job that it is a part of, and what was predicted.

    Attributes:
        format: Version of the description.
        shard: Number of the shard, and the number of all.
        job: Text that is the same for all shards of a job.
        scenes: The scenes.
        models: The model files.
        options: Settings of the prediction.
        vectorize: Settings that replace those of the model.
        panels: Largest number of panels of each mosaic of scenes, see `split_panels`.
        device: Device on which it was predicted.
        batch_size: Tiles per batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    shard: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    job: str
    scenes: tuple[str, ...]
    models: tuple[str, ...]
    options: PredictOptions
    vectorize: VectorizeOptions
    panels: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...]
    device: Literal["cpu", "gpu"]
    batch_size: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shard[0] > self.shard[1]:
            raise ValueError("the number of the shard is larger than that of all")
        return self


def predict_shard(
    scene: SceneNames,
    output: str | Path,
    shard: str,
    *,
    model: ModelNames = None,
    options: PredictOptions | None = None,
    vectorize: VectorizeOptions | None = None,
    overwrite: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> ShardResult:
    """Predict a part of a job, which needs no others and no scheduler.

    Args:
        scene: As of `geoseg.predict`, like the other arguments; the same for all shards.
        output: A folder for this shard.
        shard: Its number and the number of all, such as `3/16`.
        model: As of `geoseg.predict`.
        options: As of `geoseg.predict`.
        vectorize: As of `geoseg.predict`.
        overwrite: Replace an existing output.
        workers: Where tasks run; the bytes do not depend on it.
        progress: Called with the finished and the total number of tiles.

    Raises:
        GeosegError: If scenes, model and output do not fit together; nothing is written then.
    """
    part = Shard.parse(shard)
    given = [scene] if isinstance(scene, str | Path) else scene
    names = [_absolute_name(name) for name in given]
    options, vectorize = options or PredictOptions(), vectorize or VectorizeOptions()
    if options.aoi is not None:
        options = options.model_copy(update={"aoi": _absolute_name(options.aoi)})
    if Path(output).suffix and not Path(output).is_dir():
        raise ConfigError(f"{output}: a shard is a folder; give a name without a suffix")
    with limited_block_cache():
        plan = plan_predict(
            names, f"{Path(output)}/", model=model, options=options, vectorize=vectorize,
            overwrite=overwrite,
        )  # fmt: skip
        if isinstance(plan.job, PredictionJob) and plan.job.finds_boxes:
            raise ConfigError(
                f"--shard: {plan.job.models[0]} finds boxes; predict its scenes whole"
            )
        warn_of_drift_in(plan.job)
        workers = (workers or Workers()).with_default_processes(count_gpus_of(plan.job))
        with folder_output(
            output, job=describe_job(plan.key, str(part)), overwrite=overwrite,
            inputs=plan.job.list_protected_files(),
        ) as work:  # fmt: skip
            if not work.is_complete:
                with open_workers(plan, work, workers) as pool:
                    predicted = _predict(plan, part, work, workers, pool, progress)
                header = ShardHeader(
                    shard=(part.number, part.count), job=_describe(plan), scenes=tuple(names),
                    models=tuple(map(str, plan.job.models)), options=options, vectorize=vectorize,
                    **predicted,
                )  # fmt: skip
                text = header.model_dump_json(indent=1, exclude_unset=True)
                (work.result / SHARD_FILE).write_text(text + "\n")
    return ShardResult(Path(output), (part.number, part.count), plan.job.left_out)


def _absolute_name(name: str | Path) -> str:
    """Return a name that was given, for a process in another folder.

    Raises:
        ConfigError: If it contains a password or a signature, which must not be stored.
    """
    if is_remote(name):
        if hide_credentials(str(name)) != str(name):
            raise ConfigError(
                f"--shard: {name} has a password or a signature, which would be stored in the "
                "shard; write it into a text file, and give that as the scene"
            )
        return str(name)
    return os.path.abspath(name)


def _predict(
    plan: PredictPlan,
    shard: Shard,
    work: Work,
    workers: Workers,
    pool: Pool,
    progress: Progress | None,
) -> dict[str, Any]:
    """Predict the strips of a shard into a working folder; return what its header says of them."""
    from geoseg.prediction.encoding import OutputEncoding
    from geoseg.prediction.strips import StripPrediction

    spec, options = plan.job.specs[0], plan.job.options
    scenes = _join_scenes(plan.job, work.folder)
    folder = work.result / _STRIPS
    folder.mkdir(exist_ok=True)
    encoding = OutputEncoding(spec.outputs, options.uncertainty, options.floats)
    prediction = StripPrediction(
        [job for job, _ in scenes], encoding, folder, work.journal, workers, progress
    )
    strip_scenes = [
        StripScene(panels, areas)
        for panels, (_, areas) in zip(prediction.panels, scenes, strict=True)
    ]
    prediction.restrict(pick_shard(strip_scenes, shard))
    try:
        prediction.predict(pool)
    except SceneReadError as error:
        if isinstance(plan.job, MosaicJob):
            raise _name_damaged(plan.job, error) from error
        raise
    choice = prediction.choice
    return {
        "panels": tuple(prediction.panel_counts),
        "device": choice.device,
        "batch_size": choice.batch_size,
    }


def _name_damaged(job: MosaicJob, error: SceneReadError) -> SceneReadError:
    """Return the error with the name of the scene that is damaged, if it is found."""
    damaged = find_damaged(job, str(error))
    if not damaged:
        return error
    return SceneReadError(
        f"{'; '.join(damaged.values())}; without the scene, all shards must be predicted again"
    )


def _join_scenes(
    job: PredictionJob | MosaicJob, folder: Path
) -> list[tuple[PredictionJob, tuple[Window, ...]]]:
    """Return what is predicted as one, with the windows of its scenes on the grid of the tiles."""
    if isinstance(job, PredictionJob):
        return [(job, (job.plan.grid.window,))]
    from geoseg.prediction.mosaic_prediction import join_scenes

    return [(mosaic.job, mosaic.tile_areas) for mosaic in join_scenes(job, folder)]


def _describe(plan: PredictPlan) -> str:
    """Return a text that differs for jobs whose strips could differ."""
    settings = plan.job.options.model_dump(exclude={"block_rows", "footprints"})
    return describe_job("shards", settings, files=plan.job.list_input_files())


def merge(
    shards: Sequence[str | Path],
    output: str | Path,
    *,
    overwrite: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> PredictResult:
    """Merge the shards of a job to the outputs of `geoseg.predict` with the same arguments.

    Args:
        shards: Folders of all shards of a job, in any order. They are left as they are.
        output: As of `geoseg.predict`.
        overwrite: Replace an existing output.
        workers: Where tasks run; the bytes do not depend on it.
        progress: Called with finished and total numbers, and of what.

    Raises:
        GeosegError: If shards are missing, or are not of one job, or an input has changed.
    """
    workers = workers or Workers()
    folders = [Path(os.path.abspath(shard)) for shard in shards]
    repeated = next((folder for folder in folders if folders.count(folder) > 1), None)
    if repeated is not None:
        raise ConfigError(f"{repeated}: is given twice; give each shard once")
    headers = {folder: _read_header(folder) for folder in folders}
    _check_headers(headers)
    first, header = next(iter(headers.items()))
    with limited_block_cache():
        plan = plan_predict(
            list(header.scenes), output, model=list(header.models), options=header.options,
            vectorize=header.vectorize, overwrite=overwrite,
        )  # fmt: skip
        if _describe(plan) != header.job:
            raise GridMismatchError(
                f"{first}: a scene, a model or the version of geoseg has changed since the shards "
                "were predicted; predict them again"
            )
        strips = _find_strips(plan, headers)
        with open_output(plan, overwrite) as work:
            if not work.is_complete:
                with open_workers(plan, work, workers) as pool:
                    write_outputs(plan, work, workers, pool, progress, strips)
    return find_outputs(plan)


def _read_header(folder: Path) -> ShardHeader:
    path = folder / SHARD_FILE
    try:
        return ShardHeader.model_validate_json(read_text(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, OSError) else first_problem(error)
        raise ConfigError(
            f"{path}: is not the description of a shard ({reason}); give the folders that "
            "geoseg predict --shard wrote"
        ) from error


def _check_headers(headers: Mapping[Path, ShardHeader]) -> None:
    """Check that these are all shards of one job, each once."""
    if not headers:
        raise ConfigError("no shard was given")
    first, header = next(iter(headers.items()))
    found: dict[int, Path] = {}
    for folder, other in headers.items():
        number, count = other.shard
        if _describe_header(other) != _describe_header(header):
            raise ConfigError(
                f"{folder}: is not of the same job as {first}; scenes, model, settings, the number "
                "of shards and --max-memory must be the same"
            )
        if number in found:
            raise ConfigError(f"{folder}: is shard {number}, as {found[number]} is; give it once")
        found[number] = folder
        if (other.device, other.batch_size) != (header.device, header.batch_size):
            logger.warning(
                "%s: was predicted with another device or batch size than %s, so that values may "
                "differ in the last digit",
                folder,
                first,
            )
    count = header.shard[1]
    missing = [f"{n}/{count}" for n in range(1, count + 1) if n not in found]
    if missing:
        names = ", ".join(missing[:10]) + (" ..." if missing[10:] else "")
        raise ConfigError(
            f"shard {names} is not among the folders; give the folders of all {count} shards"
        )


def _describe_header(header: ShardHeader) -> list[Any]:
    """Return what all shards of a job have in common."""
    same = {"job", "panels", "options", "vectorize", "scenes", "models"}
    return [header.shard[1], header.model_dump(include=same)]


def _find_strips(plan: PredictPlan, headers: Mapping[Path, ShardHeader]) -> list[Strips]:
    """Return the strips of what is predicted as one, each from its shard."""
    header = next(iter(headers.values()))
    job = plan.job
    grids = (
        [mosaic.job.plan.tiles for mosaic in job.mosaics]
        if isinstance(job, MosaicJob)
        else [job.plan.tiles]
    )
    if len(grids) != len(header.panels):
        raise ConfigError(
            f"{plan.output}: the scenes have several pixel grids; name a folder or a layer"
        )
    return [
        _find_strips_of(number, tiles, count, headers)
        for number, (tiles, count) in enumerate(zip(grids, header.panels, strict=True))
    ]


def _find_strips_of(
    number: int, tiles: TileGrid, count: int, headers: Mapping[Path, ShardHeader]
) -> Strips:
    folders = [
        folder.absolute() / _STRIPS / str(header.batch_size) / str(number)
        for folder, header in headers.items()
    ]
    files = {file.name: file for folder in folders for file in sorted(folder.glob("*.tif"))}
    found = []
    for path, window in list_strips(split_panels(tiles, count), folders[0]):
        if path.name not in files:
            raise SceneReadError(f"{path}: is missing in all shards; predict the shards again")
        found.append((files[path.name], window))
    return found
