"""Simplification of outlines by Douglas-Peucker: walls stay shared, and outlines never cross.

A wall between two polygons is one arc, which is simplified once. At first an arc is one chord from
end to end. A chord is split at its farthest vertex while that is farther than the tolerance, and
further while it crosses another chord of its group, or leaves the zone of its group. At the latest
this ends with the edges of the traced outlines, which do neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from geoseg.vectorization.components.runs import expand_ranges
from geoseg.vectorization.outlines.arcs import Arcs, split_into_arcs
from geoseg.vectorization.outlines.distances import dot
from geoseg.vectorization.outlines.zones import stay_within

# Tolerance in pixels that removes little more than vertices on straight lines.
COLLINEAR_PX = 1e-3


def simplify_within(
    polygons: np.ndarray,
    groups: np.ndarray,
    zones: Mapping[int, BaseGeometry],
    tolerances: np.ndarray,
) -> np.ndarray:
    """Simplify outlines; every removed vertex is within the tolerance of the chord over it.

    Args:
        polygons: Valid polygons (n,) in pixels. Those of a group share the vertices of shared walls
            and do not overlap.
        groups: int64 (n,), group of each polygon, sorted.
        zones: Area of each group that contains its polygons, and that these must not leave; empty
            if it is not limited.
        tolerances: float64 (n,), in pixels, equal within a group.

    Returns:
        Valid polygons (n,). Those of a group do not depend on other groups.
    """
    if not len(polygons):
        return polygons
    arcs = split_into_arcs(polygons, groups)
    kept = np.zeros(len(arcs.points), dtype=bool)
    kept[arcs.offsets[:-1]] = kept[arcs.offsets[1:] - 1] = True
    tolerances = np.maximum(tolerances[np.searchsorted(groups, arcs.groups)], COLLINEAR_PX)
    _split_far(arcs, kept, _find_chords(arcs, kept), tolerances)
    unchecked = np.unique(groups)
    while len(unchecked):
        _split_wrong(arcs, kept, unchecked, zones, tolerances)
        polygons = arcs.draw(kept)
        chords = _find_chords(arcs, kept)
        chords = chords.pick(np.isin(arcs.groups[chords.arcs], unchecked) & chords.splittable)
        chords = chords.pick(_find_passing(arcs, chords, polygons, groups, zones))
        _split_once(arcs, kept, chords, np.zeros(len(chords.arcs)), tolerances)
        unchecked = np.unique(arcs.groups[chords.arcs])
    return polygons


@dataclass(frozen=True)
class _Chords:
    """Chords between two vertices of an arc.

    Attributes:
        begins: int64 (n,), index of the first vertex of each chord.
        ends: int64 (n,), index of its last vertex, which is larger.
        arcs: int64 (n,), arc of each chord.
    """

    begins: np.ndarray
    ends: np.ndarray
    arcs: np.ndarray

    def pick(self, chosen: np.ndarray) -> _Chords:
        """Return some of the chords."""
        return _Chords(self.begins[chosen], self.ends[chosen], self.arcs[chosen])

    @property
    def splittable(self) -> np.ndarray:
        """Which chords have vertices between their ends."""
        splittable: np.ndarray = self.ends - self.begins > 1
        return splittable

    def split(self, vertices: np.ndarray) -> _Chords:
        """Split each chord at a vertex."""
        return _Chords(
            np.concatenate([self.begins, vertices]),
            np.concatenate([vertices, self.ends]),
            np.concatenate([self.arcs, self.arcs]),
        )


def _find_chords(arcs: Arcs, kept: np.ndarray) -> _Chords:
    """Return the chords between the kept vertices, in the order of the arcs."""
    vertices = np.flatnonzero(kept)
    arc = np.searchsorted(arcs.offsets, vertices, side="right") - 1
    inside = arc[1:] == arc[:-1]
    return _Chords(vertices[:-1][inside], vertices[1:][inside], arc[1:][inside])


def _split_far(arcs: Arcs, kept: np.ndarray, chords: _Chords, tolerances: np.ndarray) -> None:
    """Split chords at their farthest vertices, which are kept, until all are near enough."""
    while len(chords.arcs):
        chords = chords.pick(chords.splittable)
        farthest, distances = _farthest(arcs.points, chords, np.zeros(len(chords.arcs)))
        far = distances > tolerances[chords.arcs]
        kept[farthest[far]] = True
        chords = chords.pick(far).split(farthest[far])


def _split_wrong(
    arcs: Arcs,
    kept: np.ndarray,
    groups: np.ndarray,
    zones: Mapping[int, BaseGeometry],
    tolerances: np.ndarray,
) -> None:
    """Split the chords of some groups until none crosses another one or leaves its zone."""
    while len(groups):
        chords = _find_chords(arcs, kept)
        chords = chords.pick(np.isin(arcs.groups[chords.arcs], groups))
        leaving = _find_leaving(arcs, chords, zones)
        wrong = (leaving | _find_crossing(arcs, chords)) & chords.splittable
        chords = chords.pick(wrong)
        # Inside its zone, a polygon can only become smaller there.
        sides = np.where(leaving[wrong], arcs.inner_sides[chords.arcs], 0)
        _split_once(arcs, kept, chords, sides, tolerances)
        groups = np.unique(arcs.groups[chords.arcs])


def _split_once(
    arcs: Arcs, kept: np.ndarray, chords: _Chords, sides: np.ndarray, tolerances: np.ndarray
) -> None:
    """Split chords, however near they are, and their halves as far as the tolerances demand."""
    farthest, _ = _farthest(arcs.points, chords, sides)
    kept[farthest] = True
    _split_far(arcs, kept, chords.split(farthest), tolerances)


def _farthest(
    points: np.ndarray, chords: _Chords, sides: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertex of each chord that is farthest from it, and its distance.

    Args:
        points: float64 (m, 2), vertices.
        chords: Chords with vertices between their ends.
        sides: (n,), 1 for the farthest vertex on the left side of a chord, -1 for the right side; 0
            for any side, as for chords without vertices on the wanted side.
    """
    counts = chords.ends - chords.begins - 1
    inner = expand_ranges(chords.begins + 1, counts)
    chord = np.repeat(np.arange(len(counts)), counts)
    begins, vectors = points[chords.begins], points[chords.ends] - points[chords.begins]
    along, offset = vectors[chord], points[inner] - begins[chord]
    squares = dot(along, along)
    share = np.clip(dot(offset, along) / np.where(squares > 0, squares, 1), 0, 1)
    distances = np.hypot(*(offset - share[:, None] * along).T)
    left = along[:, 0] * offset[:, 1] - along[:, 1] * offset[:, 0]
    firsts = np.cumsum(counts) - counts
    wanted = left * sides[chord] > 0
    one_sided = np.logical_or.reduceat(wanted, firsts)
    candidates = np.where(wanted | ~one_sided[chord], distances, -1)
    largest = np.maximum.reduceat(candidates, firsts)
    first = np.where(candidates == largest[chord], inner, len(points))
    farthest = np.minimum.reduceat(first, firsts)
    return farthest, largest


