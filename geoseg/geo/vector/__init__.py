"""The one door for vectors: reads footprints of any format as valid polygons, writes layers."""

from geoseg.geo.vector.antimeridian import within_globe
from geoseg.geo.vector.polygons import (
    FOOTPRINT_LAYER,
    ParquetParts,
    as_crs,
    count_features,
    count_indexed,
    iter_polygons,
    keep_polygons,
    list_layers,
    read_footprints,
)
from geoseg.geo.vector.reprojection import to_crs_densified
from geoseg.geo.vector.writer import (
    FOOTPRINT_COLUMNS,
    LAYER_SUFFIXES,
    WRITABLE_SUFFIXES,
    check_suffix,
    write_footprints,
    write_layers,
    write_parts,
)

__all__ = [
    "FOOTPRINT_COLUMNS",
    "FOOTPRINT_LAYER",
    "LAYER_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "ParquetParts",
    "as_crs",
    "check_suffix",
    "count_features",
    "count_indexed",
    "iter_polygons",
    "keep_polygons",
    "list_layers",
    "read_footprints",
    "to_crs_densified",
    "within_globe",
    "write_footprints",
    "write_layers",
    "write_parts",
]
