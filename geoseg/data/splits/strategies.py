"""Split strategies: stripes, blocks, k-fold, whole scenes, drawn areas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from rasterio.windows import Window

from geoseg.data.splits.balancing import assign_groups
from geoseg.data.splits.drawn_areas import split_areas
from geoseg.data.splits.regions import SPLITS, Region, SplitRegions, SplitScene
from geoseg.data.splits.scene_patterns import check_patterns, matches_any
from geoseg.data.splits.stripes import SIDE_PER_GAP, choose_gap, divide
from geoseg.options import TileOptions

Strategy = Callable[[Sequence[SplitScene], TileOptions], SplitRegions]

# Side of blocks in tiles; the first that gives at least `_FEWEST_BLOCKS` is used, else the last.
_TILES_PER_BLOCK = (8, 4, 2)
_FEWEST_BLOCKS = 12

# The default gap is at most 1/8 of a block's side.
_BLOCK_PER_GAP = 8


def split_stripes(scenes: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """Divide each scene's longer side into one stripe per split: train, val, test."""
    shortest = min(max(scene.grid.shape) for scene in scenes)
    gap = choose_gap(options, shortest // SIDE_PER_GAP)
    return SplitRegions(
        [divide(*scene.grid.shape, options.fractions, gap) for scene in scenes], gap
    )


def split_blocks(scenes: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """Assign square blocks to splits at random, with balanced building area."""
    side = _block_side(scenes, options)
    blocks = _blocks(scenes, side)
    groups = _assign_blocks(scenes, blocks, options.fractions, options.seed)
    names = [SPLITS[group] for group in groups]
    return _by_scene(scenes, blocks, names, choose_gap(options, side // _BLOCK_PER_GAP))


def split_kfold(scenes: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """Assign square blocks to folds: one fold is test, the next validation, the others training.

    The folds are the same for every value of `fold`, so each block is tested on exactly once.
    """
    side = _block_side(scenes, options)
    blocks = _blocks(scenes, side)
    groups = _assign_blocks(scenes, blocks, [1 / options.folds] * options.folds, options.seed)
    offsets = (groups - options.fold) % options.folds
    names = ["test" if offset == 0 else "val" if offset == 1 else "train" for offset in offsets]
    return _by_scene(scenes, blocks, names, choose_gap(options, side // _BLOCK_PER_GAP))


def split_scenes(scenes: Sequence[SplitScene], options: TileOptions) -> SplitRegions:
    """Assign whole scenes to splits: by the given names, or at random as blocks are.

    Scenes are usually separate areas already, so the default gap is 0.
    """
    blocks = [(index, scene.grid.window) for index, scene in enumerate(scenes)]
    if options.val_scenes or options.test_scenes:
        names = [_named_split(scene.name, options) for scene in scenes]
        check_patterns(
            "tile.val_scenes, tile.test_scenes",
            (*options.val_scenes, *options.test_scenes),
            [scene.name for scene in scenes],
        )
    else:
        groups = _assign_blocks(scenes, blocks, options.fractions, options.seed)
        names = [SPLITS[group] for group in groups]
    return _by_scene(scenes, blocks, names, options.gap or 0)


STRATEGIES: dict[str, Strategy] = {
    "stripes": split_stripes,
    "blocks": split_blocks,
    "kfold": split_kfold,
    "scenes": split_scenes,
    "areas": split_areas,
}


def _block_side(scenes: Sequence[SplitScene], options: TileOptions) -> int:
    """Return the side of blocks in pixels; by default as large as gives enough blocks."""
    if options.block is not None:
        return options.block
    sides = [tiles * options.size for tiles in _TILES_PER_BLOCK]
    enough = (side for side in sides if len(_blocks(scenes, side)) >= _FEWEST_BLOCKS)
    return next(enough, sides[-1])


def _blocks(scenes: Sequence[SplitScene], side: int) -> list[tuple[int, Window]]:
    """Return (scene index, window) of all blocks; the last row and column get the remainder."""
    blocks = []
    for index, scene in enumerate(scenes):
        rows, columns = (_block_edges(length, side) for length in scene.grid.shape)
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                blocks.append((index, Window(left, top, right - left, bottom - top)))
    return blocks


def _block_edges(length: int, side: int) -> list[int]:
    """Return where blocks along a side of a scene begin, and where the last one ends."""
    blocks = max(1, length // side)
    return [*(i * side for i in range(blocks)), length]


def _assign_blocks(
    scenes: Sequence[SplitScene],
    blocks: Sequence[tuple[int, Window]],
    fractions: Sequence[float],
    seed: int,
) -> np.ndarray:
    """Return the group of each block, balanced by area and building area."""
    pixel_m2 = [scene.grid.gsd_m**2 for scene in scenes]
    areas_m2 = np.array([window.width * window.height * pixel_m2[i] for i, window in blocks])
    buildings_m2 = np.array(
        [scenes[i].foreground_pixels(window) * pixel_m2[i] for i, window in blocks]
    )
    return assign_groups(areas_m2, buildings_m2, fractions, seed=seed)


def _by_scene(
    scenes: Sequence[SplitScene],
    blocks: Sequence[tuple[int, Window]],
    names: Sequence[str],
    gap: int,
) -> SplitRegions:
    """Group named blocks by scene."""
    regions: list[list[Region]] = [[] for _ in scenes]
    for (index, window), name in zip(blocks, names, strict=True):
        regions[index].append(Region(name, window))
    return SplitRegions(regions, gap)


def _named_split(scene: str, options: TileOptions) -> str:
    for split, patterns in (("test", options.test_scenes), ("val", options.val_scenes)):
        if matches_any(scene, patterns):
            return split
    return "train"
