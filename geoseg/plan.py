"""What predicting a scene will do, before a pixel is read, and the pixels in its order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geoseg.errors import GridMismatchError
from geoseg.grid import Grid
from geoseg.model_file import ModelSpec
from geoseg.options import PredictOptions
from geoseg.raster import Scene, SceneInfo, read_info
from geoseg.tiling import Tile, TilePlan

Progress = Callable[[int, int], None]

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
    info = _match_bands(scene, spec, options.bands)
    if info.dtype != spec.dtype:
        raise GridMismatchError(
            f"{scene}: holds {info.dtype} pixels, the model was trained on {spec.dtype}; convert "
            "the scene as the training scenes were (gdal_translate -ot ... -scale ...) or retrain"
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


def iter_batches(scene: Scene, plan: TilePlan, batch_size: int) -> Iterator[list[ReadTile]]:
    """Reads the tiles of a plan in their order; those without a valid pixel are left out.

    Args:
        scene: The scene on the plan's grid.
        plan: The tiles.
        batch_size: Tiles per batch; the last one may hold fewer.
    """
    batch = []
    for tile in plan:
        data, valid = scene.read(tile.window)
        if valid.any():
            batch.append((tile, data, valid))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _match_bands(
    scene: str | Path, spec: ModelSpec, bands: tuple[int | str, ...] | None
) -> SceneInfo:
    info = read_info(scene, bands=bands)
    names, wanted = [n.lower() for n in info.bands], [n.lower() for n in spec.bands]
    if bands is None and names != wanted and set(wanted) <= set(names):
        return read_info(scene, bands=[info.indexes[names.index(name)] for name in wanted])
    unlike = len(names) != len(wanted)
    named = bands is None and not (_are_numbered(names) or _are_numbered(wanted))
    if unlike or (named and names != wanted):
        raise GridMismatchError(
            f"{scene}: has {len(names)} bands ({', '.join(info.bands)}), the model wants "
            f"{len(wanted)} ({', '.join(spec.bands)}); name the bands in the model's order "
            "with --bands"
        )
    return info


def _are_numbered(names: list[str]) -> bool:
    """Whether bands have no names of their own, so that only their order can tell."""
    return all(name.removeprefix("band").isdigit() for name in names)
