"""Vector files: readers of valid polygons from any format, writers of layers."""

from geoseg.geo.crs import as_crs
from geoseg.geo.vector.antimeridian import wrap_lonlat
from geoseg.geo.vector.column_check import check_columns
from geoseg.geo.vector.columns import column_aliases
from geoseg.geo.vector.layer_files import (
    FOOTPRINT_LAYER,
    count_indexed,
    list_layer_files,
    list_layers,
    read_geoparquet,
    select_layer,
)
from geoseg.geo.vector.placement import check_range, to_crs_near, to_crs_whole
from geoseg.geo.vector.polygon_parts import ParquetParts, iter_polygons
from geoseg.geo.vector.polygons import (
    count_features,
    keep_polygons,
    polygonal_part,
    read_footprints,
)
from geoseg.geo.vector.reprojection import to_crs_densified
from geoseg.geo.vector.writer import (
    FOOTPRINT_COLUMNS,
    LAYER_SUFFIXES,
    SAME_DIMENSION_SUFFIXES,
    WRITABLE_SUFFIXES,
    check_layer,
    check_suffix,
    write_footprints,
    write_layers,
    write_parts,
)

__all__ = [
    "FOOTPRINT_COLUMNS",
    "FOOTPRINT_LAYER",
    "LAYER_SUFFIXES",
    "SAME_DIMENSION_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "ParquetParts",
    "as_crs",
    "check_columns",
    "check_layer",
    "check_range",
    "check_suffix",
    "column_aliases",
    "count_features",
    "count_indexed",
    "iter_polygons",
    "keep_polygons",
    "list_layer_files",
    "list_layers",
    "polygonal_part",
    "read_footprints",
    "read_geoparquet",
    "select_layer",
    "to_crs_densified",
    "to_crs_near",
    "to_crs_whole",
    "wrap_lonlat",
    "write_footprints",
    "write_layers",
    "write_parts",
]
