"""Outlines in pixels converted to measured and numbered footprints in the CRS of the grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geoseg.geo.grid import Grid
from geoseg.geo.vector import FOOTPRINT_COLUMNS, as_crs
from geoseg.geo.vector.geodesic import geodesic_measures
from geoseg.options.confidence import ConfidenceRule
from geoseg.vectorization.confidence import compute_features, rate_footprints

_FRAME_ROWS = 4096


@dataclass(frozen=True)
class OutlineBatch:
    """Outlines of objects, in pixels of a grid.

    Attributes:
        polygons: Polygons (n,); x is the column, y the row.
        attributes: Arrays (n,) by name; `confidence`, or what `compute_features` needs.
    """

    polygons: np.ndarray
    attributes: Mapping[str, np.ndarray]

    def pick(self, chosen: np.ndarray | slice) -> OutlineBatch:
        """Return the outlines at a mask, indices or a slice."""
        attributes = {name: values[chosen] for name, values in self.attributes.items()}
        return OutlineBatch(self.polygons[chosen], attributes)


def georeference_outlines(
    batches: Iterable[OutlineBatch], grid: Grid, min_area_m2: float, min_confidence: float = 0.0
) -> Iterator[gpd.GeoDataFrame]:
    """Transform outlines to the CRS of the grid, measure and number them.

    Args:
        batches: Outlines.
        grid: Grid of the outlines.
        min_area_m2: Smaller footprints are dropped.
        min_confidence: Less confident footprints are dropped.

    Yields:
        Frames in the grid's CRS with id (from 1), area_m2, perimeter_m, the attributes and
        geometry.
    """
    frames = (
        build_frame(batch.pick(slice(begin, begin + _FRAME_ROWS)), grid)
        for batch in batches
        for begin in range(0, len(batch.polygons), _FRAME_ROWS)
    )
    yield from number_footprints(frames, min_area_m2, min_confidence)


def number_footprints(
    frames: Iterable[gpd.GeoDataFrame], min_area_m2: float, min_confidence: float
) -> Iterator[gpd.GeoDataFrame]:
    """Drop small and uncertain footprints, and number the rest from 1.

    Args:
        frames: Frames of `build_frame`.
        min_area_m2: Smaller footprints are dropped.
        min_confidence: Less confident footprints are dropped.

    Yields:
        Frames of a fixed number of rows, so that files do not depend on the size of the input.
    """
    kept = (
        frame[(frame["area_m2"] >= min_area_m2) & (frame["confidence"] >= min_confidence)]
        for frame in frames
    )
    last = 0
    for part in _batch(kept, _FRAME_ROWS):
        part["id"] = np.arange(last + 1, last + 1 + len(part), dtype=np.int64)
        last += len(part)
        yield part


def _batch(frames: Iterable[gpd.GeoDataFrame], size: int) -> Iterator[gpd.GeoDataFrame]:
    """Regroup the rows of frames into frames of a fixed size."""
    waiting: list[gpd.GeoDataFrame] = []
    for frame in frames:
        while len(frame):
            room = size - sum(map(len, waiting))
            waiting.append(frame.iloc[:room])
            frame = frame.iloc[room:]
            if len(waiting[-1]) == room:
                yield pd.concat(waiting, ignore_index=True)
                waiting = []
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


def concatenate_frames(
    frames: Iterable[gpd.GeoDataFrame], grid: Grid, columns: Mapping[str, str] = FOOTPRINT_COLUMNS
) -> gpd.GeoDataFrame:
    """Concatenate frames and keep only the given columns."""
    filled = [frame for frame in frames if len(frame)]
    if filled:
        return pd.concat(filled, ignore_index=True)[[*columns, "geometry"]]
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    return gpd.GeoDataFrame(empty, geometry=[], crs=as_crs(grid.crs))


def build_frame(
    batch: OutlineBatch, grid: Grid, rule: ConfidenceRule | None = None
) -> gpd.GeoDataFrame:
    """Build a frame of measured footprints in the CRS of the grid; every id is 0.

    Args:
        batch: Outlines.
        grid: Grid of the outlines.
        rule: How `confidence` follows from features; without one it is `mean_prob`. It is ignored
            if the outlines have confidences.
    """
    crs = as_crs(grid.crs)
    polygons = shapely.orient_polygons(_to_crs(batch.polygons, grid))
    areas, perimeters = geodesic_measures(polygons, crs)
    attributes = {
        name: values.round(4) if values.dtype.kind == "f" else values
        for name, values in batch.attributes.items()
    }
    measured = {"area_m2": areas.round(3), "perimeter_m": perimeters.round(3)}
    frame = pd.DataFrame(
        {
            "id": np.zeros(len(polygons), dtype=np.int64),
            **measured,
            **_confidence({**measured, **attributes}, rule),
            **attributes,
        }
    )
    return gpd.GeoDataFrame(frame, geometry=polygons, crs=crs)


def _confidence(
    columns: Mapping[str, np.ndarray], rule: ConfidenceRule | None
) -> dict[str, np.ndarray]:
    if "confidence" in columns:
        return {}
    if rule is None:
        return {"confidence": columns["mean_prob"]}
    return {"confidence": rate_footprints(rule, compute_features(columns)).round(4)}


def _to_crs(polygons: np.ndarray, grid: Grid) -> np.ndarray:
    placed: np.ndarray = shapely.transform(
        polygons, lambda pixels: np.column_stack(grid.transform * (pixels[:, 0], pixels[:, 1]))
    )
    return placed
