"""Fully connected CRF of DeepLab, solved by mean-field iterations.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011 (arXiv 1210.5644), as DeepLab uses it (arXiv 1606.00915). With unaries
U = -log p, a cost for different labels (Potts model) and kernels K of weight w, each iteration is

    Q ← softmax(-U + Σ w K̃ Q),    K̃ = D^-½ K D^-½,    D = K 1

starting from Q = softmax(-U). K includes the pixel itself. For positions x and colours c, the
kernels are

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

# Multiplies K by the values of all pixels, (C, N) → (C, N).
Kernel = Callable[[np.ndarray], np.ndarray]

# Probabilities are clipped to this distance from 0 and 1; a certain pixel would have an infinite
# unary potential and could not be changed by its neighbours.
_MIN_PROB = 1e-5


def refine(
    prob: np.ndarray,
    image: np.ndarray,
    valid: np.ndarray,
    options: CRFOptions | None = None,
    *,
    origin: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Refine probabilities by the colours around each pixel.

    The bilateral kernel is approximated by `Lattice`; the Gaussian kernel is cut at four sigmas.

    Args:
        prob: (C, H, W) in 0..1. One channel is a class against the background; several channels
            are exclusive classes.
        image: (bands, H, W), colours scaled to 0..255.
        valid: (H, W) bool; nodata pixels do not change, and do not influence others.
        options: Kernels and number of iterations.
        origin: (row, column) in the scene of the first pixel of the arrays. It keeps the lattice of
            neighbouring blocks aligned.

    Returns:
        float32 (C, H, W).

    Raises:
        GridMismatchError: If the three arrays differ in height or width.
    """
    options = options or CRFOptions()
    positions, colours = _valid_points(prob, image, valid)
    if not valid.any():
        return prob.astype(np.float32)
    messages = []
    if options.gaussian_weight:
        blur = _spatial_kernel(valid, options.gaussian_sigma)
        messages.append(_message(blur, options.gaussian_weight, positions.shape[1]))
    if options.bilateral_weight:
        positions = positions + np.array(origin)[:, None]
        lattice = Lattice(_bilateral_features(positions, colours, options))
        messages.append(_message(lattice, options.bilateral_weight, positions.shape[1]))
    negative_unary = np.log(_label_probs(prob, valid))
    labels = softmax(negative_unary, axis=0)
    for _ in range(options.iterations):
        labels = softmax(negative_unary + sum(message(labels) for message in messages), axis=0)
    return _insert_labels(prob, valid, labels)


def _valid_points(
    prob: np.ndarray, image: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (row, column) and colours of the valid pixels: (2, N) and (bands, N)."""
    if not prob.shape[1:] == image.shape[1:] == valid.shape:
        raise GridMismatchError(
            f"probabilities of {prob.shape[1:]}, colours of {image.shape[1:]} and validity of "
            f"{valid.shape} pixels differ in shape; read them from the same window"
        )
    return np.stack(np.nonzero(valid)), image[:, valid].astype(np.float64)


def _bilateral_features(
    positions: np.ndarray, colours: np.ndarray, options: CRFOptions
) -> np.ndarray:
    return np.concatenate([positions / options.bilateral_sigma, colours / options.colour_sigma])


def _label_probs(prob: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return probabilities of all labels at valid pixels, float32 (labels, N), none of them 0."""
    probs = prob[:, valid].astype(np.float32)
    if len(probs) == 1:
        probs = np.concatenate([probs, 1 - probs])
    return probs.clip(_MIN_PROB, 1 - _MIN_PROB)


def _insert_labels(prob: np.ndarray, valid: np.ndarray, labels: np.ndarray) -> np.ndarray:
    refined = prob.astype(np.float32)
    refined[:, valid] = labels[: len(prob)]
    return refined


def _spatial_kernel(valid: np.ndarray, sigma: float) -> Kernel:
    def sums(values: np.ndarray) -> np.ndarray:
        spread = np.zeros((len(values), *valid.shape), dtype=np.float32)
        spread[:, valid] = values
        blurred: np.ndarray = gaussian_filter(spread, (0, sigma, sigma), mode="constant")
        # The filter's weights are scaled to sum to 1; the normalization of K cancels this factor.
        return blurred[:, valid]

    return sums


def _message(kernel: Kernel, weight: float, count: int) -> Kernel:
    """Return the function w K̃ of all labels, (labels, N), whose probabilities sum to 1."""
    scale = 1 / np.sqrt(kernel(np.ones((1, count), dtype=np.float32)))
    total = weight * scale * kernel(scale)

    def message(labels: np.ndarray) -> np.ndarray:
        # The last label follows from the others, which saves one pass of the kernel.
        sums = weight * scale * kernel(scale * labels[:-1])
        return np.concatenate([sums, total - sums.sum(axis=0, keepdims=True)])

    return message
