"""Components above the minimum area, with their thresholds in pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.options import Thresholds
from geoseg.vectorization.components.labelling import Components

# (pixel steps in metres (n, 2, 2), grid, thresholds) → margins of components in pixels (n,).
MarginFunction = Callable[[np.ndarray, Grid, Thresholds], np.ndarray]


@dataclass(frozen=True)
class ComponentSelection:
    """Components above the minimum area, with their thresholds.

    Thresholds in square metres are converted to pixels per component, since the area of a pixel
    may vary over a raster.

    Attributes:
        components: The components.
        steps_m: float64 (n, 2, 2), steps to the next column and row at each, see `Grid.steps_m`.
        margins: int64 (n,), pixels around each component that its outlines depend on.
        min_object_px: float64 (n,), smallest area of an object, in pixels.
        min_part_px: float64 (n,), smallest area of an object that touches others, in pixels.
        min_hole_px: float64 (n,), smallest area of a hole that is not filled, in pixels.
    """

    components: Components
    steps_m: np.ndarray
    margins: np.ndarray
    min_object_px: np.ndarray
    min_part_px: np.ndarray
    min_hole_px: np.ndarray

    def __len__(self) -> int:
        return len(self.components)

    def pick(self, chosen: np.ndarray | slice) -> ComponentSelection:
        """Return the components at a mask, indices or a slice."""
        arrays = (
            self.steps_m, self.margins, self.min_object_px, self.min_part_px, self.min_hole_px,
        )  # fmt: skip
        return ComponentSelection(
            self.components.pick(chosen), *(array[chosen] for array in arrays)
        )

    def beginning_in(self, window: Window) -> np.ndarray:
        """Return the indices of the components whose first pixel is in a window."""
        firsts, width = self.components.firsts, self.components.width
        ends = np.array([window.row_off, window.row_off + window.height]) * width
        begin, end = np.searchsorted(firsts, ends)
        columns = firsts[begin:end] % width - window.col_off
        inside: np.ndarray = begin + np.flatnonzero((columns >= 0) & (columns < window.width))
        return inside


def select_components(
    components: Components, grid: Grid, thresholds: Thresholds, margins: MarginFunction
) -> ComponentSelection:
    """Select the components above the minimum area.

    Footprints that are larger than a part, but not than the minimum area, are dropped later, so
    that they have no influence on the outlines of their neighbours.
    """
    area_m2, part_m2, hole_m2 = (
        thresholds.min_area_m2 if size is None else size
        for size in (thresholds.min_area_m2, thresholds.min_part_m2, thresholds.min_hole_m2)
    )
    object_m2 = min(area_m2, part_m2)
    steps_m = grid.steps_m(*components.centres.T)
    large = components.areas * np.linalg.det(steps_m) >= object_m2
    components, steps_m = components.pick(large), steps_m[large]
    pixel_m2 = np.linalg.det(steps_m)
    return ComponentSelection(
        components, steps_m, margins(steps_m, grid, thresholds),
        object_m2 / pixel_m2, part_m2 / pixel_m2, hole_m2 / pixel_m2,
    )  # fmt: skip
