"""A folder of tiles → what there is to know of its labels."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from geoseg.data.label_report.band_statistics import measure_bands
from geoseg.data.label_report.class_counts import (
    classify_footprints,
    count_class_pixels,
    count_names,
)
from geoseg.data.label_report.footprint_checks import measure_footprints
from geoseg.data.label_report.label_shift import measure_shifts
from geoseg.data.label_report.sampling import choose_sheet_tiles
from geoseg.data.label_report.summary import LabelReport, SplitCounts
from geoseg.data.splits import SPLITS
from geoseg.data.tiles import (
    TilesInfo,
    has_footprints,
    load_tiles_info,
    open_tile_footprints,
    read_tiles,
)
from geoseg.errors import EmptyDatasetError
from geoseg.geo.vector import ParquetParts

# Tiles on the page.
_SHEET = 24


def measure_labels(
    folder: str | Path,
    *,
    repaired: int | None = None,
    dropped: int | None = None,
    seed: int = 0,
) -> LabelReport:
    """Measures the labels of a folder of tiles; the same folder gives the same report.

    Pixels of classes and footprints are all counted; the shift and the values of bands come
    from a sample of tiles, spread evenly.

    Args:
        folder: A folder made by `geoseg tile`.
        repaired: How many footprints were invalid and mended, if known.
        dropped: How many features were no polygons and are left out, if known.
        seed: Of the tiles that the page shows, and of the shift's error.

    Raises:
        EmptyDatasetError: If the folder is no folder of tiles or has none.
        SceneReadError: If a tile cannot be read.
    """
    folder = Path(folder)
    info, tiles = load_tiles_info(folder), read_tiles(folder)
    if tiles.empty:
        raise EmptyDatasetError(f"{folder}: has no tile; tile the scenes again")
    parts = open_footprints_if_any(folder)
    total, splits = _count_splits(tiles, info, parts)
    shift, scene_shifts = measure_shifts(folder, tiles, info, seed)
    # A folder may hold test ground only.
    sampled = tiles[tiles.split == "train"] if "train" in splits else tiles
    return LabelReport(
        exclusive=info.exclusive,
        scenes=info.scenes,
        labels=info.labels,
        size=info.size,
        gsd_m=info.gsd_m,
        failed=len(info.failed),
        total=total,
        splits=splits,
        footprints=None
        if parts is None
        else measure_footprints(parts, info.gsd_m, repaired, dropped),
        shift=shift,
        scene_shifts=scene_shifts,
        bands=measure_bands(folder, sampled, info),
        sheet=choose_sheet_tiles(tiles, _SHEET, seed),
    )


def open_footprints_if_any(folder: Path) -> ParquetParts | None:
    """The footprints that were burnt, or None where the labels were a raster."""
    return open_tile_footprints(folder) if has_footprints(folder) else None


def _count_splits(
    tiles: gpd.GeoDataFrame, info: TilesInfo, parts: ParquetParts | None
) -> tuple[SplitCounts, dict[str, SplitCounts]]:
    """What all tiles hold, and those of each split."""
    names, owners = None, None
    if parts is not None:
        found = [(classify_footprints(part, info), assign_splits(part, tiles)) for part in parts]
        names, owners = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    splits = {}
    for split in SPLITS:
        part = tiles[tiles.split == split]
        if len(part):
            owned = None if names is None else names[owners == split]
            splits[split] = _count_split(part, owned, info)
    return _count_split(tiles, names, info), splits


def _count_split(tiles: gpd.GeoDataFrame, names: np.ndarray | None, info: TilesInfo) -> SplitCounts:
    classes = count_class_pixels(tiles, info)
    pixels = len(tiles) * info.size**2
    return SplitCounts(
        tiles=len(tiles),
        pixels=pixels,
        ignored=pixels - sum(classes.values()),
        classes=classes,
        footprints=None if names is None else count_names(names, info),
    )


def assign_splits(footprints: gpd.GeoDataFrame, tiles: gpd.GeoDataFrame) -> np.ndarray:
    """Finds in which split the middle of each footprint lies.

    Args:
        footprints: In longitude and latitude, with the scene of each.
        tiles: All tiles.

    Returns:
        Names (N,); empty where no tile of its scene holds the middle.
    """
    owners = np.full(len(footprints), "", dtype=object)
    # Arrays, since pandas would align a filtered series by its labels.
    middles = shapely.point_on_surface(footprints.geometry.to_numpy())
    scenes = footprints.scene.to_numpy()
    for scene, part in tiles.groupby("scene", sort=True):
        rows = np.flatnonzero(scenes == scene)
        inside, tile = part.sindex.query(middles[rows], predicate="within")
        owners[rows[inside]] = part.split.to_numpy()[tile]
    return owners
