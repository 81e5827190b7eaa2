"""Cut scenes and labels into tiles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from geoseg.api.results import TileResult
from geoseg.data.forecast import Forecast, forecast_tiles
from geoseg.data.label_report import write_label_report
from geoseg.data.labels import RasterLabels
from geoseg.data.tiles import TilingPlan, plan_tiles, tile_scenes
from geoseg.geo.raster.block_cache import limited_block_cache
from geoseg.jobs.output import check_output
from geoseg.jobs.progress import Progress, Report
from geoseg.jobs.workers import Workers
from geoseg.options import TileOptions


def tile(
    scenes: str | Path | Sequence[str | Path],
    labels: str | Path,
    output: str | Path,
    *,
    options: TileOptions | None = None,
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
        scenes: Rasters that GDAL opens.
        labels: Footprints in any vector format and CRS, or a mask raster; `{}` in the name stands
            for the name of each scene.
        output: Folder of the tiles.
        options: Settings; the defaults when None.
        overwrite: Replace an existing folder of tiles.
        workers: Where tasks run; the files do not depend on it.
        report: Called with lines that describe what is going to be cut.
        progress: Called with the finished and the total number of tiles.

    Raises:
        GeosegError: If scenes, labels and options do not fit together; nothing is written then.
    """
    with limited_block_cache():
        plan = plan_tile(scenes, labels, output, options=options, overwrite=overwrite)
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
    overwrite: bool = False,
) -> TilingPlan:
    """Check scenes, labels and output, reading no pixels; arguments and errors as of `tile`."""
    check_output(output, overwrite=overwrite)
    names = [scenes] if isinstance(scenes, str | Path) else list(scenes)
    return plan_tiles(names, labels, options or TileOptions())


def forecast_tile(plan: TilingPlan, *, workers: Workers | None = None) -> Forecast:
    """Estimate tiles, disk, time and memory of a plan from a few tiles that are really cut."""
    with limited_block_cache():
        return forecast_tiles(plan, workers=(workers or Workers()).local_processes)


def _count_repaired(plan: TilingPlan) -> tuple[int | None, int | None]:
    """Return the numbers of repaired and dropped polygons; None for mask rasters."""
    vector = [labels for labels in plan.labels if not isinstance(labels, RasterLabels)]
    if not vector:
        return None, None
    return sum(labels.repaired for labels in vector), sum(labels.dropped for labels in vector)
