"""The ways of separating ground, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import numpy as np
from rasterio.windows import Window

from geoseg.data.splits.balancing import assign_groups
from geoseg.data.splits.drawn_areas import split_areas
from geoseg.data.splits.regions import SPLITS, Region, SplitRegions, SplitScene
from geoseg.errors import ConfigError
from geoseg.options import TileOptions

Strategy = Callable[[Sequence[SplitScene], TileOptions], SplitRegions]

# Blocks are this many tiles wide, or fewer where that would make too few of them.
_TILES_PER_BLOCK = (8, 4, 2)
_FEWEST_BLOCKS = 12

# A gap takes no more than this part of a scene's longer side, or of a block's.
_PART_OF_SCENE = 10
_PART_OF_BLOCK = 8


def split_stripes(grounds: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """One stripe per split across each scene's longer side: train, val, test in this order."""
    longest = min(max(ground.grid.shape) for ground in grounds)
    gap = _gap(options, longest // _PART_OF_SCENE)
    return SplitRegions([_stripes(*g.grid.shape, options.fractions, gap) for g in grounds], gap)


def split_blocks(grounds: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """Square blocks dealt to the splits at random, by the seed, with equal shares of buildings."""
    side = _block_side(grounds, options)
    blocks = _blocks(grounds, side)
    groups = _assign_blocks(grounds, blocks, options.fractions, options.seed)
    names = [SPLITS[group] for group in groups]
    return _by_scene(grounds, blocks, names, _gap(options, side // _PART_OF_BLOCK))


def split_kfold(grounds: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """Square blocks dealt to folds: one is test ground, the next validation, the others train.

    The folds are the same for every `fold`, so each block is test ground once.
    """
    side = _block_side(grounds, options)
    blocks = _blocks(grounds, side)
    groups = _assign_blocks(grounds, blocks, [1 / options.folds] * options.folds, options.seed)
    turn = (groups - options.fold) % options.folds
    names = ["test" if place == 0 else "val" if place == 1 else "train" for place in turn]
    return _by_scene(grounds, blocks, names, _gap(options, side // _PART_OF_BLOCK))


def split_scenes(grounds: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """Whole scenes: those named for validation and test, or dealt as blocks are.

    Scenes are ground that the user has separated, so there is no gap unless one is asked for.
    """
    blocks = [(place, ground.grid.window) for place, ground in enumerate(grounds)]
    if options.val_scenes or options.test_scenes:
        names = [_named_split(ground.name, options) for ground in grounds]
        _check_used(options, grounds)
    else:
        groups = _assign_blocks(grounds, blocks, options.fractions, options.seed)
        names = [SPLITS[group] for group in groups]
    return _by_scene(grounds, blocks, names, options.gap or 0)


STRATEGIES: dict[str, Strategy] = {
    "stripes": split_stripes,
    "blocks": split_blocks,
    "kfold": split_kfold,
    "scenes": split_scenes,
    "areas": split_areas,
}


def _gap(options: TileOptions, most: int) -> int:
    """The gap that is asked for, else a tile, or less where the ground is small."""
    return min(options.size, most) if options.gap is None else options.gap


def _stripes(
    height: int, width: int, fractions: tuple[float, float, float], gap: int
) -> list[Region]:
    length = max(height, width)
    named = [(split, share) for split, share in zip(SPLITS, fractions, strict=True) if share > 0]
    usable = length - gap * (len(named) - 1)
    if usable < len(named):
        raise ConfigError(
            f"tile.gap: {gap} pixels between {len(named)} splits leave nothing of {length}; choose "
            "a smaller --gap"
        )
    edges = [round(usable * share) for share in np.cumsum([0.0, *(share for _, share in named)])]
    regions = []
    for place, (split, _) in enumerate(named):
        start, size = edges[place] + place * gap, edges[place + 1] - edges[place]
        across, down = Window(start, 0, size, height), Window(0, start, width, size)
        if size:
            regions.append(Region(split, across if width >= height else down))
    return regions


def _block_side(grounds: Sequence[SplitScene], options: TileOptions) -> int:
    if options.block is not None:
        return options.block
    sides = [tiles * options.size for tiles in _TILES_PER_BLOCK]
    enough = (side for side in sides if len(_blocks(grounds, side)) >= _FEWEST_BLOCKS)
    return next(enough, sides[-1])


def _blocks(grounds: Sequence[SplitScene], side: int) -> list[tuple[int, Window]]:
    """The blocks of all scenes: those of the last row and column take the remainder."""
    blocks = []
    for place, ground in enumerate(grounds):
        rows, columns = (_cuts(length, side) for length in ground.grid.shape)
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                blocks.append((place, Window(left, top, right - left, bottom - top)))
    return blocks


def _cuts(length: int, side: int) -> list[int]:
    pieces = max(1, length // side)
    return [*(i * side for i in range(pieces)), length]


def _assign_blocks(
    grounds: Sequence[SplitScene],
    blocks: Sequence[tuple[int, Window]],
    shares: Sequence[float],
    seed: int,
) -> np.ndarray:
    pixel_m2 = [ground.grid.gsd_m**2 for ground in grounds]
    area = np.array([window.width * window.height * pixel_m2[i] for i, window in blocks])
    built = np.array([grounds[i].foreground_pixels(window) * pixel_m2[i] for i, window in blocks])
    return assign_groups(area, built, shares, seed=seed)


def _by_scene(
    grounds: Sequence[SplitScene],
    blocks: Sequence[tuple[int, Window]],
    names: Sequence[str],
    gap: int,
) -> SplitRegions:
    regions: list[list[Region]] = [[] for _ in grounds]
    for (place, window), name in zip(blocks, names, strict=True):
        regions[place].append(Region(name, window))
    return SplitRegions(regions, gap)


def _named_split(scene: str, options: TileOptions) -> str:
    for split, patterns in (("test", options.test_scenes), ("val", options.val_scenes)):
        if any(_matches(scene, pattern) for pattern in patterns):
            return split
    return "train"


def _matches(scene: str, pattern: str) -> bool:
    return fnmatch(scene, pattern) or fnmatch(Path(scene).name, pattern)


def _check_used(options: TileOptions, grounds: Sequence[SplitScene]) -> None:
    for pattern in (*options.val_scenes, *options.test_scenes):
        if not any(_matches(ground.name, pattern) for ground in grounds):
            raise ConfigError(
                f"tile.val_scenes, tile.test_scenes: {pattern} matches none of the "
                f"{len(grounds)} scenes; give names or patterns such as *_7.tif"
            )
