"""Components of buildings → buildings: holes filled, touching ones apart, crumbs gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from geoseg.options import Thresholds
from geoseg.vectorization.components.runs import (
    Runs,
    concatenate_runs,
    find_runs,
    label_runs,
    rasterize_runs,
)
from geoseg.vectorization.components.selection import ComponentSelection
from geoseg.vectorization.objects.holes import fill_holes
from geoseg.vectorization.objects.separation import seed_score, separate, split_necks
from geoseg.vectorization.prob_sources import ProbWindow

_SEED_SHARE = 0.25  # of the minimum area; a smaller seed is noise


# (piece, its rows and columns, its mask there) → labels of its parts.
_Divide = Callable[[int, tuple[slice, slice], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Objects:
    """Buildings of a window, each a 4-connected set of pixels.

    Attributes:
        runs: In scan order, in rows and columns of a window; values are the buildings' numbers,
            from 1.
        groups: int64 (n,), the component of each building, in which it touches others.
        mask: Runs of all that is likely enough; values are numbers of components, from 1.
    """

    runs: Runs
    groups: np.ndarray
    mask: Runs

    def __len__(self) -> int:
        return len(self.groups)


def building_mask(prob: ProbWindow, thresholds: Thresholds) -> np.ndarray:
    """Which pixels are likely enough to be building, bool (H, W)."""
    mask: np.ndarray = prob.valid & (prob.body >= np.float32(thresholds.body))
    return mask


def find_objects(
    prob: ProbWindow,
    window: Window,
    wanted: ComponentSelection,
    chosen: np.ndarray,
    thresholds: Thresholds,
) -> Objects:
    """Finds the buildings of some components; each depends on its own component alone.

    Args:
        prob: Probabilities of a window.
        window: The window, which holds the chosen components and a pixel around them.
        wanted: Components of the mask of what is likely enough, as far as they begin there.
        chosen: bool (n,), which of them are to be taken apart; the others are known to be there.
        thresholds: What makes a building.

    Returns:
        Buildings by component and then by their first pixel; rows and columns are the window's.
    """
    runs = find_runs(building_mask(prob, thresholds).view(np.uint8))
    owners, _ = label_runs(runs, diagonal=True)
    mask_runs = runs.with_values(owners + 1)
    places = wanted.components.match_runs(mask_runs, window)
    runs = mask_runs.with_values(places + 1).pick(places >= 0)
    runs = fill_holes(runs, prob.valid, wanted.min_hole_px)
    runs = runs.pick(chosen[runs.values - 1])
    pieces, count = label_runs(runs, diagonal=False)
    groups = np.zeros(count, dtype=np.int64)
    groups[pieces] = runs.values - 1
    runs = runs.with_values(pieces + 1)
    runs, groups = _part_by_seeds(runs, groups, seed_score(prob, thresholds), wanted, thresholds)
    if thresholds.split_m:
        runs, groups = _part_by_necks(runs, groups, wanted, thresholds)
    runs, groups = _in_order(runs, groups, wanted.min_object_px)
    return Objects(runs, groups, mask_runs)


def _part_by_seeds(
    pieces: Runs,
    groups: np.ndarray,
    score: np.ndarray,
    wanted: ComponentSelection,
    thresholds: Thresholds,
) -> tuple[Runs, np.ndarray]:
    """Takes pieces apart that hold several seeds; see `_divide`."""
    least = wanted.min_object_px[groups]

    def part(piece: int, place: tuple[slice, slice], mask: np.ndarray) -> np.ndarray:
        smallest = float(least[piece])
        return separate(
            score[place], mask, thresholds.seed,
            min_seed_px=_SEED_SHARE * smallest, min_area_px=smallest,
        )  # fmt: skip

    crowded = _crowded(score, pieces, least, thresholds.seed)
    return _divide(pieces, np.flatnonzero(crowded), groups, part)


def _part_by_necks(
    pieces: Runs, groups: np.ndarray, wanted: ComponentSelection, thresholds: Thresholds
) -> tuple[Runs, np.ndarray]:
    """Takes pieces apart at their necks; see `_divide`."""
    least, sizes_m = wanted.min_object_px[groups], np.hypot(*wanted.steps_m[groups].T).T

    def part(piece: int, _: tuple[slice, slice], mask: np.ndarray) -> np.ndarray:
        return split_necks(mask, thresholds.split_m, sizes_m[piece], float(least[piece]))

    return _divide(pieces, np.unique(pieces.values) - 1, groups, part)


def _crowded(score: np.ndarray, pieces: Runs, least: np.ndarray, seed: float) -> np.ndarray:
    """Which pieces hold more than one seed that is no noise."""
    seeds = find_runs(np.where(score >= seed, rasterize_runs(pieces, score.shape), 0))
    owners, count = label_runs(seeds, diagonal=False)
    piece = np.zeros(count, dtype=np.int64)
    piece[owners] = seeds.values - 1
    large = np.bincount(owners, seeds.lengths, count) >= _SEED_SHARE * least[piece]
    several: np.ndarray = np.bincount(piece[large], minlength=len(least)) > 1
    return several


def _divide(
    pieces: Runs, chosen: np.ndarray, groups: np.ndarray, divide: _Divide
) -> tuple[Runs, np.ndarray]:
    """Takes some pieces apart, each in its own window.

    Args:
        pieces: Values are their numbers, from 1.
        chosen: Indices of those that are divided, from 0.
        groups: The component of each piece.
        divide: What does it.

    Returns:
        Runs of all, of which those that were divided have new numbers; the component of each
        number, also of those that are gone.
    """
    sorted_ = pieces.pick(np.argsort(pieces.values, kind="stable"))
    begins = np.searchsorted(sorted_.values, chosen + 1)
    ends = np.searchsorted(sorted_.values, chosen + 1, side="right")
    found, counts, total = [pieces.pick(~np.isin(pieces.values, chosen + 1))], [], len(groups)
    for piece, begin, end in zip(chosen.tolist(), begins.tolist(), ends.tolist(), strict=True):
        runs = sorted_.pick(slice(begin, end))
        top, left = int(runs.rows[0]), int(runs.starts.min())
        rows, columns = slice(top, int(runs.rows[-1]) + 1), slice(left, int(runs.stops.max()))
        shape = (rows.stop - top, columns.stop - left)
        labels = divide(piece, (rows, columns), rasterize_runs(runs.move(-top, -left), shape) > 0)
        parts = find_runs(labels).move(top, left)
        found.append(parts.with_values(parts.values + total))
        counts.append(int(parts.values.max(initial=0)))
        total += counts[-1]
    fresh = np.repeat(groups[chosen], np.array(counts, dtype=np.int64))
    return concatenate_runs(*found), np.concatenate([groups, fresh])


def _in_order(runs: Runs, groups: np.ndarray, object_px: np.ndarray) -> tuple[Runs, np.ndarray]:
    """Numbers what is large enough, by component and then by first pixel.

    Args:
        runs: Values are numbers from 1, some of which may be missing.
        groups: The component of each number.
        object_px: What is large enough, by component.

    Returns:
        Runs with numbers from 1, and the component of each.
    """
    runs = runs.pick(np.lexsort((runs.starts, runs.rows)))
    runs = runs.with_values(runs.values - 1)
    areas = np.bincount(runs.values, runs.lengths, len(groups))
    kept = (areas > 0) & (areas >= object_px[groups])
    first = np.zeros(len(groups), dtype=np.int64)
    first[runs.values[::-1]] = np.arange(len(runs))[::-1]
    order = np.lexsort((first, groups))
    order = order[kept[order]]
    number = np.zeros(len(groups), dtype=np.int64)
    number[order] = np.arange(1, len(order) + 1)
    runs = runs.pick(kept[runs.values])
    return runs.with_values(number[runs.values]), groups[order]
