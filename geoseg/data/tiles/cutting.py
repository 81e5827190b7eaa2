"""Cutting: writes the tiles of a plan to a folder, one row of tiles per task."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from geoseg.data.tiles.index_writer import write_index
from geoseg.data.tiles.tile_index import TilesInfo, load_tiles_info
from geoseg.data.tiles.tile_row import (
    TILES_PER_STRIP,
    CutTile,
    LostTile,
    build_row_task,
    cut_tile_row,
)
from geoseg.data.tiles.tiling_plan import TilingPlan
from geoseg.errors import MemoryLimitError, one_line
from geoseg.geo.raster import list_files
from geoseg.jobs.journal import Journal, describe_job
from geoseg.jobs.memory import resident_bytes
from geoseg.jobs.output import Work, folder_output
from geoseg.jobs.pool import Failure, Pool
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers

# Large tiles form shorter strips.
_PIXELS_PER_STRIP = 2**22

# Bytes per pixel of a strip besides its bands: validity, targets and the distances they come from.
_TARGET_BYTES = 64

# Bytes of GDAL's buffers and of the index, while tiles are cut.
_BUFFER_BYTES = 128_000_000


def tile_scenes(
    plan: TilingPlan,
    output: str | Path,
    *,
    overwrite: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
    finish: Callable[[Path], object] | None = None,
) -> TilesInfo:
    """Cut the tiles of a plan into a folder, which appears only when complete.

    An interrupted job continues when it is started again. Tiles that cannot be read are left out
    and named in the result.

    Args:
        plan: Result of `plan_tiles`.
        output: The folder.
        overwrite: Replace an existing folder of tiles.
        workers: Who cuts; the files do not depend on it.
        progress: Called with the finished and the total number of tiles.
        finish: Called with the folder when all of the above is in it, just before it gets its
            final name; files that it writes there become part of the output.

    Returns:
        The contents of `tiles.json`.

    Raises:
        OutputExistsError: If the folder exists and may not be overwritten, or contains the
            scenes or the footprints.
        LabelError: If no pixel of any tile is a building.
        EmptyDatasetError: If no training tile has a valid pixel.
    """
    scenes = [file for scene in plan.scenes for file in list_files(scene.path)]
    inputs = [file for file in scenes if not file.endswith(".aux.xml")]
    inputs += [*plan.label_files, *([plan.options.areas] if plan.options.areas else [])]
    job = describe_job(plan.options.model_dump(), list(plan.tiles.id), files=inputs)
    with folder_output(output, overwrite=overwrite, inputs=inputs, job=job) as work:
        if not work.is_complete:
            workers = workers or Workers()
            strip_tiles = choose_strip(plan, workers.max_memory_gb)
            with workers.open(cut_tile_row, inputs=inputs, folder=work.folder) as pool:
                _fill(plan, work, pool, strip_tiles, progress)
            if finish:
                finish(work.result)
    return load_tiles_info(output)


def choose_strip(plan: TilingPlan, max_memory_gb: float) -> int:
    """Return how many adjacent tiles are read together within a memory limit.

    The files do not depend on it.

    Args:
        plan: The tiles.
        max_memory_gb: Limit of each process, gigabytes.

    Raises:
        MemoryLimitError: If a single tile does not fit.
    """
    itemsize = np.dtype(plan.dtype).itemsize
    # Pixels as GDAL returns them, converted, and cut into tiles.
    pixel_bytes = 3 * itemsize * len(plan.scenes[0].bands) + _TARGET_BYTES
    tile_bytes = pixel_bytes * plan.options.size**2
    fixed_bytes = resident_bytes() + _BUFFER_BYTES
    fitting = int((max_memory_gb * 1e9 - fixed_bytes) // tile_bytes)
    if fitting < 1:
        needed_gb = math.ceil((fixed_bytes + tile_bytes) / 1e7) / 100
        raise MemoryLimitError(
            f"--max-memory: cutting tiles of {plan.options.size} pixels needs {needed_gb:.2f} GB, "
            f"but only {max_memory_gb:g} GB are allowed; raise --max-memory, or use smaller tiles"
        )
    most = max(1, min(TILES_PER_STRIP, _PIXELS_PER_STRIP // plan.options.size**2))
    return min(fitting, most)


def _fill(
    plan: TilingPlan, work: Work, pool: Pool, strip_tiles: int, progress: Progress | None
) -> None:
    """Cut all tiles and write the index of the folder."""
    for kind in ("images", "targets"):
        (work.result / kind).mkdir(exist_ok=True)
    rows = _cut_rows(plan, work.result, work.journal, pool, strip_tiles, progress)
    write_index(plan, rows, work.result)


def _cut_rows(
    plan: TilingPlan,
    folder: Path,
    journal: Journal,
    pool: Pool,
    strip_tiles: int,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """Cut all rows that are not in the journal; return the statistics of every tile."""
    parts = {
        f"{index}/{row}": part
        for (index, row), part in plan.tiles.groupby(["scene_index", "row_off"], sort=True)
    }
    known = {key: _find_rows(journal, key, part, plan) for key, part in parts.items()}
    missing = [key for key, rows in known.items() if rows is None]
    tasks = (build_row_task(plan, folder, parts[key], strip_tiles) for key in missing)
    done = sum(len(rows or ()) for rows in known.values())
    for key, outcome in zip(missing, pool.outcomes(cut_tile_row, tasks), strict=True):
        if isinstance(outcome, Failure):
            rows = _failed_rows(parts[key], outcome.error)
        else:
            rows = outcome.value
        journal.add(key, rows)
        done += len(rows)
        if progress:
            progress(done, len(plan.tiles), "tiles")
    return [row for key in parts for row in journal.done[key]]


def _find_rows(
    journal: Journal, key: str, part: gpd.GeoDataFrame, plan: TilingPlan
) -> list[dict[str, Any]] | None:
    """Return the statistics of a row of tiles that an interrupted job cut; None if it did not."""
    rows: list[CutTile | LostTile] | None = journal.find(key, list[CutTile | LostTile])
    if rows is None or [row.id for row in rows] != part.id.tolist():
        return None
    bands, values = len(plan.scenes[0].bands), plan.scheme.value_count
    for row in rows:
        if isinstance(row, CutTile) and (len(row.sums), len(row.of_value)) != (bands, values):
            return None
    return [row.model_dump() for row in rows]


def _failed_rows(part: gpd.GeoDataFrame, error: Exception) -> list[dict[str, Any]]:
    """Return an error for each tile of a lost task."""
    return [{"id": id_, "error": one_line(error)} for id_ in part.id]
