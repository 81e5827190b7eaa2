"""Checks of the areas that a user has drawn for training."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geoseg.credentials import get_logger
from geoseg.data.labels import FootprintLabels, Labels
from geoseg.data.splits import SplitRegions
from geoseg.errors import ConfigError
from geoseg.geo.vector import read_footprints, to_crs_near
from geoseg.options import TileOptions

logger = get_logger(__name__)

# Of so many footprints in an area of any shape, some cross its edge, unless they were left out.
_MANY = 20


def check_exchanged(labels: Sequence[Labels], path: str, options: TileOptions) -> None:
    """Check that the drawn areas are not the buildings, and the labels the areas.

    Args:
        labels: Labels of each scene.
        path: What the user gave as labels.
        options: Tiling options.

    Raises:
        ConfigError: If most areas are inside footprints, and no footprint is inside an area.
    """
    if options.areas is None or options.classes is not None:
        return
    areas, drawn, enclosed = read_footprints(options.areas), 0, 0
    for one in labels:
        if isinstance(one, FootprintLabels) and len(one):
            own, inside, holds_footprint = _compare(one, areas, options.areas)
            if holds_footprint:
                return
            drawn, enclosed = drawn + own, enclosed + inside
    if enclosed > drawn / 2:
        raise ConfigError(
            f"--areas {options.areas}: {enclosed} of its {drawn} polygons are inside footprints of "
            f"{path}, and no footprint is inside an area; --labels takes the buildings, --areas "
            "what was drawn around them: exchange the two"
        )


def _compare(labels: FootprintLabels, areas: gpd.GeoDataFrame, path: str) -> tuple[int, int, bool]:
    """Compare the areas of a file that are in a scene with its footprints.

    Returns:
        Number of areas in the scene, how many of them are inside a footprint, and whether a
        footprint is inside an area.
    """
    drawn = to_crs_near(areas, labels.grid.crs, labels.grid, where=path).geometry.to_numpy()
    drawn = drawn[shapely.intersects(drawn, labels.grid.polygon)]
    footprints = labels.footprints.geometry.to_numpy()
    tree = shapely.STRtree(footprints)
    inside = np.unique(tree.query(drawn, predicate="within")[0])
    holds_footprint = bool(tree.query(drawn, predicate="contains").size)
    return len(drawn), len(inside), holds_footprint


def warn_missing_validation(tiles: pd.DataFrame, options: TileOptions) -> None:
    """Warn if the drawn areas leave no tile for validation.

    Args:
        tiles: All tiles, with the column `split`.
        options: Tiling options.
    """
    if options.split == "areas" and not (tiles.split == "val").any():
        logger.warning(
            "%s: leaves no tile for validation, without which train refuses the tiles; draw an "
            "area of several tiles of %d pixels, or one with the attribute split=val",
            options.areas,
            options.size,
        )


def warn_missing_test(regions: SplitRegions, tiles: pd.DataFrame, options: TileOptions) -> None:
    """Warn if areas that were divided are too small for a part for testing.

    Args:
        regions: The areas, divided.
        tiles: All tiles, with the column `split`.
        options: Tiling options.
    """
    divided = any(region.is_loose for own in regions.regions for region in own)
    wanted = options.split == "areas" and options.fractions[-1] > 0 and divided
    if wanted and not (tiles.split == "test").any():
        logger.warning(
            "%s: its areas are too small to divide off a part for testing, by which maps are "
            "compared; draw one more area, and give each an attribute split: train, val or test",
            options.areas,
        )


def warn_small_areas(regions: SplitRegions, options: TileOptions) -> None:
    """Warn of areas with an attribute `split` that are smaller than a tile."""
    drawn = [region for own in regions.regions for region in own if not region.is_loose]
    sides = [min(region.window.width, region.window.height) for region in drawn]
    small = sum(side < options.size for side in sides)
    if options.split == "areas" and small:
        logger.warning(
            "%s: %s smaller than a tile of %d pixels, which is filled up with mirrored pixels; "
            "draw larger areas",
            options.areas,
            "1 area is" if small == 1 else f"{small} areas are",
            options.size,
        )


def warn_left_out_buildings(labels: Sequence[Labels], options: TileOptions) -> None:
    """Warn if no building crosses the edge of the drawn areas, though many are inside.

    Args:
        labels: Labels of each scene.
        options: Tiling options.
    """
    if options.areas is None or options.classes is not None:
        return
    areas, inside = read_footprints(options.areas), 0
    for one in labels:
        if isinstance(one, FootprintLabels) and len(one):
            crossing, covered = _count_buildings(one, areas)
            if crossing:
                return
            inside += covered
    if inside >= _MANY:
        logger.warning(
            "%s: no footprint crosses the edge of the areas, and %d are inside; if buildings cross "
            "it, label them, too: buildings without a label are learned as ground",
            options.areas,
            inside,
        )


def _count_buildings(labels: FootprintLabels, areas: gpd.GeoDataFrame) -> tuple[int, int]:
    """Return how many footprints cross the edge of areas inside a scene, and how many are inside.

    Without such an edge, both are 0.
    """
    scene, own = labels.grid.polygon, to_crs_near(areas, labels.grid.crs, labels.grid).union_all()
    edge = own.boundary.intersection(scene.buffer(-(labels.grid.pixel_area**0.5)))
    if edge.is_empty:
        return 0, 0
    footprints = labels.footprints.geometry.to_numpy()
    shapely.prepare([edge, own])
    crossing = shapely.intersects(edge, footprints)
    return int(crossing.sum()), int((shapely.intersects(own, footprints) & ~crossing).sum())
