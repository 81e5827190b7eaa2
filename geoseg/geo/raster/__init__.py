"""Raster files: windows on any grid with their validity, GeoTIFF and COG writers."""

from geoseg.geo.raster.acquisition_date import read_date
from geoseg.geo.raster.blank_scenes import mark_all_blank_areas, mark_blank_areas
from geoseg.geo.raster.block_cache import limited_block_cache
from geoseg.geo.raster.geotiff import open_for_writing, write_array, write_cog
from geoseg.geo.raster.nearest import NearestRaster
from geoseg.geo.raster.opening import (
    is_raster,
    list_files,
    without_georeferencing_warnings,
)
from geoseg.geo.raster.outline import outline_valid
from geoseg.geo.raster.prob import (
    CLASS_TAG,
    CLASSES_TAG,
    SPREAD,
    THRESHOLDS_TAG,
    TRAINING_AREA_TAG,
    ExclusiveClasses,
    ProbInfo,
    check_is_image,
    describe_classes,
    is_mask,
    likeliest_class,
    make_prob_tags,
    read_mask_classes,
    read_prob,
)
from geoseg.geo.raster.scene import Scene, SceneInfo, read_info, read_tags
from geoseg.geo.raster.scene_crop import SceneCrop, cover, plan_crop, write_scene_crop
from geoseg.geo.raster.scene_groups import group_scenes
from geoseg.geo.raster.scene_mosaic import join_grids, write_scene_mosaic
from geoseg.geo.raster.scene_vrt import are_numbered
from geoseg.geo.raster.virtual_mosaic import write_mosaic

__all__ = [
    "CLASSES_TAG",
    "CLASS_TAG",
    "SPREAD",
    "THRESHOLDS_TAG",
    "TRAINING_AREA_TAG",
    "ExclusiveClasses",
    "NearestRaster",
    "ProbInfo",
    "Scene",
    "SceneCrop",
    "SceneInfo",
    "are_numbered",
    "check_is_image",
    "cover",
    "describe_classes",
    "group_scenes",
    "is_mask",
    "is_raster",
    "join_grids",
    "likeliest_class",
    "limited_block_cache",
    "list_files",
    "make_prob_tags",
    "mark_all_blank_areas",
    "mark_blank_areas",
    "open_for_writing",
    "outline_valid",
    "plan_crop",
    "read_date",
    "read_info",
    "read_mask_classes",
    "read_prob",
    "read_tags",
    "without_georeferencing_warnings",
    "write_array",
    "write_cog",
    "write_mosaic",
    "write_scene_crop",
    "write_scene_mosaic",
]
