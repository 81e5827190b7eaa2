"""Looks at a folder of tiles before anything is trained on it: are these labels good?

measure_labels   folder of tiles → `LabelReport`: classes, footprints, shift, bands
save_label_report     `LabelReport` → labels.json, labels.html (one page, nothing beside it)
write_label_report     both, for the verb `tile`
load_label_report      labels.json → `LabelReport`
format_headline         `LabelReport` → one line
estimate_report_seconds      a few tiles → how long all of this will take
"""

from geoseg.data.label_report.measurement import measure_labels
from geoseg.data.label_report.page import save_label_report, write_label_report
from geoseg.data.label_report.summary import (
    JSON_NAME,
    PAGE_NAME,
    FootprintStatistics,
    Histogram,
    LabelReport,
    LabelShift,
    SplitCounts,
    format_headline,
    load_label_report,
)
from geoseg.data.label_report.timing import estimate_report_seconds

__all__ = [
    "JSON_NAME",
    "PAGE_NAME",
    "FootprintStatistics",
    "Histogram",
    "LabelReport",
    "LabelShift",
    "SplitCounts",
    "estimate_report_seconds",
    "format_headline",
    "load_label_report",
    "measure_labels",
    "save_label_report",
    "write_label_report",
]
