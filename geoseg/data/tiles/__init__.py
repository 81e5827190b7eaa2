"""Scenes and footprints → a folder of tiles to train on.

tiles/
images/ID.tif     the scene's bands, (C, size, size)
targets/ID.tif    building, border: 0, 1, or 255 where nothing is known; or the class's number
tiles.parquet     one row per tile: id, scene, window, split, fractions, class_pixels, geometry
footprints.parquet  the labels, as they were burnt
train.geojson, val.geojson, test.geojson   the ground of each split
tiles.json        what a model must know of the tiles
labels.json, labels.html   report on the labels, by `geoseg.data.label_report`
"""

from geoseg.data.tiles.cutting import build_row_task, cut_tile_row, tile_scenes
from geoseg.data.tiles.tile_index import (
    FOOTPRINTS_NAME,
    TilesInfo,
    has_footprints,
    list_scenes,
    load_tiles_info,
    open_tile_footprints,
    read_tile_footprints,
    read_tiles,
    tile_window,
)
from geoseg.data.tiles.tiling_plan import TilingPlan, plan_tiles

__all__ = [
    "FOOTPRINTS_NAME",
    "TilesInfo",
    "TilingPlan",
    "build_row_task",
    "cut_tile_row",
    "has_footprints",
    "list_scenes",
    "load_tiles_info",
    "open_tile_footprints",
    "plan_tiles",
    "read_tile_footprints",
    "read_tiles",
    "tile_scenes",
    "tile_window",
]
