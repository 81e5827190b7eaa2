"""Separation of touching buildings: watershed from seeds, and splitting at narrow necks."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from geoseg.vectorization.components.neighbours import four_neighbours

_FOUR_CONNECTED = ndimage.generate_binary_structure(2, 1)

# Distances in metres that differ by less are treated as equal.
_SAME_M = 1e-6


def separate(
    score: np.ndarray,
    mask: np.ndarray,
    min_score: float,
    *,
    min_seed_px: float = 1,
    min_area_px: float = 1,
) -> np.ndarray:
    """Split a mask into objects, one per seed.

    Seeds are the 4-connected parts of the mask where the score reaches the threshold. They grow
    over the mask until they touch. Objects below the minimum area are merged into neighbours. Parts
    of the mask without a seed become separate objects, so that no building is lost.

    Args:
        score: Float32 (H, W), see `buildings.seed_score`.
        mask: Boolean (H, W).
        min_score: Least score of the pixels of a seed.
        min_seed_px: Smaller seeds are ignored.
        min_area_px: Smaller objects are merged into a neighbour that they touch, or dropped.

    Returns:
        Int32 labels (H, W): 0 outside, else 1..n in scan order of the objects' first pixels;
        every label is 4-connected.
    """
    seeds, count = ndimage.label(mask & (score >= min_score), structure=_FOUR_CONNECTED)
    seeds = _keep_large(seeds, seeds, min_seed_px) if count > 1 else np.zeros_like(seeds)
    return _grow(seeds, -score, mask, min_area_px)


def split_necks(
    mask: np.ndarray, depth_m: float, size_m: np.ndarray, min_area_px: float = 1
) -> np.ndarray:
    """Split a mask at narrow necks between wider parts.

    The distance to the outside has a peak in each part. Two peaks become two objects if every path
    between them passes pixels whose distance is lower than both peaks by `depth_m`; the neck is
    then narrower than either part by twice that.

    Args:
        mask: Boolean (H, W).
        depth_m: Least difference of distances, in metres.
        size_m: (2,), width and height of a pixel in metres.
        min_area_px: Smaller objects are merged into a neighbour.

    Returns:
        Labels like those of `separate`.
    """
    inside = np.pad(mask, 1)
    distance = ndimage.distance_transform_edt(inside, sampling=size_m[::-1])
    above = distance - reconstruction(np.maximum(distance - depth_m, 0), distance)
    domes, count = ndimage.label((above > _SAME_M) & inside, structure=_FOUR_CONNECTED)
    numbers = np.arange(1, count + 1)
    peaks = np.append(0, ndimage.maximum(above, domes, numbers)) if count else np.zeros(1)
    seeds = np.where(peaks[domes] >= depth_m - _SAME_M, domes, 0)
    return _grow(seeds[1:-1, 1:-1], -distance[1:-1, 1:-1], mask, min_area_px)


def _grow(
    seeds: np.ndarray, relief: np.ndarray, mask: np.ndarray, min_area_px: float
) -> np.ndarray:
    """Grow seeds over a mask by a watershed of the relief."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    if seeds.any():
        labels = _flood(seeds, relief, mask)
        kept = _keep_large(seeds, labels, min_area_px)
        if (kept != seeds).any():  # the remaining objects only grow, so once is enough
            labels = _flood(kept, relief, mask)
    rest, _ = ndimage.label(mask & (labels == 0), structure=_FOUR_CONNECTED)
    labels = np.where(rest > 0, rest + labels.max(), labels)
    return _in_scan_order(_keep_large(labels, labels, min_area_px))


def _flood(seeds: np.ndarray, relief: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the watershed of a relief, int32 (H, W), from seeds inside a mask.

    The inside of seeds is left out: nothing grows from there, but each of its pixels would be
    queued.
    """
    neighbours = four_neighbours(np.pad(seeds, 1))
    inside = (seeds > 0) & np.all([one == seeds for one in neighbours], axis=0)
    labels: np.ndarray = watershed(
        relief, np.where(inside, 0, seeds), mask=mask & ~inside, connectivity=1
    ).astype(np.int32)
    labels[inside] = seeds[inside]
    return labels


def _keep_large(labels: np.ndarray, areas_of: np.ndarray, min_px: float) -> np.ndarray:
    """Remove the labels that cover fewer than `min_px` pixels of `areas_of`."""
    areas = np.bincount(areas_of.ravel(), minlength=int(labels.max()) + 1)
    return np.where(areas[labels] >= min_px, labels, 0)


def _in_scan_order(labels: np.ndarray) -> np.ndarray:
    """Renumber labels 1..n by their first pixel."""
    present, first = np.unique(labels, return_index=True)
    first[present == 0] = -1
    renamed = np.zeros(int(present[-1]) + 1, dtype=np.int32)
    ordered = present[np.argsort(first)]
    ordered = ordered[ordered > 0]
    renamed[ordered] = np.arange(1, len(ordered) + 1)
    ordered_labels: np.ndarray = renamed[labels]
    return ordered_labels
