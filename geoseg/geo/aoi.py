"""Area of interest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS
from rasterio.features import geometry_mask
from rasterio.windows import Window
from shapely import STRtree
from shapely.geometry.base import BaseGeometry

from geoseg.errors import VectorReadError
from geoseg.geo.crs import as_crs
from geoseg.geo.grid import Grid
from geoseg.geo.vector.placement import check_range
from geoseg.geo.vector.polygons import keep_polygons, read_footprints
from geoseg.geo.vector.reprojection import to_crs_densified

# A polygon that only touches the area leaves a sliver of rounding size inside.
_SLIVER_SHARE = 1e-8


@dataclass(frozen=True, eq=False)
class AOI:
    """An area of interest in one CRS.

    Attributes:
        polygons: Valid Polygons and MultiPolygons; they may overlap.
        crs: Their CRS, that of the grids and layers they are used with.
    """

    polygons: tuple[BaseGeometry, ...]
    crs: CRS | None = None

    @classmethod
    def read(
        cls, path: str | Path, crs: Any, *, bounds: tuple[float, float, float, float] | None = None
    ) -> AOI:
        """Read the polygons of a vector layer.

        Edges that are straight in the layer's CRS are densified before they are reprojected, so
        that they stay in place.

        Args:
            path: Any vector layer supported by `read_footprints`.
            crs: CRS of the result, of any library.
            bounds: (left, bottom, right, top) in `crs`; what is far outside may be left out.

        Returns:
            The area; without polygons where none meets the bounds.

        Raises:
            VectorReadError: If the layer cannot be read or has no polygon.
            GridMismatchError: If its coordinates are outside the range of its CRS.
            MissingCRSError: If the layer has no CRS.
        """
        target = as_crs(crs)
        if bounds is not None and not np.isfinite(bounds).all():
            bounds = None
        polygons = read_footprints(path, bounds=bounds, bounds_crs=target)
        if polygons.empty:
            everywhere = polygons if bounds is None else read_footprints(path)
            if everywhere.empty:
                raise VectorReadError(
                    f"{path}: has no polygon; an area of interest needs at least one"
                )
            check_range(everywhere, path)
        return cls(tuple(to_crs_densified(polygons, target, bounds=bounds).geometry), target)

    @classmethod
    def read_on(cls, path: str | Path, grid: Grid) -> AOI:
        """Read the polygons that meet a grid, in its CRS; see `read`."""
        found = cls.read(path, grid.crs, bounds=grid.bounds)
        return cls(tuple(p for p in found.polygons if p.intersects(grid.polygon)), found.crs)

    def __len__(self) -> int:
        return len(self.polygons)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of all polygons."""
        left, bottom, right, top = shapely.total_bounds(list(self.polygons)).tolist()
        return left, bottom, right, top

    @cached_property
    def union(self) -> BaseGeometry:
        """All polygons as one valid Polygon or MultiPolygon, prepared for fast predicates."""
        union = self.polygons[0] if len(self) == 1 else shapely.union_all(self.polygons)
        shapely.prepare(union)
        return union

    @cached_property
    def _tree(self) -> STRtree:
        return STRtree(self.polygons)

    def meets(self, grid: Grid, window: Window) -> bool:
        """Whether the area and a window of a grid share a point."""
        return bool(len(self._near(grid, window)))

    def covers(self, grid: Grid, window: Window) -> np.ndarray:
        """Return which pixels of a window have their centre in the area: bool (h, w)."""
        near = self._near(grid, window)
        shape = (int(window.height), int(window.width))
        if not len(near):
            return np.zeros(shape, dtype=bool)
        inside: np.ndarray = geometry_mask(
            [self.polygons[index] for index in near],
            shape,
            grid.window_transform(window),
            invert=True,
        )
        return inside

    def _near(self, grid: Grid, window: Window) -> np.ndarray:
        near: np.ndarray = self._tree.query(grid.window_polygon(window), predicate="intersects")
        return near

    def intersects(self, layer: gpd.GeoDataFrame) -> np.ndarray:
        """Return which polygons of a layer share a point with the area: bool (n,)."""
        meeting: np.ndarray = shapely.intersects(self.union, _geometries(layer))
        return meeting

    def cuts(self, layer: gpd.GeoDataFrame) -> np.ndarray:
        """Return which polygons of a layer are partly inside and partly outside: bool (n,)."""
        cut: np.ndarray = self.intersects(layer) & ~shapely.covers(self.union, _geometries(layer))
        return cut

    def clip(self, layer: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """Clip the polygons of a layer to the area; slivers are dropped.

        Args:
            layer: Valid polygons in the area's CRS.

        Returns:
            The polygons that are inside at least in part, with their index and attributes.
        """
        layer = layer[self.intersects(layer)]
        shapes = _geometries(layer)
        border = ~shapely.covers(self.union, shapes)
        whole = shapely.area(shapes)
        shapes[border] = keep_polygons(shapely.intersection(shapes[border], self.union))
        layer = layer.set_geometry(gpd.GeoSeries(shapes, index=layer.index, crs=layer.crs))
        return layer[shapely.area(shapes) > _SLIVER_SHARE * whole]


def _geometries(layer: gpd.GeoDataFrame) -> np.ndarray:
    """A copy of the layer's geometries, which may be changed."""
    return np.array(layer.geometry.array, dtype=object)
