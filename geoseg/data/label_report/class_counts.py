"""What the first target band means, and how many pixels and footprints each class has."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np

from geoseg.data.tiles import TilesInfo
from geoseg.geo.raster import Scene

# What is no building.
BACKGROUND = "ground"


def class_names(info: TilesInfo) -> tuple[str, ...]:
    """Which class each value of the first target band stands for, from 0."""
    return info.classes if info.exclusive else (BACKGROUND, *info.classes)


def read_classes(folder: Path, id_: str, info: TilesInfo) -> tuple[np.ndarray, np.ndarray]:
    """Reads the classes of a tile.

    Returns:
        Places in `class_names` (H, W), and known (H, W), False where the target is ignored.
    """
    with Scene(folder / "targets" / f"{id_}.tif", bands=[1]) as scene:
        target, valid = scene.read()
    return target[0], valid & (target[0] != info.ignore)


def count_class_pixels(tiles: gpd.GeoDataFrame, info: TilesInfo) -> dict[str, int]:
    """Counts the pixels of each class in tiles, as they were counted when they were cut."""
    counts = np.array(tiles.class_pixels.tolist(), dtype=np.int64).sum(axis=0)
    return dict(zip(class_names(info), map(int, counts), strict=True))


def classify_footprints(footprints: gpd.GeoDataFrame, info: TilesInfo) -> np.ndarray:
    """Names the class of each footprint (N,); empty where the classes do not name it."""
    if not info.exclusive:
        return np.full(len(footprints), info.classes[0], dtype=object)
    names = np.array([*info.classes, *[""] * (info.ignore + 1 - len(info.classes))], dtype=object)
    named: np.ndarray = names[footprints.value.to_numpy()]
    return named


def count_names(names: np.ndarray, info: TilesInfo) -> dict[str, int]:
    """Counts footprints of each class that there can be any of."""
    return {name: int((names == name).sum()) for name in class_names(info) if name != BACKGROUND}
