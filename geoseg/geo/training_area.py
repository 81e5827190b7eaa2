"""The area in which a model was trained, as text in model files and in the tags of rasters."""

from __future__ import annotations

from collections.abc import Iterable

import shapely

# Characters; models and rasters with a longer text would grow noticeably.
_LONGEST = 200_000


def area_text(shapes: Iterable[shapely.Geometry | None]) -> str | None:
    """Return the union of areas in longitude and latitude as WKT.

    Returns:
        None if there is no area, or one with too many corners.
    """
    known = [shape for shape in shapes if shape is not None]
    text: str = shapely.to_wkt(shapely.union_all(known), rounding_precision=7)
    return text if known and len(text) <= _LONGEST else None


def join_areas(texts: Iterable[object]) -> str | None:
    """Return the union of areas that `area_text` returned; None if none of them is known."""
    known = [text for text in texts if isinstance(text, str)]  # headers of others hold anything
    return area_text(shapely.from_wkt(known, on_invalid="ignore"))
