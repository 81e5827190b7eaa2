"""Report on the labels of a folder of tiles, to check them before training.

measure_labels           folder of tiles → `LabelReport`: classes, footprints, shift, bands
save_label_report        `LabelReport` → labels.json and labels.html (a single file)
write_label_report       both steps in one call, used by `geoseg tile`
load_label_report        labels.json → `LabelReport`
format_headline          `LabelReport` → one line of text
estimate_report_seconds  duration of a report, estimated from a few tiles
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
