"""Coordinate reference systems of any library, and transformers between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
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


def has_location(crs: Any) -> bool:
    """Return whether positions in a CRS have a longitude and a latitude on Earth."""
    try:
        Transformer.from_crs(as_crs(crs), 4326)
    except ProjError:
        return False
    return True


def is_same_crs(one: CRS, other: CRS) -> bool:
    """Return whether coordinates in two CRSs are the same.

    Local CRSs are compared by name and unit, as files store the rest of them differently.
    """
    if one == other:
        return True
    if not (one.is_engineering and other.is_engineering):
        return False
    return _describe_local(one) == _describe_local(other)


def _describe_local(crs: CRS) -> tuple[str, list[float]]:
    return crs.name.casefold(), [axis.unit_conversion_factor for axis in crs.axis_info]


def check_location(crs: Any, where: str | Path) -> None:
    """Check that positions in a CRS have a longitude and a latitude.

    Raises:
        MissingCRSError: If it is a local CRS.
    """
    if not has_location(as_crs(crs, where)):
        raise MissingCRSError(
            f"{where}: has a local CRS without a location on Earth ({as_crs(crs).name}); assign "
            "the right one with gdal_edit.py -a_srs EPSG:CODE file.tif, or use the suffix .gpkg"
        )


@dataclass(frozen=True)
class XPeriod:
    """How x of a CRS repeats around the Earth: in degrees and in cylindrical projections.

    Attributes:
        length: x of 360 degrees of longitude, negative where x increases to the west.
        middle: x in the middle of the range in which PROJ returns it.
        equator: y of the equator.
    """

    length: float
    middle: float
    equator: float

    @property
    def size(self) -> float:
        """Length without its sign."""
        return abs(self.length)

    @property
    def range(self) -> tuple[float, float]:
        """(left, right) of the x that PROJ returns."""
        return self.middle - self.size / 2, self.middle + self.size / 2

    def turns(self, offsets: Any) -> Any:
        """Return the whole periods in offsets of x, as offsets."""
        with np.errstate(invalid="ignore"):
            return self.size * np.round(np.asarray(offsets) / self.size)

    def unroll(self, points: np.ndarray) -> np.ndarray:
        """Return points (n, 2) along a line whose x continues where it jumps by a period."""
        with np.errstate(invalid="ignore"):  # points outside the domain of the CRS
            steps = np.diff(points[:, 0])
        unrolled = np.array(points, dtype=np.float64)
        unrolled[1:, 0] = points[0, 0] + np.cumsum(steps - self.turns(steps))
        return unrolled


# Longitudes and latitudes, in degrees, at which a projection is examined. They are not symmetric,
# so that one that is not cylindrical is recognized.
_LONGITUDES, _LATITUDES = np.arange(-180.0, 180.0, 20.0), np.array([-50.0, 0.0, 35.0])

# Bisections that find the longitude where x jumps.
_BISECTIONS = 60


@lru_cache(maxsize=64)
def x_period(crs: CRS) -> XPeriod | None:
    """Return how x of a CRS repeats around the Earth; None if it does not."""
    if crs.is_geographic:
        full = 2 * math.pi / crs.axis_info[0].unit_conversion_factor
        return XPeriod(full, 0.0, 0.0)
    geodetic = crs.geodetic_crs
    if not crs.is_projected or geodetic is None:
        return None
    degree = math.radians(1) / geodetic.axis_info[0].unit_conversion_factor
    try:
        transformer = Transformer.from_crs(geodetic, crs, always_xy=True)
    except ProjError:
        return None

    def project(longitudes: np.ndarray, latitudes: np.ndarray) -> np.ndarray:
        return np.array(transformer.transform(longitudes * degree, latitudes * degree))

    return _measure_period(project)


def _measure_period(project: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> XPeriod | None:
    """Return the period of a projection of degrees; None if it is not cylindrical."""
    xs, ys = project(*np.meshgrid(_LONGITUDES, _LATITUDES))
    if not np.isfinite([xs, ys]).all():
        return None
    steps = np.diff(xs)
    step = float(np.median(steps))
    length = step * len(_LONGITUDES)
    if length == 0:
        return None
    jumps = np.round((steps - step) / length)
    errors = np.abs(steps - step - jumps * length), np.ptp(xs, axis=0), np.ptp(ys, axis=1)
    if max(error.max() for error in errors) > 1e-7 * abs(length):
        return None
    origin, _ = project(np.zeros(1), np.zeros(1))[:, 0]
    middle = float(origin)
    if jumps[1].any():
        west = _LONGITUDES[np.flatnonzero(jumps[1])[0]]
        middle = _find_last_x(project, float(west), abs(length)) - length / 2
    return XPeriod(length, middle, float(ys[1, 0]))


def _find_last_x(
    project: Callable[[np.ndarray, np.ndarray], np.ndarray], west: float, size: float
) -> float:
    """Return x at the longitude, not far east of `west`, at which it jumps by a period."""
    east = west + _LONGITUDES[1] - _LONGITUDES[0]
    for _ in range(_BISECTIONS):
        half = (west + east) / 2
        before, after = project(np.array([west, half]), np.zeros(2))[0]
        west, east = (west, half) if abs(after - before) > size / 2 else (half, east)
    return float(project(np.array([west]), np.zeros(1))[0, 0])


class ContinuousTransformer:
    """Transformer of points whose x does not jump from one end of a periodic CRS to the other.

    A polygon from 179 to 181 degrees of longitude continues beyond the right end of a cylindrical
    projection. Between CRSs of which one is not periodic, points are transformed as PROJ does.

    Args:
        source: CRS of any library.
        target: CRS of any library.
        where: File name for the error message.

    Raises:
        MissingCRSError: If one of the two has no location on Earth.
    """

    def __init__(self, source: Any, target: Any, where: str | Path = "layer") -> None:
        source, target = as_crs(source, where), as_crs(target, where)
        self.period = x_period(target)
        self.source_period = x_period(source)
        same = is_same_crs(source, target)
        self._transformer = None if same else build_transformer(source, target, where)
        self._reference = self._find_reference()

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Transform points (n, 2); infinite where they have no coordinates."""
        if self._transformer is None:
            return points
        with np.errstate(invalid="ignore"):
            moved = np.column_stack(self._transformer.transform(*points.T))
        if self._reference is not None and self.period and self.source_period:
            start, end = self._reference
            scale = self.period.length / self.source_period.length
            with np.errstate(invalid="ignore"):
                offsets = end + (points[:, 0] - start) * scale - moved[:, 0]
            moved[:, 0] += np.nan_to_num(self.period.turns(offsets), posinf=0.0, neginf=0.0)
        return moved

    def _find_reference(self) -> tuple[float, float] | None:
        """Return x of one point in both CRSs."""
        if not (self._transformer and self.period and self.source_period):
            return None
        middle = self.source_period.middle
        x, _ = self._transformer.transform(middle, self.source_period.equator)
        return (middle, x) if math.isfinite(x) else None


