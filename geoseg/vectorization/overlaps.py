"""Footprints where mosaics of scenes overlap: each building once, and whole.

Mosaics differ in pixel grid or CRS, so a building in the overlap of two of them has an outline in
each. Outlines are taken one after the other: first those that are not cut off at the edge of their
mosaic, and of these first those of the mosaic that is preferred at their place. Of each further
one, what is covered already is cut off, and the rest is kept if it can be a building. What is left
of outlines that are cut off at edges is joined. An outline that touches no other one counts where
its mosaic is preferred.

Preferred is the first mosaic in which the place is deep inside, some distance from its edge, since
a network sees little of what surrounds a building at the edge; if there is none, the first one of
those in which the place is about as deep as in the deepest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry.base import BaseGeometry

# Share of what is deep inside, by which depths may differ that are about the same.
_SAME_DEPTH = 0.25

# Share of an outline that must be in another one, to be a part of it.
_INSIDE = 0.5

# Share of the smaller of two parts of a building that both have.
_SHARED = 0.1

# Least share of an outline that can be a building of its own, where the rest is covered.
_LEAST_REST = 0.25

# Overlaps below this share of the smaller polygon are rounding errors.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Resolved:
    """Outlines of which no two of different mosaics overlap.

    Attributes:
        polygons: The outlines (n,); None where there is none any more.
        joined: bool (n,), outlines that were joined of several.
        clipped: bool (n,), outlines of which a part was cut off.
    """

    polygons: np.ndarray
    joined: np.ndarray
    clipped: np.ndarray


def resolve_overlaps(
    polygons: np.ndarray,
    mosaics: np.ndarray,
    is_cut: np.ndarray,
    areas: Sequence[BaseGeometry],
    *,
    depth: float,
    reach: float,
    width: float,
) -> Resolved:
    """Keep one outline per building where mosaics overlap or adjoin.

    Args:
        polygons: Outlines (n,) in one planar CRS.
        mosaics: int64 (n,), mosaic of each; those with lower numbers come first.
        is_cut: bool (n,), whether an outline touches the edge of its mosaic.
        areas: Area of each mosaic.
        depth: Distance from the edge that is deep inside a mosaic.
        reach: Largest distance of two parts of one building at the edges of adjoining mosaics.
        width: Smallest width of a building.
    """
    preferred = _prefer(polygons, mosaics, areas, depth) == mosaics
    resolver = _Resolver(polygons, mosaics, is_cut, preferred, reach, width)
    resolver.keep_alone()
    resolver.keep_whole()
    resolver.keep_cut()
    return Resolved(resolver.shapes, resolver.joined, resolver.clipped)


class _Resolver:
    """Takes outlines one after the other; for the arguments see `resolve_overlaps`.

    Args:
        preferred: bool (n,), whether the mosaic of an outline is preferred at its place.

    Attributes:
        shapes: The outlines that are kept, None for others.
        joined: See `Resolved`.
        clipped: See `Resolved`.
    """

    def __init__(
        self,
        polygons: np.ndarray,
        mosaics: np.ndarray,
        is_cut: np.ndarray,
        preferred: np.ndarray,
        reach: float,
        width: float,
    ) -> None:
        self._polygons, self._mosaics, self._is_cut = polygons, mosaics, is_cut
        self._preferred, self._reach, self._width = preferred, reach, width
        self._first, self._second = _pairs_of_mosaics(polygons, mosaics, reach)
        pair = polygons[self._first], polygons[self._second]
        self._shared = shapely.area(shapely.intersection(*pair))
        self._smaller = np.minimum(shapely.area(pair[0]), shapely.area(pair[1]))
        self._overlaps = self._shared > _ROUNDING * self._smaller
        self._neighbours = self._list_neighbours()
        self.shapes = np.full(len(polygons), None, dtype=object)
        self.joined, self.clipped = (np.zeros(len(polygons), dtype=bool) for _ in range(2))

    def _list_neighbours(self) -> dict[int, list[int]]:
        """Return the outlines that overlap each one, if there are any."""
        found: dict[int, list[int]] = {}
        pairs = np.stack([self._first, self._second])[:, self._overlaps]
        for one, other in pairs.T.tolist():
            found.setdefault(one, []).append(other)
            found.setdefault(other, []).append(one)
        return found

    def keep_alone(self) -> None:
        """Keep the outlines that touch no other one and whose mosaic is preferred."""
        touching = np.zeros(len(self._polygons), dtype=bool)
        for row in self._neighbours:
            touching[row] = True
        parts = self._is_cut[self._first] & self._is_cut[self._second] & ~self._overlaps
        for rows in (self._first[parts], self._second[parts]):
            touching[rows] = True
        self._touching = touching
        alone = ~touching & self._preferred
        self.shapes[alone] = self._polygons[alone]

    def keep_whole(self) -> None:
        """Keep outlines that are not cut off, or what is left of them beside those before."""
        rows = np.flatnonzero(self._touching & ~self._is_cut)
        order = np.lexsort((rows, self._mosaics[rows], ~self._preferred[rows]))
        rows = rows[order]
        noise = self._find_noise(rows)
        for row in rows.tolist():
            if row not in noise:
                self._keep_rest(row, self.shapes)

    def _find_noise(self, rows: np.ndarray) -> set[int]:
        """Return small outlines inside a whole one that comes later and is hardly covered."""
        place = {row: number for number, row in enumerate(rows.tolist())}
        noise: set[int] = set()
        for row in rows.tolist():
            before = [
                other
                for other in self._neighbours.get(row, [])
                if place.get(other, len(rows)) < place[row]
            ]
            if not before:
                continue
            own, others = self._polygons[row], self._polygons[before]
            shared = shapely.area(shapely.intersection(own, others))
            inside = (shared >= _INSIDE * shapely.area(others)).all()
            if inside and shared.sum() < _LEAST_REST * own.area:
                noise.update(before)
        return noise

    def _keep_rest(self, row: int, taken: np.ndarray) -> None:
        """Keep what is left of an outline beside those that are taken, if it can be a building."""
        own = self._polygons[row]
        kept = [taken[other] for other in self._neighbours.get(row, [])]
        kept = [shape for shape in kept if shape is not None]
        rest = self._cut_off(own, kept)
        if rest.area >= own.area * (1 - _ROUNDING):
            self.shapes[row] = own
        elif rest.area >= _LEAST_REST * own.area and not self._is_narrow(rest):
            self.shapes[row] = rest
            self.clipped[row] = True

    def _cut_off(self, shape: BaseGeometry, others: list[BaseGeometry]) -> BaseGeometry:
        """Return the largest part of an outline that is outside others, without spikes."""
        if not others:
            return shape
        rest = shapely.difference(shape, shapely.union_all(others))
        if rest.area >= shape.area * (1 - _ROUNDING):
            return shape
        inner = shapely.buffer(rest, -self._reach / 2, join_style="mitre")
        opened = shapely.buffer(inner, self._reach / 2, join_style="mitre")
        return _largest(shapely.intersection(rest, opened))

    def _is_narrow(self, shape: BaseGeometry) -> bool:
        return bool(shapely.buffer(shape, -self._width / 2).is_empty)

    def keep_cut(self) -> None:
        """Keep what is left of outlines that are cut off, joined to those of one building."""
        rows = np.flatnonzero(self._touching & self._is_cut)
        whole = self.shapes.copy()  # outlines that are cut off do not cover each other
        for row in rows.tolist():
            self._keep_rest(row, whole)
        left = np.array([self.shapes[row] is not None for row in rows], dtype=bool)
        for group in self._find_parts(rows[left]):
            if len(group) > 1:
                largest = group[shapely.area(self.shapes[group]).argmax()]
                union = _join(self.shapes[group], self._reach)
                self.shapes[group] = None
                self.shapes[largest], self.joined[largest] = union, True
                self.clipped[group] = False
        self._separate(rows)

    def _find_parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Group outlines that are cut off by the building that they are parts of."""
        present = np.zeros(len(self._polygons), dtype=bool)
        present[rows] = True
        both = present[self._first] & present[self._second]
        first, second = self._first[both], self._second[both]
        linked = self._shared[both] >= _SHARED * self._smaller[both]
        rest = np.flatnonzero(~linked)
        linked[rest] = _adjoin(
            self._polygons[first[rest]], self._polygons[second[rest]], self._reach
        )
        links = coo_array(
            (np.ones(int(linked.sum())), (first[linked], second[linked])),
            shape=(len(self._polygons),) * 2,
        )
        _, building = connected_components(links, directed=False)
        order = rows[np.argsort(building[rows], kind="stable")]
        return np.split(order, np.flatnonzero(np.diff(building[order])) + 1) if len(rows) else []

    def _separate(self, rows: np.ndarray) -> None:
        """Cut outlines off at all others, those that were joined and those of other buildings."""
        present = np.flatnonzero([shape is not None for shape in self.shapes])
        tree = shapely.STRtree(self.shapes[present])
        for row in rows.tolist():
            shape = self.shapes[row]
            if shape is None:
                continue
            near = present[tree.query(shape, predicate="intersects")]
            # One of two that both may change keeps the overlap.
            others = [
                self.shapes[other] for other in near.tolist()
                if self.shapes[other] is not None and other != row
                and (self._mosaics[other] != self._mosaics[row] or self.joined[row])
            ]  # fmt: skip
            shared = shapely.area(shapely.intersection(shape, np.array(others, dtype=object)))
            if not len(others) or shared.max() <= _ROUNDING * shape.area:
                continue
            rest = self._cut_off(shape, others)
            kept = rest.area >= _LEAST_REST * shape.area and not self._is_narrow(rest)
            self.shapes[row], self.clipped[row] = rest if kept else None, kept
            self.joined[row] &= kept


