"""Rasters as runs, the stretches of equal pixels of each row, and what of them is connected.

Objects cover few pixels of a scene, and a run stands for many of them: whatever is done to runs
is done as often as objects have rows, not as often as the scene has pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Runs:
    """Stretches of pixels of one value, in scan order.

    Attributes:
        rows: int64 (n,), the row of each.
        starts: int64 (n,), its first column.
        stops: int64 (n,), the column behind its last.
        values: (n,), what its pixels hold; never 0.
    """

    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """Pixels of each."""
        lengths: np.ndarray = self.stops - self.starts
        return lengths

    def with_values(self, values: np.ndarray) -> Runs:
        """The same with other values."""
        return Runs(self.rows, self.starts, self.stops, values)

    def move(self, rows: int, columns: int) -> Runs:
        """The same, so many rows and columns further on."""
        return Runs(self.rows + rows, self.starts + columns, self.stops + columns, self.values)

    def pick(self, chosen: np.ndarray | slice) -> Runs:
        """Those that a mask, indices or a slice choose."""
        return Runs(*(part[chosen] for part in (self.rows, self.starts, self.stops, self.values)))


def find_runs(raster: np.ndarray) -> Runs:
    """Runs of a raster (H, W) where it is not 0."""
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
    """Numbers the connected components of each value from 0, by their first run.

    Args:
        runs: In scan order.
        diagonal: Whether pixels that touch at a corner are connected.

    Returns:
        Component of each run, and how many there are.
    """
    upper, lower = touching_pairs(runs, reach=int(diagonal))
    same = runs.values[upper] == runs.values[lower]
    links = coo_array(
        (np.ones(int(same.sum()), dtype=bool), (upper[same], lower[same])), (len(runs), len(runs))
    )
    count, owners = connected_components(links, directed=False)
    return owners, count


def touching_pairs(runs: Runs, *, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs in adjacent rows that share columns, or do when widened.

    Args:
        runs: In scan order.
        reach: 1 if a shared corner counts, else 0.

    Returns:
        Indices of the upper and of the lower run of each pair.
    """
    if not len(runs):
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing
    stride = int(runs.stops.max()) + 2
    below = (runs.rows + 1) * stride
    first = np.searchsorted(
        runs.rows * stride + runs.stops, below + runs.starts - reach, side="right"
    )
    last = np.searchsorted(runs.rows * stride + runs.starts, below + runs.stops + reach)
    upper = np.repeat(np.arange(len(runs)), last - first)
    return upper, expand_ranges(first, last - first)


def concatenate_runs(*some: Runs) -> Runs:
    """All runs of several, one after the other."""
    return Runs(
        np.concatenate([runs.rows for runs in some]),
        np.concatenate([runs.starts for runs in some]),
        np.concatenate([runs.stops for runs in some]),
        np.concatenate([runs.values for runs in some]),
    )


def merge_runs(runs: Runs) -> Runs:
    """Runs in scan order, those of one value that meet in a row as one; none may overlap."""
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
    """The pixels of runs, and the run of each.

    Args:
        runs: Any.
        width: Of the raster.

    Returns:
        row · width + column of each pixel, and the index of its run.
    """
    lengths = runs.lengths
    places = expand_ranges(runs.rows * width + runs.starts, lengths)
    return places, np.repeat(np.arange(len(runs)), lengths)


def rasterize_runs(runs: Runs, shape: tuple[int, int]) -> np.ndarray:
    """The raster int32 (H, W) that holds the values of runs, and 0 elsewhere."""
    raster = np.zeros(shape, dtype=np.int32)
    places, owners = run_pixels(runs, shape[1])
    raster.ravel()[places] = runs.values[owners]
    return raster


def expand_ranges(firsts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`firsts[i], firsts[i] + 1, ...`, `counts[i]` of them, for each i one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    expanded: np.ndarray = np.arange(total) + np.repeat(firsts - (ends - counts), counts)
    return expanded
