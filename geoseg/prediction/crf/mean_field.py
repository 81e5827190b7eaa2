"""The fully connected CRF of DeepLab, solved by mean field.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011 (arXiv 1210.5644), as DeepLab uses it (arXiv 1606.00915). With unaries
U = -log p, labels that differ at a cost (Potts) and kernels K of weight w, each step is

    Q ← softmax(-U + Σ w K̃ Q),    K̃ = D^-½ K D^-½,    D = K 1

from Q = softmax(-U). K counts each pixel itself too. For places x and colours c the kernels are

    exp(-|x_i - x_j|² / 2σ²)                              Gaussian
    exp(-|x_i - x_j|² / 2σ² - |c_i - c_j|² / 2σ_c²)       bilateral
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import softmax

from geoseg.errors import GridMismatchError
from geoseg.options import CRFOptions
from geoseg.prediction.crf.lattice import Lattice

# K times the values of all pixels, (C, N) → (C, N).
Kernel = Callable[[np.ndarray], np.ndarray]

# No pixel is held to be more certain than by this, so that its neighbours are heard.
_DOUBT = 1e-5


def refine(
    prob: np.ndarray,
    image: np.ndarray,
    valid: np.ndarray,
    options: CRFOptions | None = None,
    *,
    origin: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Refines probabilities by the colours around each pixel.

    The sums of the bilateral kernel are `Lattice`'s, those of the Gaussian end at four sigmas.

    Args:
        prob: (C, H, W) in 0..1. One channel is a class against all else; several are classes
            that exclude each other.
        image: (bands, H, W), colours on the scale of 8-bit ones.
        valid: (H, W) bool; nodata neither counts for other pixels nor changes.
        options: The kernels and the number of steps.
        origin: (row, column) of the first pixel in the scene, when this is a part of it.

    Returns:
        float32 (C, H, W).

    Raises:
        GridMismatchError: If the three differ in height or width.
    """
    options = options or CRFOptions()
    places, colours = _points(prob, image, valid)
    if not valid.any():
        return prob.astype(np.float32)
    messages = []
    if options.gaussian_weight:
        blur = _spatial_kernel(valid, options.gaussian_sigma)
        messages.append(_message(blur, options.gaussian_weight, places.shape[1]))
    if options.bilateral_weight:
        places = places + np.array(origin)[:, None]
        lattice = Lattice(_bilateral_features(places, colours, options))
        messages.append(_message(lattice, options.bilateral_weight, places.shape[1]))
    heard = np.log(_labels(prob, valid))
    labels = softmax(heard, axis=0)
    for _ in range(options.iterations):
        labels = softmax(heard + sum(message(labels) for message in messages), axis=0)
    return _with_labels(prob, valid, labels)


def _points(
    prob: np.ndarray, image: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) and colours of the valid pixels: (2, N) and (bands, N)."""
    if not prob.shape[1:] == image.shape[1:] == valid.shape:
        raise GridMismatchError(
            f"probabilities of {prob.shape[1:]}, colours of {image.shape[1:]} and validity of "
            f"{valid.shape} pixels do not belong together; read them from one window"
        )
    return np.stack(np.nonzero(valid)), image[:, valid].astype(np.float64)


def _bilateral_features(places: np.ndarray, colours: np.ndarray, options: CRFOptions) -> np.ndarray:
    return np.concatenate([places / options.bilateral_sigma, colours / options.colour_sigma])


def _labels(prob: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Probabilities of the labels of the valid pixels, float32 (labels, N), none of them 0."""
    known = prob[:, valid].astype(np.float32)
    if len(known) == 1:
        known = np.concatenate([known, 1 - known])
    return known.clip(_DOUBT, 1 - _DOUBT)


def _with_labels(prob: np.ndarray, valid: np.ndarray, labels: np.ndarray) -> np.ndarray:
    refined = prob.astype(np.float32)
    refined[:, valid] = labels[: len(prob)]
    return refined


def _spatial_kernel(valid: np.ndarray, sigma: float) -> Kernel:
    def sums(values: np.ndarray) -> np.ndarray:
        spread = np.zeros((len(values), *valid.shape), dtype=np.float32)
        spread[:, valid] = values
        blurred: np.ndarray = gaussian_filter(spread, (0, sigma, sigma), mode="constant")
        # The filter divides by the sum of its weights, which the message would take out anyway.
        return blurred[:, valid]

    return sums


def _message(kernel: Kernel, weight: float, count: int) -> Kernel:
    """The function w K̃ of all labels, (labels, N), whose probabilities sum to 1."""
    scale = 1 / np.sqrt(kernel(np.ones((1, count), dtype=np.float32)))
    of_all = weight * scale * kernel(scale)

    def message(labels: np.ndarray) -> np.ndarray:
        told = weight * scale * kernel(scale * labels[:-1])
        return np.concatenate([told, of_all - told.sum(axis=0, keepdims=True)])

    return message
