"""Components of buildings → buildings: holes filled, touching ones apart, crumbs gone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from geoseg.options import Thresholds
from geoseg.vectorize.components import Components
from geoseg.vectorize.holes import fill_holes
from geoseg.vectorize.prob import Prob
from geoseg.vectorize.runs import Runs, find_runs, join_runs, label_runs, paint
from geoseg.vectorize.separate import seed_score, separate

_SEED_SHARE = 0.25  # of the minimum area; a smaller seed is noise


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


@dataclass(frozen=True)
class Wanted:
    """Components of a raster, and what is too small in each.

    Attributes:
        components: Those that are large enough.
        sizes_m: float64 (n, 2), width and height of a pixel on the ground at each.
        margins: int64 (n,), pixels around each that its outlines may reach.
        object_px: float64 (n,), pixels from which on a part of each is a building.
        hole_px: float64 (n,), those from which on a hole stays.
    """

    components: Components
    sizes_m: np.ndarray
    margins: np.ndarray
    object_px: np.ndarray
    hole_px: np.ndarray


def likely(prob: Prob, thresholds: Thresholds) -> np.ndarray:
    """Which pixels are likely enough to be building, bool (H, W)."""
    mask: np.ndarray = prob.valid & (prob.body >= np.float32(thresholds.body))
    return mask


def find_objects(
    prob: Prob, window: Window, wanted: Wanted, chosen: np.ndarray, thresholds: Thresholds
) -> Objects:
    """Finds the buildings of some components; each depends on its own component alone.

    Args:
        prob: Probabilities of a window.
        window: The window, which holds the chosen components and a pixel around them.
        wanted: Components of the mask of what is likely enough.
        chosen: bool (n,), which of them are to be taken apart; the others are known to be there.
        thresholds: What makes a building.

    Returns:
        Buildings by component and then by their first pixel; rows and columns are the window's.
    """
    runs = find_runs(likely(prob, thresholds).view(np.uint8))
    owners, _ = label_runs(runs, diagonal=True)
    mask_runs = runs.renamed(owners + 1)
    runs = name_runs(mask_runs, window, wanted.components)
    runs = fill_holes(runs, prob.valid, wanted.hole_px)
    runs = runs.pick(chosen[runs.values - 1])
    pieces, count = label_runs(runs, diagonal=False)
    groups = np.zeros(count, dtype=np.int64)
    groups[pieces] = runs.values - 1
    least = wanted.object_px[groups]
    numbered = runs.renamed(pieces + 1)
    crowded = _crowded(prob, numbered, least, thresholds)
    alone = numbered.pick(~crowded[pieces])
    divided, owners = _divide(prob, numbered, np.flatnonzero(crowded), least, thresholds)
    runs = join_runs(alone.renamed(alone.values - 1), divided.renamed(divided.values + count))
    runs, groups = _in_order(runs, np.concatenate([groups, groups[owners]]), wanted.object_px)
    return Objects(runs, groups, mask_runs)


def name_runs(runs: Runs, window: Window, components: Components) -> Runs:
    """The runs of components that begin in a window; values are their places among all, from 1.

    Args:
        runs: Values are numbers of components in the window, from 1.
        window: The window.
        components: All that are wanted.
    """
    owners = runs.values - 1
    begins = np.zeros(int(owners.max(initial=-1)) + 1, dtype=np.int64)
    places = (runs.rows + window.row_off) * components.width + runs.starts + window.col_off
    begins[owners[::-1]] = places[::-1]  # in scan order, so the first is written last
    number = np.searchsorted(components.firsts, begins)
    found = np.append(components.firsts, -1)[number] == begins
    return runs.renamed(number[owners] + 1).pick(found[owners])


def _crowded(prob: Prob, pieces: Runs, least: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Which pieces hold more than one seed that is no noise."""
    score = seed_score(prob.body, prob.border, thresholds)
    seeds = find_runs(np.where(score >= thresholds.seed, paint(pieces, score.shape), 0))
    owners, count = label_runs(seeds, diagonal=False)
    piece = np.zeros(count, dtype=np.int64)
    piece[owners] = seeds.values - 1
    large = np.bincount(owners, seeds.lengths, count) >= _SEED_SHARE * least[piece]
    several: np.ndarray = np.bincount(piece[large], minlength=len(least)) > 1
    return several


def _divide(
    prob: Prob, pieces: Runs, crowded: np.ndarray, least: np.ndarray, thresholds: Thresholds
) -> tuple[Runs, np.ndarray]:
    """Takes crowded pieces apart, each in its own window.

    Returns:
        Runs, whose values are numbers of their own, from 0; and the piece of each number.
    """
    sorted_ = pieces.pick(np.argsort(pieces.values, kind="stable"))
    begins = np.searchsorted(sorted_.values, crowded + 1)
    ends = np.searchsorted(sorted_.values, crowded + 1, side="right")
    found, counts, total = [pieces.pick(slice(0, 0))], [], 0
    for piece, begin, end in zip(crowded.tolist(), begins.tolist(), ends.tolist(), strict=True):
        parts = _divide_one(prob, sorted_.pick(slice(begin, end)), float(least[piece]), thresholds)
        found.append(parts.renamed(parts.values - 1 + total))
        counts.append(int(parts.values.max(initial=0)))
        total += counts[-1]
    return join_runs(*found), np.repeat(crowded, np.array(counts, dtype=np.int64))


def _divide_one(prob: Prob, piece: Runs, min_area_px: float, thresholds: Thresholds) -> Runs:
    """The objects of one piece; values are their numbers from 1."""
    top, left = int(piece.rows[0]), int(piece.starts.min())
    rows, columns = slice(top, int(piece.rows[-1]) + 1), slice(left, int(piece.stops.max()))
    shape = (rows.stop - top, columns.stop - left)
    labels = separate(
        prob.body[rows, columns],
        None if prob.border is None else prob.border[rows, columns],
        paint(piece.move(-top, -left), shape) > 0,
        thresholds,
        min_seed_px=_SEED_SHARE * min_area_px,
        min_area_px=min_area_px,
    )
    return find_runs(labels).move(top, left)


def _in_order(runs: Runs, groups: np.ndarray, object_px: np.ndarray) -> tuple[Runs, np.ndarray]:
    """Numbers what is large enough, by component and then by first pixel.

    Args:
        runs: Values are numbers from 0, some of which may be missing.
        groups: The component of each number.
        object_px: What is large enough, by component.

    Returns:
        Runs with numbers from 1, and the component of each.
    """
    runs = runs.pick(np.lexsort((runs.starts, runs.rows)))
    areas = np.bincount(runs.values, runs.lengths, len(groups))
    kept = (areas > 0) & (areas >= object_px[groups])
    first = np.zeros(len(groups), dtype=np.int64)
    first[runs.values[::-1]] = np.arange(len(runs))[::-1]
    order = np.lexsort((first, groups))
    order = order[kept[order]]
    number = np.zeros(len(groups), dtype=np.int64)
    number[order] = np.arange(1, len(order) + 1)
    runs = runs.pick(kept[runs.values])
    return runs.renamed(number[runs.values]), groups[order]
