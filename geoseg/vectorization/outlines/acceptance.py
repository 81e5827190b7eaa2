"""Tests that right-angled outlines must pass, compared with the traced ones."""

from __future__ import annotations

import numpy as np
import shapely

from geoseg.vectorization.outlines.distances import stay_near

# Limits for a right-angled outline compared with the traced one: least IoU and largest relative
# change of the area.
MIN_IOU = 0.8
MAX_AREA_CHANGE = 0.15

# The traced outline may stick out by this many maximum shifts, as small spurs do.
SPUR = 2.0

# Least distance between corners and walls of an outline, as a share of its maximum shift.
MIN_CLEARANCE = 0.02


def is_acceptable(polygons: np.ndarray, traced: np.ndarray, max_shifts: np.ndarray) -> np.ndarray:
    """Return which polygons are valid and close enough to the traced ones.

    Args:
        polygons: Right-angled polygons (n,), in metres.
        traced: The traced polygons (n,).
        max_shifts: float64 (n,), maximum shift of each outline.
    """
    accepted: np.ndarray = (
        shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON
    ) & shapely.is_valid(polygons)
    # Polygons that are barely valid could become invalid when coordinates are rounded.
    accepted &= shapely.minimum_clearance(polygons) > MIN_CLEARANCE * max_shifts
    # Each test takes longer than the one before it, so it runs only where that one passed.
    accepted[accepted] = _has_similar_area(polygons[accepted], traced[accepted])
    accepted[accepted] = _is_near(polygons[accepted], traced[accepted], max_shifts[accepted])
    return accepted


def _has_similar_area(polygons: np.ndarray, traced: np.ndarray) -> np.ndarray:
    """Return which polygons cover about the same area as the traced ones."""
    own, true = shapely.area(polygons), shapely.area(traced)
    agree: np.ndarray = np.abs(own - true) <= MAX_AREA_CHANGE * true
    own, true = own[agree], true[agree]
    shared = shapely.area(shapely.intersection(polygons[agree], traced[agree]))
    agree[agree] = shared >= MIN_IOU * (own + true - shared)
    return agree


def _is_near(polygons: np.ndarray, traced: np.ndarray, max_shifts: np.ndarray) -> np.ndarray:
    """Return which polygons are near the traced outline, and the traced outline near them."""
    near: np.ndarray = stay_near(polygons, traced, max_shifts)
    near[near] = stay_near(traced[near], polygons[near], SPUR * max_shifts[near])
    return near
