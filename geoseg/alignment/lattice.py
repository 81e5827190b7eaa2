"""The shifts that are tried, and functions of the shift that are known at them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from geoseg.geo.grid import Grid

# Most steps on each side of no shift: finer pixels are tried only every few pixels, since a
# parabola finds the peak between them.
_MOST_STEPS = 12


@dataclass(frozen=True)
class ShiftLattice:
    """Shifts in whole pixels, at regular steps on both axes, with no shift in the middle.

    Attributes:
        gsd_m: Metres per pixel along (columns, rows).
        max_shift_m: Greatest length of a shift, in metres.
        strides: Pixels per step along (columns, rows).
        steps: Steps on each side along (columns, rows).
    """

    gsd_m: tuple[float, float]
    max_shift_m: float
    strides: tuple[int, int]
    steps: tuple[int, int]

    @classmethod
    def of_grid(cls, grid: Grid, max_shift_m: float) -> ShiftLattice:
        """Return the shifts of at most some metres on a grid; a pixel at least is tried."""
        reach = [max_shift_m / gsd for gsd in grid.axis_gsd_m]
        x_stride, y_stride = (max(1, math.ceil(pixels / _MOST_STEPS)) for pixels in reach)
        # One step more than is allowed, so that a peak at the limit has neighbours.
        x_steps, y_steps = (
            math.floor(pixels / stride) + 1
            for pixels, stride in zip(reach, (x_stride, y_stride), strict=True)
        )
        return cls(grid.axis_gsd_m, max_shift_m, (x_stride, y_stride), (x_steps, y_steps))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of shifts along (rows, columns)."""
        return 2 * self.steps[1] + 1, 2 * self.steps[0] + 1

    @property
    def middle(self) -> tuple[int, int]:
        """Position (row, column) of no shift."""
        return self.steps[1], self.steps[0]

    @property
    def reach(self) -> tuple[int, int]:
        """Greatest shift along (columns, rows) in pixels."""
        return self.strides[0] * self.steps[0], self.strides[1] * self.steps[1]

    @property
    def step_m(self) -> tuple[float, float]:
        """Metres per step along (columns, rows)."""
        return self.gsd_m[0] * self.strides[0], self.gsd_m[1] * self.strides[1]

    @cached_property
    def metres(self) -> np.ndarray:
        """Shifts in metres along (columns, rows), (rows, columns, 2)."""
        x, y = (
            np.arange(-steps, steps + 1) * step
            for steps, step in zip(self.steps, self.step_m, strict=True)
        )
        return np.stack(np.meshgrid(x, y), axis=-1)

    @cached_property
    def allowed(self) -> np.ndarray:
        """Which shifts are short enough, bool (rows, columns)."""
        lengths = np.hypot(*np.moveaxis(self.metres, -1, 0))
        allowed: np.ndarray = lengths <= self.max_shift_m * (1 + 1e-9)
        return allowed

    def find_peak(self, surface: np.ndarray) -> tuple[np.ndarray, bool]:
        """Find the allowed shift with the greatest value, between the tried ones by parabolas.

        Args:
            surface: Value of each shift (rows, columns).

        Returns:
            The shift in metres (2,), at most as long as allowed; and whether it is a maximum, not a
            value at the limit beyond which the surface rises further.
        """
        best = int(np.argmax(np.where(self.allowed, surface, -np.inf)))
        row, column = divmod(best, surface.shape[1])
        around = surface[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        is_maximum = bool(around.max() <= surface[row, column])
        offsets = _vertex(surface[row], column), _vertex(surface[:, column], row)
        peak = self.metres[row, column] + np.array(offsets) * self.step_m
        length = float(np.hypot(*peak))
        return peak * min(1.0, self.max_shift_m / max(length, 1e-12)), is_maximum

    def value_at(self, surface: np.ndarray, shift_m: np.ndarray) -> float:
        """Return the value of a surface (rows, columns) between its shifts, by parabolas.

        Args:
            surface: Value of each shift.
            shift_m: Shift in metres along (columns, rows).
        """
        (left, across), (top, down) = (
            _parabola_weights(shift / step + steps, 2 * steps + 1)
            for shift, step, steps in zip(shift_m.tolist(), self.step_m, self.steps, strict=True)
        )
        return float(down @ surface[top : top + 3, left : left + 3] @ across)


def _vertex(values: np.ndarray, peak: int) -> float:
    """Return the vertex of the parabola through a peak and its neighbours, relative to the peak."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    before, at, after = (float(value) for value in values[peak - 1 : peak + 2])
    bend = before - 2 * at + after
    # Where a neighbour is higher, as at the limit, the vertex may be far away.
    return float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


def _parabola_weights(place: float, count: int) -> tuple[int, np.ndarray]:
    """Return the first of three values, and their weights, of the parabola at a place."""
    first = min(max(round(place) - 1, 0), count - 3)
    t = place - first - 1
    return first, np.array([t * (t - 1) / 2, 1 - t * t, t * (t + 1) / 2])
