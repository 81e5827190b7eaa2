"""Planning: the tiles of all scenes and their splits, without reading pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
from shapely.geometry.base import BaseGeometry

from geoseg.credentials import get_logger, hide_credentials
from geoseg.data.labels import (
    ClassScheme,
    Labels,
    RasterLabels,
    check_footprints,
    find_labels_path,
    read_labels,
    resolve_scheme,
)
from geoseg.data.splits import (
    SPLITS,
    STRATEGIES,
    Region,
    SplitRegions,
    SplitScene,
    check_patterns,
    count_shared_pixels,
    find_close_tiles,
    matches_any,
    merge_by_split,
)
from geoseg.data.tiles.area_checks import (
    check_exchanged,
    warn_left_out_buildings,
    warn_missing_test,
    warn_missing_validation,
    warn_small_areas,
)
from geoseg.data.tiles.checks import (
    check_classes_fit,
    check_mask_georeferencing,
    check_names,
    check_placeholder_overlap,
    check_same_bands,
    check_scenes_fit,
    check_splits,
    find_common_crs,
    warn_only_merged,
    warn_unbalanced_splits,
    warn_unclassed_labels,
    warn_unlabelled_scenes,
    warn_upsampled_scenes,
)
from geoseg.data.tiles.placement import find_labelled, place_tiles
from geoseg.data.tiles.places import describe_places, find_places
from geoseg.data.tiles.plan_notes import (
    describe_labels,
    describe_merged_labels,
    describe_pixel_size,
)
from geoseg.data.tiles.scene_overlaps import LOCATION_REMEDY, describe_left_out
from geoseg.errors import ConfigError, EmptyDatasetError
from geoseg.geo.grid import Grid
from geoseg.geo.paths import absolute_path
from geoseg.geo.raster import SceneInfo, is_raster, mark_all_blank_areas, read_info
from geoseg.geo.vector import count_features, select_layer, to_crs_near
from geoseg.options import TileOptions

logger = get_logger(__name__)


@dataclass(frozen=True)
class TilingPlan:
    """Tiles to be cut from scenes.

    Attributes:
        scenes: Scenes.
        grids: Grid that each scene is tiled on.
        labels: Labels of each scene.
        tiles: One row per tile, in longitude and latitude, or in the local CRS of all scenes.
        regions: Area of each split, one row per split, in the same CRS.
        labelled: For each scene, the area outside of which tiles of a split have no labels, in its
            CRS; splits whose tiles are labelled everywhere are missing.
        shared_pixels: Number of pixels that are in tiles of two splits.
        gap: Minimum distance in pixels between tiles of different splits.
        options: Tiling options.
        labels_path: Path of the labels as the user wrote it, maybe with `{}`.
        label_files: Files that the path stands for.
        scheme: Class scheme.
    """

    scenes: list[SceneInfo]
    grids: list[Grid]
    labels: list[Labels]
    tiles: gpd.GeoDataFrame
    regions: gpd.GeoDataFrame
    labelled: list[dict[str, BaseGeometry]]
    shared_pixels: int
    gap: int
    options: TileOptions
    labels_path: str
    label_files: tuple[str, ...]
    scheme: ClassScheme

    @property
    def counts(self) -> dict[str, int]:
        """Number of tiles per split."""
        return {split: int((self.tiles.split == split).sum()) for split in SPLITS}

    @cached_property
    def places(self) -> tuple[str, ...]:
        """Name of the place of each scene."""
        return find_places(self.scenes)

    @property
    def merged(self) -> tuple[str, ...]:
        """Names of the scenes whose labels merge touching buildings."""
        names = (scene.name for scene in self.scenes)
        return tuple(name for name in names if matches_any(name, self.options.merged))

    @property
    def dtype(self) -> str:
        """Data type that holds the pixels of every scene."""
        return str(np.result_type(*(scene.dtype for scene in self.scenes)))

    def describe(self) -> list[str]:
        """Return lines for the user: scenes with their labels, notes, and the number of tiles."""
        lines = [
            f"{scene.name}: {grid.height} x {grid.width} pixels of {grid.gsd_m:.3g} m, bands "
            f"{', '.join(scene.bands)}, {describe_labels(labels)}"
            for scene, grid, labels in zip(self.scenes, self.grids, self.labels, strict=True)
        ]
        counts = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        size = f"{self.bytes / 1e6:.0f} MB at most"
        planned = f"{len(self.tiles)} tiles planned ({counts}), {size}"
        return [
            *lines,
            *describe_places(self.places),
            *describe_merged_labels(self.merged, self.options.targets),
            *describe_pixel_size(self.grids[0].gsd_m, self.options),
            planned,
        ]

    @property
    def bytes(self) -> int:
        """Size of images and targets in bytes, before compression."""
        pixel = np.dtype(self.dtype).itemsize * len(self.scenes[0].bands) + len(
            self.options.target_names
        )
        return int(len(self.tiles) * self.options.size**2 * pixel)


def plan_tiles(
    scenes: Sequence[str | Path], labels: str | Path, options: TileOptions
) -> TilingPlan:
    """Plan the tiles of scenes without reading pixels of the scenes.

    Raises:
        DataError: If scenes or labels cannot be read, or do not fit together.
        ConfigError: If a scene lacks a band, scenes are too small for their blocks, or names or
            numbers do not fit into the header of tiles.
    """
    scheme = resolve_scheme(options.classes)
    check_classes_fit(scheme.names)
    infos = _read_scenes(scenes, options)
    check_patterns("tile.merged", options.merged, [info.name for info in infos])
    crs = find_common_crs(infos)
    gsd_m = options.gsd_m or infos[0].grid.gsd_m
    check_scenes_fit(infos, gsd_m)
    grids = [info.grid.resampled(gsd_m) for info in infos]
    files = [find_labels_path(info.name, labels) for info in infos]
    scene_labels = _read_all_labels(infos, grids, files, labels, scheme, options)
    check_exchanged(scene_labels, str(labels), options)
    warn_upsampled_scenes(infos, gsd_m, chosen=options.gsd_m is not None)
    split_scenes = [
        SplitScene(info.name, grid, one.foreground_pixels)
        for info, grid, one in zip(infos, grids, scene_labels, strict=True)
    ]
    split = STRATEGIES[options.split](split_scenes, options)
    tiles = _place_tiles(infos, grids, split, options)
    warn_only_merged(tiles, options)
    warn_missing_validation(tiles, options)
    warn_missing_test(split, tiles, options)
    warn_small_areas(split, options)
    warn_left_out_buildings(scene_labels, options)
    regions = merge_by_split(
        [
            _labelled_regions(grid, own_regions, own_labels, crs)
            for grid, own_regions, own_labels in zip(
                grids, split.regions, scene_labels, strict=True
            )
        ]
    )
    return TilingPlan(
        infos,
        grids,
        scene_labels,
        _reproject_tiles(tiles, grids, crs),
        regions,
        [find_labelled(grid, own) for grid, own in zip(grids, split.regions, strict=True)],
        count_shared_pixels(tiles, grids[0].pixel_area),
        split.gap,
        options,
        str(labels),
        tuple(dict.fromkeys(files)),
        scheme,
    )


def _read_scenes(scenes: Sequence[str | Path], options: TileOptions) -> list[SceneInfo]:
    """Read what is known of scenes, without pixels, and check that they fit together."""
    paths = [absolute_path(scene) for scene in scenes]
    repeated = next((path for path in paths if paths.count(path) > 1), None)
    if repeated:
        raise ConfigError(f"{repeated}: is given twice; give each scene once")
    check_names(paths)
    names = [hide_credentials(path) for path in paths]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ConfigError(
            f"{repeated}: is the name of two scenes, whose addresses differ only in what follows "
            "the question mark; download them and give them names of their own"
        )
    infos = [
        read_info(scene, bands=options.bands, assume_gsd_m=options.assume_gsd_m) for scene in scenes
    ]
    if not options.keep_blank:
        infos = mark_all_blank_areas(infos)
    check_placeholder_overlap([info for info in infos if info.georeferenced_by == "assumed"])
    check_same_bands(infos, chosen=options.bands is not None)
    return infos


def _read_all_labels(
    infos: Sequence[SceneInfo],
    grids: Sequence[Grid],
    files: Sequence[str],
    labels: str | Path,
    scheme: ClassScheme,
    options: TileOptions,
) -> list[Labels]:
    """Read the labels of each scene from its file, and check them."""
    layers, totals = _describe_layers(files, options)
    scene_labels = [
        read_labels(
            file, grid, scheme, where=options.where, layer=layers.get(file, options.layer),
            scene_grid=info.grid, total=totals.get(file),
        )
        for file, grid, info in zip(files, grids, infos, strict=True)
    ]  # fmt: skip
    polygons = [one for one in scene_labels if not isinstance(one, RasterLabels)]
    if polygons:
        check_footprints(polygons, labels, options.where, options.layer, files=files)
    check_mask_georeferencing(infos, scene_labels)
    warn_unclassed_labels(polygons, labels)
    warn_unlabelled_scenes(infos, scene_labels, files)
    return scene_labels


def _describe_layers(
    files: Sequence[str], options: TileOptions
) -> tuple[dict[str, str], dict[str, int]]:
    """Return the layer of each vector file, and the number of its features, once per file."""
    vectors = [file for file in dict.fromkeys(files) if not is_raster(file)]
    layers = {file: select_layer(file, options.layer) for file in vectors}
    totals = {
        file: count_features(file, layer=layer, where=options.where)
        for file, layer in layers.items()
    }
    return layers, totals


def _place_tiles(
    infos: Sequence[SceneInfo], grids: list[Grid], split: SplitRegions, options: TileOptions
) -> gpd.GeoDataFrame:
    """Return the tiles of all scenes in the CRS of the first, without those near other splits."""
    records = [
        {"id": tile["id"], "scene": infos[index].name, "scene_index": index} | tile
        for index, (grid, regions) in enumerate(zip(grids, split.regions, strict=True))
        for tile in place_tiles(f"{index:03d}", grid, regions, options)
    ]
    if not records:
        raise EmptyDatasetError(
            f"{options.areas}: no tile of {options.size} pixels is completely inside its areas; "
            "draw larger areas, or choose a smaller --size"
        )
    tiles = _to_common_crs(records, grids, grids[0].crs.to_wkt())
    close = find_close_tiles(tiles, grids, split.gap)
    left_out = describe_left_out(tiles, close, [info.name for info in infos], grids)
    tiles = tiles.drop(index=close.index).reset_index(drop=True)
    check_splits(infos, set(tiles.split), grids, options, left_out)
    if left_out:
        logger.warning("%s; %s", left_out, LOCATION_REMEDY)
    warn_unbalanced_splits(tiles.split, options)
    return tiles


def _to_common_crs(records: list[dict[str, Any]], grids: list[Grid], crs: str) -> gpd.GeoDataFrame:
    """Return the tiles of all scenes in one CRS; outlines of records are in their scene's CRS."""
    frame = pd.DataFrame(records)
    parts = [
        gpd.GeoDataFrame(part, geometry="geometry", crs=grids[int(str(index))].crs.to_wkt())
        for index, part in frame.groupby("scene_index", sort=True)
    ]
    return gpd.GeoDataFrame(
        pd.concat([to_crs_near(part, crs, grids[0]) for part in parts], ignore_index=True)
    )


def _reproject_tiles(
    tiles: gpd.GeoDataFrame, grids: list[Grid], crs: pyproj.CRS
) -> gpd.GeoDataFrame:
    """Return tiles in a CRS; longitudes continue beyond 180 degrees as scenes do."""
    parts = [
        to_crs_near(part, crs, grids[int(str(index))])
        for index, part in tiles.groupby("scene_index", sort=False)
    ]
    return gpd.GeoDataFrame(pd.concat(parts)).loc[tiles.index]


def _labelled_regions(
    grid: Grid, regions: Sequence[Region], labels: Labels, crs: pyproj.CRS
) -> gpd.GeoDataFrame:
    """Return regions in a CRS, without areas that were not labelled."""
    areas = gpd.GeoDataFrame(
        {"split": [region.split for region in regions]},
        geometry=[region.polygon(grid) for region in regions],
        crs=grid.crs.to_wkt(),
    )
    ignored = None if isinstance(labels, RasterLabels) else labels.ignored
    if ignored is not None and len(ignored):
        areas.geometry = areas.difference(ignored.union_all())
    return to_crs_near(areas, crs, grid)
