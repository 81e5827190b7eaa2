"""Right-angled outlines: walls are aligned with the main direction of their building.

A group of touching outlines is one graph of corners and walls. A wall that is nearly parallel or
perpendicular to the direction of its building is aligned with it: its two corners get the same
coordinate, as do all corners that are connected by such walls. Corners are shared by neighbours,
so walls stay shared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from geoseg.vectorization.outlines.acceptance import is_acceptable
from geoseg.vectorization.outlines.rectangles import OBLIQUE, fourfold
from geoseg.vectorization.outlines.wall_graph import OutlineGraph, build_graph
from geoseg.vectorization.outlines.zones import stay_within

RECTANGLE, RECTILINEAR, PARTLY, KEPT = "rectangle", "rectilinear", "partly", "simplified"
RAW = "raw"  # neither right-angled nor simplified

# Largest absolute cosine of a right angle.
_RIGHT = 1e-4

# Touching buildings whose directions differ by less get a common direction.
_SAME_DIRECTION = math.radians(10)

# Least strength of the main direction of a building, see `_directions`.
_MIN_STRENGTH = 0.4

# Shares of the maximum shift that are tried in turn; after the last one the outline is kept.
_SHIFT_SHARES = (1.0, 0.5, 0.2)

# Attempts per group; large groups need more than a dozen.
_ATTEMPTS = 60


@dataclass(frozen=True)
class RegularOutlines:
    """Outlines, right-angled where possible.

    Attributes:
        polygons: Polygons (n,).
        status: str (n,): `RECTANGLE`; `RECTILINEAR` if all corners are right angles; `PARTLY` if
            some are; `KEPT` if the outline is only simplified; `RAW` if it is as traced.
    """

    polygons: np.ndarray
    status: np.ndarray


def regularize(
    outlines: np.ndarray, traced: np.ndarray, zone: BaseGeometry, max_shift: float
) -> RegularOutlines:
    """Make the outlines of one group right-angled.

    Outlines that do not pass `is_acceptable`, or leave the zone, are tried again with a smaller
    shift.

    Args:
        outlines: Simplified polygons (n,), in metres; touching ones share the vertices of walls.
        traced: The same polygons before simplification, (n,).
        zone: Zone in which the outlines must stay; empty if it is not limited.
        max_shift: Maximum shift of an outline.
    """
    graph = build_graph(outlines, traced)
    directions, strengths = _directions(graph, len(outlines))
    max_shifts = np.where(strengths < _MIN_STRENGTH, 0.0, max_shift)
    polygons, accepted = outlines.copy(), np.zeros(len(outlines), dtype=bool)
    points, pinned = np.full_like(graph.points, np.nan), np.zeros(len(graph.points), dtype=bool)
    for attempt in range(_ATTEMPTS):
        moving = max_shifts > 0
        before = points, pinned
        pinned = _pinned(graph, directions, ~moving)
        points = _straighten(graph, directions, pinned, max_shifts)
        # Outlines whose corners did not change need not be drawn again, nor those that did not
        # change be checked again.
        changed = (points != before[0]).any(axis=1) | (pinned != before[1])
        new = moving & graph.touch(changed)
        drawn = np.where(moving, polygons, outlines)
        drawn[new] = graph.draw(points, pinned, new)
        new[new] = ~shapely.equals_exact(drawn[new], polygons[new]) | (attempt == 0)
        accepted[new] = is_acceptable(drawn[new], traced[new], max_shift)
        new[new] = accepted[new]
        accepted[new] = stay_within(drawn[new], zone)
        polygons = drawn
        rejected = moving & ~accepted
        if not rejected.any() and len(outlines) > 1:
            torn = ~shapely.is_empty(shapely.coverage_invalid_edges(polygons))
            rejected = moving & (torn if (torn & moving).any() else torn.any())
        if not rejected.any():
            break
        max_shifts[rejected] = _reduce_shifts(max_shifts[rejected], max_shift)
    else:
        max_shifts[:] = 0
    kept = max_shifts == 0
    if kept.all():
        polygons = outlines
    status = np.where(_is_rectilinear(polygons), RECTILINEAR, PARTLY).astype(object)
    status[kept] = KEPT
    return RegularOutlines(polygons, status)


def _is_rectilinear(polygons: np.ndarray) -> np.ndarray:
    """Return which polygons have right angles only, up to rounding errors."""
    rings, owners = shapely.get_rings(polygons, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    begins = np.flatnonzero(np.diff(ring, prepend=-1))
    ends = np.append(begins[1:], len(points))
    following = np.arange(1, len(points) + 1)
    following[ends - 2] = begins  # the last step of a ring is followed by its first one
    inside = np.delete(np.arange(len(points)), ends - 1)
    steps = np.diff(points, axis=0, append=0)
    steps, after, owner = steps[inside], steps[following[inside]], owners[ring[inside]]
    along = np.abs((steps * after).sum(axis=1))
    right = along <= _RIGHT * np.hypot(*steps.T) * np.hypot(*after.T)
    rectilinear: np.ndarray = np.bincount(owner, ~right, len(polygons)) == 0
    return rectilinear


def _reduce_shifts(max_shifts: np.ndarray, max_shift: float) -> np.ndarray:
    """Return the next smaller shift of each outline; 0 after the last one."""
    shares = np.array([*_SHIFT_SHARES, 0.0])
    lower: np.ndarray = (
        max_shift
        * shares[1:][np.argmin(np.abs(max_shifts[:, None] - max_shift * shares[:-1]), axis=1)]
    )
    return lower


def _turn(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    turned: np.ndarray = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _directions(graph: OutlineGraph, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the main direction of each polygon in radians; similar neighbours share it.

    Returns:
        Directions, and their strengths 0..1: the length of the mean vector of `fourfold`.
    """
    walls = fourfold(graph.vectors)
    sums, lengths = np.zeros(count, dtype=complex), np.zeros(count)
    twice = graph.sides[:, 0] != graph.sides[:, 1]
    for side, chosen in ((0, slice(None)), (1, twice)):
        np.add.at(sums, graph.sides[chosen, side], walls[chosen])
        np.add.at(lengths, graph.sides[chosen, side], np.abs(walls[chosen]))
    strengths = np.abs(sums) / lengths
    leaders = list(range(count))

    def leader(polygon: int) -> int:
        while leaders[polygon] != polygon:
            leaders[polygon] = polygon = leaders[leaders[polygon]]
        return polygon

    order = np.flatnonzero(twice)[np.argsort(-np.abs(walls[twice]), kind="stable")]
    for one, other in graph.sides[order].tolist():
        a, b = leader(one), leader(other)
        if a != b and abs(np.angle(sums[a] * np.conj(sums[b]))) < 4 * _SAME_DIRECTION:
            sums[min(a, b)] = sums[a] + sums[b]
            leaders[max(a, b)] = min(a, b)
    return np.angle(sums[[leader(polygon) for polygon in range(count)]]) / 4, strengths


