"""Conversion of probabilities between 0..1 and bytes, where 255 is certain."""

from __future__ import annotations

import numpy as np


def quantise(prob: np.ndarray) -> np.ndarray:
    """Convert probabilities 0..1 to uint8 0..255, monotone, 0 → 0 and 1 → 255."""
    levels: np.ndarray = np.rint(np.clip(prob, 0, 1) * 255).astype(np.uint8)
    return levels


def dequantise(stored: np.ndarray) -> np.ndarray:
    """Convert stored probabilities, uint8 or float, to float32, clipped to 0..1."""
    if stored.dtype == np.uint8:
        return stored.astype(np.float32) / np.float32(255)
    return np.clip(stored.astype(np.float32), 0, 1)
