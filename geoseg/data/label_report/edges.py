"""Edges of images, outlines of labels, and their agreement at each shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter, gaussian_filter1d, minimum_filter

# Width of the gradient filter. It is the same for image and labels, so that both are blurred
# alike and the peak of their correlation has no bias.
_SIGMA_PX = 1.0

# The mean edge strength within this width is subtracted. Otherwise dense built-up areas, which
# have many edges everywhere, would attract the labels towards their centre.
_BACKGROUND_PX = 6.0

# Gradients are limited to this many times the median of their band, so that a few strong edges
# do not dominate.
_MAX_GRADIENT = 6.0

# Radius of the filters in sigmas.
_TRUNCATE = 3.0


@dataclass(frozen=True)
class EdgeFit:
    """Agreement of the label outlines of one tile with its image edges, for each shift.

    Attributes:
        edges: Sum of edge strength under the outlines (2 * reach + 1, 2 * reach + 1), for shifts
            from -reach to reach along rows and columns.
        outlines: Length of the outlines on valid pixels, of the same shape.
    """

    edges: np.ndarray
    outlines: np.ndarray


def fit_outlines(
    data: np.ndarray, valid: np.ndarray, classes: np.ndarray, known: np.ndarray, reach: int
) -> EdgeFit | None:
    """Correlate the label outlines of a tile with its image edges.

    Only outlines at least `reach` pixels inside the tile are used, so that the same outlines are
    compared at every shift.

    Args:
        data: Image (C, H, W).
        valid: (H, W), False on nodata.
        classes: Class of each pixel (H, W).
        known: (H, W), False where labels are ignored.
        reach: Largest shift in pixels.

    Returns:
        The agreement, or None if the tile has no edges or no outlines.
    """
    edges = measure_edges(data, valid)
    outlines = draw_outlines(classes, known)
    outlines[:reach] = outlines[-reach:] = 0
    outlines[:, :reach] = outlines[:, -reach:] = 0
    if not edges.any() or not outlines.any():
        return None
    usable = _erode(valid).astype(np.float32)
    spectrum = np.conj(fft.rfft2(outlines))
    return EdgeFit(_correlate(spectrum, edges, reach), _correlate(spectrum, usable, reach))


def measure_edges(data: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Measure the edge strength of an image, summed over its bands.

    Args:
        data: Image (C, H, W).
        valid: (H, W), False on nodata.

    Returns:
        float32 (H, W), standardized to mean 0 and standard deviation 1 over the pixels whose
        neighbourhood is valid, 0 elsewhere; 0 everywhere if the image has no edges.
    """
    usable = _erode(valid)
    edges = np.zeros(valid.shape, dtype=np.float32)
    if not usable.any():
        return edges
    for band in data.astype(np.float32):
        slope = _gradient(band)
        # Bands may have any unit; the mean replaces a median of 0 in mostly uniform images.
        typical = np.median(slope[usable]) or slope[usable].mean()
        if typical > 0:
            edges += np.minimum(slope / typical, _MAX_GRADIENT)
    edges[~usable] = 0
    background = gaussian_filter(edges, _BACKGROUND_PX, truncate=_TRUNCATE)
    # The mean over usable pixels only: the weights outside are divided out.
    weight = gaussian_filter(usable.astype(np.float32), _BACKGROUND_PX, truncate=_TRUNCATE)
    edges -= background / np.maximum(weight, 1e-3)
    deviation = edges[usable].std()
    if deviation < 1e-6:
        return np.zeros_like(edges)
    scaled: np.ndarray = np.where(usable, (edges - edges[usable].mean()) / deviation, 0)
    return scaled


def draw_outlines(classes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Draw the boundaries between classes, blurred like the edges of an image.

    Args:
        classes: Class of each pixel (H, W).
        known: (H, W), False where labels are ignored.

    Returns:
        float32 (H, W), 0 next to ignored pixels.
    """
    present = np.unique(classes[known])
    # With two classes both have the same boundary, so one of them is enough.
    needed = present[1:] if len(present) == 2 else present
    outlines = np.zeros(classes.shape, dtype=np.float32)
    for value in needed:
        outlines += _gradient((classes == value).astype(np.float32))
    outlines[~_erode(known)] = 0
    return outlines


def _gradient(band: np.ndarray) -> np.ndarray:
    """Compute the gradient magnitude of a blurred band (H, W)."""
    slopes = []
    for axis in (0, 1):
        blurred = gaussian_filter1d(band, _SIGMA_PX, axis=1 - axis, truncate=_TRUNCATE)
        slopes.append(gaussian_filter1d(blurred, _SIGMA_PX, axis=axis, order=1, truncate=_TRUNCATE))
    length: np.ndarray = np.hypot(*slopes)
    return length


def _erode(valid: np.ndarray) -> np.ndarray:
    """Return the pixels whose gradient depends on valid pixels only."""
    if valid.all():
        return valid
    eroded: np.ndarray = minimum_filter(valid, 2 * int(_TRUNCATE * _SIGMA_PX) + 1, mode="nearest")
    return eroded


def _correlate(spectrum: np.ndarray, fixed: np.ndarray, reach: int) -> np.ndarray:
    """Cross-correlate outlines with an array, for shifts up to `reach`.

    Args:
        spectrum: Conjugate spectrum of the outlines. They are 0 within `reach` of the border, so
            that the circular correlation does not wrap around.
        fixed: Array (H, W) under the outlines.
        reach: Largest shift in pixels.
    """
    sums = fft.irfft2(spectrum * fft.rfft2(fixed), fixed.shape)
    shifts = np.arange(-reach, reach + 1)
    within: np.ndarray = sums[np.ix_(shifts, shifts)]
    return within
