"""Windows in which components are traced together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.vectorization.components.labelling import Components


@dataclass(frozen=True)
class TraceWindow:
    """Components that are traced together.

    Attributes:
        strip: Number of the strip of rows in which the components begin.
        window: Contains the components and their margins, clipped to the grid.
        indices: int64 (n,), rows of the components in the table.
    """

    strip: int
    window: Window
    indices: np.ndarray


def plan_windows(
    components: Components, grid: Grid, side: int, margins: np.ndarray
) -> Iterator[TraceWindow]:
    """Group components into windows, strip by strip.

    Args:
        components: Sorted by their first pixel.
        grid: Grid of the raster.
        side: Rows and columns of the squares by which components are grouped. A component that is
            larger than half a square gets a window to itself, so that no window is much larger
            than needed.
        margins: int64 (n,), pixels around each component that its outlines depend on.
    """
    large = np.maximum(components.heights, components.widths) > side // 2
    strips, columns = components.tops // side, components.lefts // side
    alone = np.where(large, np.arange(1, len(components) + 1), 0)
    order = np.lexsort((alone, columns, strips))
    keys = np.stack([strips, columns, alone])[:, order]
    begins = np.flatnonzero((np.diff(keys, axis=1, prepend=-1) != 0).any(axis=0))
    for begin, end in zip(begins, np.append(begins, len(order))[1:], strict=True):
        indices = order[begin:end]
        window = _window_around(components, indices, grid, margins)
        yield TraceWindow(int(strips[indices[0]]), window, indices)


def _window_around(
    components: Components, indices: np.ndarray, grid: Grid, margins: np.ndarray
) -> Window:
    chosen, margin = components.pick(indices), int(margins[indices].max())
    left, top = int(chosen.lefts.min()), int(chosen.tops.min())
    width, height = int(chosen.rights.max()) - left, int(chosen.bottoms.max()) - top
    return grid.widen(Window(left, top, width, height), margin)
