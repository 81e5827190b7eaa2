"""The area in which a model was trained, as text in model files and in the tags of rasters."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

# Characters; models and rasters with a longer text would grow noticeably.
_LONGEST = 200_000


def format_area(shapes: Iterable[BaseGeometry | None]) -> str | None:
    """Return the union of areas in longitude and latitude as WKT.

    An area with too many corners is replaced by the bounding boxes of its parts, and if these are
    too many by its hull: both contain it.

    Returns:
        None if there is no area.
    """
    known = [shape for shape in shapes if shape is not None and not shape.is_empty]
    if not known:
        return None
    exact = shapely.union_all(known)
    boxes = shapely.union_all(shapely.envelope(shapely.get_parts(exact)))
    texts = (
        shapely.to_wkt(area, rounding_precision=7) for area in (exact, boxes, exact.convex_hull)
    )
    return next((text for text in texts if len(text) <= _LONGEST), None)


def parse_area(text: object) -> BaseGeometry | None:
    """Return the polygons of a text; None if it is damaged, as files of others may be."""
    if not isinstance(text, str):
        return None
    try:
        with np.errstate(invalid="ignore"):  # coordinates that are not numbers
            shape = shapely.from_wkt(text, on_invalid="ignore")
            if shape is None or not np.isfinite(shape.bounds).all():
                return None
            area = shapely.make_valid(shape).buffer(0)  # only its polygons
    except (ShapelyError, NotImplementedError):  # such as curves
        return None
    return None if area.is_empty else area


def join_areas(texts: Iterable[object]) -> str | None:
    """Return the union of areas as text; None if none of them is known."""
    return format_area([parse_area(text) for text in texts])
