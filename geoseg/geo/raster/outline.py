"""Outlines of the valid area of rasters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from rasterio.features import shapes
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from geoseg.geo.raster.opening import as_read_errors, open_raster

# Rows and columns in which the area is looked at; larger rasters are reduced.
_SIDE = 1024

# Outlines with more vertices are simplified.
_FEW_VERTICES = 50


def outline_valid(path: str | Path) -> BaseGeometry:
    """Return the area of a raster that is not nodata, in its CRS.

    Of a raster with more than 1,024 rows or columns, validity is read reduced to that, so that the
    outline is exact to some pixels only; where all pixels are valid it is exact.

    Raises:
        SceneReadError: If the raster cannot be read.
    """
    with open_raster(path) as source, as_read_errors(path):
        factor = max(1.0, max(source.shape) / _SIDE)
        height, width = (max(1, round(side / factor)) for side in source.shape)
        valid = source.read_masks(1, out_shape=(height, width)) > 0
        scale = Affine.scale(source.width / width, source.height / height)
        transform = source.transform * scale
    parts = shapes(valid.view(np.uint8), mask=valid, transform=transform)
    outline = shapely.union_all([shape(part) for part, _ in parts])
    if outline.is_empty:
        return shapely.MultiPolygon()
    if shapely.get_num_coordinates(outline) <= _FEW_VERTICES:
        return outline
    # An edge that is not along the pixels is a staircase.
    return shapely.simplify(outline, float(np.hypot(transform.a, transform.d)))
