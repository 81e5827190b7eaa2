"""Polygons moved to the best agreement with the probabilities of a model."""

from geoseg.alignment.layer import SHIFT_COLUMNS, Alignment, add_shift_columns, align_polygons
from geoseg.alignment.summary import AlignSummary, summarize_alignment

__all__ = [
    "SHIFT_COLUMNS",
    "AlignSummary",
    "Alignment",
    "add_shift_columns",
    "align_polygons",
    "summarize_alignment",
]