Box = tuple[float, float, float, float]

# Points on each side of bounds that are transformed.
_SIDE_POINTS = 21


def transform_bounds(
    bounds: Box | None,
    bounds_crs: Any,
    crs: CRS,
    where: str | Path = "layer",
    *,
    extent: tuple[float, float] | None = None,
) -> tuple[Box, ...] | None:
    """Transform (left, bottom, right, top) to another CRS.

    Args:
        bounds: Bounds of what is wanted; None for everything.
        bounds_crs: Their CRS; `crs` when None.
        crs: CRS of the result.
        where: File name for the error message.
        extent: Smallest and largest x of the data that the result is compared with; that of the
            CRS when None.

    Returns:
        Bounds in `crs`, several where its x repeats and the bounds are across its end. None where
        they have no coordinates: everything may be wanted.

    Raises:
        MissingCRSError: If only one of the two has a location on Earth.
    """
    if bounds is None:
        return None
    period = x_period(crs)
    if bounds_crs is None or is_same_crs(as_crs(bounds_crs, where), crs):
        box = bounds
    else:
        found = _outline_bounds(bounds, bounds_crs, crs, where)
        if found is None:
            return None
        box = found
    return (box,) if period is None else _repeat(box, period, extent)


def _outline_bounds(bounds: Box, bounds_crs: Any, crs: CRS, where: str | Path) -> Box | None:
    """Return the bounds of a transformed box, whose right side may exceed the range of x."""
    transformer = ContinuousTransformer(bounds_crs, crs, where)
    left, bottom, right, top = bounds
    xs, ys = np.linspace(left, right, _SIDE_POINTS), np.linspace(bottom, top, _SIDE_POINTS)
    low, high = np.full(_SIDE_POINTS, bottom), np.full(_SIDE_POINTS, top)
    west, east = np.full(_SIDE_POINTS, left), np.full(_SIDE_POINTS, right)
    sides = [(xs, low), (east, ys), (xs[::-1], high), (west, ys[::-1])]
    outline = transformer(np.hstack([np.array(side) for side in sides]).T)
    if not np.isfinite(outline).all():
        return None
    if transformer.period and not transformer.source_period:
        outline = transformer.period.unroll(outline)
        if abs(outline[-1, 0] - outline[0, 0]) > transformer.period.size / 2:  # around a pole
            found = build_transformer(bounds_crs, crs, where).transform_bounds(*bounds)
            return found if np.isfinite(found).all() and found[0] <= found[2] else None
    return (*map(float, outline.min(axis=0)), *map(float, outline.max(axis=0)))  # type: ignore[return-value]


def _repeat(box: Box, period: XPeriod, extent: tuple[float, float] | None) -> tuple[Box, ...]:
    """Return the copies of bounds, moved by whole periods, that overlap an extent."""
    left, bottom, right, top = box
    # Damaged coordinates may be anywhere; a layer may continue beyond the range of x on one side.
    ends = period.range[0] - period.size, period.range[1] + period.size
    low, high = np.clip(extent or period.range, *ends)
    first = math.ceil((low - right) / period.size - 1e-9)
    last = math.floor((high - left) / period.size + 1e-9)
    copies = [
        (left + turn * period.size, bottom, right + turn * period.size, top)
        for turn in range(first, last + 1)
    ]
    if right - left >= period.size:
        return ((min(left, low), bottom, max(right, high), top),)
    return tuple(copies) or (box,)
