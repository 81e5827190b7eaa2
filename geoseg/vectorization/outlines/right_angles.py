"""Right angles where buildings have them: outlines along the main directions of their walls.

A group of touching outlines is one graph of corners and walls. A wall that runs about along the
direction of its building, or across it, is made to run so exactly: its two corners get one
coordinate, and so do all that hang together by such walls. Corners are shared by neighbours, so
walls stay shared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from geoseg.vectorization.outlines.wall_graph import OutlineGraph, build_graph
from geoseg.vectorization.outlines.zones import stay_within

RECTANGLE, RECTILINEAR, PARTLY, KEPT = "rectangle", "rectilinear", "partly", "simplified"
RAW = "raw"  # neither regular nor simplified

# What becomes regular must agree with what was found: the least IoU, the largest change of area.
_LEAST_IOU = 0.8
_AREA_CHANGE = 0.15

# What was found may stick out by so many reaches, as spurs do that are no wall.
_SPUR = 2.0

# Cosine of an angle that is a right one.
_RIGHT = 1e-4

# Corners and walls of an outline keep apart by this share of its reach.
_LEAST_CLEARANCE = 0.02

# Buildings of a group whose directions differ by less share one.
_SAME_DIRECTION = math.radians(10)

# A long wall that is turned by more from both directions stays as it is.
_OBLIQUE = math.radians(28)

# A building has directions if so much of its walls, on balance, run along or across one.
_LEAST_STRENGTH = 0.4

# Of its reach, what is tried for an outline until it fits; then it is left as it was.
_SHARES = (1.0, 0.5, 0.2)

# Attempts at a group, of which large ones need more than a dozen.
_ATTEMPTS = 60


@dataclass(frozen=True)
class RegularOutlines:
    """Outlines that are regular where they may be.

    Attributes:
        polygons: Polygons (n,).
        status: str (n,): `RECTANGLE`; `RECTILINEAR`, of which every corner is a right angle;
            `PARTLY`, of which not all are; `KEPT`, as it was simplified; or `RAW`, as it was found.
    """

    polygons: np.ndarray
    status: np.ndarray


def regularize(
    outlines: np.ndarray, found: np.ndarray, ground: BaseGeometry, reach: float
) -> RegularOutlines:
    """Makes the outlines of one group regular.

    Args:
        outlines: Simplified polygons (n,), in units that are the same along and across; those
            that touch share the vertices of their walls.
        found: The same before they were simplified, (n,).
        ground: Where outlines may go; empty if anywhere.
        reach: An outline may move by as much.
    """
    if len(outlines) == 1:
        rectangle = np.array([_rectangle(outlines[0])], dtype=object)
        if _fits(rectangle, found, ground, reach)[0]:
            return RegularOutlines(rectangle, np.array([RECTANGLE], dtype=object))
    graph = build_graph(outlines)
    directions, strengths = _directions(graph, len(outlines))
    reaches = np.where(strengths < _LEAST_STRENGTH, 0.0, reach)
    polygons, fits = outlines.copy(), np.zeros(len(outlines), dtype=bool)
    for attempt in range(_ATTEMPTS):
        moving = reaches > 0
        pinned = _pinned(graph, directions, ~moving)
        drawn = outlines.copy()
        drawn[moving] = graph.draw(_straighten(graph, directions, pinned, reaches), pinned, moving)
        # What is as it was in the last attempt need not be looked at again.
        new = moving & (~shapely.equals_exact(drawn, polygons) | (attempt == 0))
        fits[new] = _fits(drawn[new], found[new], ground, reach)
        polygons = drawn
        misfits = moving & ~fits
        if not misfits.any() and len(outlines) > 1:
            torn = ~shapely.is_empty(shapely.coverage_invalid_edges(polygons))
            misfits = moving & (torn if (torn & moving).any() else torn.any())
        if not misfits.any():
            break
        reaches[misfits] = _less(reaches[misfits], reach)
    else:
        reaches[:] = 0
    kept = reaches == 0
    if kept.all():
        polygons = outlines
    status = np.where(_is_rectilinear(polygons), RECTILINEAR, PARTLY).astype(object)
    status[kept] = KEPT
    return RegularOutlines(polygons, status)


def _is_rectilinear(polygons: np.ndarray) -> np.ndarray:
    """Which polygons have right angles alone, but for what the last digits make of them."""
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


def _less(reaches: np.ndarray, reach: float) -> np.ndarray:
    """The next lower reaches of some outlines; 0 after the last."""
    shares = np.array([*_SHARES, 0.0])
    lower: np.ndarray = (
        reach * shares[1:][np.argmin(np.abs(reaches[:, None] - reach * shares[:-1]), axis=1)]
    )
    return lower


def _fits(
    polygons: np.ndarray, found: np.ndarray, ground: BaseGeometry, reach: float
) -> np.ndarray:
    """Which polygons are valid, close enough to what was found, and nobody else's ground."""
    fits: np.ndarray = (
        shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON
    ) & shapely.is_valid(polygons)
    # What is valid by a hair is not so any more once its digits are rounded.
    fits &= shapely.minimum_clearance(polygons) > _LEAST_CLEARANCE * reach
    # Of outlines with many corners each test takes longer than those before it.
    for test in (_agrees, _stays_near):
        fits[fits] = test(polygons[fits], found[fits], reach)
    fits[fits] = stay_within(polygons[fits], ground)
    return fits


