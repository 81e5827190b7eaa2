"""Footprints where mosaics of scenes overlap: each building once, and whole.

Mosaics differ in pixel grid or CRS, so a building in the overlap of two of them has an outline in
each. Outlines that cover each other are taken as one building, whose outline is that of the
preferred mosaic. If the building is cut off at the edge of every one of them, its outlines are
joined. A building that only one mosaic has counts where this mosaic is the preferred one.

Preferred is the first mosaic in which the place is deep inside, some distance from its edge, since
a network sees little of what surrounds a building at the edge; if there is none, the mosaic in
which the place is deepest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry.base import BaseGeometry

# Share of the smaller of two outlines that is in the other one, if they are of one building.
_SAME_BUILDING = 0.5

# A mosaic in which a building has less of the largest area it has in one does not show it whole.
_WHOLE = 0.5

# Share of an outline that must be left where it overlaps with other buildings.
_LEAST_SHARE = 0.5

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
) -> Resolved:
    """Keep one outline per building where mosaics overlap or adjoin.

    Args:
        polygons: Outlines (n,) in one planar CRS.
        mosaics: int64 (n,), mosaic of each; those with lower numbers come first.
        is_cut: bool (n,), whether an outline touches the edge of its mosaic.
        areas: Area of each mosaic.
        depth: Distance from the edge that is deep inside a mosaic.
        reach: Largest distance of two parts of one building at the edges of adjoining mosaics.
    """
    shapes = polygons.copy()
    joined, clipped = (np.zeros(len(shapes), dtype=bool) for _ in range(2))
    buildings = _find_buildings(shapes, mosaics, is_cut, reach)
    alone = np.bincount(buildings)[buildings] == 1
    kept = alone & (_prefer(shapes, mosaics, areas, depth) == mosaics)
    edges = shapely.boundary(np.array(areas, dtype=object))[mosaics]
    depths = np.where(is_cut, -1.0, np.minimum(shapely.distance(shapes, edges), depth))
    for rows in _groups(buildings, np.flatnonzero(~alone)):
        chosen = _choose(shapes[rows], mosaics[rows], depths[rows])
        if chosen is not None:
            kept[rows[mosaics[rows] == chosen]] = True
            continue
        largest = rows[shapely.area(shapes[rows]).argmax()]
        shapes[largest] = _join(shapes[rows], reach)
        kept[largest] = joined[largest] = True
    shapes[~kept] = None
    # A joined outline may also overlap with others of its own mosaic.
    _clip(shapes, np.where(joined, len(areas) + np.arange(len(shapes)), mosaics), clipped)
    return Resolved(shapes, joined & kept, clipped)


def _prefer(
    shapes: np.ndarray, mosaics: np.ndarray, areas: Sequence[BaseGeometry], depth: float
) -> np.ndarray:
    """Return the preferred mosaic (n,) at the middle of each outline."""
    points = shapely.point_on_surface(shapes)
    places, found = shapely.STRtree(areas).query(points, predicate="intersects")
    edges = shapely.boundary(np.array(areas, dtype=object))
    depths = np.minimum(shapely.distance(points[places], edges[found]), depth)
    # Of each place, the greatest depth first, and of several the first mosaic.
    order = np.lexsort((found, -depths, places))
    first = order[np.diff(places[order], prepend=-1) > 0]
    preferred = mosaics.copy()  # of outlines whose middle is just outside the area
    preferred[places[first]] = found[first]
    return preferred


def _find_buildings(
    shapes: np.ndarray, mosaics: np.ndarray, is_cut: np.ndarray, reach: float
) -> np.ndarray:
    """Return the building (n,) that each outline belongs to, numbered from 0."""
    first, second = _pairs_of_mosaics(shapes, mosaics, reach)
    smaller = np.minimum(shapely.area(shapes[first]), shapely.area(shapes[second]))
    shared = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    same = shared >= _SAME_BUILDING * smaller
    parts = np.flatnonzero(~same & is_cut[first] & is_cut[second])
    same[parts] = _adjoin(shapes[first[parts]], shapes[second[parts]], reach)
    links = coo_array(
        (np.ones(int(same.sum())), (first[same], second[same])), shape=(len(shapes),) * 2
    )
    return connected_components(links, directed=False)[1]  # type: ignore[no-any-return]


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


def _groups(numbers: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each number."""
    if not len(rows):
        return []
    rows = rows[np.argsort(numbers[rows], kind="stable")]
    return np.split(rows, np.flatnonzero(np.diff(numbers[rows])) + 1)


def _choose(shapes: np.ndarray, mosaics: np.ndarray, depths: np.ndarray) -> int | None:
    """Return the preferred mosaic of those that have all of a building; None if none has.

    Args:
        shapes: Outlines (n,) of the building.
        mosaics: Mosaic of each.
        depths: Distance of each from the edge of its mosaic; negative if it is cut off there.
    """
    numbers = np.unique(mosaics)
    sizes = np.array([shapely.area(shapes[mosaics == number]).sum() for number in numbers])
    deepest = np.array([depths[mosaics == number].min() for number in numbers])
    deepest[sizes < _WHOLE * sizes.max()] = -1
    return int(numbers[deepest.argmax()]) if deepest.max() >= 0 else None


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


def _clip(shapes: np.ndarray, ranks: np.ndarray, clipped: np.ndarray) -> None:
    """Cut outlines off where they overlap with those of lower rank; None if little is left."""
    present = np.flatnonzero([shape is not None for shape in shapes])
    first, second = _pairs_of_mosaics(shapes[present], ranks[present], 0.0)
    first, second = present[first], present[second]
    swapped = ranks[first] > ranks[second]
    over, under = np.where(swapped, second, first), np.where(swapped, first, second)
    order = np.lexsort((over, ranks[under]))
    whole = shapely.area(shapes)
    for above, below in zip(over[order].tolist(), under[order].tolist(), strict=True):
        if shapes[above] is None or shapes[below] is None:
            continue
        shared = shapely.area(shapely.intersection(shapes[above], shapes[below]))
        if shared <= _ROUNDING * min(whole[above], whole[below]):
            continue
        left = _largest(shapely.difference(shapes[below], shapes[above]))
        enough = left.area >= _LEAST_SHARE * whole[below]
        shapes[below] = left if enough else None
        clipped[below] = enough
