"""Polygons moved to where the probabilities of a model want them."""

from geoseg.alignment.layer import SHIFT_COLUMNS, Alignment, align_polygons
from geoseg.alignment.summary import AlignSummary, summarize_alignment

__all__ = [
    "SHIFT_COLUMNS",
    "AlignSummary",
    "Alignment",
    "align_polygons",
    "summarize_alignment",
]
