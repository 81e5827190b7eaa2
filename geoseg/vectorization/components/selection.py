"""The components of a raster that are large enough, and what of the ground is too small in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.options import Thresholds
from geoseg.vectorization.components.labelling import Components

# (steps of pixels in metres (n, 2, 2), grid, thresholds) → margins of components in pixels (n,).
Margins = Callable[[np.ndarray, Grid, Thresholds], np.ndarray]


@dataclass(frozen=True)
class ComponentSelection:
    """Components of a raster, and what is too small in each.

    Attributes:
        components: Those that are large enough.
        steps_m: float64 (n, 2, 2), steps to the next column and row at each, see `Grid.steps_m`.
        margins: int64 (n,), pixels around each that its outlines depend on.
        object_px: float64 (n,), pixels from which on a part of each is an object.
        hole_px: float64 (n,), those from which on a hole stays.
    """

    components: Components
    steps_m: np.ndarray
    margins: np.ndarray
    object_px: np.ndarray
    hole_px: np.ndarray

    def __len__(self) -> int:
        return len(self.components)

    def pick(self, chosen: np.ndarray | slice) -> ComponentSelection:
        """Those that a mask, indices or a slice choose."""
        rest = (self.steps_m, self.margins, self.object_px, self.hole_px)
        return ComponentSelection(self.components.pick(chosen), *(part[chosen] for part in rest))

    def beginning_in(self, window: Window) -> np.ndarray:
        """Indices of those whose first pixel lies in a window."""
        firsts, width = self.components.firsts, self.components.width
        ends = np.array([window.row_off, window.row_off + window.height]) * width
        begin, end = np.searchsorted(firsts, ends)
        columns = firsts[begin:end] % width - window.col_off
        inside: np.ndarray = begin + np.flatnonzero((columns >= 0) & (columns < window.width))
        return inside


def select_components(
    components: Components, grid: Grid, thresholds: Thresholds, margins: Margins
) -> ComponentSelection:
    """The components that are large enough, and margins around each."""
    steps_m = grid.steps_m(*components.centres.T)
    large = components.areas * np.linalg.det(steps_m) >= thresholds.min_area_m2
    components, steps_m = components.pick(large), steps_m[large]
    pixel_m2 = np.linalg.det(steps_m)
    hole_m2 = thresholds.min_hole_m2
    hole_m2 = thresholds.min_area_m2 if hole_m2 is None else hole_m2
    return ComponentSelection(
        components, steps_m, margins(steps_m, grid, thresholds),
        thresholds.min_area_m2 / pixel_m2, hole_m2 / pixel_m2,
    )  # fmt: skip
