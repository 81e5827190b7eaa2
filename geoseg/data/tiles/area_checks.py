"""Warnings about drawn areas from which a network would learn less than the user thinks."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pandas as pd
import shapely

from geoseg.data.labels import FootprintLabels, Labels
from geoseg.geo.vector import read_footprints, to_crs_near
from geoseg.options import TileOptions

logger = logging.getLogger(__name__)

# Of so many footprints in an area of any shape, some cross its edge, unless they were left out.
_MANY = 20


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


def warn_left_out_buildings(labels: Sequence[Labels], options: TileOptions) -> None:
    """Warn if no footprint crosses the edge of the drawn areas, though many are inside.

    Args:
        labels: Labels of each scene.
        options: Tiling options.
    """
    if options.areas is None:
        return
    areas, inside = read_footprints(options.areas), 0
    for one in labels:
        if not isinstance(one, FootprintLabels) or not len(one):
            continue
        own = to_crs_near(areas, one.grid.crs, one.grid).union_all()
        footprints = one.footprints.geometry.to_numpy()
        shapely.prepare(own)
        covered = shapely.covers(own, footprints)
        if (shapely.intersects(own, footprints) & ~covered).any():
            return
        inside += int(covered.sum())
    if inside >= _MANY:
        logger.warning(
            "%s: none of the %d footprints inside crosses the edge; where buildings do, draw them, "
            "too, or they are learned as ground",
            options.areas,
            inside,
        )
