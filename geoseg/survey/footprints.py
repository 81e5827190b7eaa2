"""How large footprints are, and which of them repeat or overlap each other."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS

from geoseg.survey.report import Footprints, Histogram
from geoseg.vectorize.measure import geodesic_measures

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
    footprints: gpd.GeoDataFrame, gsd_m: float, repaired: int | None, dropped: int | None
) -> Footprints:
    """Measures footprints.

    Args:
        footprints: In longitude and latitude, with the scene of each.
        gsd_m: Metres on the ground per pixel.
        repaired: How many were mended.
        dropped: How many features were left out.
    """
    areas = measure_areas(footprints)
    duplicates, overlaps = 0, 0
    for _, part in footprints.groupby("scene", sort=True):
        same, shared = count_overlaps(part.geometry.to_numpy())
        duplicates += same
        overlaps += shared
    return Footprints(
        number=len(footprints),
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


def measure_areas(footprints: gpd.GeoDataFrame) -> np.ndarray:
    """Areas on the ground in square metres (N,), of footprints in longitude and latitude."""
    parts, owners = shapely.get_parts(footprints.geometry.to_numpy(), return_index=True)
    areas, _ = geodesic_measures(parts, CRS.from_epsg(4326))
    return np.bincount(owners, weights=areas, minlength=len(footprints))


def count_overlaps(shapes: np.ndarray) -> tuple[int, int]:
    """Counts footprints that lie on each other.

    Args:
        shapes: Polygons (N,) in any CRS in which areas near each other compare.

    Returns:
        Footprints that repeat an earlier one, and the other pairs that share more than
        `OVERLAP_SHARE` of the smaller one.
    """
    shapes = shapely.make_valid(shapes)
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    first, second = first[first < second], second[first < second]
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
