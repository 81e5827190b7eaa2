"""Outlines along pixel edges or at the crossing of the threshold."""

from __future__ import annotations

import numpy as np
import shapely

from geoseg.vectorization.components.runs import expand_ranges
from geoseg.vectorization.outlines.rings import Rings

# Vertices move at most this far from a pixel edge. They stay away from pixel centres, so that an
# outline never crosses itself.
_MAX_SHIFT = 0.45

# Vertices are multiples of 1/256 pixel, so that sums of coordinates are exact in any window.
_GRAIN = 256


def step_rings(rings: Rings) -> Rings:
    """Add a vertex at every pixel corner along the rings."""
    steps = rings.points[rings.following] - rings.points
    lengths = np.abs(steps[:, 0]) + np.abs(steps[:, 1])
    edges = np.repeat(np.arange(len(lengths)), lengths)
    done = expand_ranges(np.zeros(len(lengths), dtype=np.int64), lengths)
    points = rings.points[edges] + np.sign(steps)[edges] * done[:, None]
    offsets = np.concatenate([[0], np.cumsum(lengths)])[rings.offsets]
    return Rings(points, offsets, rings.pieces, rings.holes)


def cross_rings(rings: Rings, labels: np.ndarray, prob: np.ndarray, threshold: float) -> Rings:
    """Move outlines from pixel edges to where the probability crosses the threshold.

    Each edge between a pixel inside and one outside becomes a vertex on the line between their
    centres, where the linearly interpolated probability equals the threshold (marching squares).
    Edges between two objects and next to nodata keep their midpoint. Pixel corners are kept where
    more than two edges meet, next to nodata, and where two straight walls meet. So touching objects
    still touch without gap or overlap, no object extends into nodata, and rings stay simple.

    Args:
        rings: Rings with a vertex at every pixel corner, see `step_rings`.
        labels: int32 (H, W), object of each pixel, 0 for background.
        prob: float32 (H, W), NaN on nodata.
        threshold: Least probability of the pixels of objects.
    """
    begin, following = rings.points, rings.following
    step = begin[following] - begin
    # Rings run downwards on the left side, so this vector points into the object.
    inward = np.column_stack([step[:, 1], -step[:, 0]])
    middle = begin + step / 2
    inside = np.floor(middle + inward / 2).astype(np.int64)
    moved = _shift(inside, inside - inward, labels, prob, threshold)[:, None] * inward
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    padded = np.pad(labels, 2)
    junction, unknown = _is_junction(begin, padded), np.isnan(prob)
    if unknown.any():
        junction |= _is_beside(begin, np.pad(unknown, 2))
    corner = ~junction & _is_corner(begin, step[before], step, padded)
    extra = begin + np.where(corner[:, None], moved[before] + moved, 0.0)
    return _interleave(rings, extra, junction | corner, middle + moved)


def _interleave(rings: Rings, extra: np.ndarray, chosen: np.ndarray, points: np.ndarray) -> Rings:
    """Return rings of points, each preceded by its extra point where that is chosen."""
    counts = 1 + chosen.astype(np.int64)
    ends = np.cumsum(counts)
    both = np.empty((int(ends[-1]) if len(ends) else 0, 2))
    both[ends - 1] = points
    both[(ends - counts)[chosen]] = extra[chosen]
    offsets = np.concatenate([[0], ends])[rings.offsets]
    return Rings(both, offsets, rings.pieces, rings.holes)


def _shift(
    inside: np.ndarray,
    outside: np.ndarray,
    labels: np.ndarray,
    prob: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Return how far the vertex of each edge moves inwards from the midpoint, in pixels."""
    height, width = labels.shape
    x, y = outside[:, 0], outside[:, 1]
    exists = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    x, y = np.where(exists, x, 0), np.where(exists, y, 0)
    high = prob[inside[:, 1], inside[:, 0]].astype(np.float64)
    low = np.where(exists & (labels[y, x] == 0), prob[y, x], np.nan).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        crossed = (high >= threshold) & (low < threshold)
        shift = 0.5 - (high - threshold) / (high - low)
    shift = np.where(crossed, np.clip(shift, -_MAX_SHIFT, _MAX_SHIFT), 0.0)
    rounded: np.ndarray = np.rint(shift * _GRAIN) / _GRAIN
    return rounded


def _is_junction(points: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """Return at which pixel corners more than two edges meet; labels are padded by 2."""
    around = _around(points, padded)
    many: np.ndarray = (around != np.roll(around, 1, axis=0)).sum(axis=0) > 2
    return many


def _is_beside(points: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """Return which pixel corners touch a mask, which is padded by 2."""
    beside: np.ndarray = np.logical_or.reduce(_around(points, padded))
    return beside


def _around(points: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """Return the four pixels (4, n) around each pixel corner."""
    x, y = points[:, 0] + 1, points[:, 1] + 1
    return np.stack([padded[y, x], padded[y, x + 1], padded[y + 1, x + 1], padded[y + 1, x]])


def _is_corner(
    points: np.ndarray, arriving: np.ndarray, leaving: np.ndarray, padded: np.ndarray
) -> np.ndarray:
    """Return where an outline turns between two edges that continue straight for another pixel.

    The result depends on edges between any labels, so neighbours get the same corners.
    """
    turning = arriving != leaving
    corner: np.ndarray = turning[:, 0] | turning[:, 1]
    for before, step in ((-2 * arriving, arriving), (leaving, leaving)):
        turns = np.flatnonzero(corner)
        corner[turns] = _is_edge(points[turns] + before[turns], step[turns], padded)
    return corner


def _is_edge(points: np.ndarray, steps: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """Return whether two labels meet along the pixel side from each point by its step."""
    sideways = np.column_stack([steps[:, 1], -steps[:, 0]])
    middle = points + steps / 2
    limit = np.array(padded.shape[::-1]) - 1
    pixels = [
        np.clip(np.floor(middle + side / 2).astype(np.int64) + 2, 0, limit)
        for side in (sideways, -sideways)
    ]
    one, other = (padded[pixel[:, 1], pixel[:, 0]] for pixel in pixels)
    differ: np.ndarray = one != other
    return differ


def move_polygons(
    polygons: np.ndarray, columns: np.ndarray | int, rows: np.ndarray | int = 0
) -> np.ndarray:
    """Move polygons (n,) by columns and rows, given per polygon or once for all."""
    counts = shapely.get_num_coordinates(polygons)
    points = shapely.get_coordinates(polygons)
    for axis, shifts in enumerate((columns, rows)):
        points[:, axis] += np.repeat(np.broadcast_to(shifts, len(polygons)), counts)
    moved: np.ndarray = shapely.set_coordinates(polygons.copy(), points)
    return moved
