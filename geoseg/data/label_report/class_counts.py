"""Class names of the target values, and counts of pixels and footprints per class."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np

from geoseg.data.tiles import TilesInfo
from geoseg.geo.raster import Scene

# Name of the pixels without a building, as stored in `labels.json`.
BACKGROUND = "ground"


def class_names(info: TilesInfo) -> tuple[str, ...]:
    """Return the class name of each value of the first target band, from 0."""
    return info.classes if info.exclusive else (BACKGROUND, *info.classes)


def read_classes(folder: Path, id_: str, info: TilesInfo) -> tuple[np.ndarray, np.ndarray]:
    """Read the classes of a tile.

    Args:
        folder: Folder of tiles.
        id_: Id of the tile.
        info: Metadata of the folder.

    Returns:
        Indices into `class_names` (H, W), and known (H, W), False where the target is ignored.
    """
    with Scene(folder / "targets" / f"{id_}.tif", bands=[1]) as scene:
        target, valid = scene.read()
    return target[0], valid & (target[0] != info.ignore)


def count_class_pixels(tiles: gpd.GeoDataFrame, info: TilesInfo) -> dict[str, int]:
    """Sum the pixel counts per class that were stored when the tiles were cut."""
    counts = np.array(tiles.class_pixels.tolist(), dtype=np.int64).sum(axis=0)
    return dict(zip(class_names(info), map(int, counts), strict=True))


def classify_footprints(footprints: gpd.GeoDataFrame, info: TilesInfo) -> np.ndarray:
    """Return the class name of each footprint (N,); empty for values that belong to no class."""
    if not info.exclusive:
        return np.full(len(footprints), info.classes[0], dtype=object)
    names = np.array([*info.classes, *[""] * (info.ignore + 1 - len(info.classes))], dtype=object)
    classes: np.ndarray = names[footprints.value.to_numpy()]
    return classes


def count_names(names: np.ndarray, info: TilesInfo) -> dict[str, int]:
    """Count footprints per class."""
    return {name: int((names == name).sum()) for name in class_names(info) if name != BACKGROUND}
