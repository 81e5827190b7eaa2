"""Rectangles of buildings that touch no other one, all at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.vectorization.outlines.acceptance import (
    MAX_AREA_CHANGE,
    MIN_CLEARANCE,
    MIN_IOU,
    SPUR,
)
from geoseg.vectorization.outlines.distances import distances_to_edges

# A wall that deviates by more from the direction of its building belongs to no side.
OBLIQUE = math.radians(28)

# Factor of the sort key x + slant · y; irrational, so that different points hardly share a key.
_SLANT = math.sqrt(2)

# An edge whose ends differ by less, in metres, is perpendicular to the other axis.
_SAME = 1e-6


def fit_rectangles(outlines: np.ndarray, traced: np.ndarray, max_shifts: np.ndarray) -> np.ndarray:
    """Return the rectangles whose sides are the mean positions of the walls.

    Args:
        outlines: Simplified polygons (n,), in metres.
        traced: The same polygons before simplification, (n,), whose vertices include their corners.
        max_shifts: float64 (n,), maximum shift of each outline.

    Returns:
        Polygons (n,); empty where a polygon has holes or not four sides, and where the rectangle
        does not pass the tests of `is_acceptable`. Each depends on its own outlines only.
    """
    rectangles = np.full(len(outlines), shapely.Polygon(), dtype=object)
    holes = shapely.get_num_interior_rings(outlines) + shapely.get_num_interior_rings(traced)
    simple = np.flatnonzero((holes == 0) & ~shapely.is_empty(outlines) & ~shapely.is_empty(traced))
    if not len(simple):
        return rectangles
    walls, known = _find_walls(outlines[simple], traced[simple])
    simple = simple[known]
    if not len(simple):
        return rectangles
    fitted = _fit(walls)
    good = fitted.exist & _resemble(fitted, traced[simple], max_shifts[simple])
    if good.any():
        rectangles[simple[good]] = shapely.polygons(fitted.corners()[good])
    return rectangles


@dataclass(frozen=True)
class _Walls:
    """Walls of polygons, each between two corners.

    Attributes:
        starts: float64 (walls, 2), corner at which each wall begins; the next wall of the polygon
            begins where it ends.
        middles: float64 (walls, 2), mean position of the traced outline along each wall.
        owner: int64 (walls,), number of each wall's polygon, ascending.
    """

    starts: np.ndarray
    middles: np.ndarray
    owner: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Index of the first wall of each polygon."""
        first: np.ndarray = np.flatnonzero(np.diff(self.owner, prepend=-1))
        return first

    @property
    def vectors(self) -> np.ndarray:
        """Vector along each wall, (walls, 2)."""
        following = np.arange(1, len(self.owner) + 1)
        following[np.append(self.first[1:], len(self.owner)) - 1] = self.first
        vectors: np.ndarray = self.starts[following] - self.starts
        return vectors