def _find_leaving(arcs: Arcs, chords: _Chords, zones: Mapping[int, BaseGeometry]) -> np.ndarray:
    """Return which chords (n,) leave the zone of their group."""
    leaving = np.zeros(len(chords.arcs), dtype=bool)
    groups = arcs.groups[chords.arcs]
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    for begin, end in zip(begins, np.append(begins[1:], len(groups)), strict=True):
        zone = zones[int(groups[begin])]
        if not zone.is_empty:
            own = slice(begin, end)
            shapely.prepare(zone)
            leaving[own] = ~shapely.covers(zone, _draw_lines(arcs.points, chords, own))
    return leaving


def _draw_lines(points: np.ndarray, chords: _Chords, own: slice = slice(None)) -> np.ndarray:
    ends = np.stack([points[chords.begins[own]], points[chords.ends[own]]], axis=1)
    return np.asarray(shapely.linestrings(ends))


def _find_crossing(arcs: Arcs, chords: _Chords) -> np.ndarray:
    """Return which chords (n,) meet themselves or others of their group, except at common ends."""
    lines = _draw_lines(arcs.points, chords)
    one, other = shapely.STRtree(lines).query(lines)
    groups = arcs.groups[chords.arcs]
    pairs = (one < other) & (groups[one] == groups[other])
    one, other = one[pairs], other[pairs]
    a, b = arcs.points[chords.begins[one]], arcs.points[chords.ends[one]]
    c, d = arcs.points[chords.begins[other]], arcs.points[chords.ends[other]]
    crossing = _cross(a, b, c, d)
    found: np.ndarray = shapely.length(lines) == 0  # from a vertex back to it
    found[one[crossing]] = found[other[crossing]] = True
    return found


