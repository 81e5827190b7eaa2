"""Areas of footprints, duplicates and overlaps."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS

from geoseg.data.label_report.summary import FootprintStatistics, Histogram
from geoseg.geo.vector.geodesic import geodesic_measures

# Footprints are duplicates above this IoU. Vertices are not compared, since copies are often
# edited or stored in another order.
DUPLICATE_IOU = 0.95

# Footprints overlap if they share more than this of the smaller one, so that neighbours drawn
# slightly across a common wall do not count.
OVERLAP_SHARE = 0.1

# Footprints smaller than this number of pixels are too small for a network to detect.
_TINY_PX = 9

_QUANTILES = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95}
_QUANTILES["max"] = 1.0

_AREA_BINS = 40


def measure_footprints(
    parts: Sequence[gpd.GeoDataFrame], gsd_m: float, repaired: int | None, dropped: int | None
) -> FootprintStatistics:
    """Compute statistics of footprints.

    Args:
        parts: Footprints in longitude and latitude, with the column `scene`. Only one part and
            the footprints of earlier parts near it are in memory at a time.
        gsd_m: Ground sampling distance, metres per pixel.
        repaired: Number of invalid footprints that were repaired, if known.
        dropped: Number of features that were left out, if known.
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
    """Return areas in square metres (N,) of footprints, geodesic unless their CRS is local."""
    parts, owners = shapely.get_parts(footprints.geometry.to_numpy(), return_index=True)
    areas, _ = geodesic_measures(parts, footprints.crs or CRS.from_epsg(4326))
    areas = np.where(np.isfinite(areas), areas, 0.0)  # damaged coordinates may have no area
    return np.bincount(owners, weights=areas, minlength=len(footprints))


def _count_all_overlaps(parts: Sequence[gpd.GeoDataFrame]) -> tuple[int, int]:
    """Apply `count_overlaps` to each part and scene, across the borders of parts too."""
    duplicates, overlaps = 0, 0
    extents: dict[str, dict[int, np.ndarray]] = {}
    for number in range(len(parts)):
        for scene, part in parts[number].groupby("scene", sort=True):
            earlier = extents.setdefault(str(scene), {})
            extent = part.total_bounds
            nearby = [
                _read_extent(parts[i], str(scene), extent) for i in _intersecting(earlier, extent)
            ]
            earlier[number] = extent
            polygons = np.concatenate([*nearby, part.geometry.to_numpy()])
            # Pairs within earlier parts were counted before.
            same, shared = count_overlaps(polygons, start=len(polygons) - len(part))
            duplicates, overlaps = duplicates + same, overlaps + shared
    return duplicates, overlaps


def _intersecting(extents: dict[int, np.ndarray], extent: np.ndarray) -> list[int]:
    """Return the numbers of the parts whose (left, bottom, right, top) intersects an extent."""
    return [
        number
        for number, other in extents.items()
        if (other[:2] <= extent[2:]).all() and (other[2:] >= extent[:2]).all()
    ]


def _read_extent(part: gpd.GeoDataFrame, scene: str, extent: np.ndarray) -> np.ndarray:
    """Return the footprints of a scene whose bounding boxes intersect an extent."""
    candidates = part[part.scene == scene]
    rows = candidates.sindex.query(shapely.box(*extent))
    polygons: np.ndarray = candidates.geometry.to_numpy()[rows]
    return polygons


def count_overlaps(polygons: np.ndarray, start: int = 0) -> tuple[int, int]:
    """Count duplicates and overlapping pairs of footprints.

    Args:
        polygons: Polygons (N,) in any CRS; only ratios of neighbouring areas are used.
        start: Pairs of two polygons before this index are not counted.

    Returns:
        Number of footprints that repeat an earlier one, and number of other pairs that share
        more than `OVERLAP_SHARE` of the smaller one.
    """
    if not len(polygons):
        return 0, 0
    # Copies are compared once: a layer that was loaded many times has millions of pairs.
    _, rows, group = np.unique(shapely.to_wkb(polygons), return_index=True, return_inverse=True)
    copies = np.bincount(group)
    earlier = np.bincount(group[:start], minlength=len(rows))
    single = shapely.make_valid(polygons[rows])
    first, second = shapely.STRtree(single).query(single, predicate="intersects")
    counted = (first < second) & ((copies > earlier)[first] | (copies > earlier)[second])
    first, second = first[counted], second[counted]
    areas = shapely.area(single)
    shared = shapely.area(shapely.intersection(single[first], single[second]))
    union = areas[first] + areas[second] - shared
    same = shared > DUPLICATE_IOU * union
    smaller = np.minimum(areas[first], areas[second])
    overlapping = ~same & (shared > OVERLAP_SHARE * smaller)
    pairs = copies[first] * copies[second] - earlier[first] * earlier[second]
    repeated = np.arange(start, len(polygons))
    oldest = _find_oldest(rows, first[same], second[same])
    return int((repeated > oldest[group[start:]]).sum()), int(pairs[overlapping].sum())


def _find_oldest(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the first row of each distinct polygon or of one that is the same.

    Args:
        rows: (N,), first row of each distinct polygon.
        first: Polygons that are the same as those of `second`.
        second: See `first`.
    """
    oldest = rows.copy()
    np.minimum.at(oldest, first, rows[second])
    np.minimum.at(oldest, second, rows[first])
    return oldest


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
