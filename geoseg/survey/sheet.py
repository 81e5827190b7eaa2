"""Pictures of tiles, and the outlines of their labels to lay over them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from matplotlib.image import imsave
from rasterio.features import shapes

from geoseg.grid import Grid
from geoseg.pictures import stretch_colours
from geoseg.raster import Scene
from geoseg.survey.classes import GROUND, class_values, read_classes
from geoseg.tiles import TilesInfo

# Pictures of larger tiles are thinned out to this side.
_PICTURE_PX = 256

# Outlines are cut off this many pixels outside the tile.
_BEYOND_PX = 4


@dataclass(frozen=True)
class Picture:
    """A tile to look at.

    Attributes:
        id: Of the tile.
        split: Of the tile.
        share: Of buildings in its valid pixels.
        size: Tile side in pixels.
        png: The image.
        outlines: Per class an SVG path in pixels from the tile's upper left corner.
    """

    id: str
    split: str
    share: float
    size: int
    png: bytes
    outlines: dict[str, str]


def draw_sheet(
    folder: Path,
    ids: Sequence[str],
    tiles: gpd.GeoDataFrame,
    footprints: gpd.GeoDataFrame | None,
    info: TilesInfo,
) -> list[Picture]:
    """Draws tiles.

    Args:
        folder: The folder of tiles.
        ids: Which.
        tiles: All its tiles.
        footprints: In longitude and latitude, with the scene of each; the outlines are those
            of the target's classes when None.
        info: What the folder says of itself.
    """
    rows = tiles.set_index("id")
    return [_draw_tile(folder, id_, rows.loc[id_], footprints, info) for id_ in ids]


def trace_footprints(grid: Grid, footprints: gpd.GeoDataFrame) -> str:
    """Traces footprints on a tile.

    Args:
        grid: The tile's.
        footprints: In the grid's CRS.

    Returns:
        An SVG path in pixels.
    """

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return np.column_stack(grid.to_pixels(*points.T))

    placed = shapely.transform(footprints.geometry.to_numpy(), to_pixels)
    low, high = -_BEYOND_PX, _BEYOND_PX
    return _path(shapely.clip_by_rect(placed, low, low, grid.width + high, grid.height + high))


def trace_classes(classes: np.ndarray, known: np.ndarray, info: TilesInfo) -> dict[str, str]:
    """Traces the pixels of each class but the ground, as SVG paths in pixels."""
    traced = {}
    for value, name in class_values(info).items():
        here = (classes == value) & known
        if name != GROUND and here.any():
            found = shapes(here.astype(np.uint8), mask=here, transform=Affine.identity())
            traced[name] = _path(np.array([shapely.geometry.shape(area) for area, _ in found]))
    return traced


def _draw_tile(
    folder: Path, id_: str, tile: Any, footprints: gpd.GeoDataFrame | None, info: TilesInfo
) -> Picture:
    with Scene(folder / "images" / f"{id_}.tif") as scene:
        side = min(_PICTURE_PX, info.size)
        data, valid = scene.read(shape=(side, side))
        grid = scene.grid
    if footprints is None:
        outlines = trace_classes(*read_classes(folder, id_, info), info)
    else:
        near = footprints.iloc[np.sort(footprints.sindex.query(tile.geometry))]
        near = near[near.scene == tile.scene].to_crs(grid.crs.to_wkt())
        outlines = {info.classes[0]: trace_footprints(grid, near)}
    return Picture(
        id=id_,
        split=str(tile.split),
        share=float(tile.building_fraction),
        size=info.size,
        png=_png(stretch_colours(data[_colours(info.bands)], valid)),
        outlines=outlines,
    )


def _colours(bands: Sequence[str]) -> list[int]:
    """Which bands are shown as red, green and blue: those, where they are named."""
    names = [band.lower() for band in bands]
    if {"red", "green", "blue"} <= set(names):
        return [names.index(colour) for colour in ("red", "green", "blue")]
    return [0, 1, 2] if len(names) >= 3 else [0, 0, 0]


def _path(polygons: np.ndarray) -> str:
    """Rings of polygons as an SVG path, to a tenth of a pixel."""
    rings = shapely.get_rings(shapely.get_parts(polygons))
    return "".join(_ring(shapely.get_coordinates(ring)[:-1]) for ring in rings)


def _ring(points: np.ndarray) -> str:
    # Adding zero turns -0.0 into 0.0.
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points.round(1) + 0.0) + "Z"


def _png(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) in 0..1 as a PNG file."""
    file = io.BytesIO()
    imsave(file, (picture * 255).round().astype(np.uint8), format="png")
    return file.getvalue()