def _cross(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Whether the lines from a to b and from c to d (n, 2) meet elsewhere than at common ends.

    The coordinates of traced outlines are multiples of 1/256, so the products are exact.
    """
    common = [_are_equal(p, q) for p in (a, b) for q in (c, d)]
    turns = [_turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b)]
    straddle = (turns[0] * turns[1] <= 0) & (turns[2] * turns[3] <= 0)
    collinear = np.logical_and.reduce([turn == 0 for turn in turns])
    overlap = collinear & _overlap(a, b, c, d)
    shared = np.logical_or.reduce(common)
    crossing: np.ndarray = np.where(collinear | shared, overlap, straddle)
    return crossing


def _are_equal(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which points (n, 2) are equal, faster than by `all` over their axis."""
    equal: np.ndarray = (ones[:, 0] == others[:, 0]) & (ones[:, 1] == others[:, 1])
    return equal


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return 1 where c is to the left of the line from a to b, -1 to the right, 0 on it."""
    one, other = b - a, c - a
    signs: np.ndarray = np.sign(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0])
    return signs


def _overlap(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Whether collinear lines have more than a point in common."""
    axis = (np.abs(b - a).argmax(axis=1))[:, None]
    p, q, r, s = (np.take_along_axis(end, axis, axis=1)[:, 0] for end in (a, b, c, d))
    begin = np.maximum(np.minimum(p, q), np.minimum(r, s))
    end = np.minimum(np.maximum(p, q), np.maximum(r, s))
    longer: np.ndarray = end > begin
    return longer


def _find_passing(
    arcs: Arcs,
    chords: _Chords,
    polygons: np.ndarray,
    groups: np.ndarray,
    zones: Mapping[int, BaseGeometry],
) -> np.ndarray:
    """Return which chords (n,) pass over something as a whole.

    They cross nothing, but between a chord and its arc there may be a hole, another polygon, or
    something outside the zone: nodata, or another component.

    Args:
        arcs: Arcs of the polygons.
        chords: Chords with vertices between their ends, of some groups.
        polygons: Polygons (n,) that are made of the chords of all groups.
        groups: int64 (n,), group of each polygon, sorted.
        zones: See `simplify_within`.
    """
    passing = np.zeros(len(chords.arcs), dtype=bool)
    of_chords = arcs.groups[chords.arcs]
    checked = np.unique(of_chords)
    begins = np.searchsorted(groups, checked)
    ends = np.searchsorted(groups, checked, side="right")
    # Of many outlines that touch no other one and whose zones are not limited, at once.
    free = np.array([zones[group].is_empty for group in checked.tolist()], dtype=bool)
    single = free & (ends - begins == 1)
    single[single] = shapely.is_valid(polygons[begins[single]])
    limits = zip(checked.tolist(), begins.tolist(), ends.tolist(), strict=True)
    for group, begin, end in (one for one, done in zip(limits, single, strict=True) if not done):
        own = slice(begin, end)
        mine = np.flatnonzero(of_chords == group)
        if not _is_coverage(polygons[own]):
            passing[mine] = True
        elif not (within := stay_within(polygons[own], zones[group])).all():
            leaving = np.zeros(len(polygons), dtype=bool)
            leaving[own] = ~within
            outside = shapely.union_all(shapely.difference(polygons[leaving], zones[group]))
            mine = mine[arcs.belong_to(leaving)[chords.arcs[mine]]]
            near = shapely.intersects(_strips(arcs.points, chords.pick(mine)), outside)
            passing[mine[near] if near.any() else mine] = True
    return passing


def _is_coverage(polygons: np.ndarray) -> bool:
    """Whether polygons are valid and do not overlap."""
    if not shapely.is_valid(polygons).all():
        return False
    return len(polygons) < 2 or bool(shapely.coverage_is_valid(polygons))


def _strips(points: np.ndarray, chords: _Chords) -> np.ndarray:
    """Return the convex hull of the part of an arc that each chord replaces."""
    counts = chords.ends - chords.begins + 1
    index = expand_ranges(chords.begins, counts)
    lines = shapely.linestrings(points[index], indices=np.repeat(np.arange(len(counts)), counts))
    return np.asarray(shapely.convex_hull(lines))
