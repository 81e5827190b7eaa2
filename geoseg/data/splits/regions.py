"""The words of a split: ground that is to be separated, and the parts that come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rasterio.windows import Window
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from geoseg.geo.grid import Grid

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitScene:
    """A scene's ground, before it is separated.

    Attributes:
        name: The scene as the user named it.
        grid: The grid that it is tiled on.
        built: Building pixels inside a window of the grid.
    """

    name: str
    grid: Grid
    foreground_pixels: Callable[[Window], float]


@dataclass(frozen=True)
class Region:
    """A part of a scene that belongs to one split.

    Attributes:
        split: `train`, `val` or `test`.
        window: Tiles are laid from its first pixel on.
        area: What of the window belongs to the region, in the grid's CRS; all of it when None.
    """

    split: str
    window: Window
    area: BaseGeometry | None = None

    def polygon(self, grid: Grid) -> BaseGeometry:
        """Its ground, in the grid's CRS."""
        outline: Polygon = grid.window_polygon(self.window)
        return outline if self.area is None else self.area


@dataclass(frozen=True)
class SplitRegions:
    """Ground after it was separated.

    Attributes:
        regions: Those of each scene.
        gap: Pixels that tiles of different splits must lie apart.
    """

    regions: list[list[Region]]
    gap: int
