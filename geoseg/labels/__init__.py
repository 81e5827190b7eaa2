"""What users know of the ground, burnt into the targets that a network learns."""

from geoseg.labels.classes import IGNORE, Scheme, resolve_scheme
from geoseg.labels.footprints import FootprintLabels, check_footprints, read_footprint_labels
from geoseg.labels.layer import LayerLabels
from geoseg.labels.raster import RasterLabels
from geoseg.labels.reading import Labels, labels_of, read_labels
from geoseg.labels.targets import BORDER_M, DISTANCE_PX, FULL_VALUES, TARGETS, burn, halo_px

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
