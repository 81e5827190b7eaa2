"""Footprints as the SpaceNet contests take them: a CSV of polygons in pixels of an image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from pyarrow import csv

from geoseg.geo.grid import Grid

_SCHEMA = pa.schema(
    [
        ("ImageId", pa.string()),
        ("BuildingId", pa.int64()),
        ("PolygonWKT_Pix", pa.string()),
        ("Confidence", pa.float64()),
    ]
)

_DECIMALS = 3  # of a pixel


def write_contest(
    path: Path, batches: Iterable[tuple[np.ndarray, np.ndarray]], grid: Grid, image: str
) -> None:
    """Writes the footprints of one image; one without any has the contest's row that says so.

    Args:
        path: Target.
        batches: Polygons (n,) in the grid's CRS, and their confidences (n,).
        grid: Of the image.
        image: Its name in the column `ImageId`.
    """
    last = 0
    with csv.CSVWriter(path, _SCHEMA) as writer:
        for polygons, confidences in batches:
            if len(polygons):
                numbers = np.arange(last + 1, last + 1 + len(polygons))
                writer.write(_table(image, numbers, _to_pixels(polygons, grid), confidences))
                last += len(polygons)
        if not last:
            nothing = np.array([shapely.Polygon()], dtype=object)
            writer.write(_table(image, np.array([-1]), nothing, np.ones(1)))


def _table(
    image: str, numbers: np.ndarray, polygons: np.ndarray, confidences: np.ndarray
) -> pa.Table:
    wkt = shapely.to_wkt(polygons, rounding_precision=_DECIMALS)
    columns = [[image] * len(polygons), numbers, wkt.tolist(), confidences]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)],
        schema=_SCHEMA,
    )


def _to_pixels(polygons: np.ndarray, grid: Grid) -> np.ndarray:
    pixels: np.ndarray = shapely.transform(
        polygons, lambda ground: np.column_stack(grid.to_pixels(*ground.T))
    )
    return pixels
