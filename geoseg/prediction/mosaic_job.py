"""Jobs of many scenes: which of them are predicted as one, and where each one is in that."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from itertools import compress
from pathlib import Path

from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.windows import Window

from geoseg.credentials import get_logger, hide_credentials
from geoseg.errors import ConfigError, GeosegError, OutsideError, SceneReadError, counted
from geoseg.geo.grid import Grid
from geoseg.geo.paths import is_remote
from geoseg.geo.raster import SceneInfo, group_scenes, join_grids, read_date
from geoseg.geo.scene_names import FoundScene
from geoseg.networks.model_file import ModelSpec
from geoseg.options import PredictOptions
from geoseg.prediction.plan import plan_scene
from geoseg.prediction.prediction_job import (
    ModelNames,
    PredictionJob,
    drop_repeated,
    find_models,
    plan_joined,
    read_scenes,
)

logger = get_logger(__name__)

# Rows and columns in which scenes are read to find a damage.
_ROWS, _COLUMNS = 512, 4096

# Shares of a pixel that are rounding errors.
_ROUNDING = 1e-6

# Characters of file names that some systems do not allow, or that shells treat specially.
_UNUSUAL = re.compile(r"[^\w.\-]+")


@dataclass(frozen=True)
class SceneMosaic:
    """Scenes of one pixel grid that are predicted as one.

    Attributes:
        job: Prediction of the joined scenes.
        scenes: The scenes, the first on top.
        names: Name of each one's files, without suffix.
        areas: Pixels of each on the grid of the output rasters.
    """

    job: PredictionJob
    scenes: tuple[SceneInfo, ...]
    names: tuple[str, ...]
    areas: tuple[Window, ...]

    @property
    def tile_areas(self) -> tuple[Window, ...]:
        """Pixels of each scene on the grid of the tiles."""
        plan = self.job.plan
        if plan.out_grid == plan.grid:
            return self.areas
        return tuple(_scale(area, plan.out_grid, plan.grid) for area in self.areas)

    def join_scenes_in(self, folder: Path) -> SceneMosaic:
        """Return the mosaic with its scenes joined in a folder that all workers can read."""
        return replace(self, job=self.job.join_scenes_in(folder))


@dataclass(frozen=True)
class MosaicJob:
    """A prediction of many scenes that can be made.

    Attributes:
        mosaics: Scenes that are predicted together, in the order of their first scenes.
        models: The model files; their probabilities are averaged.
        specs: Headers of the model files.
        options: Settings of the prediction.
        found: The scenes as they were found.
        left_out: Why scenes were left out, by their names.
        outside: Scenes outside the area of interest, likewise.
        documents: STAC documents that name the scenes.
    """

    mosaics: tuple[SceneMosaic, ...]
    models: tuple[Path, ...]
    specs: tuple[ModelSpec, ...]
    options: PredictOptions
    found: tuple[FoundScene, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    documents: tuple[str, ...] = ()

    @cached_property
    def scenes(self) -> tuple[SceneInfo, ...]:
        """All scenes that are predicted."""
        return tuple(scene for mosaic in self.mosaics for scene in mosaic.scenes)

    @property
    def endings(self) -> list[str]:
        """What the names of files of each mosaic end in: its number, if there are several."""
        if len(self.mosaics) == 1:
            return [""]
        return [f"_{number}" for number in range(1, len(self.mosaics) + 1)]

    @property
    def label(self) -> str:
        """The number of scenes in words."""
        return counted(len(self.scenes), "scene")

    @cached_property
    def crs(self) -> CRS:
        """CRS of the layer: the commonest one of the scenes, unless one was chosen."""
        if self.options.layer_crs is not None:
            return CRS.from_user_input(self.options.layer_crs)
        (most, _), *_ = Counter(scene.grid.crs for scene in self.scenes).most_common(1)
        return most

    def without(self, damaged: Mapping[str, str]) -> MosaicJob:
        """Return the job without some scenes, and why they are left out, by their paths."""
        found = [scene for scene in self.found if scene.name not in damaged]
        errors = {name: SceneReadError(reason) for name, reason in damaged.items()}
        job = plan_mosaics(found, list(self.models), self.options, errors)
        left_out = {**self.left_out, **job.left_out}
        return replace(job, found=self.found, left_out=left_out, documents=self.documents)

    def list_input_files(self) -> list[str | Path]:
        """Return all files that the result depends on, sources of a VRT included."""
        files = {str(file): file for one in self.mosaics for file in one.job.list_input_files()}
        return list(files.values())

    def list_protected_files(self) -> list[str | Path]:
        """Return all files that no output may replace: inputs, documents, scenes left out."""
        return [*self.list_input_files(), *self.documents, *self.left_out]


def plan_mosaics(
    found: Sequence[FoundScene],
    model: ModelNames = None,
    options: PredictOptions | None = None,
    failed: Mapping[str, GeosegError] | None = None,
) -> MosaicJob:
    """Check which of several scenes can be predicted with a model, reading headers only.

    Args:
        found: The scenes. Those that cannot be read or do not suit the model are left out with a
            warning; those outside the area of interest are not predicted.
        model: As of `plan_job`.
        options: Settings of the prediction.
        failed: Why further scenes cannot be used, by their names; they are left out, too.

    Raises:
        GeosegError: If no scene can be predicted.
    """
    options = options or PredictOptions()
    if options.layer_crs is not None:
        _check_layer_crs(options.layer_crs)
    models, specs = find_models(model, options)
    names = drop_repeated([scene.name for scene in _in_order(found, options)])
    scenes, left_out = read_scenes(names, specs[0], options, failed or {})
    files = _name_files(scenes)
    mosaics: list[SceneMosaic] = []
    outside: dict[str, OutsideError] = {}
    for group in group_scenes(scenes, specs[0].size):
        parts = [scenes[index] for index in group]
        try:
            job = _plan_group(parts, models, specs, options)
        except OutsideError as error:
            outside |= {part.path: error for part in parts}
            continue
        mosaics.append(
            SceneMosaic(job, tuple(parts), tuple(files[i] for i in group), _find_areas(job, parts))
        )
    if not mosaics:
        raise next(iter(outside.values()))
    return MosaicJob(
        tuple(mosaics), models, specs, options, tuple(found), left_out,
        {hide_credentials(name): str(error) for name, error in outside.items()},
    )  # fmt: skip


def find_damaged(job: MosaicJob, message: str) -> dict[str, str]:
    """Return why scenes are damaged, by their paths, after one of them could not be read.

    Scenes that an error names are read first, and the others only if these are sound. A file that
    is gone, a scene on a server, and all scenes at once are not damaged: a file share or a server
    may be back when the job is continued.

    Args:
        job: The job.
        message: Message of the error.
    """
    local = [scene for scene in job.scenes if Path(scene.path).exists()]
    if len(local) < len(job.scenes) and not any(is_remote(scene.path) for scene in job.scenes):
        return {}
    named = [Path(scene.path).name in message for scene in local]
    found = _read_all(list(compress(local, named))) or _read_all(
        [scene for scene, is_named in zip(local, named, strict=True) if not is_named]
    )
    return found if len(found) < len(job.scenes) else {}


def _read_all(scenes: Sequence[SceneInfo]) -> dict[str, str]:
    """Read all pixels of scenes; return why some cannot be read, by their paths."""
    damaged = {}
    for scene in scenes:
        try:
            with scene.open_pixels() as pixels:
                for window in scene.grid.windows(_ROWS, _COLUMNS):
                    pixels.read(window)
        except SceneReadError as error:
            if Path(scene.path).exists():
                damaged[scene.path] = str(error)
    return damaged


def _in_order(found: Sequence[FoundScene], options: PredictOptions) -> list[FoundScene]:
    """Return scenes in the order in which they are preferred where they overlap."""
    if options.prefer != "newest":
        return list(found)
    dates = [scene.date or _read_date(scene.name) for scene in found]
    undated = [scene.name for scene, date in zip(found, dates, strict=True) if date is None]
    if len(undated) == len(found):
        logger.warning("no scene has a date, so that --prefer newest takes them in the order given")
    elif undated:
        logger.warning(
            "%s: has no date of acquisition%s; dated scenes are preferred to it",
            undated[0],
            f", nor have {len(undated) - 1} others" if undated[1:] else "",
        )
    ages = [-date.timestamp() if date else math.inf for date in dates]
    return [scene for _, scene in sorted(zip(ages, found, strict=True), key=lambda pair: pair[0])]


def _read_date(name: str) -> datetime | None:
    try:
        return read_date(name)
    except SceneReadError:
        return None  # it is left out for the same reason


def _plan_group(
    parts: Sequence[SceneInfo],
    models: tuple[Path, ...],
    specs: tuple[ModelSpec, ...],
    options: PredictOptions,
) -> PredictionJob:
    if len(parts) == 1:  # it may have no transform
        return PredictionJob(plan_scene(parts[0], specs[0], options), models, specs, options)
    return plan_joined(parts, models, specs, options, {}, are_near=True)


def _find_areas(job: PredictionJob, parts: Sequence[SceneInfo]) -> tuple[Window, ...]:
    grid, out_grid = job.plan.scene.grid, job.plan.out_grid
    if len(parts) == 1:
        return (out_grid.window,)
    _, windows = join_grids(parts, are_near=True)
    if out_grid == grid:
        return tuple(windows)
    return tuple(_scale(window, grid, out_grid) for window in windows)


def _scale(window: Window, grid: Grid, other: Grid) -> Window:
    """Return the pixels of a coarser or finer grid of the same origin that a window touches."""
    to_other = ~other.transform * grid.transform
    left, top = to_other * (window.col_off, window.row_off)
    right, bottom = to_other * (window.col_off + window.width, window.row_off + window.height)
    first = math.floor(left + _ROUNDING), math.floor(top + _ROUNDING)
    last = (
        min(math.ceil(right - _ROUNDING), other.width),
        min(math.ceil(bottom - _ROUNDING), other.height),
    )
    return Window(*first, last[0] - first[0], last[1] - first[1])


def _name_files(scenes: Sequence[SceneInfo]) -> list[str]:
    """Return a name for the files of each scene: that of its own file, made unique by a number."""
    names: list[str] = []
    taken: Counter[str] = Counter()
    for scene in scenes:
        stem = Path(hide_credentials(scene.path)).stem
        name = _UNUSUAL.sub("_", stem).strip("._") or "scene"
        # Names that differ in case only are one on some systems.
        taken[name.lower()] += 1
        number = taken[name.lower()]
        while number > 1 and f"{name}_{number}".lower() in taken:
            number += 1
        if number > 1:
            name = f"{name}_{number}"
            taken[name.lower()] += 1
        names.append(name)
    return names


def _check_layer_crs(crs: str) -> None:
    """Check that a text means a CRS.

    Raises:
        ConfigError: If it does not.
    """
    try:
        CRS.from_user_input(crs)
    except CRSError as error:
        raise ConfigError(
            f"--layer-crs {crs}: is no CRS; give a code such as EPSG:32645"
        ) from error
