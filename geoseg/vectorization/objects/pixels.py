"""Pixels of the objects of a window, as lists: objects cover a small part of most windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoseg.vectorization.components.runs import Runs, run_pixels


@dataclass(frozen=True)
class ObjectPixels:
    """Pixels of objects, in the order of their runs.

    Attributes:
        places: int64 (n,), row · width + column of each pixel.
        numbers: int64 (n,), its object, from 0.
        shape: (H, W) of the window.
        count: Number of objects.
    """

    places: np.ndarray
    numbers: np.ndarray
    shape: tuple[int, int]
    count: int

    @classmethod
    def of_runs(cls, runs: Runs, shape: tuple[int, int], count: int) -> ObjectPixels:
        """List the pixels of runs, whose values are numbers of objects from 1."""
        places, owners = run_pixels(runs, shape[1])
        return cls(places, runs.values[owners] - 1, shape, count)

    def total(self, values: np.ndarray | None = None) -> np.ndarray:
        """Return the sum of values (n,) in each object, or its number of pixels."""
        total: np.ndarray = np.bincount(self.numbers, values, self.count)
        return total

    def beside(self, padded: np.ndarray) -> np.ndarray:
        """Return the values above, below, left and right of each pixel, (4, n).

        Args:
            padded: (H + 2, W + 2), the window with one pixel around it.
        """
        width = padded.shape[1]
        own = self.in_padded()
        return np.stack([padded.ravel()[own + step] for step in (-width, width, -1, 1)])

    def in_padded(self) -> np.ndarray:
        """Return the place of each pixel in a window with one pixel around it, int64 (n,)."""
        width = self.shape[1]
        places: np.ndarray = self.places + 2 * (self.places // width) + width + 3
        return places

    def pick(self, chosen: np.ndarray) -> ObjectPixels:
        """Return the pixels at a mask or indices."""
        return ObjectPixels(self.places[chosen], self.numbers[chosen], self.shape, self.count)
