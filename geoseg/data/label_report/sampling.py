"""Selection of sample tiles."""

from __future__ import annotations

import geopandas as gpd
import numpy as np

from geoseg.data.splits import SPLITS


def spread_tiles(tiles: gpd.GeoDataFrame, count: int) -> gpd.GeoDataFrame:
    """Return at most `count` tiles, evenly spaced in the order in which they were cut."""
    if len(tiles) <= count:
        return tiles
    return tiles.iloc[np.linspace(0, len(tiles) - 1, count).round().astype(int)]


def choose_sheet_tiles(tiles: gpd.GeoDataFrame, count: int, seed: int) -> tuple[str, ...]:
    """Choose the tiles of the contact sheet, equally many per split where possible.

    The tiles of a split are sorted by their building fraction and divided into groups of equal
    size. One random tile is taken from each group, preferably one that does not overlap the
    tiles chosen before. At most a quarter are tiles without buildings, unless there are too few
    tiles with buildings.

    Args:
        tiles: All tiles.
        count: Maximum number of tiles to choose.
        seed: Random seed.

    Returns:
        Tile ids, sorted by split and by falling building fraction.
    """
    rng = np.random.default_rng(seed)
    parts = {split: tiles[tiles.split == split] for split in SPLITS}
    counts = _share_equally({split: len(part) for split, part in parts.items()}, count)
    chosen: list[int] = []
    for split, part in parts.items():
        ranked = part.sort_values(["building_fraction", "id"], ascending=[False, True])
        built = ranked.index[ranked.building_fraction > 0].to_numpy()
        empty = ranked.index[ranked.building_fraction == 0].to_numpy()
        empty_count = max(min(len(empty), counts[split] // 4), counts[split] - len(built))
        groups = _groups(built, counts[split] - empty_count) + _groups(empty, empty_count)
        for group in groups:
            chosen.append(_choose_separate(tiles, rng.permutation(group), chosen))
    return tuple(str(id_) for id_ in tiles.id.loc[chosen])


def _groups(ranked: np.ndarray, count: int) -> list[np.ndarray]:
    return np.array_split(ranked, count) if count else []


def _choose_separate(tiles: gpd.GeoDataFrame, candidates: np.ndarray, chosen: list[int]) -> int:
    """Return the first candidate that overlaps no chosen tile, or the first if all overlap."""
    taken = tiles.loc[chosen]
    row_off, col_off = taken.row_off.to_numpy(), taken.col_off.to_numpy()
    scenes = taken.scene.to_numpy()
    for row in candidates:
        tile = tiles.loc[row]
        separate = (np.abs(row_off - tile.row_off) >= tile.height) | (
            np.abs(col_off - tile.col_off) >= tile.width
        )
        if (separate | (scenes != tile.scene)).all():
            return int(row)
    return int(candidates[0])


def _share_equally(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Divide `count` equally among splits, none of which gets more than its size."""
    counts = dict.fromkeys(sizes, 0)
    while count > 0 and any(counts[name] < size for name, size in sizes.items()):
        for name, size in sizes.items():
            if count > 0 and counts[name] < size:
                counts[name] += 1
                count -= 1
    return counts
