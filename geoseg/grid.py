"""Where pixels lie on the ground: one frozen value of CRS, transform and shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyproj
from affine import Affine
from pyproj import Geod, Transformer
from pyproj.exceptions import ProjError
from rasterio.crs import CRS
from rasterio.windows import Window
from shapely.geometry import Polygon

WGS84_ELLIPSOID = Geod(ellps="WGS84")

# A scene whose pixels are within this share of the wanted size is used as it is: resampling
# by less blurs the picture and gains nothing.
GSD_TOLERANCE = 0.05


@dataclass(frozen=True)
class Grid:
    """A raster's place on the ground.

    Attributes:
        crs: Coordinate reference system.
        transform: Pixel (column, row) to CRS (x, y); any rotation, north-up or south-up.
        height: Rows.
        width: Columns.

    Raises:
        ValueError: If the shape is empty or the transform is singular.
    """

    crs: CRS
    transform: Affine
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a grid needs at least one pixel, got {self.height} x {self.width}")
        if self.transform.determinant == 0 or not math.isfinite(self.transform.determinant):
            raise ValueError(f"the transform {tuple(self.transform)[:6]} has no inverse")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def window(self) -> Window:
        """The window of the whole grid."""
        return Window(0, 0, self.width, self.height)

    @cached_property
    def polygon(self) -> Polygon:
        """Outline of the grid in its CRS, exact under rotation."""
        return self.window_polygon(self.window)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of the outline in the CRS."""
        bounds: tuple[float, float, float, float] = self.polygon.bounds
        return bounds

    @cached_property
    def gsd_m(self) -> float:
        """Ground sampling distance: metres per pixel, mean of both axes, at the centre."""
        x, y = self.axis_gsd_m
        return math.sqrt(x * y)

    @cached_property
    def axis_gsd_m(self) -> tuple[float, float]:
        """Metres on the ground per pixel along (columns, rows), at the grid's centre.

        Measured on the ellipsoid, so that Mercator metres and degrees come out right. A CRS
        without a path to longitude and latitude (a local one) counts by its unit.
        """
        column, row = self.width / 2, self.height / 2
        xs, ys = zip(
            self.transform @ (column, row),
            self.transform @ (column + 1, row),
            self.transform @ (column, row + 1),
            strict=True,
        )
        try:
            lon, lat = Transformer.from_crs(self.crs.to_wkt(), 4326, always_xy=True).transform(
                xs, ys, errcheck=True
            )
            steps = [WGS84_ELLIPSOID.inv(lon[0], lat[0], lon[i], lat[i])[2] for i in (1, 2)]
        except ProjError:
            steps = [math.nan]
        if not all(math.isfinite(step) and step > 0 for step in steps):
            unit = unit_m(self.crs)
            steps = [math.hypot(xs[i] - xs[0], ys[i] - ys[0]) * unit for i in (1, 2)]
        return steps[0], steps[1]

    def window_transform(self, window: Window) -> Affine:
        """The transform of a window's own pixels."""
        return self.transform @ Affine.translation(window.col_off, window.row_off)

    def window_polygon(self, window: Window) -> Polygon:
        """Outline of a window in the CRS."""
        left, top = window.col_off, window.row_off
        right, bottom = left + window.width, top + window.height
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return Polygon([self.transform @ corner for corner in corners])

    def window_grid(self, window: Window) -> Grid:
        """The grid of a window."""
        transform = self.window_transform(window)
        return Grid(self.crs, transform, int(window.height), int(window.width))

    def row_windows(self, rows: int) -> Iterator[Window]:
        """Windows of whole rows, so many at a time, from top to bottom."""
        for top in range(0, self.height, rows):
            yield Window(0, top, self.width, min(rows, self.height - top))

    def widen(self, window: Window, margin: int) -> Window:
        """A window with so many pixels around it, as far as the grid reaches."""
        top, left = max(0, window.row_off - margin), max(0, window.col_off - margin)
        bottom = min(self.height, window.row_off + window.height + margin)
        right = min(self.width, window.col_off + window.width + margin)
        return Window(left, top, right - left, bottom - top)

    def windows(self, rows: int, columns: int) -> Iterator[Window]:
        """Windows of so many rows and columns at the most, row by row."""
        for band in self.row_windows(rows):
            for left in range(0, self.width, columns):
                width = min(columns, self.width - left)
                yield Window(left, band.row_off, width, band.height)

    def resampled(self, gsd_m: float, *, tolerance: float = GSD_TOLERANCE) -> Grid:
        """This ground at another pixel size, anchored at the same origin.

        Args:
            gsd_m: Wanted metres on the ground per pixel, on both axes.
            tolerance: Relative difference up to which the grid is returned as it is.

        Returns:
            A grid of the same CRS and origin whose last row and column may reach past the
            scene's edge by less than a pixel.
        """
        gsd_x, gsd_y = self.axis_gsd_m
        scale_x, scale_y = gsd_m / gsd_x, gsd_m / gsd_y
        if max(abs(scale_x - 1), abs(scale_y - 1)) <= tolerance:
            return self
        # A sliver left by rounding errors is no reason for another row.
        height = max(1, math.ceil(self.height / scale_y - 1e-6))
        width = max(1, math.ceil(self.width / scale_x - 1e-6))
        return Grid(self.crs, self.transform @ Affine.scale(scale_x, scale_y), height, width)

    def to_pixels(self, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """CRS coordinates to fractional (columns, rows)."""
        inverse = ~self.transform
        return (
            inverse.a * xs + inverse.b * ys + inverse.c,
            inverse.d * xs + inverse.e * ys + inverse.f,
        )


def unit_m(crs: CRS | pyproj.CRS) -> float:
    """Length of a CRS's unit in metres; a degree's on the equator of its own ellipsoid."""
    known = pyproj.CRS.from_wkt(crs.to_wkt())
    factor = float(known.axis_info[0].unit_conversion_factor) if known.axis_info else 1.0
    if known.is_geographic and known.ellipsoid is not None:
        factor *= known.ellipsoid.semi_major_metre
    return factor
