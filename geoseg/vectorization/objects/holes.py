"""Filling of small holes, on runs."""

from __future__ import annotations

import numpy as np

from geoseg.vectorization.components.runs import Runs, concatenate_runs, label_runs, merge_runs


def fill_holes(runs: Runs, valid: np.ndarray, min_areas: np.ndarray) -> Runs:
    """Fill small holes of objects.

    A hole is a 4-connected region of background that is enclosed by the pixels of one object. Holes
    that contain nodata or another object, and background at the border of the raster, are not
    filled. Components that were dropped because they are too small count as background.

    Args:
        runs: Objects in scan order, 8-connected each; values are their numbers from 1.
        valid: bool (H, W), False on nodata.
        min_areas: Smallest area of a hole that is not filled, in pixels, of object 1, 2, ...

    Returns:
        Runs in scan order; runs of one object in a row do not touch.
    """
    background, left, right = _background_runs(runs, valid.shape)
    owners, count = label_runs(background, diagonal=False)
    lowest, highest = np.full(count, np.iinfo(np.int64).max), np.zeros(count, dtype=np.int64)
    for side in (left, right):
        np.minimum.at(lowest, owners, side)
        np.maximum.at(highest, owners, side)
    open_ = (
        (background.rows == 0) | (background.rows == len(valid) - 1) | _contain(~valid, background)
    )
    # One neighbouring object only. Regions that span the raster have none: their highest is 0.
    closed = (lowest == highest) & (highest > 0) & (np.bincount(owners, open_, count) == 0)
    closed[closed] = (
        np.bincount(owners, background.lengths, count)[closed] < min_areas[highest[closed] - 1]
    )
    filling = background.with_values(highest[owners]).pick(closed[owners])
    return merge_runs(concatenate_runs(runs, filling)) if len(filling) else runs


def _background_runs(runs: Runs, shape: tuple[int, int]) -> tuple[Runs, np.ndarray, np.ndarray]:
    """Return the runs of background, and the objects left and right of each; 0 at borders."""
    height, width = shape
    every = np.arange(height)
    # Background starts at the beginning of each row and after each run.
    rows = np.concatenate([every, runs.rows])
    starts = np.concatenate([np.zeros(height, dtype=np.int64), runs.stops])
    left = np.concatenate([np.zeros(height, dtype=np.int64), runs.values])
    order = np.lexsort((starts, np.arange(len(rows)) >= height, rows))
    rows, starts, left = rows[order], starts[order], left[order]
    # It ends at the next run of the row, which is the next one in this order.
    stops = np.full(len(rows), width)
    right = np.zeros(len(rows), dtype=np.int64)
    follows = np.append(rows[1:] == rows[:-1], False)
    stops[follows] = runs.starts
    right[follows] = runs.values
    kept = stops > starts
    values = np.ones(int(kept.sum()), dtype=np.uint8)
    return Runs(rows[kept], starts[kept], stops[kept], values), left[kept], right[kept]


def _contain(mask: np.ndarray, runs: Runs) -> np.ndarray:
    """Return which runs contain a pixel of a mask."""
    if not mask.any():
        return np.zeros(len(runs), dtype=bool)
    before = np.concatenate([[0], np.cumsum(mask.ravel())])
    flat = runs.rows * mask.shape[1]
    contain: np.ndarray = before[flat + runs.stops] > before[flat + runs.starts]
    return contain
