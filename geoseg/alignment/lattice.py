"""The shifts that are tried, and functions of the shift that are known at them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from geoseg.geo.grid import Grid

# Steps on each side of no shift: with more pixels than that, only every second or third is tried.
_STEPS = 12

# Longest step in metres, about half the width of a small building; a longer one could miss it.
_LONGEST_STEP_M = 2.0

# Between shorter steps, in metres, a parabola finds the peak; around a peak of longer ones, shorter
# ones are tried.
_FINE_STEP_M = 0.5


@dataclass(frozen=True)
class ShiftLattice:
    """Shifts in whole pixels, at regular steps on both axes, around no shift or another one.

    Attributes:
        gsd_m: Metres per pixel along (columns, rows).
        max_shift_m: Greatest length of a shift, in metres.
        strides: Pixels per step along (columns, rows).
        steps: Steps on each side along (columns, rows).
        centre: The shift in the middle, in pixels along (columns, rows).
    """

    gsd_m: tuple[float, float]
    max_shift_m: float
    strides: tuple[int, int]
    steps: tuple[int, int]
    centre: tuple[int, int] = (0, 0)

    @classmethod
    def of_grid(cls, grid: Grid, max_shift_m: float) -> ShiftLattice:
        """Return the shifts of at most some metres on a grid; a pixel at least is tried."""
        reach = [max_shift_m / gsd for gsd in grid.axis_gsd_m]
        most = max(_STEPS, max_shift_m / _LONGEST_STEP_M)
        x_stride, y_stride = (max(1, math.ceil(pixels / most)) for pixels in reach)
        # One step more than is allowed, so that a peak at the limit has neighbours.
        x_steps, y_steps = (
            math.floor(pixels / stride) + 1
            for pixels, stride in zip(reach, (x_stride, y_stride), strict=True)
        )
        return cls(grid.axis_gsd_m, max_shift_m, (x_stride, y_stride), (x_steps, y_steps))

    @property
    def is_fine(self) -> bool:
        """Whether peaks are found by parabolas between these steps."""
        return all(
            stride == 1 or step <= _FINE_STEP_M
            for stride, step in zip(self.strides, self.step_m, strict=True)
        )

    def refine(self, shift_m: np.ndarray) -> ShiftLattice:
        """Return shifts at shorter steps around one, as far as the next ones of this lattice.

        Args:
            shift_m: Shift in metres along (columns, rows).
        """
        x_stride, y_stride = (max(1, math.ceil(stride / _STEPS)) for stride in self.strides)
        # One step more, so that a peak at the end has neighbours.
        x_steps, y_steps = (
            math.ceil(wide / stride) + 1
            for wide, stride in zip(self.strides, (x_stride, y_stride), strict=True)
        )
        return replace(
            self, strides=(x_stride, y_stride), steps=(x_steps, y_steps),
            centre=self._nearest(shift_m),
        )  # fmt: skip

    def neighbours(self, shift_m: np.ndarray) -> ShiftLattice:
        """Return the pixel next to a shift and the eight around it."""
        return replace(self, strides=(1, 1), steps=(1, 1), centre=self._nearest(shift_m))

    def no_shift(self) -> ShiftLattice:
        """Return a lattice of no shift only."""
        return replace(self, strides=(1, 1), steps=(0, 0), centre=(0, 0))

    def _nearest(self, shift_m: np.ndarray) -> tuple[int, int]:
        column, row = (
            round(shift / gsd) for shift, gsd in zip(shift_m.tolist(), self.gsd_m, strict=True)
        )
        return column, row

    @property
    def shape(self) -> tuple[int, int]:
        """Number of shifts along (rows, columns)."""
        return 2 * self.steps[1] + 1, 2 * self.steps[0] + 1

    @property
    def middle(self) -> tuple[int, int]:
        """Position (row, column) of the shift in the middle."""
        return self.steps[1], self.steps[0]

    @property
    def reach(self) -> tuple[int, int]:
        """Greatest distance from the middle along (columns, rows) in pixels."""
        return self.strides[0] * self.steps[0], self.strides[1] * self.steps[1]

    @property
    def step_m(self) -> tuple[float, float]:
        """Metres per step along (columns, rows)."""
        return self.gsd_m[0] * self.strides[0], self.gsd_m[1] * self.strides[1]

    @cached_property
    def metres(self) -> np.ndarray:
        """Shifts in metres along (columns, rows), (rows, columns, 2)."""
        x, y = (
            np.arange(-steps, steps + 1) * step + centre * gsd
            for steps, step, centre, gsd in zip(
                self.steps, self.step_m, self.centre, self.gsd_m, strict=True
            )
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
            _parabola_weights((shift - middle) / step + steps, 2 * steps + 1)
            for shift, middle, step, steps in zip(
                shift_m.tolist(),
                self.metres[self.middle].tolist(),
                self.step_m,
                self.steps,
                strict=True,
            )
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
