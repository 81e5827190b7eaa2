"""What predicting a scene will do, before a pixel is read."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from geoseg.errors import GridMismatchError
from geoseg.geo.aoi import AOI
from geoseg.geo.grid import Grid
from geoseg.geo.raster import SceneInfo, read_info
from geoseg.geo.tiling import TileGrid
from geoseg.networks.model_file import ModelSpec
from geoseg.options import PredictOptions

logger = logging.getLogger(__name__)

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
        aoi: Area of interest in the grid's CRS; the whole scene when None.
    """

    scene: SceneInfo
    spec: ModelSpec
    grid: Grid
    out_grid: Grid
    tiles: TileGrid
    aoi: AOI | None = None


def plan_prediction(
    scene: str | Path, spec: ModelSpec, options: PredictOptions | None = None
) -> PredictPlan:
    """Plans the tiles of a scene for a model, reading no pixel.

    Raises:
        SceneReadError: If the scene cannot be read.
        GridMismatchError: If it lacks the model's bands, dtype or pixel size, or the area of
            interest has no polygon on it.
        VectorReadError: If the area of interest cannot be read.
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
    tiles = TileGrid(grid.height, grid.width, spec.size, overlap, options.blend)
    out_grid = grid if options.keep_model_grid else info.grid
    aoi = None if options.aoi is None else _read_aoi(options.aoi, grid, scene)
    return PredictPlan(info, spec, grid, out_grid, tiles, aoi)


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


def _read_aoi(path: str | Path, grid: Grid, scene: str | Path) -> AOI:
    """Read the area of interest on a grid.

    Raises:
        VectorReadError: If it cannot be read.
        GridMismatchError: If no polygon meets the grid.
    """
    aoi = AOI.read_on(path, grid)
    if not len(aoi):
        raise GridMismatchError(
            f"{path}: has no polygon on {scene}; give an area of interest that meets the scene"
        )
    return aoi
