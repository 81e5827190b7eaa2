"""Coordinate reference systems of any library, and transformers between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from geoseg.errors import MissingCRSError


def as_crs(crs: Any, where: str | Path = "layer") -> CRS:
    """Convert a CRS of any library, an EPSG code or WKT to a pyproj CRS.

    Args:
        crs: The CRS.
        where: File name for the error message.

    Returns:
        The CRS.

    Raises:
        MissingCRSError: If `crs` is None or unknown to pyproj.
    """
    if crs is None:
        raise MissingCRSError(
            f"{where}: has no coordinate reference system; add it with ogr2ogr -a_srs EPSG:CODE "
            "out.gpkg in.shp"
        )
    try:
        return CRS.from_user_input(crs.to_wkt() if hasattr(crs, "to_wkt") else crs)
    except CRSError as error:
        raise MissingCRSError(
            f"{where}: {str(crs)[:80]!r} is not a coordinate reference system; give "
            "EPSG:CODE or WKT"
        ) from error


def build_transformer(source: Any, target: Any, where: str | Path) -> Transformer:
    """Build a transformer of x and y, or of longitude and latitude, in this order.

    Args:
        source: CRS of any library.
        target: CRS of any library.
        where: File name for the error message.

    Raises:
        MissingCRSError: If one of the two has no location on Earth.
    """
    try:
        return Transformer.from_crs(as_crs(source, where), as_crs(target, where), always_xy=True)
    except ProjError as error:
        raise local_crs_error(where) from error


def local_crs_error(where: str | Path) -> MissingCRSError:
    """Return the error for two files of which one has a local CRS."""
    return MissingCRSError(
        f"{where}: cannot be aligned with other data, because one of the two has a local CRS "
        "without a location on Earth; assign a CRS with gdal_edit.py -a_srs or ogr2ogr -a_srs "
        "EPSG:CODE"
    )


def check_location(crs: Any, where: str | Path) -> None:
    """Check that positions in a CRS have a longitude and a latitude.

    Raises:
        MissingCRSError: If it is a local CRS.
    """
    try:
        Transformer.from_crs(as_crs(crs, where), 4326)
    except ProjError as error:
        raise MissingCRSError(
            f"{where}: has a local CRS without a location on Earth ({as_crs(crs).name}); assign "
            "the right one with gdal_edit.py -a_srs EPSG:CODE file.tif, or use the suffix .gpkg"
        ) from error


def transform_bounds(
    bounds: tuple[float, float, float, float] | None,
    bounds_crs: Any,
    crs: CRS,
    where: str | Path = "layer",
) -> tuple[float, float, float, float] | None:
    """Transform (left, bottom, right, top) to another CRS; None where that is not possible.

    Raises:
        MissingCRSError: If only one of the two has a location on Earth.
    """
    if bounds is None or bounds_crs is None or as_crs(bounds_crs, where) == crs:
        return bounds
    transformer = build_transformer(bounds_crs, crs, where)
    left, bottom, right, top = transformer.transform_bounds(*bounds, densify_pts=21)
    if not np.isfinite([left, bottom, right, top]).all() or left > right:
        return None  # outside the CRS's domain or across the antimeridian: read everything
    return left, bottom, right, top
