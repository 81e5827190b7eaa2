"""From labels to outlines: exact along the pixels, then simpler with shared walls kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from affine import Affine
from rasterio.features import shapes
from shapely.geometry import Polygon

# In square-root pixels; removes vertices on straight lines and no others, for the smallest
# triangle that pixel corners span has an area of half a pixel.
_COLLINEAR = 1e-3


def trace(labels: np.ndarray, transform: Affine) -> list[tuple[int, Polygon]]:
    """Traces the outline of each label along its pixels, holes included.

    Args:
        labels: Int32 (H, W), 0 outside; each label 4-connected.
        transform: Pixel (column, row) to the polygons' coordinates.

    Returns:
        (label, polygon), by label and then in scan order; a label in several pieces gives
        one polygon for each. Objects that touch have the same edge there.
    """
    traced = [
        (int(label), Polygon(outline["coordinates"][0], outline["coordinates"][1:]))
        for outline, label in shapes(
            labels.astype(np.int32, copy=False),
            mask=labels > 0,
            connectivity=4,
            transform=transform,
        )
    ]
    return sorted(traced, key=lambda item: item[0])


def simplify_coverage(polygons: Sequence[Polygon], tolerance: float) -> list[Polygon]:
    """Simplifies outlines on pixel corners together, so that a shared wall stays shared.

    Args:
        polygons: Polygons without overlap whose vertices are whole pixels.
        tolerance: In pixels; corners whose triangle has an area below its square go. 0 keeps
            the outlines and adds a vertex where three objects meet.

    Returns:
        As many valid polygons; all of them unsimplified if one would become invalid.
    """
    noded = shapely.segmentize(np.asarray(polygons, dtype=object), 1.0)
    noded = shapely.transform(noded, np.round)
    for attempt in (max(tolerance, _COLLINEAR), _COLLINEAR):
        simplified = shapely.coverage_simplify(noded, attempt)
        if _sound(simplified):
            return list(simplified)
    return list(polygons)


def _sound(polygons: np.ndarray) -> bool:
    kinds = shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON
    return bool((kinds & shapely.is_valid(polygons) & ~shapely.is_empty(polygons)).all())