def _agrees(polygons: np.ndarray, found: np.ndarray, _: float) -> np.ndarray:
    """Which polygons cover about the ground that was found."""
    own, true = shapely.area(polygons), shapely.area(found)
    agree: np.ndarray = np.abs(own - true) <= _AREA_CHANGE * true
    own, true = own[agree], true[agree]
    shared = shapely.area(shapely.intersection(polygons[agree], found[agree]))
    agree[agree] = shared >= _LEAST_IOU * (own + true - shared)
    return agree


def _stays_near(polygons: np.ndarray, found: np.ndarray, reach: float) -> np.ndarray:
    """Which polygons have every corner near the outline that was found, and pass by its own."""
    near: np.ndarray = _within(polygons, found, reach)
    near[near] = _within(found[near], polygons[near], _SPUR * reach)
    return near


def _within(polygons: np.ndarray, others: np.ndarray, distance: float) -> np.ndarray:
    """Which polygons have no corner further than that from the outline of the other one."""
    points, owners = shapely.get_coordinates(polygons, return_index=True)
    lines = shapely.boundary(others)
    shapely.prepare(lines)
    far = ~shapely.dwithin(lines[owners], shapely.points(points), distance)
    within: np.ndarray = np.bincount(owners, far, len(polygons)) == 0
    return within


def _rectangle(outline: shapely.Polygon) -> shapely.Polygon:
    """The rectangle whose sides lie where an outline's walls lie on average; empty if none."""
    points = shapely.get_coordinates(outline.exterior)
    angle = np.angle(_fourfold(np.diff(points, axis=0)).sum()) / 4
    turned = _turn(points, -angle)
    steps, middles = np.diff(turned, axis=0), (turned[1:] + turned[:-1]) / 2
    sides = []
    for axis in (0, 1):
        along, across = steps[:, 1 - axis], np.abs(steps[:, axis])
        straight = across <= np.abs(along) * math.tan(_OBLIQUE)
        for forward in (True, False):
            chosen = straight & ((along > 0) == forward)
            if not chosen.any() or outline.interiors:
                return shapely.Polygon()
            sides.append(np.average(middles[chosen, axis], weights=np.abs(along[chosen])))
    (left, right), (low, high) = sorted(sides[:2]), sorted(sides[2:])
    corners = np.array([(left, low), (right, low), (right, high), (left, high)])
    return shapely.Polygon(_turn(corners, angle))


