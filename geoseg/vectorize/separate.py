"""Touching buildings apart: seeds and watershed inside one mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from geoseg.options import Thresholds

FOUR = ndimage.generate_binary_structure(2, 1)


def separate(
    body: np.ndarray,
    border: np.ndarray | None,
    mask: np.ndarray,
    thresholds: Thresholds,
    *,
    min_seed_px: float = 1,
    min_area_px: float = 1,
) -> np.ndarray:
    """Divides a mask into objects, one per seed.

    Seeds are the 4-connected parts of the mask where p_body · (1 - border · p_border) reaches
    the seed threshold; they grow over the mask until they meet, without lines between them. A
    seed whose object stays below the minimum gives its pixels to its neighbours. A part of the
    mask that no seed reaches becomes an object of its own, so that no building is lost.

    Args:
        body: Float32 (H, W), p_body.
        border: Float32 (H, W), p_border, or None.
        mask: Boolean (H, W), what is divided.
        thresholds: `seed` and `border` are used.
        min_seed_px: Smaller seeds are noise.
        min_area_px: Objects below this vanish, or join a neighbour that they touch.

    Returns:
        Int32 labels (H, W): 0 outside, else 1..n in scan order of the objects' first pixels;
        every label is 4-connected.
    """
    score = seed_score(body, border, thresholds)
    seeds, count = ndimage.label(mask & (score >= thresholds.seed), structure=FOUR)
    labels = np.zeros(mask.shape, dtype=np.int32)
    if count > 1:
        seeds = _keep_large(seeds, seeds, min_seed_px)
        labels = watershed(-score, seeds, mask=mask, connectivity=1).astype(np.int32)
        kept = _keep_large(seeds, labels, min_area_px)
        if (kept != seeds).any():  # what is left only grows, so once is enough
            labels = watershed(-score, kept, mask=mask, connectivity=1).astype(np.int32)
    rest, _ = ndimage.label(mask & (labels == 0), structure=FOUR)
    labels = np.where(rest > 0, rest + labels.max(), labels)
    return _in_scan_order(_keep_large(labels, labels, min_area_px))


def seed_score(body: np.ndarray, border: np.ndarray | None, thresholds: Thresholds) -> np.ndarray:
    """How sure a pixel belongs to the core of a building, (H, W)."""
    if border is None:
        return body
    score: np.ndarray = body * (1 - np.float32(thresholds.border) * border)
    return score


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
