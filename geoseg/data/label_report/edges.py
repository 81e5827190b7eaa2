"""Where an image has edges, where labels have outlines, and how both fit when labels move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter, gaussian_filter1d, minimum_filter

# Width of the edges that are looked for, the same in image and labels: what falls halfway
# between two pixels in one does so in the other.
_SIGMA_PX = 1.0

# Edges count by how far they rise above their surroundings of this width. Else built-up ground,
# which is rich in edges everywhere, draws labels to its middle.
_AROUND_PX = 6.0

# A single edge counts for at most this many times the median gradient of its band.
_STRONGEST = 6.0

# Filters reach this many sigmas.
_TRUNCATE = 3.0


@dataclass(frozen=True)
class EdgeFit:
    """How well the outlines of one tile's labels lie on its edges, for every shift.

    Attributes:
        edges: Sum of edge strength under the outlines, (2 * reach + 1)² from -reach to reach
            along rows and columns.
        outlines: Length of the outlines that lay on valid pixels, of the same shape.
    """

    edges: np.ndarray
    outlines: np.ndarray


def fit_outlines(
    data: np.ndarray, valid: np.ndarray, classes: np.ndarray, known: np.ndarray, reach: int
) -> EdgeFit | None:
    """Moves the outlines of a tile's labels over its edges.

    Only outlines at least `reach` pixels inside the tile move, so that the same outlines are
    compared at every shift.

    Args:
        data: Image (C, H, W).
        valid: (H, W), False on nodata.
        classes: Class of each pixel (H, W).
        known: (H, W), False where labels are ignored.
        reach: Shifts up to this many pixels are tried.

    Returns:
        None if the tile has no edges or no outlines.
    """
    edges = measure_edges(data, valid)
    outlines = draw_outlines(classes, known)
    outlines[:reach] = outlines[-reach:] = 0
    outlines[:, :reach] = outlines[:, -reach:] = 0
    if not edges.any() or not outlines.any():
        return None
    seen = _sure(valid).astype(np.float32)
    moving = np.conj(fft.rfft2(outlines))
    return EdgeFit(_correlate(moving, edges, reach), _correlate(moving, seen, reach))


def measure_edges(data: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Measures how strongly an image changes at each pixel, in all its bands.

    Args:
        data: (C, H, W).
        valid: (H, W).

    Returns:
        float32 (H, W) of mean 0 and deviation 1 over the pixels whose surroundings are valid,
        0 elsewhere; 0 everywhere if the image has no edge.
    """
    sure = _sure(valid)
    edges = np.zeros(valid.shape, dtype=np.float32)
    if not sure.any():
        return edges
    for band in data.astype(np.float32):
        slope = _gradient(band)
        usual = np.median(slope[sure]) or slope[sure].mean()
        if usual > 0:
            edges += np.minimum(slope / usual, _STRONGEST)
    edges[~sure] = 0
    around = gaussian_filter(edges, _AROUND_PX, truncate=_TRUNCATE)
    covered = gaussian_filter(sure.astype(np.float32), _AROUND_PX, truncate=_TRUNCATE)
    edges -= around / np.maximum(covered, 1e-3)
    spread = edges[sure].std()
    if spread < 1e-6:
        return np.zeros_like(edges)
    scaled: np.ndarray = np.where(sure, (edges - edges[sure].mean()) / spread, 0)
    return scaled


def draw_outlines(classes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Draws where classes meet, as wide as the edges of an image.

    Args:
        classes: (H, W).
        known: (H, W), False where labels are ignored.

    Returns:
        float32 (H, W), 0 beside pixels that are ignored.
    """
    there = np.unique(classes[known])
    # The slopes of two classes are each other's mirror image.
    needed = there[1:] if len(there) == 2 else there
    outlines = np.zeros(classes.shape, dtype=np.float32)
    for value in needed:
        outlines += _gradient((classes == value).astype(np.float32))
    outlines[~_sure(known)] = 0
    return outlines


def _gradient(band: np.ndarray) -> np.ndarray:
    """Length of the gradient of a band (H, W) that is blurred a little."""
    slopes = []
    for axis in (0, 1):
        blurred = gaussian_filter1d(band, _SIGMA_PX, axis=1 - axis, truncate=_TRUNCATE)
        slopes.append(gaussian_filter1d(blurred, _SIGMA_PX, axis=axis, order=1, truncate=_TRUNCATE))
    length: np.ndarray = np.hypot(*slopes)
    return length


def _sure(valid: np.ndarray) -> np.ndarray:
    """Pixels whose gradient sees valid pixels only."""
    if valid.all():
        return valid
    sure: np.ndarray = minimum_filter(valid, 2 * int(_TRUNCATE * _SIGMA_PX) + 1, mode="nearest")
    return sure


def _correlate(moving: np.ndarray, fixed: np.ndarray, reach: int) -> np.ndarray:
    """Sums `fixed` under a conjugate spectrum that moves over it, for shifts up to `reach`.

    Nothing wraps around: what moves is 0 within `reach` of the border.
    """
    sums = fft.irfft2(moving * fft.rfft2(fixed), fixed.shape)
    shifts = np.arange(-reach, reach + 1)
    near: np.ndarray = sums[np.ix_(shifts, shifts)]
    return near
