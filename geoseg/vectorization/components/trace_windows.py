"""Which components are traced together, and from which window."""

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
        band: What begins in one band of rows has one number.
        window: Holds them and the pixels around them, as far as the grid reaches.
        chosen: int64 (n,), their places in the table.
    """

    band: int
    window: Window
    chosen: np.ndarray


def plan_windows(
    components: Components, grid: Grid, side: int, margins: np.ndarray
) -> Iterator[TraceWindow]:
    """Deals components to windows, band by band.

    Args:
        components: Sorted by their first pixel.
        grid: Of the raster.
        side: Rows and columns in which the components of a window begin. One that is larger than
            half of it has a window of its own, so that none is much larger than needed.
        margins: int64 (n,), pixels around each that are needed, too.
    """
    large = np.maximum(components.heights, components.widths) > side // 2
    bands, panels = components.tops // side, components.lefts // side
    alone = np.where(large, np.arange(1, len(components) + 1), 0)
    order = np.lexsort((alone, panels, bands))
    keys = np.stack([bands, panels, alone])[:, order]
    begins = np.flatnonzero((np.diff(keys, axis=1, prepend=-1) != 0).any(axis=0))
    for begin, end in zip(begins, np.append(begins, len(order))[1:], strict=True):
        chosen = order[begin:end]
        yield TraceWindow(int(bands[chosen[0]]), _around(components, chosen, grid, margins), chosen)


def _around(components: Components, chosen: np.ndarray, grid: Grid, margins: np.ndarray) -> Window:
    own, margin = components.pick(chosen), int(margins[chosen].max())
    left, top = int(own.lefts.min()), int(own.tops.min())
    width, height = int(own.rights.max()) - left, int(own.bottoms.max()) - top
    return grid.widen(Window(left, top, width, height), margin)
