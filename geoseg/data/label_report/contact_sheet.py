"""Contact sheet: images of sample tiles with the outlines of their labels."""

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
from geoseg.geo.vector import to_crs_near

# Images of larger tiles are downsampled to this side.
_PICTURE_PX = 256

# Contrast stretch: quantiles of a band that are shown black and at full brightness.
_DARK, _BRIGHT = 0.005, 0.995
_NODATA_GREY = 0.9


@dataclass(frozen=True)
class TilePicture:
    """Image of a tile with the outlines of its labels.

    Attributes:
        id: Id of the tile.
        split: Split of the tile.
        share: Share of its valid pixels that do not belong to the first class.
        size: Tile side in pixels.
        png: Content of a PNG file.
        outlines: SVG path of each class, in pixels from the tile's upper left corner.
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
    """Draw tiles with a common contrast stretch.

    Args:
        folder: Folder of tiles.
        ids: Ids of the tiles to draw.
        tiles: All its tiles.
        footprints: Footprints in longitude and latitude, with the column `scene`; if None, the
            outlines are traced from the targets.
        info: Metadata of the folder.
        bands: Histogram of each band, for the contrast stretch.
    """
    rows = tiles.set_index("id")
    return [
        TilePicture(
            id=id_,
            split=str(rows.split[id_]),
            share=float(rows.building_fraction[id_]),
            size=info.size,
            png=_render_image(folder, id_, info, bands),
            outlines=_outline(folder, id_, rows.loc[id_], footprints, info),
        )
        for id_ in ids
    ]


def read_nearby_footprints(
    parts: Iterable[gpd.GeoDataFrame], tiles: gpd.GeoDataFrame
) -> gpd.GeoDataFrame:
    """Read the footprints near tiles, in their stored order; both in longitude and latitude."""
    shown = tiles.geometry.to_numpy()
    near = [part.iloc[np.unique(part.sindex.query(shown)[1])] for part in parts]
    return gpd.GeoDataFrame(pd.concat(near, ignore_index=True))


def trace_footprints(grid: Grid, footprints: gpd.GeoDataFrame, area: Window) -> str:
    """Convert footprints to an SVG path on a tile.

    Args:
        grid: Grid of the tile.
        footprints: Footprints in the grid's CRS.
        area: Part of the tile that is inside its scene.

    Returns:
        An SVG path in pixels, with open lines where `area` cuts an outline.
    """

    def to_pixels(points: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", over="ignore"):
            return np.column_stack(grid.to_pixels(*points.T))

    return _path(shapely.transform(footprints.geometry.to_numpy(), to_pixels), area)


def trace_classes(classes: np.ndarray, known: np.ndarray, info: TilesInfo) -> dict[str, str]:
    """Trace the outlines of each class except the first, as SVG paths in pixels."""
    height, width = classes.shape
    traced = {}
    for value, name in enumerate(class_names(info)):
        selected = (classes == value) & known
        if value > 0 and selected.any():
            traces = shapes(selected.astype(np.uint8), mask=selected, transform=Affine.identity())
            polygons = np.array([shapely.geometry.shape(area) for area, _ in traces])
            traced[name] = _path(polygons, Window(0, 0, width, height))
    return traced


def _render_image(folder: Path, id_: str, info: TilesInfo, bands: Sequence[Histogram]) -> bytes:
    """Render the image of a tile as a PNG file; nodata is light grey."""
    side = min(_PICTURE_PX, info.size)
    with Scene(folder / "images" / f"{id_}.tif") as scene:
        data, valid = scene.read(shape=(side, side))
    rgb = np.full((side, side, 3), _NODATA_GREY)
    for channel, band in enumerate(_rgb_bands(info.bands)):
        dark, bright = _limits(bands[band])
        scaled = (data[band, valid].astype(np.float64) - dark) / (bright - dark)
        rgb[valid, channel] = np.clip(scaled, 0, 1)
    file = io.BytesIO()
    imsave(file, (rgb * 255).round().astype(np.uint8), format="png")
    return file.getvalue()


def _limits(band: Histogram) -> tuple[float, float]:
    """Return the values of a band that are shown black and at full brightness."""
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
    # Scenes may overlap, with the same footprint stored for each.
    near = to_crs_near(near[near.scene == tile.scene], grid.crs, grid)
    area = Window(0, 0, tile.width, tile.height)
    names = classify_footprints(near, info)
    return {
        name: trace_footprints(grid, near[names == name], area)
        for name in info.classes
        if (names == name).any()
    }


def _rgb_bands(bands: Sequence[str]) -> list[int]:
    """Return the indices of the bands to show: by name, else the first three, else grey."""
    names = [band.lower() for band in bands]
    if {"red", "green", "blue"} <= set(names):
        return [names.index(colour) for colour in ("red", "green", "blue")]
    return [0, 1, 2] if len(names) >= 3 else [0, 0, 0]


def _path(polygons: np.ndarray, area: Window) -> str:
    """Convert the outlines of polygons to an SVG path, rounded to a tenth of a pixel."""
    # Outlines are clipped, as clipped polygons would get a false edge along the border.
    outlines = shapely.boundary(polygons[_are_finite(polygons)])
    outlines = shapely.clip_by_rect(outlines, 0, 0, area.width, area.height)
    lines = shapely.get_parts(shapely.line_merge(outlines))
    return "".join(_line(shapely.get_coordinates(line).round(1)) for line in lines)


def _are_finite(shapes: np.ndarray) -> np.ndarray:
    """Return bool (N,): whether all coordinates are numbers; those of damaged files may not be."""
    points, owners = shapely.get_coordinates(shapes, return_index=True)
    finite = np.isfinite(points).all(axis=1)
    are_finite: np.ndarray = np.bincount(owners[~finite], minlength=len(shapes)) == 0
    return are_finite


def _line(points: np.ndarray) -> str:
    # Adding zero turns -0.0 into 0.0.
    path = "L".join(f"{x:g} {y:g}" for x, y in points + 0.0)
    return f"M{path[: path.rindex('L')]}Z" if (points[0] == points[-1]).all() else f"M{path}"
