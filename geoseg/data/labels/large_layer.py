"""Polygons of a large layer as labels, read by window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from pyproj.exceptions import ProjError
from rasterio.windows import Window

from geoseg.data.labels.class_scheme import ClassScheme
from geoseg.data.labels.polygon_labels import (
    FootprintLabels,
    add_mask_values,
    no_common_location,
    read_ignored,
    reproject_to_grid,
)
from geoseg.geo.grid import Grid
from geoseg.geo.vector import iter_polygons, read_footprints

# Footprints are gone through by squares of this many pixels: some thousands at a time in a town.
_BLOCK_PX = 4096


@dataclass(frozen=True)
class LayerLabels:
    """Polygons on one scene's grid that stay in their file, which has a spatial index.

    Attributes:
        grid: The grid that they are burnt on.
        path: Of the layer.
        number: How many meet the grid.
        scheme: Their classes.
        where: Attribute filter.
        layer: Layer name.
        ignored: Ground that was not labelled, in the grid's CRS.
        repaired: How many of the layer's polygons near the scene were invalid and mended.
        dropped: How many of its features were no polygons.
    """

    grid: Grid
    path: str
    number: int
    scheme: ClassScheme = field(default_factory=ClassScheme)
    where: str | None = None
    layer: str | None = None
    ignored: gpd.GeoSeries | None = None
    repaired: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return self.number

    def subset(self, window: Window) -> FootprintLabels:
        """Those that meet a window: a small part that can be sent to another process."""
        outline = self.grid.window_polygon(window)
        found = read_footprints(
            self.path,
            where=self.where,
            layer=self.layer,
            bounds=outline.bounds,
            bounds_crs=self.grid.crs,
        )
        placed = reproject_to_grid(found, self.grid, self.path)
        placed = placed[placed.geometry.intersects(outline)].reset_index(drop=True)
        if self.scheme.exclusive:
            placed = add_mask_values(self.path, placed, self.scheme)
        ignored = self.ignored
        if ignored is not None:
            ignored = ignored.iloc[np.sort(ignored.sindex.query(outline))]
        return FootprintLabels(self.grid, placed, self.scheme, ignored)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Which footprint each pixel lies in, and the mask; see `FootprintLabels.read`."""
        return self.subset(window).read(window)

    def foreground_pixels(self, window: Window) -> float:
        """Building pixels inside a window, by the footprints' area; overlaps count twice."""
        return sum(self.subset(part).foreground_pixels(part) for part in _blocks(window))

    def iter_footprints(self) -> Iterator[gpd.GeoDataFrame]:
        """Yields each footprint once, block of ground by block."""
        for block in _blocks(self.grid.window):
            wider = Window(
                block.col_off - 1, block.row_off - 1, block.width + 2, block.height + 2
            )  # fmt: skip
            found = self.subset(wider).footprints
            columns, rows = self._anchors(found.geometry.to_numpy())
            left, top = block.col_off, block.row_off
            own = (columns >= left) & (columns < left + block.width)
            own &= (rows >= top) & (rows < top + block.height)
            if own.any():
                yield found[own].reset_index(drop=True)

    def _anchors(self, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Column and row of a pixel that each footprint has for itself, inside the grid."""
        outside = ~shapely.covered_by(shapes, self.grid.polygon)
        shapes = shapes.copy()
        shapes[outside] = shapely.intersection(shapes[outside], self.grid.polygon)
        points, owners = shapely.get_coordinates(shapes, return_index=True)
        _, first = np.unique(owners, return_index=True)
        columns, rows = self.grid.to_pixels(*points[first].T)
        return (
            np.clip(np.floor(columns), 0, self.grid.width - 1),
            np.clip(np.floor(rows), 0, self.grid.height - 1),
        )


def _blocks(window: Window) -> Iterator[Window]:
    left, top = int(window.col_off), int(window.row_off)
    right, bottom = left + int(window.width), top + int(window.height)
    for row in range(top, bottom, _BLOCK_PX):
        for column in range(left, right, _BLOCK_PX):
            width, height = min(_BLOCK_PX, right - column), min(_BLOCK_PX, bottom - row)
            yield Window(column, row, width, height)


def read_layer_labels(
    path: str | Path,
    grid: Grid,
    scheme: ClassScheme,
    *,
    where: str | None = None,
    layer: str | None = None,
) -> LayerLabels:
    """Counts the polygons that lie on a scene, and leaves them where they are.

    Args and errors are those of `read_footprint_labels`.
    """
    number, repaired, dropped = 0, 0, 0
    bounds = {"bounds": grid.bounds, "bounds_crs": grid.crs}
    try:
        for part in iter_polygons(path, where=where, layer=layer, **bounds):
            number += len(reproject_to_grid(part, grid, path))
            repaired += part.attrs["repaired"]
            dropped += part.attrs["dropped"]
    except ProjError as error:
        raise no_common_location(path) from error
    ignored = read_ignored(path, grid, layer)
    labels = LayerLabels(
        grid, str(path), number, scheme, where, layer, ignored, repaired, dropped
    )  # fmt: skip
    if scheme.exclusive:
        labels.subset(Window(0, 0, 1, 1))  # refuses an attribute that is not there
    return labels
