"""Training, validation and test ground, separated before anything is tiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from rasterio.windows import Window

from geoseg.errors import ConfigError

SPLITS = ("train", "val", "test")

Fractions = tuple[float, float, float]


@dataclass(frozen=True)
class Region:
    """A rectangle of a scene's grid that belongs to one split."""

    split: str
    window: Window


def split_stripes(height: int, width: int, *, fractions: Fractions, **_: int) -> list[Region]:
    """One stripe per split across the scene's longer side: train, val, test in this order."""
    length = max(height, width)
    edges = [round(length * share) for share in np.cumsum((0.0, *fractions))]
    regions = []
    for split, start, end in zip(SPLITS, edges, edges[1:], strict=False):
        if end > start:
            across = Window(start, 0, end - start, height)
            down = Window(0, start, width, end - start)
            regions.append(Region(split, across if width >= height else down))
    return regions


def split_blocks(
    height: int, width: int, *, fractions: Fractions, block: int, seed: int
) -> list[Region]:
    """Square blocks dealt to the splits at random, by the seed.

    Blocks have `block` pixels a side; those of the last row and column take the remainder, so
    that none is narrower than `block` unless the scene is.
    """
    tops, lefts = _cuts(height, block), _cuts(width, block)
    windows = [
        Window(left, top, right - left, bottom - top)
        for top, bottom in pairwise(tops)
        for left, right in pairwise(lefts)
    ]
    order = np.random.default_rng(seed).permutation(len(windows))
    names = _deal(len(windows), fractions)
    return [Region(names[place], windows[i]) for place, i in enumerate(order)]


STRATEGIES: dict[str, Callable[..., list[Region]]] = {
    "stripes": split_stripes,
    "blocks": split_blocks,
}


def drop_shared(tiles: gpd.GeoDataFrame, pixel_area: float) -> gpd.GeoDataFrame:
    """Drops tiles that meet the ground of another split, where scenes overlap each other.

    Test ground is kept before validation ground, and that before training ground.

    Args:
        tiles: Tiles with `split` and geometry, in one CRS.
        pixel_area: Area of a pixel in that CRS, below half of which tiles merely touch.
    """
    for keeper, loser in (("test", "val"), ("test", "train"), ("val", "train")):
        kept, candidates = tiles[tiles.split == keeper], tiles[tiles.split == loser]
        if kept.empty or candidates.empty:
            continue
        ground = kept.geometry.union_all()
        shared = shapely.area(candidates.geometry.intersection(ground).values)
        tiles = tiles.drop(candidates.index[shared >= pixel_area / 2])
    return tiles.reset_index(drop=True)


def count_shared_pixels(tiles: gpd.GeoDataFrame, pixel_area: float) -> int:
    """Pixels that lie in tiles of two splits; the proof that splits do not leak."""
    ground = {name: part.geometry.union_all() for name, part in tiles.groupby("split")}
    shared: float = sum(ground[a].intersection(ground[b]).area for a, b in combinations(ground, 2))
    return round(shared / pixel_area)


def merge_regions(regions: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """The ground of each split over all scenes, one row per split, in longitude and latitude."""
    everything = gpd.GeoDataFrame(pd.concat([r.to_crs(4326) for r in regions], ignore_index=True))
    return everything.dissolve("split", as_index=False)


def _cuts(length: int, block: int) -> list[int]:
    pieces = max(1, length // block)
    return [*(i * block for i in range(pieces)), length]


def _deal(count: int, fractions: Fractions) -> list[str]:
    """Names for `count` blocks: at least one for every split with a share, if there are enough."""
    wanted = [f > 0 for f in fractions]
    counts = [max(int(w), round(count * f)) for w, f in zip(wanted, fractions, strict=True)]
    counts[0] = count - counts[1] - counts[2]
    if counts[0] < 1:
        raise ConfigError(
            f"the scene makes only {count} blocks, too few for the splits; use smaller tiles or "
            "--split stripes"
        )
    return [name for name, n in zip(SPLITS, counts, strict=True) for _ in range(n)]
