"""Which tiles are looked at where all of them would be too many."""

from __future__ import annotations

import geopandas as gpd
import numpy as np

from geoseg.splits import SPLITS


def spread_tiles(tiles: gpd.GeoDataFrame, count: int) -> gpd.GeoDataFrame:
    """At most `count` tiles, evenly spaced in the order in which they were cut."""
    if len(tiles) <= count:
        return tiles
    return tiles.iloc[np.linspace(0, len(tiles) - 1, count).round().astype(int)]


def choose_sheet(tiles: gpd.GeoDataFrame, count: int, seed: int) -> tuple[str, ...]:
    """Chooses tiles to show: as many of each split as can be, from full to empty ground.

    The tiles of a split are ranked by their share of buildings and cut into groups of equal
    size, of which each gives one tile, by the seed.

    Returns:
        Ids, by split and falling share.
    """
    rng = np.random.default_rng(seed)
    parts = {split: tiles[tiles.split == split] for split in SPLITS}
    chosen: list[str] = []
    for split, quota in _deal_places({k: len(part) for k, part in parts.items()}, count).items():
        ranked = parts[split].sort_values(["building_fraction", "id"], ascending=[False, True])
        groups = np.array_split(ranked.id.to_numpy(), quota) if quota else []
        chosen += [str(rng.choice(group)) for group in groups]
    return tuple(chosen)


def _deal_places(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Deals places in turn to those that still have tiles."""
    quotas = dict.fromkeys(sizes, 0)
    while count > 0 and any(quotas[name] < sizes[name] for name in sizes):
        for name in sizes:
            if count > 0 and quotas[name] < sizes[name]:
                quotas[name] += 1
                count -= 1
    return quotas
