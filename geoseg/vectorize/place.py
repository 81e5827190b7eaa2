"""Outlines in pixels → measured footprints on the ground."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from shapely.geometry import Polygon

from geoseg.grid import Grid
from geoseg.vector import FOOTPRINT_COLUMNS, as_crs
from geoseg.vector.measure import geodesic_measures

_BATCH = 4096  # footprints


def place_footprints(
    outlines: Iterator[tuple[Polygon, float]], grid: Grid, min_area_m2: float
) -> Iterator[gpd.GeoDataFrame]:
    """Brings outlines to the ground, measures and numbers them.

    Args:
        outlines: Outline in pixels of the grid, and confidence.
        grid: Place on the ground.
        min_area_m2: Smaller footprints are dropped.

    Yields:
        Frames as in `iter_footprints`.
    """
    next_id = 1
    while batch := list(islice(outlines, _BATCH)):
        frame = _build_batch(batch, grid)
        frame = frame[frame["area_m2"] >= min_area_m2].reset_index(drop=True)
        frame["id"] = np.arange(next_id, next_id + len(frame), dtype=np.int64)
        next_id += len(frame)
        yield frame


def join_batches(batches: Iterator[gpd.GeoDataFrame], grid: Grid) -> gpd.GeoDataFrame:
    """All footprints of some frames as one, which may be empty, on their grid."""
    frames = list(batches)
    return pd.concat(frames, ignore_index=True) if frames else _build_batch([], grid)


def _build_batch(objects: list[tuple[Polygon, float]], grid: Grid) -> gpd.GeoDataFrame:
    """Places outlines in pixels on the ground and measures them; ids are left at 0."""
    crs = as_crs(grid.crs)
    polygons = _to_ground(np.array([polygon for polygon, _ in objects], dtype=object), grid)
    areas, perimeters = geodesic_measures(polygons, crs)
    frame = pd.DataFrame(
        {
            "id": np.zeros(len(polygons)),
            "area_m2": areas.round(3),
            "perimeter_m": perimeters.round(3),
            "confidence": np.array([confidence for _, confidence in objects]).round(4),
        }
    )
    return gpd.GeoDataFrame(frame.astype(dict(FOOTPRINT_COLUMNS)), geometry=polygons, crs=crs)


def _to_ground(polygons: np.ndarray, grid: Grid) -> np.ndarray:
    ground: np.ndarray = shapely.transform(
        polygons, lambda pixels: np.column_stack(grid.transform @ (pixels[:, 0], pixels[:, 1]))
    )
    return ground
