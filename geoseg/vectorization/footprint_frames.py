"""Outlines in pixels → measured footprints on the ground."""

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

_PIECE = 4096  # footprints of a frame


@dataclass(frozen=True)
class OutlineBatch:
    """Outlines of objects, in pixels of a grid.

    Attributes:
        polygons: Polygons (n,); x is the column, y the row.
        attributes: What else is known of each, by name; `confidence` at least.
    """

    polygons: np.ndarray
    attributes: Mapping[str, np.ndarray]

    def pick(self, chosen: np.ndarray | slice) -> OutlineBatch:
        """Those that a mask, indices or a slice choose."""
        attributes = {name: values[chosen] for name, values in self.attributes.items()}
        return OutlineBatch(self.polygons[chosen], attributes)


def georeference_outlines(
    batches: Iterable[OutlineBatch], grid: Grid, min_area_m2: float, min_confidence: float = 0.0
) -> Iterator[gpd.GeoDataFrame]:
    """Brings outlines to the ground, measures and numbers them.

    Args:
        batches: Outlines.
        grid: Place on the ground.
        min_area_m2: Smaller footprints are dropped.
        min_confidence: Those of less confidence, too.

    Yields:
        Frames in the grid's CRS with id (from 1), area_m2, perimeter_m, the attributes and
        geometry.
    """
    frames = (
        build_frame(batch.pick(slice(begin, begin + _PIECE)), grid)
        for batch in batches
        for begin in range(0, len(batch.polygons), _PIECE)
    )
    yield from number_footprints(frames, min_area_m2, min_confidence)


def number_footprints(
    frames: Iterable[gpd.GeoDataFrame], min_area_m2: float, min_confidence: float
) -> Iterator[gpd.GeoDataFrame]:
    """Numbers footprints from 1, without those that are too small or too unsure.

    Args:
        frames: From `build_frame`.
        min_area_m2: Smaller footprints are dropped.
        min_confidence: Those of less confidence, too.

    Yields:
        As many at a time whatever the frames hold, so that files do not depend on them.
    """
    kept = (
        frame[(frame["area_m2"] >= min_area_m2) & (frame["confidence"] >= min_confidence)]
        for frame in frames
    )
    last = 0
    for part in _batch(kept, _PIECE):
        part["id"] = np.arange(last + 1, last + 1 + len(part), dtype=np.int64)
        last += len(part)
        yield part


def _batch(frames: Iterable[gpd.GeoDataFrame], size: int) -> Iterator[gpd.GeoDataFrame]:
    """The rows of frames, so many at a time."""
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
    """All footprints of some frames as one, with those columns alone."""
    some = [frame for frame in frames if len(frame)]
    if some:
        return pd.concat(some, ignore_index=True)[[*columns, "geometry"]]
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    return gpd.GeoDataFrame(empty, geometry=[], crs=as_crs(grid.crs))


def build_frame(batch: OutlineBatch, grid: Grid) -> gpd.GeoDataFrame:
    """Outlines on the ground, measured; ids are left at 0."""
    crs = as_crs(grid.crs)
    polygons = shapely.orient_polygons(_to_ground(batch.polygons, grid))
    areas, perimeters = geodesic_measures(polygons, crs)
    attributes = {
        name: values.round(4) if values.dtype.kind == "f" else values
        for name, values in batch.attributes.items()
    }
    frame = pd.DataFrame(
        {
            "id": np.zeros(len(polygons), dtype=np.int64),
            "area_m2": areas.round(3),
            "perimeter_m": perimeters.round(3),
            **attributes,
        }
    )
    return gpd.GeoDataFrame(frame, geometry=polygons, crs=crs)


def _to_ground(polygons: np.ndarray, grid: Grid) -> np.ndarray:
    ground: np.ndarray = shapely.transform(
        polygons, lambda pixels: np.column_stack(grid.transform @ (pixels[:, 0], pixels[:, 1]))
    )
    return ground
