"""Splits by polygons that the user has drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import geopandas as gpd
import numpy as np
import shapely
from rasterio.windows import Window

from geoseg.data.splits.regions import SPLITS, Region, SplitRegions, SplitScene
from geoseg.data.splits.stripes import SIDE_PER_GAP, choose_gap, divide
from geoseg.errors import ConfigError, GridMismatchError, VectorReadError
from geoseg.geo.vector import check_range, read_footprints, to_crs_near
from geoseg.options import TileOptions


def split_areas(scenes: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """Split scenes by polygons with an attribute `split`: train, val or test.

    Polygons without the attribute are the areas that were labelled. Each is divided into stripes,
    without one for test where it would be smaller than a tile; areas smaller than a tile are for
    training, unless all are.
    """
    if options.areas is None:
        raise ConfigError(
            "tile.areas: --split areas needs polygons; pass --areas FILE, in which an attribute "
            "split (train, val or test) may say what each is for"
        )
    areas = _read_areas(options.areas)
    parts = [_list_parts(scene, areas, options.areas) for scene in scenes]
    sides = [_longer_side(part) for own in parts for part in own]
    if not sides:
        raise GridMismatchError(
            f"{options.areas}: none of its {len(areas)} areas intersects a scene; check its CRS"
        )
    if "split" in areas:
        return SplitRegions(parts, options.gap or 0)
    gap, least = choose_gap(options, max(sides) // SIDE_PER_GAP), min(options.size, max(sides))
    divided = [
        [
            region
            for part in own
            for region in (
                _divide(scene, part, options, gap) if _longer_side(part) >= least else [part]
            )
        ]
        for scene, own in zip(scenes, parts, strict=True)
    ]
    return SplitRegions(divided, gap)


def _longer_side(region: Region) -> int:
    return int(max(region.window.width, region.window.height))


def _read_areas(path: str) -> gpd.GeoDataFrame:
    areas = read_footprints(path)
    if areas.empty:
        raise VectorReadError(f"{path}: has no polygon; draw the areas that were labelled")
    check_range(areas, path)
    # GIS programs keep capitals, and Shapefiles are often written with them.
    named = [one for one in areas.columns if one.strip().lower() == "split"]
    if not named:
        return areas
    column = "split" if "split" in named else named[0]
    areas = areas.rename(columns={column: "split"})
    if areas.split.isna().any():
        raise VectorReadError(
            f"{path}: has an area without a value in {column}; write train, val or test"
        )
    names = areas.split.astype(str).str.strip().str.lower()
    unknown = sorted(set(names) - set(SPLITS))
    if unknown:
        raise VectorReadError(
            f"{path}: has an area whose split is {unknown[0]!r}; it must be train, val or test"
        )
    return areas.assign(split=names)


def _list_parts(scene: SplitScene, areas: gpd.GeoDataFrame, path: str) -> list[Region]:
    """Return the parts of the areas inside a scene; those without a split are for training."""
    projected = to_crs_near(areas, scene.grid.crs, scene.grid, where=path)
    splits = projected.split if "split" in projected else ["train"] * len(projected)
    regions = []
    for split, area in zip(splits, projected.geometry, strict=True):
        inside = area.intersection(scene.grid.polygon)
        window = _bounding_window(scene, inside) if inside.area > 0 else None
        if window is not None:
            regions.append(Region(split, window, inside, is_loose="split" not in projected))
    return regions


def _divide(scene: SplitScene, area: Region, options: TileOptions, gap: int) -> Iterator[Region]:
    """Yield the stripes of an area."""
    around, (train, val, test) = area.window, options.fractions
    length = max(around.height, around.width)
    if val and test and test * (length - 2 * gap) < options.size:
        val, test = val + test, 0.0
    for stripe in divide(around.height, around.width, (train, val, test), gap):
        window = Window(
            around.col_off + stripe.window.col_off,
            around.row_off + stripe.window.row_off,
            stripe.window.width,
            stripe.window.height,
        )
        inside = area.polygon(scene.grid).intersection(scene.grid.window_polygon(window))
        if inside.area > 0:
            yield Region(stripe.split, window, inside, is_loose=True)


def _bounding_window(scene: SplitScene, area: shapely.Geometry) -> Window | None:
    """Return the whole pixels inside the bounds of an area; None if there are none."""
    xs, ys = shapely.get_coordinates(area).T
    columns, rows = scene.grid.to_pixels(xs, ys)
    # Tolerate rounding errors of the CRS conversion at pixel edges.
    left, top = max(0, int(np.ceil(columns.min() - 1e-6))), max(0, int(np.ceil(rows.min() - 1e-6)))
    right = min(scene.grid.width, int(np.floor(columns.max() + 1e-6)))
    bottom = min(scene.grid.height, int(np.floor(rows.max() + 1e-6)))
    return Window(left, top, right - left, bottom - top) if right > left and bottom > top else None
