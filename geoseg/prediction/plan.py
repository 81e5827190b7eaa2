"""Plan of a prediction: bands, grids, tiles and area of interest."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.credentials import get_logger
from geoseg.errors import GridMismatchError, OutsideError, counted
from geoseg.geo.grid import Grid
from geoseg.geo.raster import (
    SceneCrop,
    SceneInfo,
    are_numbered,
    check_is_image,
    cover,
    mark_blank_areas,
    plan_crop,
    read_info,
    write_scene_crop,
)
from geoseg.geo.raster.opening import open_raster
from geoseg.geo.tiling import TileGrid
from geoseg.jobs.files import process_folder
from geoseg.networks.model_file import ModelSpec
from geoseg.options import PredictOptions

# Imported where a polygon is read: geopandas is slow to load, and most predictions need none.
if TYPE_CHECKING:
    from geoseg.geo.aoi import AOI

logger = get_logger(__name__)

# Beyond this ratio of pixel sizes, objects look too different from the training scenes.
_MAX_SCALE = 4.0

# Most pixels of a tile service that are predicted: 20 km x 20 km with pixels of 0.1 m.
_MOST_PIXELS = 4e10

# Beyond this ratio, smaller pixels than those of a scene show nothing more.
_MAX_MAGNIFICATION = 2.0


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
        crop: The rectangle of the user's scene that the scene of the plan is; None if that is the
            user's scene itself.
    """

    scene: SceneInfo
    spec: ModelSpec
    grid: Grid
    out_grid: Grid
    tiles: TileGrid
    aoi: AOI | None = None
    crop: SceneCrop | None = None


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
    if (info.is_service or options.gsd_m) and info.georeferenced_by == "transform":
        return _plan_cropped(info, spec, options)
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
    if not info.is_service:  # it has pixels of many sizes
        check_gsd(str(scene), _resample(info.grid, options.gsd_m), spec)
    return info


def plan_scene(info: SceneInfo, spec: ModelSpec, options: PredictOptions) -> ScenePlan:
    """Plan the tiles of a scene whose bands are those of the model; errors of `plan_prediction`."""
    grid = info.grid.resampled(spec.gsd_m)
    overlap = spec.overlap if options.overlap is None else options.overlap
    tiles = TileGrid(grid.height, grid.width, spec.size, overlap, options.blend)
    out_grid = grid if options.keep_model_grid else _resample(info.grid, options.gsd_m)
    aoi = None if options.aoi is None else _read_aoi(options.aoi, grid, info.name)
    return ScenePlan(info, spec, grid, out_grid, tiles, aoi)


def _resample(grid: Grid, gsd_m: float | None) -> Grid:
    return grid if gsd_m is None else grid.resampled(gsd_m)


def _plan_cropped(info: SceneInfo, spec: ModelSpec, options: PredictOptions) -> ScenePlan:
    """Plan the prediction of the area of interest in a scene, at the pixel size that is wanted."""
    crop, gsd_m = _choose_crop(info, spec, options)
    path = process_folder() / secrets.token_hex(8) / "scene.vrt"
    path.parent.mkdir(parents=True)
    write_scene_crop(path, crop)
    cropped = replace(
        read_info(path, bands=info.indexes), label=info.name, is_service=info.is_service
    )
    check_gsd(info.name, cropped.grid.resampled(gsd_m), spec)
    if not options.keep_blank:
        cropped = mark_blank_areas(cropped)
    plan = plan_scene(cropped, spec, options.model_copy(update={"gsd_m": gsd_m}))
    return replace(plan, crop=crop)


def _choose_crop(
    info: SceneInfo, spec: ModelSpec, options: PredictOptions
) -> tuple[SceneCrop, float]:
    """Choose the rectangle of a scene that is predicted, and its pixel size in metres."""
    name, grid = info.name, info.grid
    if options.aoi is None and info.is_service and grid.height * grid.width > _MOST_PIXELS:
        raise GridMismatchError(
            f"{name}: is a tile service of {grid.height:,} x {grid.width:,} pixels; give the area "
            "to predict with --aoi POLYGONS, and the pixel size with --gsd METRES"
        )
    bounds = None if options.aoi is None else _read_aoi(options.aoi, grid, name).bounds
    own_gsd_m = grid.window_grid(cover(grid, bounds)).gsd_m
    gsd_m = options.gsd_m or max(spec.gsd_m, own_gsd_m)
    if own_gsd_m > _MAX_MAGNIFICATION * gsd_m:
        raise GridMismatchError(
            f"{name}: its pixels measure {own_gsd_m:.3g} m on the ground, and would show no more "
            f"with --gsd {gsd_m:g}; use --gsd {own_gsd_m:.2g}"
        )
    # Tiles at the edge of the area see what is around it.
    crop = plan_crop(info, gsd_m, bounds=bounds, margin_m=spec.size * spec.gsd_m)
    if info.is_service and crop.window.height * crop.window.width > _MOST_PIXELS:
        raise GridMismatchError(
            f"{name}: the rectangle around {options.aoi} has {crop.window.height:,} x "
            f"{crop.window.width:,} pixels; use smaller areas of interest one by one, or larger "
            "pixels (--gsd)"
        )
    return crop, gsd_m


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
        OutsideError: If no polygon intersects the grid.
    """
    from geoseg.geo.aoi import AOI

    aoi = AOI.read_on(path, grid)
    if not len(aoi):
        raise OutsideError(
            f"{path}: has no polygon on {scene}; use an area of interest that overlaps the scene"
        )
    return aoi
