"""Small holes of objects, filled run by run."""

from __future__ import annotations

import numpy as np

from geoseg.vectorization.components.runs import Runs, concatenate_runs, label_runs, merge_runs


def fill_holes(runs: Runs, valid: np.ndarray, min_areas: np.ndarray) -> Runs:
    """Adds to objects those of their holes that are too small to stay.

    A hole is ground that one object encloses, by pixels that touch at corners at least. It stays
    if it holds nodata or another object. Ground at the edge of the raster is no hole. What the
    runs leave out is ground: of components, those that are too small are dropped before, and a
    hole is filled over them.

    Args:
        runs: Objects in scan order, 8-connected each; values are their numbers from 1.
        valid: bool (H, W), False on nodata.
        min_areas: Pixels from which on a hole stays, of object 1, 2, ...

    Returns:
        Runs in scan order; runs of one object do not meet in a row.
    """
    ground, left, right = _ground_between(runs, valid.shape)
    owners, count = label_runs(ground, diagonal=False)
    least, most = np.full(count, np.iinfo(np.int64).max), np.zeros(count, dtype=np.int64)
    for side in (left, right):
        np.minimum.at(least, owners, side)
        np.maximum.at(most, owners, side)
    open_ = (ground.rows == 0) | (ground.rows == len(valid) - 1) | _holds(~valid, ground)
    # From edge to edge no object is beside the ground at all.
    closed = (least == most) & (most > 0) & (np.bincount(owners, open_, count) == 0)
    closed[closed] = (
        np.bincount(owners, ground.lengths, count)[closed] < min_areas[most[closed] - 1]
    )
    filling = ground.with_values(most[owners]).pick(closed[owners])
    return merge_runs(concatenate_runs(runs, filling)) if len(filling) else runs


def _ground_between(runs: Runs, shape: tuple[int, int]) -> tuple[Runs, np.ndarray, np.ndarray]:
    """Runs of what is no object, and the object at the left and the right of each, 0 at edges."""
    height, width = shape
    every = np.arange(height)
    # Each run ends at what follows it in its row; before the first one there is ground, too.
    rows = np.concatenate([every, runs.rows])
    starts = np.concatenate([np.zeros(height, dtype=np.int64), runs.stops])
    left = np.concatenate([np.zeros(height, dtype=np.int64), runs.values])
    order = np.lexsort((starts, np.arange(len(rows)) >= height, rows))
    rows, starts, left = rows[order], starts[order], left[order]
    # What follows is the start of the next run of the row, which comes next in this order.
    stops = np.full(len(rows), width)
    right = np.zeros(len(rows), dtype=np.int64)
    follows = np.append(rows[1:] == rows[:-1], False)
    stops[follows] = runs.starts
    right[follows] = runs.values
    kept = stops > starts
    values = np.ones(int(kept.sum()), dtype=np.uint8)
    return Runs(rows[kept], starts[kept], stops[kept], values), left[kept], right[kept]


def _holds(wrong: np.ndarray, runs: Runs) -> np.ndarray:
    """Whether any pixel of each run is of a mask."""
    if not wrong.any():
        return np.zeros(len(runs), dtype=bool)
    before = np.concatenate([[0], np.cumsum(wrong.ravel())])
    flat = runs.rows * wrong.shape[1]
    found: np.ndarray = before[flat + runs.stops] > before[flat + runs.starts]
    return found
