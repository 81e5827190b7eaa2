"""Pixel weights of U-Net (Ronneberger et al. 2015, arXiv 1505.04597).

    w(x) = w_c(x) + w0 · exp(-(d1 + d2)² / 2σ²)

d1 and d2 are the distances of a background pixel to the nearest and to the second-nearest building,
so narrow gaps between buildings have the largest weights. The exponential is computed once per tile
and passes through augmentation as uint8; w_c and w0 are applied together with the loss.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, find_objects
from torch import Tensor, nn

# Value of 1 in uint8; the rounding has no effect on training.
_FULL = 255


def separation_reach(sigma_px: float) -> int:
    """Return the distance d1 + d2 in pixels from which the exponential is 0 in uint8."""
    return math.ceil(sigma_px * math.sqrt(2 * math.log(2 * _FULL)))


def burn_separation(ids: np.ndarray, sigma_px: float) -> np.ndarray:
    """Compute exp(-(d1 + d2)² / 2σ²) on background pixels; 0 on buildings.

    Distances are between pixel centres. Without a second building within reach the result is 0.
    Buildings outside the array are unknown: pass an array with a margin of `separation_reach`.

    Args:
        ids: int (H, W), the building of each pixel, 0 for background.
        sigma_px: σ in pixels.

    Returns:
        uint8 (H, W), 255 for 1.
    """
    reach = separation_reach(sigma_px)
    nearest = np.full(ids.shape, np.inf)
    second = np.full(ids.shape, np.inf)
    values, numbers = np.unique(ids, return_inverse=True)
    numbers = numbers.reshape(ids.shape) + (0 if values[0] == 0 else 1)
    for number, box in enumerate(find_objects(numbers), start=1):
        around = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
        distance = distance_transform_edt(numbers[around] != number)
        # The farther of this building and the nearest so far may be the new second-nearest.
        farther = np.maximum(nearest[around], distance)
        nearest[around] = np.minimum(nearest[around], distance)
        second[around] = np.minimum(second[around], farther)
    share = np.exp(-((nearest + second) ** 2) / (2 * sigma_px**2))
    separation: np.ndarray = np.rint(_FULL * np.where(ids == 0, share, 0)).astype(np.uint8)
    return separation


class WeightMap(nn.Module):
    """Pixel weights w(x) of a batch with independent channels.

    Args:
        w0: Weight of the exponential, equal for all channels.
        positive_shares: Share of positive pixels in each channel, or None for a channel that is
            not balanced (w_c = 1). With a share, w_c is 0.5/share for positive and
            0.5/(1-share) for negative pixels, so that both sums are equal and the mean weight
            is 1.
    """

    balance: Tensor

    def __init__(self, w0: float, positive_shares: list[float | None]) -> None:
        super().__init__()
        self.w0 = w0
        pairs = [_balance(share) for share in positive_shares]
        self.register_buffer("balance", torch.tensor(pairs), persistent=False)

    def forward(self, target: Tensor, separation: Tensor) -> Tensor:
        """Compute the weights (N, C, H, W).

        Args:
            target: (N, C, H, W), 0 or 1.
            separation: uint8 (N, 1, H, W), from `burn_separation`.
        """
        negative, positive = (side.view(1, -1, 1, 1) for side in self.balance.unbind(dim=1))
        return torch.where(target == 1, positive, negative) + self.w0 * separation.float() / _FULL


def _balance(share: float | None) -> tuple[float, float]:
    """w_c of negative and of positive pixels; 1 if there are none of either kind."""
    if share is None or not 0 < share < 1:
        return 1.0, 1.0
    return 0.5 / (1 - share), 0.5 / share
