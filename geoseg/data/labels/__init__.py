"""What users know of the ground, burnt into the targets that a network learns."""

from geoseg.data.labels.class_scheme import IGNORE, Scheme, resolve_scheme
from geoseg.data.labels.large_layer import LayerLabels
from geoseg.data.labels.mask_labels import RasterLabels
from geoseg.data.labels.polygon_labels import (
    FootprintLabels,
    check_footprints,
    read_footprint_labels,
)
from geoseg.data.labels.sources import Labels, labels_of, read_labels
from geoseg.data.labels.targets import BORDER_M, DISTANCE_PX, FULL_VALUES, TARGETS, burn, halo_px

__all__ = [
    "BORDER_M",
    "DISTANCE_PX",
    "FULL_VALUES",
    "IGNORE",
    "TARGETS",
    "FootprintLabels",
    "Labels",
    "LayerLabels",
    "RasterLabels",
    "Scheme",
    "burn",
    "check_footprints",
    "halo_px",
    "labels_of",
    "read_footprint_labels",
    "read_labels",
    "resolve_scheme",
]
