"""Cuts one row of tiles of one scene: reads strips, rasterizes targets, writes tile files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import geopandas as gpd
import numpy as np
import shapely
from pydantic import BaseModel, ConfigDict, Field
from rasterio.features import geometry_mask
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from geoseg.data.labels import IGNORE, ClassScheme, Labels, margin_px, rasterize_targets
from geoseg.data.tiles.tile_index import tile_window
from geoseg.data.tiles.tiling_plan import TilingPlan
from geoseg.errors import SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.paths import absolute_path
from geoseg.geo.raster import Scene, SceneInfo, limited_block_cache, write_array

# Adjacent tiles that are read and rasterized together: pixels they share are decoded only once,
# and memory does not grow with the width of the scene.
TILES_PER_STRIP = 8


@dataclass(frozen=True)
class RowTask:
    """Description of one row of tiles of one scene, for any process.

    `labelled` has the labelled part of the tiles that are not labelled everywhere, by their id.
    """

    folder: Path
    scene: SceneInfo
    dtype: str
    grid: Grid
    size: int
    labels: Labels
    targets: tuple[str, ...]
    tiles: list[tuple[str, Window]] = field(repr=False)
    strip_tiles: int = TILES_PER_STRIP
    merged: bool = False
    labelled: dict[str, BaseGeometry] = field(default_factory=dict, repr=False)


class CutTile(BaseModel):
    """Statistics of a tile, as the journal keeps them; see `cut_tile_row`."""

    model_config = ConfigDict(extra="forbid")

    id: str
    valid_fraction: float = Field(ge=0, le=1)
    building_fraction: float = Field(ge=0)
    of_value: list[Annotated[int, Field(ge=0)]]
    pixels: int = Field(ge=0)
    sums: list[float]
    squares: list[float]


class LostTile(BaseModel):
    """A tile that could not be cut, as the journal keeps it."""

    model_config = ConfigDict(extra="forbid")

    id: str
    error: str


def build_row_task(
    plan: TilingPlan, folder: Path, part: gpd.GeoDataFrame, strip_tiles: int = TILES_PER_STRIP
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
        merged=plan.scenes[index].name in plan.merged,
        labelled=_clip_labelled(plan.labelled[index], part, windows, grid),
    )


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
    targets = rasterize_targets(task.labels, whole, valid, task.targets, merged=task.merged)
    for id_, window in strip:
        left = window.col_off - whole.col_off
        own = (..., slice(left, left + window.width))
        image = _pad_to_size(pixels[own], task.size, 0), _pad_to_size(valid[own], task.size, False)
        target = _pad_to_size(_ignore_outside(task, id_, window, targets[own]), task.size, IGNORE)
        yield _write(task, id_, window, *image, target)


def _ignore_outside(task: RowTask, id_: str, window: Window, targets: np.ndarray) -> np.ndarray:
    """Return the targets (bands, H, W) of a tile, ignored outside of what is labelled."""
    if id_ not in task.labelled:
        return targets
    outside = geometry_mask(
        [task.labelled[id_]], targets.shape[1:], task.grid.window_transform(window)
    )
    return np.where(outside, np.uint8(IGNORE), targets)


def _clip_labelled(
    areas: Mapping[str, BaseGeometry],
    tiles: gpd.GeoDataFrame,
    windows: Sequence[Window],
    grid: Grid,
) -> dict[str, BaseGeometry]:
    """Return the labelled part of the tiles that are not labelled everywhere, by their id."""
    found = {}
    for id_, split, window in zip(tiles.id, tiles.split, windows, strict=True):
        outline = grid.window_polygon(window)
        if split in areas and not areas[split].covers(outline):
            found[id_] = shapely.intersection(areas[split], outline)
    return found


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


def _tile_statistics(
    id_: str, data: np.ndarray, valid: np.ndarray, mask: np.ndarray, scheme: ClassScheme
) -> dict[str, Any]:
    count = int(np.count_nonzero(valid))
    sums, squares = zip(*(_sum_and_squares(band, valid, count) for band in data), strict=True)
    of_value = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    known = mask.size - int(of_value[IGNORE])
    return {
        "id": id_,
        "valid_fraction": count / valid.size,
        "building_fraction": int(of_value[1:IGNORE].sum()) / max(1, min(count, known)),
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
