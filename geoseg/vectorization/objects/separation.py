"""Touching buildings apart: seeds and watershed inside one mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from geoseg.options import Thresholds
from geoseg.vectorization.prob_sources import ProbWindow

FOUR = ndimage.generate_binary_structure(2, 1)

# Distances in metres that differ by less are the same.
_SAME_M = 1e-6


def seed_score(prob: ProbWindow, thresholds: Thresholds) -> np.ndarray:
    """How sure a pixel belongs to the core of a building, (H, W).

    That is p_body · (1 - border · p_border) · (1 - contact · p_contact), of what there is.
    """
    score = prob.body
    if prob.border is not None:
        score = score * (1 - np.float32(thresholds.border) * prob.border)
    if prob.contact is not None:
        apart = 1 - np.float32(thresholds.contact) * prob.contact
        score = np.where(score > 0, score * apart, score)
    return score


def separate(
    score: np.ndarray,
    mask: np.ndarray,
    least: float,
    *,
    min_seed_px: float = 1,
    min_area_px: float = 1,
) -> np.ndarray:
    """Divides a mask into objects, one per seed.

    Seeds are the 4-connected parts of the mask where the score reaches the threshold; they grow
    over the mask until they meet, without lines between them. A seed whose object stays below the
    minimum gives its pixels to its neighbours. A part of the mask that no seed reaches becomes an
    object of its own, so that no building is lost.

    Args:
        score: Float32 (H, W), see `seed_score`.
        mask: Boolean (H, W), what is divided.
        least: Score of a seed's pixels.
        min_seed_px: Smaller seeds are noise.
        min_area_px: Objects below this vanish, or join a neighbour that they touch.

    Returns:
        Int32 labels (H, W): 0 outside, else 1..n in scan order of the objects' first pixels;
        every label is 4-connected.
    """
    seeds, count = ndimage.label(mask & (score >= least), structure=FOUR)
    seeds = _keep_large(seeds, seeds, min_seed_px) if count > 1 else np.zeros_like(seeds)
    return _grow(seeds, -score, mask, min_area_px)


def split_necks(
    mask: np.ndarray, depth_m: float, size_m: np.ndarray, min_area_px: float = 1
) -> np.ndarray:
    """Divides a mask where it is narrow between parts that are wide.

    The distance to what is outside has a peak in each part. Two peaks are two objects if the way
    from one to the other leads over places that are lower than both by `depth_m`, so if the neck
    is narrower than either part by twice as much.

    Args:
        mask: Boolean (H, W), what is divided.
        depth_m: Metres.
        size_m: (2,), width and height of a pixel, metres.
        min_area_px: Objects below this join a neighbour.

    Returns:
        Labels as of `separate`.
    """
    inside = np.pad(mask, 1)
    distance = ndimage.distance_transform_edt(inside, sampling=size_m[::-1])
    above = distance - reconstruction(np.maximum(distance - depth_m, 0), distance)
    domes, count = ndimage.label((above > _SAME_M) & inside, structure=FOUR)
    numbers = np.arange(1, count + 1)
    peaks = np.append(0, ndimage.maximum(above, domes, numbers)) if count else np.zeros(1)
    seeds = np.where(peaks[domes] >= depth_m - _SAME_M, domes, 0)
    return _grow(seeds[1:-1, 1:-1], -distance[1:-1, 1:-1], mask, min_area_px)


def _grow(
    seeds: np.ndarray, relief: np.ndarray, mask: np.ndarray, min_area_px: float
) -> np.ndarray:
    """Grows seeds over a mask, from the lowest places of the relief upwards."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    if seeds.any():
        labels = watershed(relief, seeds, mask=mask, connectivity=1).astype(np.int32)
        kept = _keep_large(seeds, labels, min_area_px)
        if (kept != seeds).any():  # what is left only grows, so once is enough
            labels = watershed(relief, kept, mask=mask, connectivity=1).astype(np.int32)
    rest, _ = ndimage.label(mask & (labels == 0), structure=FOUR)
    labels = np.where(rest > 0, rest + labels.max(), labels)
    return _in_scan_order(_keep_large(labels, labels, min_area_px))


def _keep_large(labels: np.ndarray, areas_of: np.ndarray, min_px: float) -> np.ndarray:
    """`labels` without those that cover fewer than `min_px` pixels of `areas_of`."""
    areas = np.bincount(areas_of.ravel(), minlength=int(labels.max()) + 1)
    return np.where(areas[labels] >= min_px, labels, 0)


def _in_scan_order(labels: np.ndarray) -> np.ndarray:
    present, first = np.unique(labels, return_index=True)
    first[present == 0] = -1
    renamed = np.zeros(int(present[-1]) + 1, dtype=np.int32)
    ordered = present[np.argsort(first)]
    ordered = ordered[ordered > 0]
    renamed[ordered] = np.arange(1, len(ordered) + 1)
    ordered_labels: np.ndarray = renamed[labels]
    return ordered_labels
