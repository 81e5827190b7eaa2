"""Run-length encoding of rasters and connected components of runs.

A run is a sequence of equal pixels in a row. Objects cover few pixels of a scene and a run replaces
many of them, so the cost of an operation on runs grows with the rows of objects, not with the
pixels of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Runs:
    """Runs of pixels of one value, in scan order.

    Attributes:
        rows: int64 (n,), row of each run.
        starts: int64 (n,), first column.
        stops: int64 (n,), column after the last one.
        values: (n,), pixel value; never 0.
    """

    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """Number of pixels of each run."""
        lengths: np.ndarray = self.stops - self.starts
        return lengths

    def with_values(self, values: np.ndarray) -> Runs:
        """Return the same runs with other values."""
        return Runs(self.rows, self.starts, self.stops, values)

    def move(self, rows: int, columns: int) -> Runs:
        """Return the runs moved by a number of rows and columns."""
        return Runs(self.rows + rows, self.starts + columns, self.stops + columns, self.values)

    def pick(self, chosen: np.ndarray | slice) -> Runs:
        """Return the runs at a mask, indices or a slice."""
        return Runs(*(part[chosen] for part in (self.rows, self.starts, self.stops, self.values)))


def find_runs(raster: np.ndarray) -> Runs:
    """Return the runs of a raster (H, W) where it is not 0."""
    width = raster.shape[1]
    flat = np.ascontiguousarray(raster).ravel()
    changes = np.empty(flat.size, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=changes[1:])
    changes[::width] = True
    begins = np.flatnonzero(changes)
    values = flat[begins]
    kept = values != 0
    ends = np.append(begins[1:], flat.size)[kept]
    begins = begins[kept]
    rows = begins // width
    return Runs(rows, begins - rows * width, ends - rows * width, values[kept])


def label_runs(runs: Runs, *, diagonal: bool) -> tuple[np.ndarray, int]:
    """Label the connected components of runs, from 0 in the order of their first run.

    Only runs of the same value are connected.

    Args:
        runs: In scan order.
        diagonal: Whether pixels that touch at a corner are connected.

    Returns:
        Component of each run, and the number of components.
    """
    upper, lower = touching_pairs(runs, diagonal=diagonal)
    same = runs.values[upper] == runs.values[lower]
    links = coo_array(
        (np.ones(int(same.sum()), dtype=bool), (upper[same], lower[same])), (len(runs), len(runs))
    )
    count, owners = connected_components(links, directed=False)
    return owners, count


def touching_pairs(runs: Runs, *, diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of runs in adjacent rows that touch.

    Args:
        runs: In scan order.
        diagonal: Whether runs that touch at a corner count.

    Returns:
        Indices of the upper and of the lower run of each pair.
    """
    if not len(runs):
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing
    reach = int(diagonal)
    # Row and column as one sorted number, so that partners are found by binary search.
    stride = int(runs.stops.max()) + 2
    below = (runs.rows + 1) * stride
    first = np.searchsorted(
        runs.rows * stride + runs.stops, below + runs.starts - reach, side="right"
    )
    last = np.searchsorted(runs.rows * stride + runs.starts, below + runs.stops + reach)
    upper = np.repeat(np.arange(len(runs)), last - first)
    return upper, expand_ranges(first, last - first)


def intersect_runs(runs: Runs, others: Runs) -> Runs:
    """Return the parts of runs that other runs cover, with the values of the former.

    Args:
        runs: In scan order; none overlap.
        others: Likewise.
    """
    if not len(runs) or not len(others):
        return runs.pick(slice(0))
    # Row and column as one sorted number, so that partners are found by binary search.
    stride = int(max(runs.stops.max(), others.stops.max())) + 1
    begins, ends = runs.rows * stride + runs.starts, runs.rows * stride + runs.stops
    first = np.searchsorted(others.rows * stride + others.stops, begins, side="right")
    last = np.searchsorted(others.rows * stride + others.starts, ends)
    own = np.repeat(np.arange(len(runs)), last - first)
    other = expand_ranges(first, last - first)
    return Runs(
        runs.rows[own],
        np.maximum(runs.starts[own], others.starts[other]),
        np.minimum(runs.stops[own], others.stops[other]),
        runs.values[own],
    )


def concatenate_runs(*some: Runs) -> Runs:
    """Concatenate runs."""
    return Runs(
        np.concatenate([runs.rows for runs in some]),
        np.concatenate([runs.starts for runs in some]),
        np.concatenate([runs.stops for runs in some]),
        np.concatenate([runs.values for runs in some]),
    )


def merge_runs(runs: Runs) -> Runs:
    """Sort runs in scan order and merge adjacent ones of one value; none may overlap."""
    order = np.lexsort((runs.starts, runs.rows))
    runs = runs.pick(order)
    begins = np.ones(len(runs), dtype=bool)
    begins[1:] = (
        (runs.starts[1:] != runs.stops[:-1])
        | (runs.rows[1:] != runs.rows[:-1])
        | (runs.values[1:] != runs.values[:-1])
    )
    ends = np.append(begins[1:], True)
    return Runs(runs.rows[begins], runs.starts[begins], runs.stops[ends], runs.values[begins])


def run_pixels(runs: Runs, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of runs.

    Args:
        runs: Runs in any order.
        width: Columns of the raster.

    Returns:
        Flat index row · width + column of each pixel, and the index of its run.
    """
    lengths = runs.lengths
    indices = expand_ranges(runs.rows * width + runs.starts, lengths)
    return indices, np.repeat(np.arange(len(runs)), lengths)


def rasterize_runs(runs: Runs, shape: tuple[int, int]) -> np.ndarray:
    """Return a raster int32 (H, W) with the values of runs, and 0 elsewhere."""
    raster = np.zeros(shape, dtype=np.int32)
    indices, owners = run_pixels(runs, shape[1])
    raster.ravel()[indices] = runs.values[owners]
    return raster


def expand_ranges(firsts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenate the ranges `firsts[i] ... firsts[i] + counts[i] - 1` of all i."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    expanded: np.ndarray = np.arange(total) + np.repeat(firsts - (ends - counts), counts)
    return expanded
