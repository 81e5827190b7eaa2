"""Where outlines run: along the pixels, or between them where the probability crosses."""

from __future__ import annotations

import numpy as np
import shapely

from geoseg.vectorization.components.runs import expand_ranges
from geoseg.vectorization.outlines.rings import Rings

# An outline stays this far from the centres of pixels, so that it never crosses itself.
_REACH = 0.45

# Vertices are multiples of this part of a pixel: sums of them are exact, wherever they lie.
_GRAIN = 256

# In square-root pixels; removes vertices on straight lines and hardly any others.
_COLLINEAR = 1e-3

# Groups that are simplified in one call: more of them take longer each.
_TOGETHER = 100


def step_rings(rings: Rings) -> Rings:
    """The same rings with a vertex at every corner of a pixel that they pass."""
    steps = rings.points[rings.following] - rings.points
    lengths = np.abs(steps).sum(axis=1)
    edges = np.repeat(np.arange(len(lengths)), lengths)
    done = expand_ranges(np.zeros(len(lengths), dtype=np.int64), lengths)
    points = rings.points[edges] + np.sign(steps)[edges] * done[:, None]
    offsets = np.concatenate([[0], np.cumsum(lengths)])[rings.offsets]
    return Rings(points, offsets, rings.pieces, rings.holes)


def cross_rings(rings: Rings, labels: np.ndarray, prob: np.ndarray, threshold: float) -> Rings:
    """Moves outlines from the pixels' edges to where the probability crosses the threshold.

    Each edge between a pixel inside and one outside becomes a vertex on the line between their
    centres, where the probability, linear between them, has the threshold (marching squares).
    Edges between two objects, and beside nodata, keep their middle. Where more than two edges
    meet, and beside nodata, all keep the pixels' corner, and where two straight walls meet, their
    corner stays; so objects that touch still do, without gap or overlap, none reaches into nodata,
    and rings stay simple.

    Args:
        rings: With a vertex at every corner of a pixel, see `step_rings`.
        labels: int32 (H, W), the object of each pixel, 0 where there is none.
        prob: float32 (H, W), NaN on nodata.
        threshold: Of the objects' pixels the least probability.
    """
    begin, following = rings.points, rings.following
    step = begin[following] - begin
    # An outline runs down at the left: what it bounds lies at this side of it.
    inward = np.column_stack([step[:, 1], -step[:, 0]])
    middle = begin + step / 2
    inside = np.floor(middle + inward / 2).astype(np.int64)
    moved = _shift(inside, inside - inward, labels, prob, threshold)[:, None] * inward
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    padded = np.pad(labels, 2)
    junction = _is_junction(begin, padded) | _is_beside(begin, np.pad(np.isnan(prob), 2))
    corner = ~junction & _is_corner(begin, step[before], step, padded)
    extra = begin + np.where(corner[:, None], moved[before] + moved, 0.0)
    return _interleave(rings, extra, junction | corner, middle + moved)


def _interleave(rings: Rings, extra: np.ndarray, chosen: np.ndarray, points: np.ndarray) -> Rings:
    """Rings of some points, each after its extra one where that is chosen."""
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
    """How far inward from the middle of an edge its vertex goes, in pixels."""
    height, width = labels.shape
    x, y = outside[:, 0], outside[:, 1]
    there = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    x, y = np.where(there, x, 0), np.where(there, y, 0)
    high = prob[inside[:, 1], inside[:, 0]].astype(np.float64)
    low = np.where(there & (labels[y, x] == 0), prob[y, x], np.nan).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        crossed = (high >= threshold) & (low < threshold)
        shift = 0.5 - (high - threshold) / (high - low)
    shift = np.where(crossed, np.clip(shift, -_REACH, _REACH), 0.0)
    rounded: np.ndarray = np.rint(shift * _GRAIN) / _GRAIN
    return rounded