@dataclass(frozen=True)
class _Rectangles:
    """Rectangles in axes of their own.

    Attributes:
        angles: float64 (n,), direction of the first axis in radians.
        sides: float64 (2, 2, n), lower and upper end along the first and the second axis.
        exist: bool (n,), rectangles with four sides.
    """

    angles: np.ndarray
    sides: np.ndarray
    exist: np.ndarray

    def turn(self, points: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Return points (m, 2) in the axes of their rectangle."""
        return turn(points, np.cos(self.angles)[owner], -np.sin(self.angles)[owner])

    def own_corners(self) -> np.ndarray:
        """Return the corners (n, 4, 2) in the axes of each rectangle."""
        (left, right), (bottom, top) = self.sides
        x, y = (
            np.column_stack([left, right, right, left]),
            np.column_stack([bottom, bottom, top, top]),
        )
        return np.stack([x, y], axis=-1)

    def corners(self) -> np.ndarray:
        """Return the corners (n, 4, 2)."""
        cos, sin = np.cos(self.angles)[:, None], np.sin(self.angles)[:, None]
        return turn(self.own_corners(), cos, sin)


def _fit(walls: _Walls) -> _Rectangles:
    """Fit a rectangle to the walls of each polygon."""
    owner, first, vectors = walls.owner, walls.first, walls.vectors
    count = len(first)
    angles = _main_directions(vectors, owner, count)
    exist = np.ones(count, dtype=bool)
    sides = np.zeros((2, 2, count))
    axes = _Rectangles(angles, sides, exist)
    starts, middles = axes.turn(walls.starts, owner), axes.turn(walls.middles, owner)
    steps = np.abs(axes.turn(vectors, owner))
    low = np.minimum.reduceat(starts, first, axis=0)
    high = np.maximum.reduceat(starts, first, axis=0)
    centres = ((low + high) / 2)[owner]
    for axis in (0, 1):
        along, across = steps[:, 1 - axis], steps[:, axis]
        straight = across <= along * math.tan(OBLIQUE)
        is_lower = middles[:, axis] < centres[:, axis]
        for end, chosen in enumerate((straight & is_lower, straight & ~is_lower)):
            weights = along * chosen
            total = np.bincount(owner, weights, count)
            sums = np.bincount(owner, weights * middles[:, axis], count)
            exist &= total > 0
            sides[axis, end] = sums / np.where(total > 0, total, 1)
    return axes


def _main_directions(vectors: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Return the main direction of the walls of each polygon in radians, modulo right angles."""
    walls = fourfold(vectors)
    real, imaginary = (np.bincount(owner, part, count) for part in (walls.real, walls.imag))
    directions: np.ndarray = np.arctan2(imaginary, real) / 4
    return directions


def fourfold(vectors: np.ndarray) -> np.ndarray:
    """Return complex numbers with the squared length and four times the angle of each vector.

    Directions that differ by right angles coincide, and long walls weigh more than short ones.
    """
    squares = vectors[:, 0] ** 2 + vectors[:, 1] ** 2
    numbers: np.ndarray = squares * np.exp(4j * np.arctan2(vectors[:, 1], vectors[:, 0]))
    return numbers


def _resemble(rectangles: _Rectangles, traced: np.ndarray, max_shifts: np.ndarray) -> np.ndarray:
    """Return which rectangles pass the tests of `is_acceptable`, in closed form."""
    vertices, owner = shapely.get_coordinates(traced, return_index=True)
    vertices = rectangles.turn(vertices, owner)
    is_edge = owner[1:] == owner[:-1]
    begins, ends, edge_owner = vertices[:-1][is_edge], vertices[1:][is_edge], owner[1:][is_edge]
    (left, right), (bottom, top) = rectangles.sides
    own, true = (right - left) * (top - bottom), shapely.area(traced)
    shared = _shared_areas(rectangles.sides, begins, ends, edge_owner)
    passed = np.minimum(right - left, top - bottom) > MIN_CLEARANCE * max_shifts
    passed &= np.abs(own - true) <= MAX_AREA_CHANGE * true
    passed &= shared >= MIN_IOU * (own + true - shared)
    far = _distances_to_sides(rectangles.sides, vertices, owner) > SPUR * max_shifts[owner]
    passed &= np.bincount(owner, far, len(traced)) == 0
    used, corner_owner = passed[edge_owner], np.repeat(np.flatnonzero(passed), 4)
    far = (
        distances_to_edges(
            rectangles.own_corners()[passed].reshape(-1, 2), corner_owner,
            begins[used], ends[used], edge_owner[used],
        )
        > max_shifts[corner_owner]
    )  # fmt: skip
    near: np.ndarray = passed & (np.bincount(corner_owner, far, len(traced)) == 0)
    return near


def _shared_areas(
    sides: np.ndarray, begins: np.ndarray, ends: np.ndarray, owner: np.ndarray
) -> np.ndarray:
    """Return the area (n,) that each rectangle shares with the polygon of its edges.

    By Green's theorem, with the integrand that grows from 0 to the width of the rectangle along its
    first axis, and is 0 above and below it.
    """
    (left, right), (bottom, top) = sides[:, :, owner]
    (x0, y0), (x1, y1) = begins.T, ends.T
    low, high = np.clip(y0, bottom, top), np.clip(y1, bottom, top)
    rise = np.where(y1 == y0, 1.0, y1 - y0)
    from_x = x0 + (low - y0) / rise * (x1 - x0)
    to_x = x0 + (high - y0) / rise * (x1 - x0)

    def integral(x: np.ndarray) -> np.ndarray:
        inside, width = np.clip(x, left, right) - left, right - left
        grown: np.ndarray = inside**2 / 2 + width * np.maximum(x - right, 0)
        return grown

    run = to_x - from_x
    is_upright = np.abs(run) < _SAME
    slanted = (integral(to_x) - integral(from_x)) / np.where(is_upright, 1.0, run)
    upright = np.clip((from_x + to_x) / 2, left, right) - left
    parts = (high - low) * np.where(is_upright, upright, slanted)
    areas: np.ndarray = np.abs(np.bincount(owner, parts, sides.shape[-1]))
    return areas


def _distances_to_sides(sides: np.ndarray, points: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return the distance (m,) of each point from the outline of its rectangle."""
    low, high = sides[:, 0, owner].T, sides[:, 1, owner].T
    beyond = np.maximum(low - points, points - high)  # negative inside
    outside = np.hypot(*np.maximum(beyond, 0).T)
    distances: np.ndarray = np.where(outside > 0, outside, -beyond.max(axis=1))
    return distances


def _find_walls(outlines: np.ndarray, traced: np.ndarray) -> tuple[_Walls, np.ndarray]:
    """Find the walls of polygons without holes.

    Returns:
        The walls, with new numbers of the polygons, and which polygons (n,) have numbers: those
        that pass each corner once.
    """
    vertices, owner = shapely.get_coordinates(traced, return_index=True)
    corners, of_corner = shapely.get_coordinates(outlines, return_index=True)
    is_corner = _are_among(vertices, owner, corners, of_corner)
    is_corner &= np.append(owner[1:] == owner[:-1], False)  # the last repeats the first
    sizes = np.bincount(of_corner, minlength=len(outlines)) - 1
    known = np.bincount(owner, is_corner, len(outlines)) == sizes
    if not known.any():
        return _Walls(vertices[:0], vertices[:0], owner[:0]), known
    used = known[owner]
    vertices, is_corner, owner = vertices[used], is_corner[used], owner[used]
    owner = (np.cumsum(known) - 1)[owner]
    # Each edge belongs to the wall that began last; edges before the first corner to the last wall.
    is_edge = np.append(owner[1:] == owner[:-1], False)
    wall = np.cumsum(is_corner) - 1
    place = np.flatnonzero(is_corner)
    first = np.searchsorted(owner[place], owner, side="left")
    last = np.searchsorted(owner[place], owner, side="right") - 1
    wall = np.where(wall < first, last, wall)[is_edge]
    begins = np.flatnonzero(is_edge)
    steps = vertices[begins + 1] - vertices[begins]
    lengths = np.hypot(*steps.T)
    middles = (vertices[begins + 1] + vertices[begins]) / 2
    total = np.bincount(wall, lengths, len(place))
    sums = [np.bincount(wall, lengths * middles[:, axis], len(place)) for axis in (0, 1)]
    middles = np.column_stack(sums) / total[:, None]
    return _Walls(vertices[place], middles, owner[place]), known


def _are_among(
    points: np.ndarray, group: np.ndarray, others: np.ndarray, of_others: np.ndarray
) -> np.ndarray:
    """Return which points (n, 2) are also among the others (m, 2) of the same group."""
    x, y = np.concatenate([others, points]).T
    groups = np.concatenate([of_others, group])
    is_other = np.arange(len(groups)) < len(others)
    # One key for both coordinates is half the work. Sorting is stable: others come first.
    key = x + _SLANT * y
    order = np.lexsort((key, groups))
    same, before = order[1:], order[:-1]
    rounded = (key[same] == key[before]) & ((x[same] != x[before]) | (y[same] != y[before]))
    if rounded.any():  # different points may have the same key
        order = np.lexsort((y, x, groups))
    x, y, groups = x[order], y[order], groups[order]
    new = np.append(True, (x[1:] != x[:-1]) | (y[1:] != y[:-1]) | (groups[1:] != groups[:-1]))
    among = np.empty(len(order), dtype=bool)
    among[order] = is_other[order][np.flatnonzero(new)][np.cumsum(new) - 1]
    found: np.ndarray = among[len(others) :]
    return found


def turn(points: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Return points (..., 2) turned by angles, given as their cosines and sines (...)."""
    x, y = points[..., 0], points[..., 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)
