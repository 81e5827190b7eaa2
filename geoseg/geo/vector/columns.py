"""Readable names and descriptions of the columns that geoseg writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

# Name for people and description by column.
_TEXTS: Mapping[str, tuple[str, str]] = {
    "id": ("Number", "identifier or number of the footprint"),
    "class": ("Class", "class of the polygon"),
    "area_m2": ("Area (m²)", "geodesic area in square metres"),
    "perimeter_m": ("Perimeter (m)", "geodesic perimeter in metres, holes included"),
    "confidence": (
        "Confidence",
        "0 to 1: probability that the footprint is a building, or the mean probability inside",
    ),
    "mean_prob": ("Mean probability", "mean calibrated probability of the pixels inside, 0 to 1"),
    "conf_p10": (
        "Confidence of the weakest tenth",
        "tenth percentile of the probability inside, 0 to 1: low if a part is doubtful",
    ),
    "edge": (
        "At the edge",
        "touches the edge of the scene or nodata, so that a part may be missing",
    ),
    "reg_status": (
        "Outline",
        "how the outline was drawn: rectangle, rectilinear, partly, simplified or raw; joined or "
        "clipped where scenes of different pixel grids overlap",
    ),
    "scene": ("Scene", "name of the scene in which the polygon was found"),
    "truth_id": ("True footprint", "identifier or number of the true footprint in its file"),
    "shift_x_m": ("Shift to the east (m)", "metres by which the polygon was moved to the east"),
    "shift_y_m": ("Shift to the north (m)", "metres by which the polygon was moved to the north"),
    "shift_gain": (
        "Gain of the shift",
        "growth of the mean log likelihood of the pixels in and around the polygon",
    ),
    "iou": ("IoU", "highest IoU with a footprint of the other layer that was compared with it"),
}


def column_aliases(columns: Iterable[str]) -> dict[str, str]:
    """Return the readable names of those columns that have one."""
    return {column: _TEXTS[column][0] for column in columns if column in _TEXTS}


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return a name for a column that no attribute has, in any case: the given one, or `name_2`."""
    lower, candidate, count = {other.lower() for other in taken}, name, 1
    while candidate.lower() in lower:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def described(schema: pa.Schema) -> list[pa.Field]:
    """Return the fields of a schema with names and descriptions for GDAL, which stores them."""
    return [_describe(field) for field in schema]


def _describe(field: pa.Field) -> pa.Field:
    if pa.types.is_null(field.type):  # no value in any row; GDAL has no such type
        field = field.with_type(pa.string())
    if field.name not in _TEXTS:
        return field
    alias, comment = _TEXTS[field.name]
    return field.with_metadata({"GDAL:OGR:alternative_name": alias, "GDAL:OGR:comment": comment})