def _pinned(graph: OutlineGraph, directions: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Return the corners that must not move: of fixed polygons, and where directions differ."""
    pinned = np.zeros(len(graph.points), dtype=bool)
    pinned[graph.walls[fixed[graph.sides].any(axis=1)].ravel()] = True
    low, high = np.full(len(graph.points), np.inf), np.full(len(graph.points), -np.inf)
    for corner in graph.walls.T:
        for side in graph.sides.T:
            np.minimum.at(low, corner, directions[side])
            np.maximum.at(high, corner, directions[side])
    different: np.ndarray = pinned | (low < high)
    return different


def _straighten(
    graph: OutlineGraph, directions: np.ndarray, pinned: np.ndarray, max_shifts: np.ndarray
) -> np.ndarray:
    """Align walls with the directions, within the maximum shifts; return the corners (n, 2)."""
    points = graph.points.copy()
    max_shift = max_shifts[graph.sides].min(axis=1)
    free = np.flatnonzero(~pinned[graph.walls].any(axis=1))
    free = free[np.argsort(directions[graph.sides[free, 0]], kind="stable")]
    own_directions, begins = np.unique(directions[graph.sides[free, 0]], return_index=True)
    for direction, own in zip(own_directions, np.split(free, begins[1:]), strict=False):
        corners, ends = np.unique(graph.walls[own], return_inverse=True)
        ends, turned = ends.reshape(-1, 2), _turn(graph.points[corners], -direction)
        middles = _turn(graph.middles[own], -direction)
        steps = np.abs(turned[ends[:, 1]] - turned[ends[:, 0]])
        across, along = steps.min(axis=1), steps.max(axis=1)
        oblique = across > 2 * max_shift[own]  # each end would move by half of it
        oblique |= (across > along * math.tan(OBLIQUE)) & (along > 2 * max_shift[own])
        ends, steps, near = ends[~oblique], steps[~oblique], max_shift[own][~oblique]
        middles = middles[~oblique]
        across = steps[:, 0] > steps[:, 1]  # the ends of these walls share their second coordinate
        moving, ends = np.unique(ends, return_inverse=True)
        ends, moved = ends.reshape(-1, 2), turned[moving]
        for axis, same in ((0, ~across), (1, across)):
            shared = _SharedCoordinate(moved[:, axis])
            shared.join(ends[same], steps[same, 1 - axis], middles[same, axis])
            shared.join_near(ends[~same], steps[~same, axis], near[~same])
            moved[:, axis] = shared.values()
        points[corners[moving]] = _turn(moved, direction)
    return points


class _SharedCoordinate:
    """One coordinate of corners, equal for all corners that are joined (union-find).

    Args:
        values: float64 (corners,), initial coordinates.
    """

    _ALONE = 1e-9  # weight of a corner itself, negligible compared with walls

    def __init__(self, values: np.ndarray) -> None:
        self._values = values.tolist()
        self._leaders = list(range(len(values)))
        self._weights = [self._ALONE] * len(values)
        self._sums = (values * self._ALONE).tolist()

    def join(self, walls: np.ndarray, lengths: np.ndarray, means: np.ndarray) -> None:
        """Give the two corners of each wall its mean coordinate; longer walls weigh more."""
        for (one, other), length, mean in zip(
            walls.tolist(), lengths.tolist(), means.tolist(), strict=True
        ):
            leader = self._unite(self._leader(one), self._leader(other))
            self._weights[leader] += length
            self._sums[leader] += length * mean

    def join_near(self, walls: np.ndarray, lengths: np.ndarray, max_shifts: np.ndarray) -> None:
        """Join the corners of walls that are shorter than their maximum shift, shortest first."""
        order = np.argsort(lengths, kind="stable")
        for (one, other), max_shift in zip(
            walls[order].tolist(), max_shifts[order].tolist(), strict=True
        ):
            a, b = self._leader(one), self._leader(other)
            if a != b and abs(self._mean(a) - self._mean(b)) < max_shift:
                self._unite(a, b)

    def values(self) -> np.ndarray:
        """Return the coordinate of each corner."""
        return np.array([self._mean(self._leader(corner)) for corner in range(len(self._values))])

    def _mean(self, leader: int) -> float:
        mean: float = self._sums[leader] / self._weights[leader]
        return mean

    def _leader(self, corner: int) -> int:
        while self._leaders[corner] != corner:
            self._leaders[corner] = corner = self._leaders[self._leaders[corner]]
        return corner

    def _unite(self, one: int, other: int) -> int:
        if one != other:
            self._leaders[other] = one
            self._weights[one] += self._weights[other]
            self._sums[one] += self._sums[other]
        return one
