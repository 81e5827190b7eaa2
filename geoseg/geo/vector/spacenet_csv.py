"""SpaceNet CSV: polygons in pixel coordinates of an image."""

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

_DECIMALS = 3  # of pixel coordinates


def write_spacenet_csv(
    path: Path, batches: Iterable[tuple[np.ndarray, np.ndarray]], grid: Grid, image: str
) -> None:
    """Write the footprints of one image; without footprints, the row that SpaceNet uses for none.

    Args:
        path: Output file.
        batches: Polygons (n,) in the grid's CRS, and their confidences (n,).
        grid: Grid of the image.
        image: Name of the image in the column `ImageId`.
    """
    last = 0
    with csv.CSVWriter(path, _SCHEMA) as writer:
        for polygons, confidences in batches:
            if len(polygons):
                numbers = np.arange(last + 1, last + 1 + len(polygons))
                writer.write(_table(image, numbers, _to_pixels(polygons, grid), confidences))
                last += len(polygons)
        if not last:
            empty = np.array([shapely.Polygon()], dtype=object)
            writer.write(_table(image, np.array([-1]), empty, np.ones(1)))


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
        polygons, lambda points: np.column_stack(grid.to_pixels(*points.T))
    )
    return pixels
