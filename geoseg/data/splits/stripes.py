"""Stripes of the splits, separated by gaps."""

from __future__ import annotations

import numpy as np
from rasterio.windows import Window

from geoseg.data.splits.regions import SPLITS, Region
from geoseg.errors import ConfigError
from geoseg.options import TileOptions

# The default gap is at most this part of the side that is divided.
SIDE_PER_GAP = 10


def divide(
    height: int, width: int, fractions: tuple[float, float, float], gap: int
) -> list[Region]:
    """Return the stripes of an area along its longer side, separated by the gap.

    Args:
        height: Height of the area in pixels.
        width: Width of the area in pixels.
        fractions: Fractions of train, val and test.
        gap: Pixels between stripes.

    Raises:
        ConfigError: If the gaps leave nothing.
    """
    length = max(height, width)
    used = [(split, part) for split, part in zip(SPLITS, fractions, strict=True) if part > 0]
    usable = length - gap * (len(used) - 1)
    if usable < len(used):
        raise ConfigError(
            f"tile.gap: gaps of {gap} pixels between {len(used)} splits leave nothing of {length} "
            "pixels; choose a smaller --gap"
        )
    edges = [round(usable * end) for end in np.cumsum([0.0, *(part for _, part in used)])]
    regions = []
    for index, (split, _) in enumerate(used):
        start, size = edges[index] + index * gap, edges[index + 1] - edges[index]
        across, down = Window(start, 0, size, height), Window(0, start, width, size)
        if size:
            regions.append(Region(split, across if width >= height else down))
    return regions


def choose_gap(options: TileOptions, maximum: int) -> int:
    """Return the gap in pixels; the default is a tile, or less if the scenes are small."""
    return min(options.size, maximum) if options.gap is None else options.gap
