"""Cut scenes and labels into tiles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from geoseg.api.results import TileResult
from geoseg.data.forecast import Forecast, forecast_tiles
from geoseg.data.label_report import write_label_report
from geoseg.data.labels import RasterLabels
from geoseg.data.labels.targets import TARGET_FUNCTIONS
from geoseg.data.tiles import TilingPlan, plan_tiles, tile_scenes
from geoseg.errors import ConfigError
from geoseg.geo.raster import read_info
from geoseg.geo.raster.block_cache import limited_block_cache
from geoseg.geo.scene_names import expand_scene_names
from geoseg.jobs.output import check_output
from geoseg.jobs.progress import Progress, Report
from geoseg.jobs.workers import Workers
from geoseg.networks.model_file import ModelSpec, find_model, load_spec
from geoseg.options import TileOptions
from geoseg.options.headers import first_problem


def tile(
    scenes: str | Path | Sequence[str | Path],
    labels: str | Path,
    output: str | Path,
    *,
    options: TileOptions | None = None,
    for_model: str | Path | None = None,
    overwrite: bool = False,
    workers: Workers | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
) -> TileResult:
    """Cut scenes and labels into tiles to train on, with a report on the labels.

    Areas for training, validation and test are separated before anything is cut. An interrupted
    job continues when it is started again; tiles that cannot be read are left out and listed in
    the result.

    Args:
        scenes: Rasters that GDAL opens; also folders, patterns and lists of them, STAC, see
            `find_scenes`.
        labels: Footprints in any vector format and CRS, or a mask raster; `{}` in the name stands
            for the name of each scene.
        output: Folder of the tiles.
        options: Settings; the defaults when None.
        for_model: Model that training will continue from. Bands, pixel size, tile side and targets
            that `options` do not set are those of the model.
        overwrite: Replace an existing folder of tiles.
        workers: Where tasks run; the files do not depend on it.
        report: Called with lines that describe what is going to be cut.
        progress: Called with the finished and the total number of tiles.

    Raises:
        GeosegError: If scenes, labels and options do not fit together; nothing is written then.
    """
    with limited_block_cache():
        plan = plan_tile(
            scenes, labels, output, options=options, for_model=for_model, overwrite=overwrite
        )
        for line in plan.describe() if report else ():
            report(line)  # type: ignore[misc]
        repaired, dropped = _count_repaired(plan)
        info = tile_scenes(
            plan,
            output,
            overwrite=overwrite,
            workers=workers,
            progress=progress,
            finish=partial(write_label_report, repaired=repaired, dropped=dropped),
        )
    return TileResult(Path(output), info, plan.gap)


def plan_tile(
    scenes: str | Path | Sequence[str | Path],
    labels: str | Path,
    output: str | Path,
    *,
    options: TileOptions | None = None,
    for_model: str | Path | None = None,
    overwrite: bool = False,
) -> TilingPlan:
    """Check scenes, labels and output, reading no pixels; arguments and errors as of `tile`."""
    check_output(output, overwrite=overwrite)
    options = options or TileOptions()
    names = expand_scene_names(scenes, options.asset)
    if for_model is not None:
        options = _suit(options, load_spec(find_model(for_model)), names)
    return plan_tiles(names, labels, options)


def forecast_tile(plan: TilingPlan, *, workers: Workers | None = None) -> Forecast:
    """Estimate tiles, disk, time and memory of a plan from a few tiles that are really cut."""
    with limited_block_cache():
        return forecast_tiles(plan, workers=(workers or Workers()).local_processes)


def _suit(options: TileOptions, spec: ModelSpec, scenes: Sequence[str | Path]) -> TileOptions:
    """Return the options with what a model needs, where they do not set it."""
    wanted: dict[str, Any] = {"gsd_m": spec.gsd_m, "size": spec.size}
    if "building" in spec.outputs and not spec.exclusive:
        # Training matches outputs by name, so that their order does not matter.
        wanted["targets"] = tuple(name for name in TARGET_FUNCTIONS if name in spec.outputs)
    # Bands of scenes without names count in their order.
    if scenes and options.bands is None and options.classes is None:
        info = read_info(scenes[0], assume_gsd_m=options.assume_gsd_m)
        names = {name.lower() for name in info.bands}
        if names >= {name.lower() for name in spec.bands}:
            wanted["bands"] = spec.bands
    try:
        return TileOptions.model_validate(wanted | options.model_dump(exclude_unset=True))
    except ValidationError as error:  # an option does not suit the model's tile side
        raise ConfigError(
            f"tile: {first_problem(error)}; change the option, or leave --for out"
        ) from error


def _count_repaired(plan: TilingPlan) -> tuple[int | None, int | None]:
    """Return the numbers of repaired and dropped polygons; None for mask rasters."""
    vector = [labels for labels in plan.labels if not isinstance(labels, RasterLabels)]
    if not vector:
        return None, None
    return sum(labels.repaired for labels in vector), sum(labels.dropped for labels in vector)
