"""Data types for splits: scenes to split, and the regions they are split into."""

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
    """A scene to be split.

    Attributes:
        name: Path of the scene as the user wrote it.
        grid: Grid that the scene is tiled on.
        foreground_pixels: Returns the number of building pixels (with exclusive classes: pixels
            of any class but the background) inside a window of the grid.
    """

    name: str
    grid: Grid
    foreground_pixels: Callable[[Window], float]


@dataclass(frozen=True)
class Region:
    """A part of a scene that belongs to one split.

    Attributes:
        split: `train`, `val` or `test`.
        window: Bounding window; the first tile starts at its first pixel.
        area: Part of the window that belongs to the region, in the grid's CRS; None for all.
        is_loose: Whether tiles may reach beyond the area, within the window; they have no labels
            there.
    """

    split: str
    window: Window
    area: BaseGeometry | None = None
    is_loose: bool = False

    def polygon(self, grid: Grid) -> BaseGeometry:
        """Return the area of the region in the grid's CRS."""
        outline: Polygon = grid.window_polygon(self.window)
        return outline if self.area is None else self.area


@dataclass(frozen=True)
class SplitRegions:
    """Scenes split into regions.

    Attributes:
        regions: Regions of each scene.
        gap: Minimum distance in pixels between tiles of different splits.
    """

    regions: list[list[Region]]
    gap: int
