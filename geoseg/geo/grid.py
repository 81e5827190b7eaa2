"""Pixel grid of a raster: CRS, transform and shape."""

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

# Relative difference of pixel sizes below which a scene is not resampled: resampling by so little
# blurs the image and gains nothing.
GSD_TOLERANCE = 0.05


@dataclass(frozen=True)
class Grid:
    """The pixel grid of a raster.

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
    def pixel_area(self) -> float:
        """Area of a pixel in square units of the CRS."""
        return abs(float(self.transform.determinant))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def window(self) -> Window:
        """Window of the whole grid."""
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
        """Ground sampling distance in metres along (columns, rows), at the grid's centre."""
        x, y = np.hypot(*self._centre_steps_m.T).tolist()
        return x, y

    def steps_m(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the ground vectors of a step to the next column and of one to the next row.

        Distances are measured on the ellipsoid, so they are correct for Mercator metres, for
        degrees, and where the axes are not at right angles. If the CRS cannot be transformed to
        longitude and latitude (a local one), its unit is used instead.

        Args:
            columns: Column of each point (N,).
            rows: Row of each point (N,).

        Returns:
            Metres (N, 2, 2), step by direction; the first direction is that of the first step.
            Points outside the domain of the CRS get the steps at the grid's centre.
        """
        steps = self._measure_steps(columns, rows)
        unknown = ~_is_measured(steps)
        if unknown.any():
            steps[unknown] = self._centre_steps_m
        return steps

    @cached_property
    def _centre_steps_m(self) -> np.ndarray:
        (measured,) = self._measure_steps(*np.array([[self.width], [self.height]]) / 2)
        if _is_measured(measured):
            steps: np.ndarray = measured
            return steps
        linear = np.array(self.transform.column_vectors[:2])
        x, y = np.hypot(*linear.T) * unit_m(self.crs)
        turns = np.arctan2(linear[:, 1], linear[:, 0])
        by_unit: np.ndarray = _steps(x, y, turns[1] - turns[0])
        return by_unit

    def _measure_steps(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return metres (N, 2, 2), not finite for points outside the domain of the CRS."""
        points = [self.transform * (columns + dx, rows + dy) for dx, dy in ((0, 0), (1, 0), (0, 1))]
        xs, ys = np.array(points, dtype=np.float64).transpose(1, 0, 2)
        try:
            transformer = Transformer.from_crs(self.crs.to_wkt(), 4326, always_xy=True)
        except ProjError:
            return np.full((len(columns), 2, 2), np.nan)
        lon, lat = transformer.transform(xs, ys)
        (to_x, _, x), (to_y, _, y) = (
            WGS84_ELLIPSOID.inv(lon[0], lat[0], lon[i], lat[i]) for i in (1, 2)
        )
        return _steps(x, y, np.radians(to_y - to_x))

    def offsets_m(self, places: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Convert steps in pixels to metres on the ground to the east and to the north.

        If the CRS cannot be transformed to longitude and latitude (a local one), metres along its
        axes are returned.

        Args:
            places: (column, row) where each step begins (N, 2).
            steps: Columns and rows of each step (N, 2).

        Returns:
            Metres (east, north), (N, 2).
        """
        xs, ys = np.array(
            [self.transform * points.T for points in (places, places + steps)]
        ).swapaxes(0, 1)
        try:
            transformer = Transformer.from_crs(self.crs.to_wkt(), 4326, always_xy=True)
            lon, lat = transformer.transform(xs, ys, errcheck=True)
        except ProjError:
            return np.stack([xs[1] - xs[0], ys[1] - ys[0]], axis=-1) * unit_m(self.crs)
        azimuths, _, metres = WGS84_ELLIPSOID.inv(lon[0], lat[0], lon[1], lat[1])
        angles = np.radians(azimuths)
        return np.stack([metres * np.sin(angles), metres * np.cos(angles)], axis=-1)

    def window_transform(self, window: Window) -> Affine:
        """Return the transform of a window's pixels."""
        return self.transform * Affine.translation(window.col_off, window.row_off)

    def window_polygon(self, window: Window) -> Polygon:
        """Return the outline of a window in the CRS."""
        left, top = window.col_off, window.row_off
        right, bottom = left + window.width, top + window.height
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return Polygon([self.transform * corner for corner in corners])

    def window_grid(self, window: Window) -> Grid:
        """Return the grid of a window."""
        transform = self.window_transform(window)
        return Grid(self.crs, transform, int(window.height), int(window.width))

    def row_windows(self, rows: int) -> Iterator[Window]:
        """Yield windows of `rows` whole rows, from top to bottom; the last may be smaller."""
        for top in range(0, self.height, rows):
            yield Window(0, top, self.width, min(rows, self.height - top))

    def widen(self, window: Window, margin: int) -> Window:
        """Return a window grown by `margin` pixels on each side, clipped to the grid."""
        top, left = max(0, window.row_off - margin), max(0, window.col_off - margin)
        bottom = min(self.height, window.row_off + window.height + margin)
        right = min(self.width, window.col_off + window.width + margin)
        return Window(left, top, right - left, bottom - top)

    def windows(self, rows: int, columns: int) -> Iterator[Window]:
        """Yield windows of at most `rows` x `columns` pixels, row by row."""
        for strip in self.row_windows(rows):
            for left in range(0, self.width, columns):
                width = min(columns, self.width - left)
                yield Window(left, strip.row_off, width, strip.height)

    def resampled(self, gsd_m: float, *, tolerance: float = GSD_TOLERANCE) -> Grid:
        """Return the grid of the same extent with another pixel size, anchored at the same origin.

        Args:
            gsd_m: Ground sampling distance in metres, on both axes.
            tolerance: Relative difference up to which the grid is returned unchanged.

        Returns:
            A grid of the same CRS and origin whose last row and column may extend beyond the
            scene's edge by less than a pixel.
        """
        gsd_x, gsd_y = self.axis_gsd_m
        scale_x, scale_y = gsd_m / gsd_x, gsd_m / gsd_y
        if max(abs(scale_x - 1), abs(scale_y - 1)) <= tolerance:
            return self
        # Rounding errors must not add a row.
        height = max(1, math.ceil(self.height / scale_y - 1e-6))
        width = max(1, math.ceil(self.width / scale_x - 1e-6))
        return Grid(self.crs, self.transform * Affine.scale(scale_x, scale_y), height, width)

    def to_pixels(self, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert CRS coordinates to fractional (columns, rows)."""
        inverse = ~self.transform
        return (
            inverse.a * xs + inverse.b * ys + inverse.c,
            inverse.d * xs + inverse.e * ys + inverse.f,
        )


def _steps(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Build steps (..., 2, 2) from their lengths and the angle between them in radians."""
    rows = [[x, np.zeros_like(x)], [y * np.cos(angle), y * np.abs(np.sin(angle))]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _is_measured(steps: np.ndarray) -> np.ndarray:
    """Return which steps (..., 2, 2) are finite and span an area."""
    with np.errstate(invalid="ignore"):
        measured: np.ndarray = np.isfinite(steps).all(axis=(-2, -1)) & (
            steps[..., 0, 0] * steps[..., 1, 1] > 0
        )
    return measured


def unit_m(crs: CRS | pyproj.CRS) -> float:
    """Return the length of a CRS's unit in metres; of a degree, on the equator of its ellipsoid."""
    known = pyproj.CRS.from_wkt(crs.to_wkt())
    factor = float(known.axis_info[0].unit_conversion_factor) if known.axis_info else 1.0
    if known.is_geographic and known.ellipsoid is not None:
        factor *= known.ellipsoid.semi_major_metre
    return factor