def _fourfold(vectors: np.ndarray) -> np.ndarray:
    """Vectors as complex numbers of their length squared, of four times the vectors' own angle.

    So directions that are apart by right angles are one, and long walls say more than steps.
    """
    squares = vectors[:, 0] ** 2 + vectors[:, 1] ** 2
    fourfold: np.ndarray = squares * np.exp(4j * np.arctan2(vectors[:, 1], vectors[:, 0]))
    return fourfold


def _turn(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    turned: np.ndarray = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _directions(graph: OutlineGraph, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The direction of each polygon in radians; neighbours of about one direction share it.

    Returns:
        Directions, and how strongly each polygon's walls run along its own, 0..1.
    """
    walls = _fourfold(graph.vectors)
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
    """Corners that stay: those of fixed polygons, and those where two directions meet."""
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
    graph: OutlineGraph, directions: np.ndarray, pinned: np.ndarray, reaches: np.ndarray
) -> np.ndarray:
    """Corners (n, 2) moved so that walls run along the directions, as far as polygons reach."""
    points = graph.points.copy()
    reach = reaches[graph.sides].min(axis=1)
    free = np.flatnonzero(~pinned[graph.walls].any(axis=1))
    free = free[np.argsort(directions[graph.sides[free, 0]], kind="stable")]
    own_directions, begins = np.unique(directions[graph.sides[free, 0]], return_index=True)
    for direction, own in zip(own_directions, np.split(free, begins[1:]), strict=False):
        corners, ends = np.unique(graph.walls[own], return_inverse=True)
        ends, turned = ends.reshape(-1, 2), _turn(graph.points[corners], -direction)
        steps = np.abs(turned[ends[:, 1]] - turned[ends[:, 0]])
        across, along = steps.min(axis=1), steps.max(axis=1)
        oblique = across > 2 * reach[own]  # each of its ends would move by half of that
        oblique |= (across > along * math.tan(_OBLIQUE)) & (along > 2 * reach[own])
        ends, steps, near = ends[~oblique], steps[~oblique], reach[own][~oblique]
        across = steps[:, 0] > steps[:, 1]  # these share their second coordinate
        moving, ends = np.unique(ends, return_inverse=True)
        ends, moved = ends.reshape(-1, 2), turned[moving]
        for axis, same in ((0, ~across), (1, across)):
            levels = _Levels(moved[:, axis])
            levels.join(ends[same], steps[same, 1 - axis])
            levels.join_near(ends[~same], steps[~same, axis], near[~same])
            moved[:, axis] = levels.values()
        points[corners[moving]] = _turn(moved, direction)
    return points


class _Levels:
    """One coordinate of corners, which is the same for those that are joined.

    Args:
        values: float64 (corners,).
    """

    _ALONE = 1e-9  # the weight of a corner itself, beside that of walls

    def __init__(self, values: np.ndarray) -> None:
        self._values = values.tolist()
        self._leaders = list(range(len(values)))
        self._weights = [self._ALONE] * len(values)
        self._sums = (values * self._ALONE).tolist()

    def join(self, walls: np.ndarray, lengths: np.ndarray) -> None:
        """Gives the corners of each wall one value, their mean; longer walls weigh more."""
        for (one, other), length in zip(walls.tolist(), lengths.tolist(), strict=True):
            leader = self._unite(self._leader(one), self._leader(other))
            self._weights[leader] += length
            self._sums[leader] += length * (self._values[one] + self._values[other]) / 2

    def join_near(self, walls: np.ndarray, lengths: np.ndarray, reaches: np.ndarray) -> None:
        """Joins what walls lie between that are shorter than their reach, the shortest first."""
        order = np.argsort(lengths, kind="stable")
        for (one, other), reach in zip(walls[order].tolist(), reaches[order].tolist(), strict=True):
            a, b = self._leader(one), self._leader(other)
            if a != b and abs(self._mean(a) - self._mean(b)) < reach:
                self._unite(a, b)

    def values(self) -> np.ndarray:
        """The value of each corner."""
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
