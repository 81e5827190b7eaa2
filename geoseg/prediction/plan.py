"""Plan of a prediction: bands, grids, tiles and area of interest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.credentials import get_logger
from geoseg.errors import GridMismatchError, counted
from geoseg.geo.grid import Grid
from geoseg.geo.raster import (
    SceneInfo,
    are_numbered,
    check_is_image,
    mark_blank_areas,
    read_info,
)
from geoseg.geo.raster.opening import open_raster
from geoseg.geo.tiling import TileGrid
from geoseg.networks.model_file import ModelSpec
from geoseg.options import PredictOptions

# Imported where a polygon is read: geopandas is slow to load, and most predictions need none.
if TYPE_CHECKING:
    from geoseg.geo.aoi import AOI

logger = get_logger(__name__)

# Beyond this ratio of pixel sizes, objects look too different from the training scenes.
_MAX_SCALE = 4.0


@dataclass(frozen=True)
class ScenePlan:
    """What a prediction will do, known before any pixel is read.

    Attributes:
        scene: The scene, its bands in the order of the model.
        spec: Header of the model.
        grid: Grid of the tiles, with the pixel size of the model.
        out_grid: Grid of the output rasters.
        tiles: The tiles.
        aoi: Area of interest in the CRS of the grid; the whole scene when None.
    """

    scene: SceneInfo
    spec: ModelSpec
    grid: Grid
    out_grid: Grid
    tiles: TileGrid
    aoi: AOI | None = None


def plan_prediction(
    scene: str | Path, spec: ModelSpec, options: PredictOptions | None = None
) -> ScenePlan:
    """Plan the tiles of a scene for a model, without reading pixels.

    Raises:
        SceneReadError: If the scene cannot be read, or is itself a result of a prediction.
        GridMismatchError: If the scene's bands, data type or pixel size do not suit the model, or
            the area of interest does not overlap the scene.
        VectorReadError: If the area of interest cannot be read.
    """
    options = options or PredictOptions()
    info = read_scene(scene, spec, options)
    warn_of_order([info], spec, options)
    return plan_scene(info if options.keep_blank else mark_blank_areas(info), spec, options)


def read_scene(scene: str | Path, spec: ModelSpec, options: PredictOptions) -> SceneInfo:
    """Read the description of a scene, its bands in the order of the model.

    Raises:
        SceneReadError: As `plan_prediction`, like `GridMismatchError`.
    """
    check_is_image(scene)
    info = _match_bands(scene, spec, options)
    dtypes = spec.scene_dtypes or (spec.dtype,)
    if info.dtype not in dtypes:
        raise GridMismatchError(
            f"{scene}: has {info.dtype} pixels, the model was trained on {' and '.join(dtypes)}; "
            "convert the scene like the training scenes (gdal_translate -ot ... -scale ...) or "
            "train a model on such scenes"
        )
    check_gsd(str(scene), info.grid, spec)
    return info


def plan_scene(info: SceneInfo, spec: ModelSpec, options: PredictOptions) -> ScenePlan:
    """Plan the tiles of a scene whose bands are those of the model; errors of `plan_prediction`."""
    grid = info.grid.resampled(spec.gsd_m)
    overlap = spec.overlap if options.overlap is None else options.overlap
    tiles = TileGrid(grid.height, grid.width, spec.size, overlap, options.blend)
    out_grid = grid if options.keep_model_grid else info.grid
    aoi = None if options.aoi is None else _read_aoi(options.aoi, grid, info.name)
    return ScenePlan(info, spec, grid, out_grid, tiles, aoi)


def check_gsd(name: str, grid: Grid, spec: ModelSpec) -> None:
    """Check that the pixel size of a scene is near enough to that of a model.

    Args:
        name: Name of the scene in the error.
        grid: Grid of the scene.
        spec: Header of the model.

    Raises:
        GridMismatchError: If it is more than four times larger or smaller.
    """
    scale = spec.gsd_m / grid.gsd_m
    if not 1 / _MAX_SCALE <= scale <= _MAX_SCALE:
        raise GridMismatchError(
            f"{name}: its pixels measure {grid.gsd_m:.3g} m on the ground, the model needs "
            f"{spec.gsd_m:.3g} m, and the two differ by more than a factor of {_MAX_SCALE:g}; use "
            "a model trained near the scene's pixel size"
        )


def warn_of_order(infos: Sequence[SceneInfo], spec: ModelSpec, options: PredictOptions) -> None:
    """Warn once if bands of scenes are used in order because they or the model's have no names."""
    wanted = [name.lower() for name in spec.bands]
    unnamed = [info for info in infos if [name.lower() for name in info.bands] != wanted]
    if options.bands is None and unnamed:
        more = f" and {len(unnamed) - 1} more" if len(unnamed) > 1 else ""
        logger.warning(
            "%s%s: the bands of the scene or of the model have no names, so they are used in order "
            "as %s; --bands changes this",
            unnamed[0].path,
            more,
            ", ".join(spec.bands),
        )


def _match_bands(scene: str | Path, spec: ModelSpec, options: PredictOptions) -> SceneInfo:
    bands, gsd_m = options.bands, options.assume_gsd_m
    info = read_info(scene, bands=bands, assume_gsd_m=gsd_m)
    names, wanted = [n.lower() for n in info.bands], [n.lower() for n in spec.bands]
    if bands is None and names != wanted and set(wanted) <= set(names):
        ordered = [info.indexes[names.index(name)] for name in wanted]
        return read_info(scene, bands=ordered, assume_gsd_m=gsd_m)
    unlike = len(names) != len(wanted)
    named = bands is None and not (are_numbered(names) or are_numbered(wanted))
    if unlike or (named and names != wanted):
        raise _unlike_bands(scene, info.bands, spec.bands, chosen=bands is not None)
    return info


def _unlike_bands(
    scene: str | Path, bands: tuple[str, ...], wanted: tuple[str, ...], *, chosen: bool
) -> GridMismatchError:
    """Return the error for a scene whose bands are not those of the model.

    Args:
        scene: The scene.
        bands: Its bands, or those that the user has chosen.
        wanted: Bands of the model.
        chosen: Whether the user has chosen bands.
    """
    needed = f"the model needs {len(wanted)} ({', '.join(wanted)})"
    if chosen:
        return GridMismatchError(
            f"{scene}: {counted(len(bands), 'band')} chosen ({', '.join(bands)}), but {needed}; "
            "list as many bands with --bands, in the order of the model"
        )
    has = f"{scene}: has {counted(len(bands), 'band')} ({', '.join(bands)}), {needed}"
    with open_raster(scene) as source:
        count = source.count  # alpha bands, which are data in some scenes, can be chosen, too
    if count < len(wanted):
        return GridMismatchError(
            f"{has}, so the model cannot be used for it; train a model on scenes with these bands, "
            "or use a scene with those of the model"
        )
    return GridMismatchError(f"{has}; list the bands in the order of the model with --bands")


def _read_aoi(path: str | Path, grid: Grid, scene: str | Path) -> AOI:
    """Read the area of interest on a grid.

    Raises:
        VectorReadError: If it cannot be read.
        GridMismatchError: If no polygon intersects the grid.
    """
    from geoseg.geo.aoi import AOI

    aoi = AOI.read_on(path, grid)
    if not len(aoi):
        raise GridMismatchError(
            f"{path}: has no polygon on {scene}; use an area of interest that overlaps the scene"
        )
    return aoi
