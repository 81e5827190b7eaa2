"""Polygon labels of a large layer, read window by window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from rasterio.windows import Window

from geoseg.data.labels.class_scheme import ClassScheme
from geoseg.data.labels.polygon_labels import (
    FootprintLabels,
    add_mask_values,
    count_unclassed,
    read_ignored,
    reproject_to_grid,
)
from geoseg.geo.grid import Grid
from geoseg.geo.vector import count_features, iter_polygons, read_footprints

# Side of the square blocks in which footprints are read: a few thousand footprints in a town.
_BLOCK_PX = 4096


@dataclass(frozen=True)
class LayerLabels:
    """Polygon labels of one scene that remain in their file and are read by window.

    The file needs a spatial index (GeoPackage or FlatGeobuf).

    Attributes:
        grid: Grid on which the polygons are rasterized.
        path: File of the layer.
        number: Number of polygons that intersect the grid.
        scheme: Class scheme.
        where: Attribute filter.
        layer: Layer name.
        ignored: Areas that were not labelled, in the grid's CRS.
        repaired: Number of invalid polygons near the scene that were repaired.
        dropped: Number of features near the scene that are not polygons.
        elsewhere: Number of other features of the layer: those outside the scene, and those without
            a geometry, which are nowhere.
        unclassed: Number of polygons per label value that belongs to no class.
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
    elsewhere: int = 0
    unclassed: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.number

    def subset(self, window: Window) -> FootprintLabels:
        """Return the labels that intersect a window, small enough to send to another process."""
        outline = self.grid.window_polygon(window)
        footprints = read_footprints(
            self.path,
            where=self.where,
            layer=self.layer,
            bounds=outline.bounds,
            bounds_crs=self.grid.crs,
        )
        footprints = reproject_to_grid(footprints, self.grid, self.path)
        footprints = footprints[footprints.geometry.intersects(outline)].reset_index(drop=True)
        if self.scheme.exclusive:
            footprints = add_mask_values(self.path, footprints, self.scheme)
        ignored = self.ignored
        if ignored is not None:
            ignored = ignored.iloc[np.sort(ignored.sindex.query(outline))]
        return FootprintLabels(self.grid, footprints, self.scheme, ignored)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Rasterize footprint ids and the mask of a window; see `FootprintLabels.read`."""
        return self.subset(window).read(window)

    def foreground_pixels(self, window: Window) -> float:
        """Return the area of footprints inside a window in pixels; overlaps count twice."""
        return sum(self.subset(part).foreground_pixels(part) for part in _blocks(window))

    def iter_footprints(self) -> Iterator[gpd.GeoDataFrame]:
        """Yield each footprint exactly once, in blocks."""
        for block in _blocks(self.grid.window):
            # Footprints on the edge of a block are found by both blocks; each belongs to the
            # block that contains its anchor, so none is lost or repeated.
            wider = Window(
                block.col_off - 1, block.row_off - 1, block.width + 2, block.height + 2
            )  # fmt: skip
            footprints = self.subset(wider).footprints
            columns, rows = self._anchors(footprints.geometry.to_numpy())
            left, top = block.col_off, block.row_off
            inside = (columns >= left) & (columns < left + block.width)
            inside &= (rows >= top) & (rows < top + block.height)
            if inside.any():
                yield footprints[inside].reset_index(drop=True)

    def _anchors(self, footprints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return column and row of one vertex per footprint, inside the grid (N,)."""
        outside = ~shapely.covered_by(footprints, self.grid.polygon)
        footprints = footprints.copy()
        footprints[outside] = shapely.intersection(footprints[outside], self.grid.polygon)
        points, owners = shapely.get_coordinates(footprints, return_index=True)
        _, first = np.unique(owners, return_index=True)
        columns, rows = self.grid.to_pixels(*points[first].T)
        return (
            np.clip(np.floor(columns), 0, self.grid.width - 1),
            np.clip(np.floor(rows), 0, self.grid.height - 1),
        )


def _blocks(window: Window) -> Iterator[Window]:
    """Yield the blocks of a window, row by row."""
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
    total: int | None = None,
) -> LayerLabels:
    """Count the polygons that intersect a scene and leave them in their file.

    Arguments and errors are those of `read_footprint_labels`.
    """
    number, repaired, dropped = 0, 0, 0
    unclassed: Counter[str] = Counter()
    bounds = {"bounds": grid.bounds, "bounds_crs": grid.crs}
    columns = [scheme.attribute] if scheme.attribute else []
    for part in iter_polygons(path, where=where, layer=layer, columns=columns, **bounds):
        footprints = reproject_to_grid(part, grid, path)
        number += len(footprints)
        repaired += part.attrs["repaired"]
        dropped += part.attrs["dropped"]
        if scheme.attribute in footprints:
            unclassed += count_unclassed(add_mask_values(path, footprints, scheme), scheme)
    ignored = read_ignored(path, grid, layer)
    if total is None:
        total = count_features(path, layer=layer, where=where)
    elsewhere = total - number - dropped
    labels = LayerLabels(
        grid, str(path), number, scheme, where, layer, ignored, repaired, dropped, elsewhere,
        unclassed,
    )  # fmt: skip
    if scheme.exclusive:
        labels.subset(Window(0, 0, 1, 1))  # raises if the class attribute is missing
    return labels