def _is_junction(points: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """Whether more than two edges meet at corners of pixels; labels have two more on each side."""
    around = _around(points, padded)
    many: np.ndarray = (around != np.roll(around, 1, axis=0)).sum(axis=0) > 2
    return many


def _is_beside(points: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """Whether corners of pixels touch a mask, which has two more on each side."""
    beside: np.ndarray = np.logical_or.reduce(_around(points, padded))
    return beside


def _around(points: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """The four pixels (4, n) at corners of pixels."""
    x, y = points[:, 0] + 1, points[:, 1] + 1
    return np.stack([padded[y, x], padded[y, x + 1], padded[y + 1, x + 1], padded[y + 1, x]])


def _is_corner(
    points: np.ndarray, arriving: np.ndarray, leaving: np.ndarray, padded: np.ndarray
) -> np.ndarray:
    """Whether an outline turns, between two edges that go on straight for one pixel more.

    That is said of edges, whoever's outline follows them, so neighbours agree.
    """
    turns = (arriving != leaving).any(axis=1)
    on = _is_edge(points - 2 * arriving, arriving, padded)
    corner: np.ndarray = turns & on & _is_edge(points + leaving, leaving, padded)
    return corner


def _is_edge(points: np.ndarray, steps: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """Whether two labels meet along a pixel's side, from a point by a step."""
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


def simplify(polygons: np.ndarray, groups: np.ndarray, tolerances: np.ndarray) -> np.ndarray:
    """Simplifies outlines so that walls shared within a group stay shared.

    Groups do not see each other: they are moved apart, by whole pixels, so that what becomes of
    one does not depend on the company in which it is simplified.

    Args:
        polygons: Polygons (n,) in pixels; those of a group share the vertices of shared walls.
        groups: int64 (n,), sorted.
        tolerances: In pixels, (n,), the same within a group; corners whose triangle has an area
            below its square go.

    Returns:
        As many valid polygons; a group of which one would become invalid keeps its vertices.
    """
    simple = polygons.copy()
    numbers = np.cumsum(np.diff(groups, prepend=-1) > 0) - 1
    for share in range(0, int(numbers.max(initial=-1)) + 1, _TOGETHER):
        own = slice(*np.searchsorted(numbers, [share, share + _TOGETHER]).tolist())
        simple[own] = _simplify_together(polygons[own], groups[own], tolerances[own])
    unsound = np.unique(groups[~_sound(simple)])
    broken = np.isin(groups, unsound)
    simple[broken] = polygons[broken]
    return simple


def _simplify_together(
    polygons: np.ndarray, groups: np.ndarray, tolerances: np.ndarray
) -> np.ndarray:
    apart = _Apart(polygons, groups)
    simple = polygons.copy()
    for tolerance in np.unique(tolerances):
        some = np.flatnonzero(tolerances == tolerance)
        found = shapely.coverage_simplify(apart.there[some], max(float(tolerance), _COLLINEAR))
        simple[some] = apart.back(found, some)
    return simple


class _Apart:
    """Polygons whose groups are moved apart, and the way back."""

    def __init__(self, polygons: np.ndarray, groups: np.ndarray) -> None:
        bounds = shapely.bounds(polygons)
        first = np.concatenate([[True], groups[1:] != groups[:-1]])
        begins = np.flatnonzero(first)
        left = np.floor(np.minimum.reduceat(bounds[:, 0], begins))
        right = np.ceil(np.maximum.reduceat(bounds[:, 2], begins))
        widths = right - left + 2
        shifts = np.concatenate([[0], np.cumsum(widths)[:-1]]) - left
        self._shifts = shifts[np.cumsum(first) - 1]
        self.there = move_polygons(polygons, self._shifts)

    def back(self, polygons: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Some of them, changed, where they were."""
        return move_polygons(polygons, -self._shifts[which])


def move_polygons(
    polygons: np.ndarray, columns: np.ndarray | int, rows: np.ndarray | int = 0
) -> np.ndarray:
    """Polygons (n,) so many pixels further on, each by its own number or all by one."""
    counts = shapely.get_num_coordinates(polygons)
    points = shapely.get_coordinates(polygons)
    for axis, shifts in enumerate((columns, rows)):
        points[:, axis] += np.repeat(np.broadcast_to(shifts, len(polygons)), counts)
    moved: np.ndarray = shapely.set_coordinates(polygons.copy(), points)
    return moved


def _sound(polygons: np.ndarray) -> np.ndarray:
    kinds = shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON
    sound: np.ndarray = kinds & shapely.is_valid(polygons) & ~shapely.is_empty(polygons)
    return sound
