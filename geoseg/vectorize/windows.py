"""Which components are traced together, and from which window."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rasterio.windows import Window

from geoseg.grid import Grid
from geoseg.vectorize.components import Components


def deal_windows(
    components: Components, grid: Grid, rows: int, margin: int
) -> Iterator[tuple[Window, np.ndarray]]:
    """Deals components, in their order, to windows that hold them and some pixels around them.

    Args:
        components: Sorted by their first pixel.
        grid: Of the raster.
        margin: So many pixels around them, as far as the grid reaches.
        rows: About so many are in a window. A component of more rows has a window of its own.

    Yields:
        A window, and which components (bool, n) are to be traced from it.
    """
    tall = components.bottoms - components.tops > rows
    # A tall one ends the share before it, for the order must stay.
    shares = components.tops // rows + np.cumsum(tall) + np.concatenate([[0], np.cumsum(tall)[:-1]])
    begins = np.flatnonzero(np.diff(shares, prepend=-1))
    for begin, end in zip(begins, np.append(begins, len(components))[1:], strict=True):
        chosen = np.zeros(len(components), dtype=bool)
        chosen[begin:end] = True
        share = components.pick(slice(begin, end))
        yield _around(share, grid, margin, alone=bool(tall[begin])), chosen


def _around(components: Components, grid: Grid, margin: int, *, alone: bool) -> Window:
    top = max(0, int(components.tops.min()) - margin)
    bottom = min(grid.height, int(components.bottoms.max()) + margin)
    left, right = 0, grid.width
    if alone:
        left = max(0, int(components.lefts.min()) - margin)
        right = min(grid.width, int(components.rights.max()) + margin)
    return Window(left, top, right - left, bottom - top)
