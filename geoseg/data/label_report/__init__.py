"""Looks at a folder of tiles before anything is trained on it: are these labels good?

measure_labels   folder of tiles → `LabelReport`: classes, footprints, shift, bands
write_report     `LabelReport` → labels.json, labels.html (one page, nothing beside it)
survey_tiles     both, for the verb `tile`
load_report      labels.json → `LabelReport`
headline         `LabelReport` → one line
time_report      a few tiles → how long all of this will take
"""

from geoseg.data.label_report.measurement import measure_labels
from geoseg.data.label_report.page import survey_tiles, write_report
from geoseg.data.label_report.summary import (
    JSON_NAME,
    PAGE_NAME,
    Footprints,
    Histogram,
    LabelReport,
    Shift,
    SplitCounts,
    headline,
    load_report,
)
from geoseg.data.label_report.timing import time_report

__all__ = [
    "JSON_NAME",
    "PAGE_NAME",
    "Footprints",
    "Histogram",
    "LabelReport",
    "Shift",
    "SplitCounts",
    "headline",
    "load_report",
    "measure_labels",
    "survey_tiles",
    "time_report",
    "write_report",
]
