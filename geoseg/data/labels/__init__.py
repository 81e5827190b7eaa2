"""Labels of scenes and the training targets rasterized from them."""

from geoseg.data.labels.class_scheme import IGNORE, ClassScheme, resolve_scheme
from geoseg.data.labels.large_layer import LayerLabels
from geoseg.data.labels.mask_labels import RasterLabels
from geoseg.data.labels.polygon_labels import (
    FootprintLabels,
    check_footprints,
    read_footprint_labels,
)
from geoseg.data.labels.sources import Labels, find_labels_path, read_labels
from geoseg.data.labels.targets import (
    BACKGROUND_VALUES,
    BORDER_M,
    DISTANCE_PX,
    FULL_SCALE_VALUES,
    TARGETS,
    margin_px,
    rasterize_targets,
)

__all__ = [
    "BACKGROUND_VALUES",
    "BORDER_M",
    "DISTANCE_PX",
    "FULL_SCALE_VALUES",
    "IGNORE",
    "TARGETS",
    "ClassScheme",
    "FootprintLabels",
    "Labels",
    "LayerLabels",
    "RasterLabels",
    "check_footprints",
    "find_labels_path",
    "margin_px",
    "rasterize_targets",
    "read_footprint_labels",
    "read_labels",
    "resolve_scheme",
]
