"""What predicting a scene will do, before a pixel is read, and the pixels in its order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.windows import Window

from geoseg.errors import GridMismatchError
from geoseg.grid import Grid
from geoseg.model_file import ModelSpec
from geoseg.options import PredictOptions
from geoseg.raster import Scene, SceneInfo, read_info
from geoseg.tiling import Tile, TilePlan

logger = logging.getLogger(__name__)

# Told how much is finished, of how much in all, and of what.
Progress = Callable[[int, int, str], None]

# A tile with its data (C, h, w) and where that is valid (h, w).
ReadTile = tuple[Tile, np.ndarray, np.ndarray]

# A scene whose pixels differ from the model's by more than this factor shows other things.
_MOST_SCALE = 4.0


@dataclass(frozen=True)
class PredictPlan:
    """What `geoseg predict` will do, before it reads a pixel.

    Attributes:
        scene: The scene, its bands in the model's order.
        spec: The model's header.
        grid: The grid that tiles are predicted on.
        out_grid: The grid of the rasters.
        tiles: The tiles.
    """

    scene: SceneInfo
    spec: ModelSpec
    grid: Grid
    out_grid: Grid
    tiles: TilePlan


def plan_prediction(
    scene: str | Path, spec: ModelSpec, options: PredictOptions | None = None
) -> PredictPlan:
    """Plans the tiles of a scene for a model, reading no pixel.

    Raises:
        SceneReadError: If the scene cannot be read.
        GridMismatchError: If it lacks the model's bands, dtype or pixel size.
    """
    options = options or PredictOptions()
    info = _match_bands(scene, spec, options)
    known = spec.scene_dtypes or (spec.dtype,)
    if info.dtype not in known:
        raise GridMismatchError(
            f"{scene}: holds {info.dtype} pixels, the model was trained on {' and '.join(known)}; "
            "convert the scene as the training scenes were (gdal_translate -ot ... -scale ...) or "
            "retrain"
        )
    scale = spec.gsd_m / info.grid.gsd_m
    if not 1 / _MOST_SCALE <= scale <= _MOST_SCALE:
        raise GridMismatchError(
            f"{scene}: its pixels measure {info.grid.gsd_m:.3g} m on the ground, the model wants "
            f"{spec.gsd_m:.3g} m, more than {_MOST_SCALE:g} times off; use a model trained near "
            "the scene's pixel size"
        )
    grid = info.grid.resampled(spec.gsd_m)
    overlap = spec.overlap if options.overlap is None else options.overlap
    tiles = TilePlan(grid.height, grid.width, spec.size, overlap)
    out_grid = grid if options.keep_model_grid else info.grid
    return PredictPlan(info, spec, grid, out_grid, tiles)


def iter_batches(
    scene: Scene, plan: TilePlan, batch_size: int, *, size: int | None = None, margin: int = 0
) -> Iterator[list[ReadTile]]:
    """Reads the tiles of a plan in their order; those without a valid pixel are left out.

    Args:
        scene: The scene on the plan's grid.
        plan: The tiles.
        batch_size: Tiles per batch; the last one may hold fewer.
        size: Side that all tiles are brought to, see `read_tile`; None for their own.
        margin: Pixels more on every side, see `read_tile`.
    """
    batch = []
    for tile in plan:
        if size is None:
            data, valid = scene.read(tile.window)
        else:
            data, valid = read_tile(scene, tile.window, size, margin)
        if valid[tile_part(tile.window, margin)].any():
            batch.append((tile, data, valid))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def read_tile(
    scene: Scene, window: Window, size: int, margin: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a window and what surrounds it, mirrored at the scene's edges.

    Args:
        scene: The scene.
        window: Inside the scene, no larger than `size`.
        size: Side of the result without its margin; a smaller window is mirrored up to it.
        margin: Pixels more on every side.

    Returns:
        Data (C, S, S) and valid (S, S), S = size + 2 margin; the window begins at (margin,
        margin).
    """
    near = _clip(window, margin, scene.grid)
    data, valid = scene.read(near)
    pads = []
    for start, begin, length in (
        (window.row_off, near.row_off, near.height),
        (window.col_off, near.col_off, near.width),
    ):
        before = margin - (start - begin)
        pads.append((before, size + 2 * margin - before - length))
    if not any(before or after for before, after in pads):
        return data, valid
    return (
        np.pad(data, [(0, 0), *pads], mode="symmetric"),
        np.pad(valid, pads, mode="symmetric"),
    )


def _clip(window: Window, margin: int, grid: Grid) -> Window:
    """The window with its margin, as far as the grid reaches."""
    top, left = max(0, window.row_off - margin), max(0, window.col_off - margin)
    bottom = min(grid.height, window.row_off + window.height + margin)
    right = min(grid.width, window.col_off + window.width + margin)
    return Window(left, top, right - left, bottom - top)


def tile_part(window: Window, margin: int) -> tuple[slice, slice]:
    """Where the window lies in what `read_tile` returns."""
    return (
        slice(margin, margin + int(window.height)),
        slice(margin, margin + int(window.width)),
    )


def _match_bands(scene: str | Path, spec: ModelSpec, options: PredictOptions) -> SceneInfo:
    bands, gsd_m = options.bands, options.assume_gsd_m
    info = read_info(scene, bands=bands, assume_gsd_m=gsd_m)
    names, wanted = [n.lower() for n in info.bands], [n.lower() for n in spec.bands]
    if bands is None and names != wanted and set(wanted) <= set(names):
        ordered = [info.indexes[names.index(name)] for name in wanted]
        return read_info(scene, bands=ordered, assume_gsd_m=gsd_m)
    unlike = len(names) != len(wanted)
    named = bands is None and not (_are_numbered(names) or _are_numbered(wanted))
    if unlike or (named and names != wanted):
        raise GridMismatchError(
            f"{scene}: has {len(names)} bands ({', '.join(info.bands)}), the model wants "
            f"{len(wanted)} ({', '.join(spec.bands)}); name the bands in the model's order "
            "with --bands"
        )
    if bands is None and names != wanted:
        logger.warning(
            "%s: its bands or the model's have no names; taken in order as %s, --bands says "
            "otherwise",
            scene,
            ", ".join(spec.bands),
        )
    return info


def _are_numbered(names: list[str]) -> bool:
    """Whether bands have no names of their own, so that only their order can tell."""
    return all(name.removeprefix("band").isdigit() for name in names)
