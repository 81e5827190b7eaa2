"""Checks of scenes, labels and splits before tiling."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from pyproj import CRS

from geoseg.credentials import get_logger
from geoseg.data.labels import FootprintLabels, Labels, LayerLabels, RasterLabels
from geoseg.data.splits import SPLITS, matches_any
from geoseg.data.tiles.scene_overlaps import LOCATION_REMEDY
from geoseg.errors import ConfigError, EmptyDatasetError, GridMismatchError, MissingCRSError
from geoseg.geo.crs import as_crs, has_location, is_same_crs
from geoseg.geo.grid import Grid
from geoseg.geo.raster import SceneInfo
from geoseg.options import TileOptions
from geoseg.options.headers import (
    MAX_BANDS,
    MAX_CLASSES,
    MAX_GSD_M,
    MAX_NAME,
    MIN_GSD_M,
    fits_name,
)

logger = get_logger(__name__)

# Share of polygons that may belong to no class without a warning.
_MOST_UNCLASSED = 0.03

# Scenes upsampled by more than this factor show clearly less detail than the others.
_MAX_UPSAMPLING = 2.0

# Sizes of so many scenes are listed.
_MOST_LISTED = 3

# A split's fraction of the tiles may differ from the requested one by this much.
_MAX_IMBALANCE = 0.1


def check_names(paths: Sequence[str]) -> None:
    """Check that names of scenes are text, which the index of tiles stores."""
    for path in paths:
        if path.encode("utf-8", "ignore").decode() != path:
            raise ConfigError(f"{path}: its name is not UTF-8; rename the file or its folder")


def check_classes_fit(classes: Sequence[str]) -> None:
    """Check that the classes of a user's settings can be stored with tiles and models."""
    if len(classes) > MAX_CLASSES:
        raise ConfigError(
            f"tile.classes: has {len(classes)} classes, background included; a mask holds at most "
            f"{MAX_CLASSES}"
        )
    for name in classes:
        if not fits_name(name):
            raise ConfigError(
                f"tile.classes: {textwrap.shorten(repr(name), 60)} cannot be the name of a class; "
                f"give a name of 1 to {MAX_NAME} characters without line breaks"
            )


def check_scenes_fit(infos: Sequence[SceneInfo], gsd_m: float) -> None:
    """Check that bands and pixel size can be stored with tiles and models."""
    count = len(infos[0].bands)
    if count > MAX_BANDS:
        raise ConfigError(
            f"{infos[0].path}: has {count} bands; choose at most {MAX_BANDS} with --bands"
        )
    if not MIN_GSD_M <= gsd_m <= MAX_GSD_M:
        raise ConfigError(
            f"{infos[0].path}: pixels of {gsd_m:g} m cannot be tiled; give a size between "
            f"{MIN_GSD_M:g} and {MAX_GSD_M:g} m with --gsd"
        )


def check_placeholder_overlap(infos: Sequence[SceneInfo]) -> None:
    """Check that scenes without georeferencing were not given the same placeholder location.

    The location is derived from the file name, so two names may collide.
    """
    if not infos:
        return
    outlines = np.array([info.grid.polygon for info in infos], dtype=object)
    pairs = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    first, second = pairs[:, pairs[0] < pairs[1]]
    shared = shapely.area(shapely.intersection(outlines[first], outlines[second]))
    if shared.any():
        pair = int(shared.argmax())
        one, other = infos[first[pair]].path, infos[second[pair]].path
        raise ConfigError(
            f"{one} and {other}: were given the same placeholder location; rename one"
        )


def find_common_crs(infos: Sequence[SceneInfo]) -> CRS:
    """Return the CRS of the index of tiles: longitude and latitude, or the scenes' local CRS.

    Raises:
        MissingCRSError: If a scene has a local CRS and another one has a different CRS.
    """
    crs = [as_crs(info.grid.crs, info.path) for info in infos]
    local = [index for index, one in enumerate(crs) if not has_location(one)]
    if not local:
        return CRS.from_epsg(4326)
    first = crs[local[0]]
    if not all(is_same_crs(one, first) for one in crs):
        raise MissingCRSError(
            f"{infos[local[0]].path}: has a local CRS without a location on Earth ({first.name}), "
            "and another scene has a different CRS; tile them apart, or assign the right one with "
            "gdal_edit.py -a_srs EPSG:CODE file.tif"
        )
    return first


def list_values(counts: Mapping[str, int], most: int = 5) -> str:
    """Format the most frequent values with their counts."""
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{value}: {count}" for value, count in frequent[:most]]
    more = [f"and {len(frequent) - most} other values"] if len(frequent) > most else []
    return ", ".join([*shown, *more])


def warn_unclassed_labels(
    labels: Sequence[FootprintLabels | LayerLabels], path: str | Path
) -> None:
    """Warn if more than a few polygons have a value that no class names."""
    unclassed = sum((Counter(one.unclassed) for one in labels), Counter())
    count, total = sum(unclassed.values()), sum(map(len, labels))
    if count > _MOST_UNCLASSED * total:
        logger.warning(
            "%s: %d of %d polygons belong to no class and are ignored (%s); name their values in "
            "tile.classes.values, or list them under a class",
            path,
            count,
            total,
            list_values(unclassed),
        )


