"""Right-angled outlines: walls are aligned with the main direction of their building.

Touching outlines form a group, with common corners and walls. A wall that is nearly parallel or
perpendicular to the direction of its building is aligned with it: its two corners get the same
coordinate, as do all corners that are connected by such walls. Corners are shared by neighbours,
so walls stay shared. All groups are processed together, and none depends on another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from geoseg.vectorization.outlines.acceptance import is_acceptable
from geoseg.vectorization.outlines.distances import dot
from geoseg.vectorization.outlines.rectangles import OBLIQUE, fourfold, turn
from geoseg.vectorization.outlines.shared_corners import share_corners
from geoseg.vectorization.outlines.wall_graph import OutlineGraph, build_graph
from geoseg.vectorization.outlines.zones import stay_in_own

RECTANGLE, RECTILINEAR, PARTLY, KEPT = "rectangle", "rectilinear", "partly", "simplified"
RAW = "raw"  # neither right-angled nor simplified

# Largest absolute cosine of a right angle.
_RIGHT = 1e-4

# Touching buildings whose directions differ by less get a common direction.
_SAME_DIRECTION = math.radians(10)

# Least strength of the main direction of a building, see `_directions`.
_MIN_STRENGTH = 0.4

# A corner that is so far from a wall is on it, in metres.
_ROUNDING_M = 1e-8

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


@dataclass(frozen=True)
class _State:
    """Outlines of groups between two attempts; arrays are (n,) over polygons.

    Attributes:
        indices: Index of each polygon among all.
        groups: Group of each polygon, sorted.
        outlines: Simplified polygons.
        traced: Traced polygons.
        zones: Zone of each polygon's group; empty if it is not limited.
        limits: Maximum shift that the tests allow; `_SHIFT_SHARES` are shares of it.
        directions: Main direction in radians.
        max_shifts: Maximum shift in the next attempt; 0 for outlines that stay as they are.
        polygons: Polygons of the last attempt.
        accepted: Which of these passed all tests.
    """

    indices: np.ndarray
    groups: np.ndarray
    outlines: np.ndarray
    traced: np.ndarray
    zones: np.ndarray
    limits: np.ndarray
    directions: np.ndarray
    max_shifts: np.ndarray
    polygons: np.ndarray
    accepted: np.ndarray

    def pick(self, chosen: np.ndarray) -> _State:
        """Return the state of some polygons."""
        return _State(*(getattr(self, one.name)[chosen] for one in fields(self)))

    def spread(self, polygons: np.ndarray) -> np.ndarray:
        """Return which polygons are in a group with one of some polygons, bool (n,)."""
        groups = np.unique(self.groups[polygons])
        return np.isin(self.groups, groups)


def regularize(
    outlines: np.ndarray,
    traced: np.ndarray,
    groups: np.ndarray,
    zones: Mapping[int, BaseGeometry],
    max_shifts: np.ndarray,
) -> RegularOutlines:
    """Make the outlines of groups right-angled.

    Outlines that do not pass `is_acceptable`, or leave the zone, are tried again with a smaller
    shift, together with their group.

    Args:
        outlines: Simplified polygons (n,), in metres from an origin of the group; touching ones
            share the vertices of walls.
        traced: The same polygons before simplification, (n,).
        groups: int64 (n,), group of each polygon, sorted.
        zones: Zone of each group, in which its outlines must stay; empty if it is not limited.
        max_shifts: float64 (n,), maximum shift of each outline, equal within a group.
    """
    if not len(outlines):
        return RegularOutlines(outlines, np.empty(0, dtype=object))
    graph = build_graph(outlines, traced, groups)
    directions, strengths = _directions(graph, len(outlines))
    state = _State(
        np.arange(len(outlines)), groups, outlines, traced,
        np.array([zones[group] for group in groups.tolist()], dtype=object), max_shifts, directions,
        np.where(strengths < _MIN_STRENGTH, 0.0, max_shifts), outlines.copy(),
        np.zeros(len(outlines), dtype=bool),
    )  # fmt: skip
    shapely.prepare(state.zones)
    polygons, moved = outlines.copy(), np.zeros(len(outlines), dtype=bool)
    points, pinned = np.full_like(graph.points, np.nan), np.zeros(len(graph.points), dtype=bool)
    for _ in range(_ATTEMPTS):
        before = points, pinned
        pinned = _pinned(graph, state.directions, state.max_shifts == 0)
        points = _straighten(graph, state.directions, pinned, state.max_shifts)
        state = _attempt(state, graph, points, pinned, before)
        rejected = _find_rejected(state)
        going = state.spread(rejected)
        done = state.indices[~going]
        polygons[done], moved[done] = state.polygons[~going], state.max_shifts[~going] > 0
        if not going.any():
            break
        lower = state.max_shifts.copy()
        lower[rejected] = _reduce_shifts(lower[rejected], state.limits[rejected])
        corners = graph.find_corners(going)
        points, pinned, graph = points[corners], pinned[corners], graph.pick(going)
        state = replace(state, max_shifts=lower).pick(going)
    # A group of which no outline moved stays as it was, without removed corners.
    whole = np.isin(groups, groups[moved])
    polygons[~whole] = outlines[~whole]
    status = np.where(_is_rectilinear(polygons), RECTILINEAR, PARTLY).astype(object)
    status[~moved] = KEPT
    return RegularOutlines(polygons, status)


def _attempt(
    state: _State,
    graph: OutlineGraph,
    points: np.ndarray,
    pinned: np.ndarray,
    before: tuple[np.ndarray, np.ndarray],
) -> _State:
    """Draw and test outlines with new corners.

    Args:
        state: The outlines.
        graph: Their graph.
        points: float64 (corners, 2), new coordinates.
        pinned: bool (corners,), corners that did not move.
        before: Both of the attempt before; NaN in the first one.
    """
    # Outlines whose corners did not change need not be drawn again, nor those that did not change
    # be tested again.
    differ = points != before[0]
    moving = state.max_shifts > 0
    new = moving & graph.touch(differ[:, 0] | differ[:, 1] | (pinned != before[1]))
    drawn, accepted = np.where(moving, state.polygons, state.outlines), state.accepted.copy()
    drawn[new] = graph.draw(points, pinned, new)
    is_first = bool(np.isnan(before[0]).any())
    new[new] = ~shapely.equals_exact(drawn[new], state.polygons[new]) | is_first
    accepted[new] = is_acceptable(drawn[new], state.traced[new], state.limits[new])
    new[new] = accepted[new]
    accepted[new] = stay_in_own(state.zones[new], drawn[new])
    return replace(state, polygons=drawn, accepted=accepted)


def _find_rejected(state: _State) -> np.ndarray:
    """Return which polygons failed a test or are torn from their neighbours, bool (n,)."""
    moving = state.max_shifts > 0
    rejected: np.ndarray = moving & ~state.accepted
    passed = np.flatnonzero(~state.spread(rejected))
    # Each group has its own origin, so the coordinates of different groups overlap.
    for own in np.split(passed, np.flatnonzero(np.diff(state.groups[passed])) + 1):
        if len(own) > 1:
            torn = _are_torn(state.polygons[own])
            rejected[own] = moving[own] & (torn if (torn & moving[own]).any() else torn.any())
    return rejected


def _are_torn(polygons: np.ndarray) -> np.ndarray:
    """Return which polygons (n,) of a group overlap another one or have a gap beside it."""
    torn: np.ndarray = ~shapely.is_empty(shapely.coverage_invalid_edges(polygons))
    if torn.any():  # perhaps a corner is beside the wall of a neighbour by a rounding error
        group = np.zeros(len(polygons), dtype=np.int64)
        shared = share_corners(polygons, group, _ROUNDING_M)
        torn = ~shapely.is_empty(shapely.coverage_invalid_edges(shared))
    return torn


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
    along = np.abs(dot(steps, after))
    right = along <= _RIGHT * np.hypot(*steps.T) * np.hypot(*after.T)
    rectilinear: np.ndarray = np.bincount(owner, ~right, len(polygons)) == 0
    return rectilinear


def _reduce_shifts(max_shifts: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the next smaller shift of each outline; 0 after the last one."""
    shares = np.array([*_SHIFT_SHARES, 0.0])
    present = np.argmin(np.abs(max_shifts[:, None] - limits[:, None] * shares[:-1]), axis=1)
    lower: np.ndarray = limits * shares[1:][present]
    return lower


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
    pinned[graph.walls[fixed[graph.sides[:, 0]] | fixed[graph.sides[:, 1]]].ravel()] = True
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
    # The corners of free walls have one direction, that of all their polygons.
    free = np.flatnonzero(~(pinned[graph.walls[:, 0]] | pinned[graph.walls[:, 1]]))
    walls, sides = graph.walls[free], graph.sides[free]
    max_shift = np.minimum(max_shifts[sides[:, 0]], max_shifts[sides[:, 1]])
    direction = directions[sides[:, 0]]
    cos, sin = np.cos(direction), np.sin(direction)
    ends = turn(points[walls], cos[:, None], -sin[:, None])
    middles = turn(graph.middles[free], cos, -sin)
    steps = np.abs(ends[:, 1] - ends[:, 0])
    across, along = np.minimum(*steps.T), np.maximum(*steps.T)
    oblique = across > 2 * max_shift  # each end would move by half of it
    oblique |= (across > along * math.tan(OBLIQUE)) & (along > 2 * max_shift)
    used = np.flatnonzero(~oblique)
    steps, near, middles = steps[used], max_shift[used], middles[used]
    corners, places = np.unique(walls[used], return_inverse=True)
    places = places.reshape(-1, 2)
    moved, angle = np.empty((len(corners), 2)), np.empty(len(corners))
    moved[places], angle[places] = ends[used], direction[used, None]
    is_across = steps[:, 0] > steps[:, 1]  # the ends of these walls share their second coordinate
    for axis, same in ((0, ~is_across), (1, is_across)):
        shared = _SharedCoordinate(moved[:, axis])
        shared.join(places[same], steps[same, 1 - axis], middles[same, axis])
        shared.join_near(places[~same], steps[~same, axis], near[~same])
        moved[:, axis] = shared.values()
    points[corners] = turn(moved, np.cos(angle), np.sin(angle))
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