def _prefer(
    shapes: np.ndarray, mosaics: np.ndarray, areas: Sequence[BaseGeometry], depth: float
) -> np.ndarray:
    """Return the preferred mosaic (n,) at the middle of each outline."""
    points = shapely.point_on_surface(shapes)
    places, found = shapely.STRtree(areas).query(points, predicate="intersects")
    edges = shapely.boundary(np.array(areas, dtype=object))
    depths = np.minimum(shapely.distance(points[places], edges[found]), depth)
    deepest = np.zeros(len(shapes))
    np.maximum.at(deepest, places, depths)
    slack = _SAME_DEPTH * depth if np.isfinite(depth) else 0.0
    deep = depths >= deepest[places] - slack
    places, found = places[deep], found[deep]
    order = np.lexsort((found, places))
    first = order[np.diff(places[order], prepend=-1) > 0]
    preferred = mosaics.copy()  # of outlines whose middle is just outside the area
    preferred[places[first]] = found[first]
    return preferred


def _pairs_of_mosaics(
    shapes: np.ndarray, mosaics: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of outlines of different mosaics that are near each other."""
    first, second = shapely.STRtree(shapes).query(shapes, predicate="dwithin", distance=reach)
    different = (first < second) & (mosaics[first] != mosaics[second])
    return first[different], second[different]


def _adjoin(shapes: np.ndarray, others: np.ndarray, reach: float) -> np.ndarray:
    """Return which outlines run along another one, on a quarter of its size or more."""
    near = shapely.intersection(shapely.boundary(shapes), shapely.buffer(others, 1.01 * reach))
    sizes = np.sqrt(np.minimum(shapely.area(shapes), shapely.area(others)))
    adjoining: np.ndarray = shapely.length(near) >= np.maximum(2 * reach, sizes / 4)
    return adjoining


def _join(shapes: np.ndarray, reach: float) -> BaseGeometry:
    """Return the union of outlines, with gaps between them closed."""
    union = shapely.union_all(shapes)
    if union.geom_type != "Polygon":
        grown = shapely.buffer(union, reach, join_style="mitre")
        union = shapely.union(union, shapely.buffer(grown, -reach, join_style="mitre"))
    return _largest(union)


def _largest(shape: BaseGeometry) -> BaseGeometry:
    parts = shapely.get_parts(shape)
    parts = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    return parts[shapely.area(parts).argmax()] if len(parts) else shapely.Polygon()
