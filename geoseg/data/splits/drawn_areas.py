"""Splits that the user has drawn."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import shapely
from rasterio.windows import Window

from geoseg.data.splits.regions import SPLITS, Region, SplitRegions, SplitScene
from geoseg.errors import ConfigError, GridMismatchError, VectorReadError
from geoseg.geo.vector import read_footprints
from geoseg.options import TileOptions


def split_areas(grounds: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """Polygons drawn by the user, whose attribute `split` says what each is for."""
    if options.areas is None:
        raise ConfigError(
            "tile.areas: --split areas needs polygons with an attribute split (train, val or "
            "test); pass --areas FILE"
        )
    areas = _read_areas(options.areas)
    regions = [_area_regions(ground, areas) for ground in grounds]
    if not any(regions):
        raise GridMismatchError(
            f"{options.areas}: none of its {len(areas)} areas meets a scene; check its CRS"
        )
    return SplitRegions(regions, options.gap or 0)


def _read_areas(path: str) -> gpd.GeoDataFrame:
    areas = read_footprints(path)
    if "split" not in areas or areas.empty:
        raise VectorReadError(
            f"{path}: holds no polygon with an attribute split; draw areas whose split is train, "
            "val or test"
        )
    names = areas.split.astype(str).str.strip().str.lower()
    strange = sorted(set(names) - set(SPLITS))
    if strange:
        raise VectorReadError(
            f"{path}: has an area whose split is {strange[0]!r}; it must be train, val or test"
        )
    return areas.assign(split=names)


def _area_regions(ground: SplitScene, areas: gpd.GeoDataFrame) -> list[Region]:
    placed = areas.to_crs(ground.grid.crs.to_wkt())
    regions = []
    for split, area in zip(placed.split, placed.geometry, strict=True):
        inside = area.intersection(ground.grid.polygon)
        window = _bounding_window(ground, inside) if inside.area > 0 else None
        if window is not None:
            regions.append(Region(split, window, inside))
    return regions


def _bounding_window(ground: SplitScene, area: shapely.Geometry) -> Window | None:
    xs, ys = shapely.get_coordinates(area).T
    columns, rows = ground.grid.to_pixels(xs, ys)
    left, top = max(0, int(np.ceil(columns.min() - 1e-6))), max(0, int(np.ceil(rows.min() - 1e-6)))
    right = min(ground.grid.width, int(np.floor(columns.max() + 1e-6)))
    bottom = min(ground.grid.height, int(np.floor(rows.max() + 1e-6)))
    return Window(left, top, right - left, bottom - top) if right > left and bottom > top else None
