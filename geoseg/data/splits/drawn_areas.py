"""Splits by polygons that the user has drawn."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import shapely
from rasterio.windows import Window

from geoseg.data.splits.regions import SPLITS, Region, SplitRegions, SplitScene
from geoseg.errors import ConfigError, GridMismatchError, VectorReadError
from geoseg.geo.vector import check_range, read_footprints, to_crs_near
from geoseg.options import TileOptions


def split_areas(scenes: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """Split scenes by polygons with an attribute `split`: train, val or test."""
    if options.areas is None:
        raise ConfigError(
            "tile.areas: --split areas needs polygons with an attribute split (train, val or "
            "test); pass --areas FILE"
        )
    areas = _read_areas(options.areas)
    regions = [_area_regions(scene, areas, options.areas) for scene in scenes]
    if not any(regions):
        raise GridMismatchError(
            f"{options.areas}: none of its {len(areas)} areas intersects a scene; check its CRS"
        )
    return SplitRegions(regions, options.gap or 0)


def _read_areas(path: str) -> gpd.GeoDataFrame:
    areas = read_footprints(path)
    if "split" not in areas or areas.empty:
        raise VectorReadError(
            f"{path}: has no polygon with an attribute split; draw areas whose split is train, "
            "val or test"
        )
    check_range(areas, path)
    names = areas.split.astype(str).str.strip().str.lower()
    unknown = sorted(set(names) - set(SPLITS))
    if unknown:
        raise VectorReadError(
            f"{path}: has an area whose split is {unknown[0]!r}; it must be train, val or test"
        )
    return areas.assign(split=names)


def _area_regions(scene: SplitScene, areas: gpd.GeoDataFrame, path: str) -> list[Region]:
    """Return the parts of the areas inside a scene."""
    projected = to_crs_near(areas, scene.grid.crs, scene.grid, where=path)
    regions = []
    for split, area in zip(projected.split, projected.geometry, strict=True):
        inside = area.intersection(scene.grid.polygon)
        window = _bounding_window(scene, inside) if inside.area > 0 else None
        if window is not None:
            regions.append(Region(split, window, inside))
    return regions


def _bounding_window(scene: SplitScene, area: shapely.Geometry) -> Window | None:
    """Return the whole pixels inside the bounds of an area; None if there are none."""
    xs, ys = shapely.get_coordinates(area).T
    columns, rows = scene.grid.to_pixels(xs, ys)
    # Tolerate rounding errors of the CRS conversion at pixel edges.
    left, top = max(0, int(np.ceil(columns.min() - 1e-6))), max(0, int(np.ceil(rows.min() - 1e-6)))
    right = min(scene.grid.width, int(np.floor(columns.max() + 1e-6)))
    bottom = min(scene.grid.height, int(np.floor(rows.max() + 1e-6)))
    return Window(left, top, right - left, bottom - top) if right > left and bottom > top else None
