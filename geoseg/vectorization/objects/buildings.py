"""Single buildings of components: holes filled, touching buildings separated."""

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
    intersect_runs,
    label_runs,
    rasterize_runs,
)
from geoseg.vectorization.components.selection import ComponentSelection
from geoseg.vectorization.objects.holes import fill_holes
from geoseg.vectorization.prob_sources import ProbWindow

# Smallest seed, as a share of the minimum area; smaller ones are noise.
_SEED_SHARE = 0.25

# (piece, its rows and columns, its mask there) → labels of its parts.
_SplitFunction = Callable[[int, tuple[slice, slice], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Objects:
    """Buildings of a window, each a 4-connected set of pixels.

    Attributes:
        runs: In scan order, in rows and columns of a window; values are the numbers of the
            buildings, from 1.
        groups: int64 (n,), component of each building; buildings of one component may touch.
        mask: Runs of all pixels above the threshold; values are numbers of components, from 1.
    """

    runs: Runs
    groups: np.ndarray
    mask: Runs

    def __len__(self) -> int:
        return len(self.groups)


def building_mask(prob: ProbWindow, thresholds: Thresholds) -> np.ndarray:
    """Return the valid pixels whose building probability reaches the threshold, bool (H, W)."""
    mask: np.ndarray = prob.valid & (prob.body >= np.float32(thresholds.body))
    return mask


def seed_score(prob: ProbWindow, thresholds: Thresholds) -> np.ndarray:
    """Return the seed score of each pixel, (H, W); it is high in the core of a building.

    The score is p_body · (1 - border · p_border) · (1 - contact · p_contact), without the factors
    of bands that are missing.
    """
    score = prob.body.copy()
    if prob.border is not None:
        score *= _lower_by(thresholds.border, prob.border)
    if prob.contact is not None:
        factor = _lower_by(thresholds.contact, prob.contact)
        np.multiply(score, factor, out=score, where=score > 0)
    return score


def _lower_by(weight: float, band: np.ndarray) -> np.ndarray:
    """Return 1 - weight · band, with as few large arrays as possible."""
    factor = band * np.float32(-weight)
    factor += 1
    return factor


def find_objects(
    prob: ProbWindow,
    window: Window,
    selection: ComponentSelection,
    chosen: np.ndarray,
    thresholds: Thresholds,
) -> Objects:
    """Find the buildings of components. They depend on the pixels of their component only.

    Args:
        prob: Probabilities of a window.
        window: The window; contains the chosen components and one pixel around them.
        selection: Components of the building mask that begin in the window.
        chosen: bool (n,), components whose buildings are returned. The others only prevent that
            a hole is filled over them.
        thresholds: Thresholds.

    Returns:
        Buildings sorted by component and then by their first pixel, in pixels of the window.
    """
    runs = find_runs(building_mask(prob, thresholds).view(np.uint8))
    owners, _ = label_runs(runs, diagonal=True)
    mask_runs = runs.with_values(owners + 1)
    indices = selection.components.match_runs(mask_runs, window)
    runs = mask_runs.with_values(indices + 1).pick(indices >= 0)
    runs = fill_holes(runs, prob.valid, selection.min_hole_px)
    runs = runs.pick(chosen[runs.values - 1])
    pieces, count = label_runs(runs, diagonal=False)
    groups = np.zeros(count, dtype=np.int64)
    groups[pieces] = runs.values - 1
    runs = runs.with_values(pieces + 1)
    runs, groups = _split_by_seeds(
        runs, groups, seed_score(prob, thresholds), selection, thresholds
    )
    if thresholds.split_m:
        runs, groups = _split_at_necks(runs, groups, selection, thresholds)
    runs, groups = _number_objects(runs, groups, selection)
    return Objects(runs, groups, mask_runs)


def _split_by_seeds(
    pieces: Runs,
    groups: np.ndarray,
    score: np.ndarray,
    selection: ComponentSelection,
    thresholds: Thresholds,
) -> tuple[Runs, np.ndarray]:
    """Split the pieces that contain several seeds, see `_split_pieces`."""
    min_areas = selection.min_part_px[groups]

    def split(piece: int, place: tuple[slice, slice], mask: np.ndarray) -> np.ndarray:
        from geoseg.vectorization.objects.separation import separate  # slow to load

        min_area = float(min_areas[piece])
        return separate(
            score[place], mask, thresholds.seed,
            min_seed_px=_SEED_SHARE * min_area, min_area_px=min_area,
        )  # fmt: skip

    several = _has_several_seeds(score, pieces, min_areas, thresholds.seed)
    return _split_pieces(pieces, np.flatnonzero(several), groups, split)


def _split_at_necks(
    pieces: Runs, groups: np.ndarray, selection: ComponentSelection, thresholds: Thresholds
) -> tuple[Runs, np.ndarray]:
    """Split pieces at their necks, see `_split_pieces`."""
    min_areas, sizes_m = selection.min_part_px[groups], np.hypot(*selection.steps_m[groups].T).T

    def split(piece: int, _: tuple[slice, slice], mask: np.ndarray) -> np.ndarray:
        from geoseg.vectorization.objects.separation import split_necks  # slow to load

        return split_necks(mask, thresholds.split_m, sizes_m[piece], float(min_areas[piece]))

    return _split_pieces(pieces, np.unique(pieces.values) - 1, groups, split)


def _has_several_seeds(
    score: np.ndarray, pieces: Runs, min_areas: np.ndarray, seed: float
) -> np.ndarray:
    """Return which pieces contain more than one seed of sufficient size."""
    seeds = intersect_runs(pieces, find_runs((score >= seed).view(np.uint8)))
    owners, count = label_runs(seeds, diagonal=False)
    piece = np.zeros(count, dtype=np.int64)
    piece[owners] = seeds.values - 1
    large = np.bincount(owners, seeds.lengths, count) >= _SEED_SHARE * min_areas[piece]
    several: np.ndarray = np.bincount(piece[large], minlength=len(min_areas)) > 1
    return several


def _split_pieces(
    pieces: Runs, chosen: np.ndarray, groups: np.ndarray, split: _SplitFunction
) -> tuple[Runs, np.ndarray]:
    """Split pieces, each in its own window.

    Args:
        pieces: Runs; values are the numbers of pieces, from 1.
        chosen: Indices of the pieces to split, from 0.
        groups: Component of each piece.
        split: Labels the parts of a piece.

    Returns:
        Runs of all pieces, with new numbers for the parts of those that were split; component of
        each number, including numbers that are no longer used.
    """
    sorted_ = pieces.pick(np.argsort(pieces.values, kind="stable"))
    begins = np.searchsorted(sorted_.values, chosen + 1)
    ends = np.searchsorted(sorted_.values, chosen + 1, side="right")
    parts, counts, total = [pieces.pick(~np.isin(pieces.values, chosen + 1))], [], len(groups)
    for piece, begin, end in zip(chosen.tolist(), begins.tolist(), ends.tolist(), strict=True):
        runs = sorted_.pick(slice(begin, end))
        top, left = int(runs.rows[0]), int(runs.starts.min())
        rows, columns = slice(top, int(runs.rows[-1]) + 1), slice(left, int(runs.stops.max()))
        shape = (rows.stop - top, columns.stop - left)
        labels = split(piece, (rows, columns), rasterize_runs(runs.move(-top, -left), shape) > 0)
        labelled = find_runs(labels).move(top, left)
        parts.append(labelled.with_values(labelled.values + total))
        counts.append(int(labelled.values.max(initial=0)))
        total += counts[-1]
    added = np.repeat(groups[chosen], np.array(counts, dtype=np.int64))
    return concatenate_runs(*parts), np.concatenate([groups, added])


def _number_objects(
    runs: Runs, groups: np.ndarray, selection: ComponentSelection
) -> tuple[Runs, np.ndarray]:
    """Drop small objects, and number the rest by component and then by first pixel.

    Outlines of objects in one component depend on each other, so the minimum area of footprints
    decides only about objects that are alone in their component.

    Args:
        runs: Values are numbers from 1, some of which may be missing.
        groups: Component of each number.
        selection: The components.

    Returns:
        Runs with numbers from 1, and the component of each number.
    """
    runs = runs.pick(np.lexsort((runs.starts, runs.rows)))
    runs = runs.with_values(runs.values - 1)
    areas = np.bincount(runs.values, runs.lengths, len(groups))
    alone = np.bincount(groups[areas > 0], minlength=len(selection))[groups] == 1
    least = np.where(alone, selection.min_object_px[groups], selection.min_part_px[groups])
    kept = (areas > 0) & (areas >= least)
    first = np.zeros(len(groups), dtype=np.int64)
    first[runs.values[::-1]] = np.arange(len(runs))[::-1]
    order = np.lexsort((first, groups))
    order = order[kept[order]]
    number = np.zeros(len(groups), dtype=np.int64)
    number[order] = np.arange(1, len(order) + 1)
    runs = runs.pick(kept[runs.values])
    return runs.with_values(number[runs.values]), groups[order]
