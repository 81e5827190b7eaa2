"""Measurement of the labels of a folder of tiles."""

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

# Number of sample tiles shown on the page.
_SHEET_TILES = 24


def measure_labels(
    folder: str | Path,
    *,
    repaired: int | None = None,
    dropped: int | None = None,
    seed: int = 0,
) -> LabelReport:
    """Measure the labels of a folder of tiles.

    All pixels and footprints are counted. The shift and the band values are measured on an
    evenly spaced sample of tiles. The result is reproducible.

    Args:
        folder: Folder written by `geoseg tile`.
        repaired: Number of invalid footprints that were repaired, if known.
        dropped: Number of features that are not polygons and were left out, if known.
        seed: Random seed for the sample tiles on the page and the bootstrap of the shift.

    Raises:
        EmptyDatasetError: If the folder is not a folder of tiles or contains none.
        SceneReadError: If a tile cannot be read.
    """
    folder = Path(folder)
    info, tiles = load_tiles_info(folder), read_tiles(folder)
    if tiles.empty:
        raise EmptyDatasetError(f"{folder}: contains no tiles; tile the scenes again")
    parts = open_footprints_if_any(folder)
    total, splits = _count_splits(tiles, info, parts)
    shift, scene_shifts = measure_shifts(folder, tiles, info, seed)
    # Band values should describe what training sees, but a folder may have test tiles only.
    sampled = tiles[tiles.split == "train"] if "train" in splits else tiles
    return LabelReport(
        exclusive=info.exclusive,
        scenes=info.scenes,
        labels=info.labels,
        merged=info.merged,
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
        sheet=choose_sheet_tiles(tiles, _SHEET_TILES, seed),
    )


def open_footprints_if_any(folder: Path) -> ParquetParts | None:
    """Open the rasterized footprints; None if the labels are a mask raster."""
    return open_tile_footprints(folder) if has_footprints(folder) else None


def _count_splits(
    tiles: gpd.GeoDataFrame, info: TilesInfo, parts: ParquetParts | None
) -> tuple[SplitCounts, dict[str, SplitCounts]]:
    """Count pixels and footprints over all tiles and per split."""
    names, split_of = None, None
    if parts is not None:
        # One part at a time, since a layer may not fit into memory.
        pairs = [(classify_footprints(part, info), assign_splits(part, tiles)) for part in parts]
        names, split_of = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    splits = {}
    for split in SPLITS:
        part = tiles[tiles.split == split]
        if len(part):
            part_names = None if names is None else names[split_of == split]
            splits[split] = _count_split(part, part_names, info)
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
    """Assign each footprint to the split of the tile that contains its representative point.

    Args:
        footprints: Footprints in longitude and latitude, with the column `scene`.
        tiles: All tiles.

    Returns:
        Names of splits (N,); empty if no tile of the footprint's scene contains the point.
    """
    splits = np.full(len(footprints), "", dtype=object)
    # Arrays, since pandas would align a filtered series by its labels.
    points = shapely.point_on_surface(footprints.geometry.to_numpy())
    scenes = footprints.scene.to_numpy()
    for scene, part in tiles.groupby("scene", sort=True):
        rows = np.flatnonzero(scenes == scene)
        inside, tile = part.sindex.query(points[rows], predicate="within")
        splits[rows[inside]] = part.split.to_numpy()[tile]
    return splits
