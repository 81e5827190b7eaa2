"""Virtual mosaics (VRT) of scenes that have one pixel grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from affine import Affine
from rasterio.windows import Window

from geoseg.errors import GridMismatchError
from geoseg.geo.grid import Grid
from geoseg.geo.raster.blank import write_blank_mask
from geoseg.geo.raster.opening import open_raster
from geoseg.geo.raster.scene import SceneInfo, inspect_source
from geoseg.geo.raster.scene_vrt import describe_masked_view, validity_band
from geoseg.geo.raster.virtual_mosaic import (
    add_band,
    add_mask_band,
    placed_source,
    start_mosaic,
)

# Largest distance of the pixels of two scenes that count as the same, in pixels.
_SAME_PX = 0.01

# Smallest share of the rectangle around all scenes that they cover.
_LEAST_COVERED = 0.01


@dataclass(frozen=True)
class _MosaicPart:
    """A scene in a mosaic.

    Attributes:
        path: VRT of its bands, in order.
        is_masked: Whether that has a mask band; without one all pixels are valid.
        window: Its pixels in the mosaic.
    """

    path: Path
    is_masked: bool
    window: Window


def write_scene_mosaic(
    path: Path, scenes: Sequence[SceneInfo], names: Sequence[str], *, are_near: bool = False
) -> None:
    """Write a VRT of scenes that have one pixel grid.

    Where scenes overlap, the first one of those that are valid there is used. Sentinels, masks,
    alpha bands and blank areas of each scene count; pixels that are in no scene are nodata.

    Args:
        path: Output, `.vrt`. A VRT of each scene is written beside it, and masks of blank areas.
        scenes: Scenes with the same number of bands.
        names: Names of the bands.
        are_near: Whether the scenes come from `group_scenes`, which has checked them.

    Raises:
        GridMismatchError: If the scenes differ in CRS, pixel grid or data type, or are far apart.
        SceneReadError: If one cannot be read.
    """
    grid, windows = join_grids(scenes, are_near=are_near)
    parts = [
        _write_part(scene, window, path.absolute().with_name(f"{path.stem}_{number}.vrt"))
        for number, (scene, window) in enumerate(zip(scenes, windows, strict=True))
    ]
    parts.reverse()  # later sources of a VRT are written over earlier ones
    mosaic = start_mosaic(grid)
    for number, name in enumerate(names, start=1):
        band = add_band(mosaic, number, name, scenes[0].dtype)
        band.extend(_data_source(part, str(number)) for part in parts)
    add_mask_band(mosaic).extend(map(_mask_source, parts))
    path.write_bytes(ElementTree.tostring(mosaic))


def join_grids(scenes: Sequence[SceneInfo], *, are_near: bool = False) -> tuple[Grid, list[Window]]:
    """Return the grid that contains all scenes, and the window of each.

    Args:
        scenes: The scenes.
        are_near: Whether they come from `group_scenes`, which has checked them.

    Raises:
        GridMismatchError: If the scenes differ in CRS, pixel grid or data type, or are far apart.
    """
    first = scenes[0]
    if not are_near:
        for scene in scenes:
            _check_alike(first, scene)
    offsets = np.array([offset_px(first.grid, scene.grid) for scene in scenes])
    corners = np.rint(offsets).astype(int)
    shapes = np.array([scene.grid.shape[::-1] for scene in scenes])
    (left, top), (right, bottom) = corners.min(axis=0), (corners + shapes).max(axis=0)
    transform = first.grid.transform * Affine.translation(int(left), int(top))
    at_corner = np.flatnonzero((corners == (left, top)).all(axis=1))
    if len(at_corner):  # its transform has no rounding errors
        transform = scenes[int(at_corner[0])].grid.transform
    grid = Grid(first.grid.crs, transform, int(bottom - top), int(right - left))
    if not are_near:
        _check_distances(scenes, corners + shapes / 2, grid)
    windows = [
        Window(int(column - left), int(row - top), scene.grid.width, scene.grid.height)
        for (column, row), scene in zip(corners, scenes, strict=True)
    ]
    return grid, windows


def _check_alike(first: SceneInfo, scene: SceneInfo) -> None:
    difference = find_difference(first, scene)
    if difference:
        raise GridMismatchError(
            f"{scene.path}: {difference}; predict them one by one, or make them alike with gdalwarp"
        )


def find_difference(first: SceneInfo, scene: SceneInfo) -> str | None:
    """Return why a scene cannot be joined with another one; None if they have one pixel grid."""
    if scene.georeferenced_by != "transform":
        return "has no transform, so it cannot be joined with other scenes"
    if scene.grid.crs != first.grid.crs:
        return f"has the CRS {scene.grid.crs}, {first.path} has {first.grid.crs}"
    if scene.dtype != first.dtype:
        return f"has {scene.dtype} pixels, {first.path} has {first.dtype}"
    if _stretch_px(first.grid, scene.grid) > _SAME_PX:
        return (
            f"has pixels of {scene.grid.gsd_m:.6g} m, {first.path} of {first.grid.gsd_m:.6g} m, or "
            "is rotated differently"
        )
    offsets = np.array(offset_px(first.grid, scene.grid))
    if np.abs(offsets - np.rint(offsets)).max() > _SAME_PX:
        return f"its pixels are a part of a pixel beside those of {first.path}"
    return None


def _check_distances(scenes: Sequence[SceneInfo], centres: np.ndarray, grid: Grid) -> None:
    """Check that scenes cover enough of the grid around them; one may have a wrong location.

    Args:
        scenes: The scenes.
        centres: Their centres in pixels (n, 2).
        grid: The grid.
    """
    covered = sum(scene.grid.width * scene.grid.height for scene in scenes)
    share = covered / (grid.width * grid.height)
    if share < _LEAST_COVERED:
        distances = np.abs(centres - np.median(centres, axis=0)).max(axis=1)
        raise GridMismatchError(
            f"{scenes[int(distances.argmax())].path}: is far from the other scenes, which all "
            f"together cover {100 * share:.1g} % of the rectangle around them; check its location, "
            "or predict them in groups"
        )


def offset_px(first: Grid, other: Grid) -> tuple[float, float]:
    """Return column and row of the first corner of a grid in pixels of another."""
    column, row = ~first.transform * (other.transform.c, other.transform.f)
    return column, row


def _stretch_px(first: Grid, other: Grid) -> float:
    """Return by how many pixels two grids with one origin differ at the far corner."""
    column, row = offset_px(first, other)
    corner = other.width, other.height
    x, y = ~first.transform * (other.transform * corner)
    return float(max(abs(x - column - corner[0]), abs(y - row - corner[1])))


def _write_part(scene: SceneInfo, window: Window, path: Path) -> _MosaicPart:
    """Write a VRT of a scene, with the mask of its blank areas if it has any."""
    mask = None
    if scene.blank:
        mask = str(path.with_suffix(".tif"))
        with scene.open_pixels() as pixels:
            write_blank_mask(pixels, scene.blank, Path(mask))
    with open_raster(scene.path) as source:
        _, _, bands = inspect_source(source, scene.path, scene.indexes, None)
        text, is_masked = describe_masked_view(source, bands, validity_band(source, bands), mask)
    path.write_text(text, encoding="utf-8")
    return _MosaicPart(path, is_masked, window)


def _data_source(part: _MosaicPart, band: str) -> ElementTree.Element:
    if part.is_masked:
        return _source("ComplexSource", part, band, UseMaskBand="true")
    return _source("SimpleSource", part, band)


def _mask_source(part: _MosaicPart) -> ElementTree.Element:
    if part.is_masked:
        return _source("ComplexSource", part, "mask,1", NODATA="0")
    return _source("ComplexSource", part, "1", ScaleOffset="255", ScaleRatio="0")


def _source(kind: str, part: _MosaicPart, band: str, **settings: str) -> ElementTree.Element:
    return placed_source(kind, part.path.name, band, part.window, **settings)
