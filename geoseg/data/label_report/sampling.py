"""Which tiles are looked at where all of them would be too many."""

from __future__ import annotations

import geopandas as gpd
import numpy as np

from geoseg.data.splits import SPLITS


def spread_tiles(tiles: gpd.GeoDataFrame, count: int) -> gpd.GeoDataFrame:
    """At most `count` tiles, evenly spaced in the order in which they were cut."""
    if len(tiles) <= count:
        return tiles
    return tiles.iloc[np.linspace(0, len(tiles) - 1, count).round().astype(int)]


def choose_sheet_tiles(tiles: gpd.GeoDataFrame, count: int, seed: int) -> tuple[str, ...]:
    """Chooses tiles to show: as many of each split as can be, from full to empty ground.

    The tiles of a split are ranked by their share of buildings and cut into groups of equal
    size, of which each gives one tile by the seed, beside those chosen already rather than on
    them. Of the tiles without a building there are no more than a quarter, unless others lack.

    Returns:
        Ids, by split and falling share.
    """
    rng = np.random.default_rng(seed)
    parts = {split: tiles[tiles.split == split] for split in SPLITS}
    places = _deal_places({split: len(part) for split, part in parts.items()}, count)
    chosen: list[int] = []
    for split, part in parts.items():
        ranked = part.sort_values(["building_fraction", "id"], ascending=[False, True])
        full = ranked.index[ranked.building_fraction > 0].to_numpy()
        empty = ranked.index[ranked.building_fraction == 0].to_numpy()
        of_empty = max(min(len(empty), places[split] // 4), places[split] - len(full))
        for group in _groups(full, places[split] - of_empty) + _groups(empty, of_empty):
            chosen.append(_choose_apart(tiles, rng.permutation(group), chosen))
    return tuple(str(id_) for id_ in tiles.id.loc[chosen])


def _groups(ranked: np.ndarray, count: int) -> list[np.ndarray]:
    return np.array_split(ranked, count) if count else []


def _choose_apart(tiles: gpd.GeoDataFrame, candidates: np.ndarray, chosen: list[int]) -> int:
    """The first candidate that shares no ground with a tile chosen before, else the first."""
    taken = tiles.loc[chosen]
    for row in candidates:
        tile = tiles.loc[row]
        beside = (abs(taken.row_off - tile.row_off) >= tile.height) | (
            abs(taken.col_off - tile.col_off) >= tile.width
        )
        if (beside | (taken.scene != tile.scene)).all():
            return int(row)
    return int(candidates[0])


def _deal_places(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Deals places in turn to those that still have tiles."""
    places = dict.fromkeys(sizes, 0)
    while count > 0 and any(places[name] < size for name, size in sizes.items()):
        for name, size in sizes.items():
            if count > 0 and places[name] < size:
                places[name] += 1
                count -= 1
    return places
