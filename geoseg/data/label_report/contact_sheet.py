"""Pictures of tiles, and the outlines of their labels to lay over them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from affine import Affine
from matplotlib.image import imsave
from rasterio.features import shapes
from rasterio.windows import Window

from geoseg.data.label_report.class_counts import class_names, classify_footprints, read_classes
from geoseg.data.label_report.summary import Histogram
from geoseg.data.tiles import TilesInfo
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, read_info

# Pictures of larger tiles are thinned out to this side.
_PICTURE_PX = 256

# Shares of a band's values at which pictures are black and full.
_DARK, _BRIGHT = 0.005, 0.995
_NODATA = 0.9


@dataclass(frozen=True)
class TilePicture:
    """A tile to look at.

    Attributes:
        id: Of the tile.
        split: Of the tile.
        share: Of its valid pixels that are of another class than the first.
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
    bands: Sequence[Histogram],
) -> list[TilePicture]:
    """Draws tiles, all in the same colours.

    Args:
        folder: The folder of tiles.
        ids: Which.
        tiles: All its tiles.
        footprints: In longitude and latitude, with the scene of each; the outlines are those
            of the target's classes when None.
        info: What the folder says of itself.
        bands: Values of each band, from which the colours come.
    """
    rows = tiles.set_index("id")
    return [
        TilePicture(
            id=id_,
            split=str(rows.split[id_]),
            share=float(rows.building_fraction[id_]),
            size=info.size,
            png=_photograph(folder, id_, info, bands),
            outlines=_outline(folder, id_, rows.loc[id_], footprints, info),
        )
        for id_ in ids
    ]


def read_nearby_footprints(
    parts: Iterable[gpd.GeoDataFrame], tiles: gpd.GeoDataFrame
) -> gpd.GeoDataFrame:
    """The footprints near tiles, in their order; both in longitude and latitude."""
    shown = tiles.geometry.to_numpy()
    near = [part.iloc[np.unique(part.sindex.query(shown)[1])] for part in parts]
    return gpd.GeoDataFrame(pd.concat(near, ignore_index=True))


def trace_footprints(grid: Grid, footprints: gpd.GeoDataFrame, area: Window) -> str:
    """Traces footprints on a tile.

    Args:
        grid: The tile's.
        footprints: In the grid's CRS.
        area: The part of the tile that is ground of its scene.

    Returns:
        An SVG path in pixels, open where `area` cuts an outline.
    """

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return np.column_stack(grid.to_pixels(*points.T))

    return _path(shapely.transform(footprints.geometry.to_numpy(), to_pixels), area)


def trace_classes(classes: np.ndarray, known: np.ndarray, info: TilesInfo) -> dict[str, str]:
    """Traces the pixels of each class but the first, as SVG paths in pixels."""
    height, width = classes.shape
    traced = {}
    for value, name in enumerate(class_names(info)):
        here = (classes == value) & known
        if value > 0 and here.any():
            found = shapes(here.astype(np.uint8), mask=here, transform=Affine.identity())
            polygons = np.array([shapely.geometry.shape(area) for area, _ in found])
            traced[name] = _path(polygons, Window(0, 0, width, height))
    return traced


def _photograph(folder: Path, id_: str, info: TilesInfo, bands: Sequence[Histogram]) -> bytes:
    """A tile's image as a PNG file; nodata is light grey."""
    side = min(_PICTURE_PX, info.size)
    with Scene(folder / "images" / f"{id_}.tif") as scene:
        data, valid = scene.read(shape=(side, side))
    shown = np.full((side, side, 3), _NODATA)
    for place, band in enumerate(_colours(info.bands)):
        dark, bright = _limits(bands[band])
        scaled = (data[band, valid].astype(np.float64) - dark) / (bright - dark)
        shown[valid, place] = np.clip(scaled, 0, 1)
    file = io.BytesIO()
    imsave(file, (shown * 255).round().astype(np.uint8), format="png")
    return file.getvalue()


def _limits(band: Histogram) -> tuple[float, float]:
    """Values of a band that few pixels are below and above."""
    shares = np.cumsum([0, *band.counts]) / max(1, sum(band.counts))
    dark, bright = np.interp([_DARK, _BRIGHT], shares, band.edges)
    return float(dark), float(bright)


def _outline(
    folder: Path, id_: str, tile: Any, footprints: gpd.GeoDataFrame | None, info: TilesInfo
) -> dict[str, str]:
    if footprints is None:
        return trace_classes(*read_classes(folder, id_, info), info)
    grid = read_info(folder / "images" / f"{id_}.tif").grid
    near = footprints.iloc[np.sort(footprints.sindex.query(tile.geometry))]
    near = near[near.scene == tile.scene].to_crs(grid.crs.to_wkt())
    area = Window(0, 0, tile.width, tile.height)
    names = classify_footprints(near, info)
    return {
        name: trace_footprints(grid, near[names == name], area)
        for name in info.classes
        if (names == name).any()
    }


def _colours(bands: Sequence[str]) -> list[int]:
    """Which bands are shown as red, green and blue: those, where they are named."""
    names = [band.lower() for band in bands]
    if {"red", "green", "blue"} <= set(names):
        return [names.index(colour) for colour in ("red", "green", "blue")]
    return [0, 1, 2] if len(names) >= 3 else [0, 0, 0]


def _path(polygons: np.ndarray, area: Window) -> str:
    """Outlines of polygons as an SVG path, to a tenth of a pixel."""
    # Outlines, not polygons, are cut: a cut polygon would have an edge where it was cut.
    outlines = shapely.clip_by_rect(shapely.boundary(polygons), 0, 0, area.width, area.height)
    lines = shapely.get_parts(shapely.line_merge(outlines))
    return "".join(_line(shapely.get_coordinates(line).round(1)) for line in lines)


def _line(points: np.ndarray) -> str:
    # Adding zero turns -0.0 into 0.0.
    drawn = "L".join(f"{x:g} {y:g}" for x, y in points + 0.0)
    return f"M{drawn[: drawn.rindex('L')]}Z" if (points[0] == points[-1]).all() else f"M{drawn}"