def check_splits(
    infos: Sequence[SceneInfo],
    splits: set[str],
    grids: list[Grid],
    options: TileOptions,
    left_out: str = "",
) -> None:
    """Check that the scenes are large enough for tiles, and that no requested split is empty.

    Args:
        infos: The scenes.
        splits: Splits that have tiles.
        grids: Grid that each scene is tiled on.
        options: Tiling options.
        left_out: Tiles that were left out because scenes overlap, see `describe_left_out`.
    """
    requested = [s for s, part in zip(SPLITS, options.fractions, strict=True) if part > 0]
    if options.is_drawn:
        requested = ["train"]
    missing = [split for split in requested if split not in splits]
    largest = max(side for grid in grids for side in grid.shape)
    if missing and left_out:
        raise EmptyDatasetError(
            f"no tile is left for split {missing[0]}: {left_out}; {LOCATION_REMEDY}"
        )
    if missing or largest < options.size / 2:
        scenes = infos[0].path if len(infos) == 1 else f"{infos[0].path} and {len(infos) - 1} more"
        sides = ", ".join(f"{grid.height} x {grid.width}" for grid in grids[:_MOST_LISTED])
        if len(grids) > _MOST_LISTED:
            sides += ", ..."
        reason = "the scene is smaller than a tile"
        if largest >= options.size / 2:
            reason = f"no tile is left for split {missing[0]}"
        raise EmptyDatasetError(
            f"{scenes}: {reason}, {sides} pixels at {grids[0].gsd_m:.3g} m for tiles of "
            f"{options.size}; check --gsd (metres per pixel), or choose a smaller --size or --gap, "
            f"or {'larger areas' if options.split == 'areas' else 'other --fractions'}"
        )


def check_mask_georeferencing(infos: Sequence[SceneInfo], labels: Sequence[Labels]) -> None:
    """Check that no mask without georeferencing is used for several scenes."""
    masks = [
        one.path
        for info, one in zip(infos, labels, strict=True)
        if isinstance(one, RasterLabels) and info.georeferenced_by == "assumed"
    ]
    shared = next((path for path in masks if masks.count(path) > 1), None)
    if shared is not None:
        raise ConfigError(
            f"{shared}: would be the mask of {masks.count(shared)} scenes without georeferencing; "
            "give one mask per scene, {} in the path of the labels stands for a scene's name"
        )


def warn_unlabelled_scenes(
    infos: Sequence[SceneInfo], labels: Sequence[Labels], files: Sequence[str]
) -> None:
    """Warn of scenes without any label."""
    for info, one, file in zip(infos, labels, files, strict=True):
        if not isinstance(one, RasterLabels) and len(one) == 0:
            logger.warning(
                "%s: has no label in %s, so that all of it is used as background; leave the scene "
                "out if it was not labelled",
                info.path,
                file,
            )


def warn_upsampled_scenes(infos: Sequence[SceneInfo], gsd_m: float, *, chosen: bool) -> None:
    """Warn of scenes that are much coarser than the tiles."""
    for info in infos:
        factor = info.grid.gsd_m / gsd_m
        if factor > _MAX_UPSAMPLING:
            logger.warning(
                "%s: its pixels of %.3g m are upsampled %.1f times, to %.3g m%s",
                info.path,
                info.grid.gsd_m,
                factor,
                gsd_m,
                "" if chosen else ", the pixel size of the first scene; set another with --gsd",
            )


def warn_only_merged(tiles: pd.DataFrame, options: TileOptions) -> None:
    """Warn if no training tile shows what is inside of separate buildings.

    Args:
        tiles: All tiles, with the columns `scene` and `split`.
        options: Tiling options.
    """
    scenes = tiles.scene[tiles.split == "train"].unique()
    if len(options.targets) > 1 and all(matches_any(one, options.merged) for one in scenes):
        logger.warning(
            "the labels of all training scenes merge touching buildings, so that nothing teaches "
            "where a building has no wall inside; add scenes with separate buildings"
        )


def warn_unbalanced_splits(splits: pd.Series, options: TileOptions) -> None:
    """Warn if there are too few blocks or scenes to match the requested fractions."""
    if options.split not in ("blocks", "scenes") or options.is_drawn:
        return
    remedy = "choose a smaller --set tile.block, or --split stripes"
    if options.split == "scenes":
        remedy = "name them with tile.val_scenes and tile.test_scenes, or choose --split blocks"
    for split, fraction in zip(SPLITS, options.fractions, strict=True):
        actual = float((splits == split).mean())
        if abs(actual - fraction) > _MAX_IMBALANCE:
            logger.warning(
                "%s gets %.0f %% of the tiles instead of %.0f %%, because there are too few %s; %s",
                split,
                100 * actual,
                100 * fraction,
                options.split,
                remedy,
            )


def check_same_bands(infos: Sequence[SceneInfo], *, chosen: bool) -> None:
    """Check that scenes have the same bands; chosen bands may have different names.

    Data types may differ; that is only a warning.
    """
    first = infos[0]
    for info in infos[1:]:
        if info.dtype != first.dtype:
            logger.warning(
                "%s: has %s pixels, but %s has %s; values are stored unchanged in a common type "
                "(if their ranges differ, rescale with gdal_translate -ot ... -scale)",
                info.path,
                info.dtype,
                first.path,
                first.dtype,
            )
        if info.bands != first.bands and not chosen:
            raise GridMismatchError(
                f"{info.path}: has bands {', '.join(info.bands)}, but {first.path} has "
                f"{', '.join(first.bands)}; choose common bands with --bands"
            )
