"""Planning, cutting and reading of tiles.

Layout of a tiles folder:

images/ID.tif       bands of the scene, (C, size, size)
targets/ID.tif      targets, (T, size, size): building, border (0, 1) or class number; 255 = ignore
tiles.parquet       one row per tile: id, scene, window, split, fractions, class_pixels, geometry
footprints.parquet  polygons of the labels, as they were rasterized
train.geojson, val.geojson, test.geojson   area of each split; .gpkg in a local CRS
tiles.json          metadata for training: bands, classes, statistics, `TilesInfo`
labels.json, labels.html   label report, if the folder was made by `geoseg tile`
"""

from geoseg.data.tiles.cut_settings import find_other_settings, list_cut_settings
from geoseg.data.tiles.cutting import tile_scenes
from geoseg.data.tiles.tile_index import (
    FOOTPRINTS_NAME,
    TilesInfo,
    count_place_tiles,
    describe_training_area,
    find_tile_places,
    has_footprints,
    list_scenes,
    load_tiles_info,
    open_tile_footprints,
    read_tile_footprints,
    read_tiles,
    tile_window,
)
from geoseg.data.tiles.tile_row import build_row_task, cut_tile_row
from geoseg.data.tiles.tiling_plan import TilingPlan, plan_tiles

__all__ = [
    "FOOTPRINTS_NAME",
    "TilesInfo",
    "TilingPlan",
    "build_row_task",
    "count_place_tiles",
    "cut_tile_row",
    "describe_training_area",
    "find_other_settings",
    "find_tile_places",
    "has_footprints",
    "list_cut_settings",
    "list_scenes",
    "load_tiles_info",
    "open_tile_footprints",
    "plan_tiles",
    "read_tile_footprints",
    "read_tiles",
    "tile_scenes",
    "tile_window",
]
