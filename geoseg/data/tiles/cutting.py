"""Cutting: writes the tiles of a plan to a folder, one row of tiles per task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from rasterio.windows import Window

from geoseg.data.labels import (
    IGNORE,
    ClassScheme,
    Labels,
    LayerLabels,
    RasterLabels,
    margin_px,
    rasterize_targets,
)
from geoseg.data.splits import SPLITS
from geoseg.data.tiles.tile_index import (
    FOOTPRINTS_NAME,
    FailedTile,
    TilesInfo,
    load_tiles_info,
    tile_window,
)
from geoseg.data.tiles.tiling_plan import TilingPlan
from geoseg.errors import (
    EmptyDatasetError,
    LabelError,
    MemoryLimitError,
    SceneReadError,
    one_line,
)
from geoseg.geo.grid import Grid
from geoseg.geo.paths import absolute_path
from geoseg.geo.raster import Scene, SceneInfo, limited_block_cache, list_files, write_array
from geoseg.geo.vector import wrap_lonlat, write_parts
from geoseg.jobs.journal import Journal, describe_job
from geoseg.jobs.memory import resident_bytes
from geoseg.jobs.output import Work, folder_output
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Failure, Pool, Workers

# Columns of tiles that are only needed to compute statistics; not written to tiles.parquet.
_INTERNAL_COLUMNS = ("pixels", "sums", "squares", "of_value", "scene_index")

# Adjacent tiles that are read and rasterized together: pixels they share are decoded only once,
# and memory does not grow with the width of the scene. Large tiles form shorter strips.
_TILES_PER_STRIP = 8
_PIXELS_PER_STRIP = 2**22

# Bytes per pixel of a strip besides its bands: validity, targets and the distances they come from.
_TARGET_BYTES = 64

# Bytes of GDAL's buffers and of the index, while tiles are cut.
_BUFFER_BYTES = 128_000_000


@dataclass(frozen=True)
class RowTask:
    """Description of one row of tiles of one scene, for any process."""

    folder: Path
    scene: SceneInfo
    dtype: str
    grid: Grid
    size: int
    labels: Labels
    targets: tuple[str, ...]
    tiles: list[tuple[str, Window]] = field(repr=False)
    strip_tiles: int = _TILES_PER_STRIP


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
            with workers.open() as pool:
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
    most = max(1, min(_TILES_PER_STRIP, _PIXELS_PER_STRIP // plan.options.size**2))
    return min(fitting, most)


def _fill(
    plan: TilingPlan, work: Work, pool: Pool, strip_tiles: int, progress: Progress | None
) -> None:
    """Cut all tiles and write the index of the folder."""
    folder = work.result
    for kind in ("images", "targets"):
        (folder / kind).mkdir(exist_ok=True)
    rows = _cut_rows(plan, folder, work.journal, pool, strip_tiles, progress)
    failed = [row for row in rows if "error" in row]
    if len(failed) == len(rows):
        raise EmptyDatasetError(failed[0]["error"])
    cut = pd.DataFrame([row for row in rows if "error" not in row])
    tiles = plan.tiles.merge(cut, on="id", sort=False)
    kept = _choose_kept(tiles, plan)
    _remove_files(tiles.id[~kept], folder)
    tiles = tiles[kept].reset_index(drop=True)
    _write_index(plan, tiles, _summarise(plan, tiles, failed), folder)


@limited_block_cache()
def cut_tile_row(task: RowTask) -> list[dict[str, Any]]:
    """Cut one row of tiles and write their files.

    If a strip cannot be read, its tiles are read again one by one; a tile that still cannot be
    read fails.

    Returns:
        Per tile: id, valid and building fraction, and sums per band over its valid pixels; or id
        and error of a failed tile. All values are JSON types.
    """
    try:
        with _open(task) as scene:
            strips = _strips(task.tiles, task.strip_tiles)
            return [row for strip in strips for row in _cut_strip(task, scene, strip)]
    except SceneReadError:
        return [_cut_single_tile(task, *tile) for tile in task.tiles]


def _cut_single_tile(task: RowTask, id_: str, window: Window) -> dict[str, Any]:
    try:
        with _open(task) as scene:
            return next(_cut_strip(task, scene, [(id_, window)]))
    except SceneReadError as error:
        return {"id": id_, "error": str(error)}


def _open(task: RowTask) -> Scene:
    return task.scene.open(task.grid)


def _strips(tiles: Sequence[tuple[str, Window]], limit: int) -> Iterator[list[tuple[str, Window]]]:
    """Yield groups of adjacent tiles in a row that together cover a rectangle."""
    strip: list[tuple[str, Window]] = []
    for tile in tiles:
        if strip and (len(strip) == limit or not _adjoins(strip[-1][1], tile[1])):
            yield strip
            strip = []
        strip.append(tile)
    yield strip


def _adjoins(left: Window, right: Window) -> bool:
    """Return whether two tiles touch or overlap and have the same height."""
    touches = left.col_off <= right.col_off <= left.col_off + left.width
    return bool(touches and left.height == right.height)


def _cut_strip(
    task: RowTask, scene: Scene, strip: Sequence[tuple[str, Window]]
) -> Iterator[dict[str, Any]]:
    """Cut the tiles of a strip; targets do not depend on how the scene is divided."""
    whole = _bounding_window([window for _, window in strip])
    pixels, valid = scene.read(whole)
    pixels = pixels.astype(task.dtype, copy=False)
    targets = rasterize_targets(task.labels, whole, valid, task.targets)
    for id_, window in strip:
        left = window.col_off - whole.col_off
        own = (..., slice(left, left + window.width))
        image = _pad_to_size(pixels[own], task.size, 0), _pad_to_size(valid[own], task.size, False)
        yield _write(task, id_, window, *image, _pad_to_size(targets[own], task.size, IGNORE))


def _write(
    task: RowTask,
    id_: str,
    window: Window,
    pixels: np.ndarray,
    valid: np.ndarray,
    targets: np.ndarray,
) -> dict[str, Any]:
    """Write image and target of a tile and return its statistics."""
    grid = task.grid.window_grid(Window(window.col_off, window.row_off, task.size, task.size))
    image, target = (task.folder / kind / f"{id_}.tif" for kind in ("images", "targets"))
    write_array(image, grid, pixels, valid=valid, descriptions=task.scene.bands)
    write_array(target, grid, targets, nodata=IGNORE, descriptions=task.targets)
    return _tile_statistics(id_, pixels, valid, targets[0], task.labels.scheme)


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
    missing = [key for key in parts if key not in journal.done]
    tasks = (build_row_task(plan, folder, parts[key], strip_tiles) for key in missing)
    done = sum(len(rows) for rows in journal.done.values())
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


def _failed_rows(part: gpd.GeoDataFrame, error: Exception) -> list[dict[str, Any]]:
    """Return an error for each tile of a lost task."""
    return [{"id": id_, "error": one_line(error)} for id_ in part.id]


def build_row_task(
    plan: TilingPlan, folder: Path, part: gpd.GeoDataFrame, strip_tiles: int = _TILES_PER_STRIP
) -> RowTask:
    """Build the task of one row of tiles, with the labels near it."""
    index = int(part.scene_index.iloc[0])
    grid, labels = plan.grids[index], plan.labels[index]
    windows = [tile_window(tile) for tile in part.itertuples()]
    margin = margin_px(grid, plan.options.target_names)
    return RowTask(
        folder=folder,
        scene=replace(plan.scenes[index], path=absolute_path(plan.scenes[index].path)),
        dtype=plan.dtype,
        grid=grid,
        size=plan.options.size,
        labels=labels.subset(_bounding_window(windows, margin)),
        targets=plan.options.target_names,
        tiles=list(zip(part.id, windows, strict=True)),
        strip_tiles=strip_tiles,
    )


def _bounding_window(windows: Sequence[Window], margin: int = 0) -> Window:
    left = min(w.col_off for w in windows) - margin
    top = min(w.row_off for w in windows) - margin
    right = max(w.col_off + w.width for w in windows) + margin
    bottom = max(w.row_off + w.height for w in windows) + margin
    return Window(left, top, right - left, bottom - top)


def _pad_to_size(array: np.ndarray, size: int, fill: int) -> np.ndarray:
    """Pad a tile that is cut short by its region, at the bottom and on the right."""
    height, width = array.shape[-2:]
    if (height, width) == (size, size):
        return np.ascontiguousarray(array)
    missing = [(0, 0)] * (array.ndim - 2) + [(0, size - height), (0, size - width)]
    return np.pad(array, missing, constant_values=fill)


def _tile_statistics(
    id_: str, data: np.ndarray, valid: np.ndarray, mask: np.ndarray, scheme: ClassScheme
) -> dict[str, Any]:
    count = int(np.count_nonzero(valid))
    sums, squares = zip(*(_sum_and_squares(band, valid, count) for band in data), strict=True)
    of_value = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    return {
        "id": id_,
        "valid_fraction": count / valid.size,
        "building_fraction": int(of_value[1:IGNORE].sum()) / max(1, count),
        "of_value": of_value[: scheme.value_count].tolist(),
        "pixels": count,
        "sums": sums,
        "squares": squares,
    }


def _sum_and_squares(band: np.ndarray, valid: np.ndarray, count: int) -> tuple[float, float]:
    """Return sum and sum of squares over the valid pixels of one band.

    A single band fits into the processor's cache.
    """
    pixels = (band.ravel() if count == band.size else band[valid]).astype(np.float64)
    total = float(pixels.sum())
    np.square(pixels, out=pixels)
    return total, float(pixels.sum())


def _choose_kept(tiles: gpd.GeoDataFrame, plan: TilingPlan) -> pd.Series:
    """Return which tiles are kept: those with data, but only some empty training tiles.

    Validation and test splits keep their empty tiles, so that false positives there count. If
    every class is a class to learn, no tile is empty.
    """
    options = plan.options
    if not plan.scheme.has_background:
        return pd.Series(tiles.valid_fraction > 0)
    kept = tiles.valid_fraction > 0
    empty = tiles.index[kept & (tiles.split == "train") & (tiles.building_fraction == 0)]
    order = np.random.default_rng(options.seed).permutation(len(empty))
    kept[empty[order[round(len(empty) * options.keep_empty) :]]] = False
    chosen: pd.Series = kept
    return chosen


def _remove_files(ids: pd.Series, folder: Path) -> None:
    for id_ in ids:
        # The files may be removed already, if the job was interrupted after this step.
        (folder / "images" / f"{id_}.tif").unlink(missing_ok=True)
        (folder / "targets" / f"{id_}.tif").unlink(missing_ok=True)


def _summarise(
    plan: TilingPlan, tiles: gpd.GeoDataFrame, failed: Sequence[dict[str, Any]]
) -> TilesInfo:
    train = tiles[tiles.split == "train"]
    if train.empty:
        raise _no_training_data_error(plan, bool(len(tiles)))
    _check_classes(plan, np.sum(tiles.of_value.tolist(), axis=0))
    pixels = train.pixels.sum()
    mean = np.sum(train.sums.tolist(), axis=0) / pixels
    squares = np.sum(train.squares.tolist(), axis=0) / pixels
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    first, options = plan.scenes[0], plan.options
    return TilesInfo(
        bands=first.bands,
        dtype=plan.dtype,
        scene_dtypes=tuple(sorted({scene.dtype for scene in plan.scenes})),
        gsd_m=round(float(options.gsd_m or plan.grids[0].gsd_m), 6),
        nodata=first.nodata if first.nodata is None or np.isfinite(first.nodata) else None,
        size=options.size,
        overlap=options.overlap_px,
        classes=plan.scheme.names,
        colours=plan.scheme.colours,
        background=plan.scheme.background_name,
        targets=options.target_names,
        mean=tuple(round(float(m), 6) for m in mean),
        # A band without contrast must not divide by zero.
        std=tuple(round(float(s), 6) or 1.0 for s in std),
        scenes=tuple(info.path for info in plan.scenes),
        labels=plan.labels_path,
        where=options.where,
        split=_describe_split(plan),
        tiles={split: int((tiles.split == split).sum()) for split in SPLITS},
        shared_pixels=plan.shared_pixels,
        failed=_describe_failed(plan, failed),
    )


def _no_training_data_error(plan: TilingPlan, elsewhere: bool) -> EmptyDatasetError:
    first = plan.scenes[0]
    what = f"{first.path}: no training tile has a valid pixel"
    if elsewhere:
        return EmptyDatasetError(f"{what}, but other splits have some; choose another --split")
    if first.nodata is None:
        return EmptyDatasetError(
            f"{what}, all pixels are masked; check the scene's mask with gdalinfo, or use another "
            "scene"
        )
    return EmptyDatasetError(
        f"{what}, all pixels have the nodata value {first.nodata:g}; if that is data, remove the "
        "value with gdal_edit.py -unsetnodata file.tif, else use another scene"
    )


def _check_classes(plan: TilingPlan, of_value: np.ndarray) -> None:
    """Check that each class has pixels, as a class without examples cannot be learnt."""
    scheme = plan.scheme
    named = enumerate(scheme.names) if scheme.exclusive else [(1, scheme.names[0])]
    # The background may have no pixel: labels may cover everything.
    absent = [
        name for value, name in named if not of_value[value] and value != scheme.background_value
    ]
    if absent:
        check = "that they are larger than a pixel"
        if scheme.exclusive:
            check = f"tile.classes.values (--set tile.classes.values.{absent[0]}=null drops it)"
        raise LabelError(
            f"{plan.labels_path}: class {absent[0]} has no pixel in any tile; check that the "
            f"labels are located where the scene has data, and {check}"
        )


def _describe_failed(plan: TilingPlan, failed: Sequence[dict[str, Any]]) -> tuple[FailedTile, ...]:
    tiles = plan.tiles.set_index("id")
    rows = ((row, tiles.loc[row["id"]]) for row in failed)
    return tuple(
        FailedTile(
            id=row["id"],
            scene=tile.scene,
            window=(tile.col_off, tile.row_off, tile.width, tile.height),
            error=row["error"],
        )
        for row, tile in rows
    )


def _describe_split(plan: TilingPlan) -> dict[str, Any]:
    options = plan.options
    description: dict[str, Any] = {"by": options.split, "gap": plan.gap, "seed": options.seed}
    if options.split == "kfold":
        return description | {"folds": options.folds, "fold": options.fold}
    return description | {"fractions": list(options.fractions)}


def _write_index(plan: TilingPlan, tiles: gpd.GeoDataFrame, info: TilesInfo, folder: Path) -> None:
    columns = [c for c in tiles.columns if c not in _INTERNAL_COLUMNS]
    tiles[columns].assign(class_pixels=tiles.of_value).to_parquet(folder / "tiles.parquet")
    _write_footprints(plan, info, folder / FOOTPRINTS_NAME)
    for split, part in plan.regions.groupby("split"):
        part = part.set_geometry([wrap_lonlat(shape) for shape in part.geometry], crs=part.crs)
        part.to_file(folder / f"{split}.geojson", driver="GeoJSON", RFC7946="YES")
    (folder / "tiles.json").write_text(info.model_dump_json(indent=2) + "\n")


def _write_footprints(plan: TilingPlan, info: TilesInfo, path: Path) -> None:
    """Write the polygons that were rasterized, in parts if there are many; none for masks."""
    kept = ["value", "scene", "geometry"] if info.exclusive else ["scene", "geometry"]

    def parts() -> Iterator[gpd.GeoDataFrame]:
        for scene, labels in zip(plan.scenes, plan.labels, strict=True):
            if not isinstance(labels, RasterLabels):
                for part in labels.iter_footprints():
                    yield part.assign(scene=scene.path)[kept].to_crs(4326)

    if any(isinstance(labels, LayerLabels) for labels in plan.labels):
        write_parts(path, parts())
    elif polygons := list(parts()):
        gpd.GeoDataFrame(pd.concat(polygons, ignore_index=True)).to_parquet(path)
