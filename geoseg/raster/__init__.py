"""The one door for rasters: reads windows on any grid with their validity, writes GeoTIFFs."""

from geoseg.raster.mosaic import write_mosaic
from geoseg.raster.nearest import NearestRaster
from geoseg.raster.opening import is_raster, list_files
from geoseg.raster.prob import CLASS_TAG, SPREAD, is_mask, read_mask_classes, read_prob_info
from geoseg.raster.reading import Scene, SceneInfo, read_info, read_tags
from geoseg.raster.writing import open_for_writing, write_array, write_cog

__all__ = [
    "CLASS_TAG",
    "SPREAD",
    "NearestRaster",
    "Scene",
    "SceneInfo",
    "is_mask",
    "is_raster",
    "list_files",
    "open_for_writing",
    "read_info",
    "read_mask_classes",
    "read_prob_info",
    "read_tags",
    "write_array",
    "write_cog",
    "write_mosaic",
]
