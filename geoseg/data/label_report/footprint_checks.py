"""How large footprints are, and which of them repeat or overlap each other."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS

from geoseg.data.label_report.summary import FootprintStatistics, Histogram
from geoseg.geo.vector.geodesic import geodesic_measures

# Two footprints are the same if their IoU exceeds this, whatever their vertices.
DUPLICATE_IOU = 0.95

# Two footprints overlap if they share more than this of the smaller one. A pair with an IoU
# above a share always does, too.
OVERLAP_SHARE = 0.1

# Fewer pixels than these are no building that a network can see.
_TINY_PX = 9

_QUANTILES = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95}
_QUANTILES["max"] = 1.0

_AREA_BINS = 40


def measure_footprints(
    parts: Sequence[gpd.GeoDataFrame], gsd_m: float, repaired: int | None, dropped: int | None
) -> FootprintStatistics:
    """Measures footprints.

    Args:
        parts: In longitude and latitude, with the scene of each; one part at a time is in
            memory, and what of the parts before lies near it.
        gsd_m: Metres on the ground per pixel.
        repaired: How many were mended.
        dropped: How many features were left out.
    """
    areas = np.concatenate([geodesic_areas_m2(part) for part in parts])
    duplicates, overlaps = _count_all_overlaps(parts)
    return FootprintStatistics(
        number=len(areas),
        repaired=repaired,
        dropped=dropped,
        duplicates=duplicates,
        overlaps=overlaps,
        tiny=int((areas < _TINY_PX * gsd_m**2).sum()),
        area_m2={
            name: round(float(np.quantile(areas, share)), 2) if len(areas) else 0.0
            for name, share in _QUANTILES.items()
        },
        areas=_count_areas(areas),
    )


def geodesic_areas_m2(footprints: gpd.GeoDataFrame) -> np.ndarray:
    """Areas on the ground in square metres (N,), of footprints in longitude and latitude."""
    parts, owners = shapely.get_parts(footprints.geometry.to_numpy(), return_index=True)
    areas, _ = geodesic_measures(parts, CRS.from_epsg(4326))
    return np.bincount(owners, weights=areas, minlength=len(footprints))


def _count_all_overlaps(parts: Sequence[gpd.GeoDataFrame]) -> tuple[int, int]:
    """`count_overlaps` over parts, scene by scene."""
    duplicates, overlaps = 0, 0
    extents: dict[str, dict[int, np.ndarray]] = {}
    for place in range(len(parts)):
        for scene, own in parts[place].groupby("scene", sort=True):
            before = extents.setdefault(str(scene), {})
            extent = own.total_bounds
            near = [_inside(parts[i], str(scene), extent) for i in _meeting(before, extent)]
            before[place] = extent
            shapes = np.concatenate([*near, own.geometry.to_numpy()])
            same, shared = count_overlaps(shapes, since=len(shapes) - len(own))
            duplicates, overlaps = duplicates + same, overlaps + shared
    return duplicates, overlaps


def _meeting(extents: dict[int, np.ndarray], extent: np.ndarray) -> list[int]:
    """Places whose (left, bottom, right, top) meet another."""
    return [
        place
        for place, other in extents.items()
        if (other[:2] <= extent[2:]).all() and (other[2:] >= extent[:2]).all()
    ]


def _inside(part: gpd.GeoDataFrame, scene: str, extent: np.ndarray) -> np.ndarray:
    own = part[part.scene == scene]
    near: np.ndarray = own.geometry.to_numpy()[own.sindex.query(shapely.box(*extent))]
    return near


def count_overlaps(shapes: np.ndarray, since: int = 0) -> tuple[int, int]:
    """Counts footprints that lie on each other.

    Args:
        shapes: Polygons (N,) in any CRS in which areas near each other compare.
        since: Pairs of those before this place are not counted.

    Returns:
        FootprintStatistics that repeat an earlier one, and the other pairs that share more than
        `OVERLAP_SHARE` of the smaller one.
    """
    shapes = shapely.make_valid(shapes)
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    counted = (first < second) & (second >= since)
    first, second = first[counted], second[counted]
    areas = shapely.area(shapes)
    shared = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    union = areas[first] + areas[second] - shared
    same = shared > DUPLICATE_IOU * union
    smaller = np.minimum(areas[first], areas[second])
    overlapping = ~same & (shared > OVERLAP_SHARE * smaller)
    return len(np.unique(second[same])), int(overlapping.sum())


def _count_areas(areas: np.ndarray) -> Histogram:
    logs = np.log10(np.maximum(areas, 0.01))
    low, high = (logs.min(), logs.max()) if len(logs) else (0.0, 1.0)
    low, high = np.floor(10 * low) / 10, np.floor(10 * high) / 10 + 0.1
    counts, _ = np.histogram(logs, _AREA_BINS, range=(low, high))
    return Histogram(
        name="log10 of area in square metres",
        low=round(float(low), 1),
        high=round(float(high), 1),
        counts=tuple(counts.tolist()),
    )
