"""What the first target band means, and how much of the ground each class has."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np

from geoseg.raster import Scene
from geoseg.tiles import TilesInfo

GROUND = "ground"


def class_values(info: TilesInfo) -> dict[int, str]:
    """Which class each value of the first target band stands for, the ground included."""
    return {0: GROUND} | dict(enumerate(info.classes, start=1))


def read_classes(folder: Path, id_: str, info: TilesInfo) -> tuple[np.ndarray, np.ndarray]:
    """Reads the classes of a tile.

    Returns:
        Values of `class_values` (H, W), and known (H, W), False where the target is ignored.
    """
    with Scene(folder / "targets" / f"{id_}.tif", bands=[1]) as scene:
        target, valid = scene.read()
    return target[0], valid & (target[0] != info.ignore)


def count_classes(folder: Path, tiles: gpd.GeoDataFrame, info: TilesInfo) -> np.ndarray:
    """Counts the pixels of every tile.

    Returns:
        int64 (tiles, classes + 1): pixels of each class in the order of `class_values`, then
        those that are ignored.
    """
    values = list(class_values(info))
    counts = np.zeros((len(tiles), len(values) + 1), dtype=np.int64)
    for row, id_ in enumerate(tiles.id):
        target, known = read_classes(folder, id_, info)
        found = np.bincount(target[known], minlength=256)
        counts[row] = [*found[values], known.size - known.sum()]
    return counts
