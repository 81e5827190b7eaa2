"""Training targets rasterized from labels: building, border, contact, distance, class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from rasterio.windows import Window
from scipy.ndimage import (
    distance_transform_edt,
    find_objects,
    maximum_filter,
    minimum_filter,
)

from geoseg.data.labels.class_scheme import IGNORE, ClassScheme
from geoseg.geo.grid import Grid

# Distance from an edge, to either side, up to which pixels belong to `border` and `contact`.
BORDER_M = 0.75

# The signed distance is clipped to ±15 pixels and stored as uint8 in steps of 1/8 pixel, so that
# 127 ± 8 x 15 stays below `IGNORE`.
DISTANCE_PX = 15
_STEPS_PER_PX = 8
_ZERO_DISTANCE = 127

# Stored value of a graded target that corresponds to 1.0 in the network's output.
FULL_SCALE_VALUES = {"distance": _ZERO_DISTANCE + _STEPS_PER_PX * DISTANCE_PX}

# Stored value of a pixel far from any building, where it is not 0.
BACKGROUND_VALUES = {"distance": _ZERO_DISTANCE - _STEPS_PER_PX * DISTANCE_PX}

# Default targets of buildings.
TARGETS = ("building", "border")


class GridLabels(Protocol):
    """Labels on a scene's grid."""

    @property
    def grid(self) -> Grid:
        """Grid on which the labels are rasterized."""

    @property
    def scheme(self) -> ClassScheme:
        """Class scheme."""

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read a window of the grid, which may reach beyond the grid's edges.

        Returns:
            Building ids, int32 (H, W), 0 where there is none; mask, uint8 (H, W).
        """


# (building ids, mask, border radius in pixels) → target, uint8 (H, W).
TargetFunction = Callable[[np.ndarray, np.ndarray, int], np.ndarray]

# (target, piece ids, border radius in pixels) → where the target is unknown, bool (H, W).
UnknownFunction = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def rasterize_targets(
    labels: GridLabels,
    window: Window,
    valid: np.ndarray,
    targets: tuple[str, ...] = TARGETS,
    *,
    merged: bool = False,
) -> np.ndarray:
    """Rasterize the targets of a window.

    Labels are read with a margin, so the targets of a pixel do not depend on how the scene is
    divided into windows. All targets are `IGNORE` where the scene is nodata or the area was not
    labelled.

    - `class`: the mask of exclusive classes, 0, 1, 2 ...
    - `building`: 1 if the pixel's centre is inside a footprint, else 0.
    - `border`: 1 within `BORDER_M` of a footprint's edge, including walls between touching
      buildings, so that buildings without their borders are separate components.
    - `contact`: 1 within `BORDER_M` of two buildings.
    - `distance`: 127 + 8 d, rounded; d is the distance in pixels from the pixel's centre to the
      nearest edge of a footprint, positive inside, clipped to ±`DISTANCE_PX`. Networks are
      trained on it divided by its greatest value, `FULL_SCALE_VALUES`.

    In `merged` labels, touching buildings are one piece, inside which any wall may be missing. A
    target keeps its value where it is the same however the pieces are divided into buildings, and
    is `IGNORE` elsewhere:

    - `building` is known everywhere.
    - `border` is known outside of pieces, and inside up to `BORDER_M` from their edge, where it is
      1. It is unknown deeper inside.
    - `contact` is 1 near two pieces, and 0 where there is no piece within `BORDER_M`. It is unknown
      elsewhere: inside pieces, and along their edge also outside, as a missing wall may end there.
    - `distance` is known outside of pieces, and in their outermost pixels. Deeper inside it is
      unknown, as the depth in a piece is only the greatest that a building in it may have.

    Args:
        labels: Labels on the grid.
        window: Window on the grid.
        valid: (H, W), True where the scene has data.
        targets: Names of the targets, in the order of the result.
        merged: Whether the labels merge touching buildings.

    Returns:
        uint8 (targets, H, W).
    """
    radius, margin = border_radius_px(labels.grid), margin_px(labels.grid, targets)
    top, left = window.row_off - margin, window.col_off - margin
    ids, mask = labels.read(
        Window(left, top, window.width + 2 * margin, window.height + 2 * margin)
    )  # fmt: skip
    inside = (slice(margin, ids.shape[0] - margin), slice(margin, ids.shape[1] - margin))
    rasters = np.stack(
        [_rasterize_target(name, ids, mask, radius, merged)[inside] for name in targets]
    )
    rasters[:, ~valid | (mask[inside] == IGNORE)] = IGNORE
    return rasters


def border_radius_px(grid: Grid) -> int:
    """Return half the width of a border in pixels, at least 1."""
    return max(1, round(BORDER_M / grid.gsd_m))


def margin_px(grid: Grid, targets: tuple[str, ...]) -> int:
    """Return the distance in pixels up to which labels influence the targets of a pixel."""
    return max(border_radius_px(grid), DISTANCE_PX + 1 if "distance" in targets else 0)


def _rasterize_target(
    name: str, ids: np.ndarray, mask: np.ndarray, radius: int, merged: bool
) -> np.ndarray:
    target = TARGET_FUNCTIONS[name](ids, mask, radius)
    if merged and name in _UNKNOWN_FUNCTIONS:
        target[_UNKNOWN_FUNCTIONS[name](target, ids, radius)] = IGNORE
    return target


def _mask(_: np.ndarray, mask: np.ndarray, __: int) -> np.ndarray:
    return mask


def _building(ids: np.ndarray, _: np.ndarray, __: int) -> np.ndarray:
    return np.where(ids > 0, np.uint8(1), np.uint8(0))


def _border(ids: np.ndarray, _: np.ndarray, radius: int) -> np.ndarray:
    # A square has two different ids if and only if two adjacent pixels in it differ.
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    side = 2 * radius + 1
    different = _any_in_window(across, side, side - 1) | _any_in_window(down, side - 1, side)
    return np.pad(different.view(np.uint8), radius)


def _any_in_window(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return whether any value in a sliding window of (height, width) is True.

    The window is widened by doubling, which is faster than a maximum filter.

    Returns:
        bool (H - height + 1, W - width + 1) for values of (H, W).
    """
    covered = 1
    while covered < width:
        step = min(covered, width - covered)
        values = values[:, step:] | values[:, :-step]
        covered += step
    return values if height == 1 else _any_in_window(values.T, 1, height).T


def _contact(ids: np.ndarray, _: np.ndarray, radius: int) -> np.ndarray:
    # Two buildings are near if the smallest and the greatest building id in a square differ.
    side = 2 * radius + 1
    none = np.iinfo(ids.dtype).max
    smallest = minimum_filter(np.where(ids > 0, ids, none), side)
    two = (smallest < none) & (maximum_filter(ids, side) > smallest)
    return np.where(two, np.uint8(1), np.uint8(0))


def _distance(ids: np.ndarray, _: np.ndarray, __: int) -> np.ndarray:
    # The transform measures to the centre of the next pixel; the edge is half a pixel nearer.
    signed = np.full(ids.shape, -float(DISTANCE_PX))
    if (ids > 0).any():
        signed = 0.5 - distance_transform_edt(ids == 0)
    # Inside, each building is transformed separately: a wall shared with a neighbour is an edge.
    for number, extent in enumerate(find_objects(ids), start=1):
        if extent is None:
            continue
        building = np.pad(ids[_widen(extent)] == number, 1, mode="edge")
        depth = distance_transform_edt(building)[1:-1, 1:-1] - 0.5
        building = building[1:-1, 1:-1]
        signed[_widen(extent)][building] = depth[building]
    steps = np.rint(_STEPS_PER_PX * np.clip(signed, -DISTANCE_PX, DISTANCE_PX))
    distance: np.ndarray = (_ZERO_DISTANCE + steps).astype(np.uint8)
    return distance


def _widen(extent: tuple[slice, ...]) -> tuple[slice, ...]:
    """Return slices that are one pixel larger on each side."""
    return tuple(slice(max(0, part.start - 1), part.stop + 1) for part in extent)


def _unknown_border(border: np.ndarray, ids: np.ndarray, _: int) -> np.ndarray:
    unknown: np.ndarray = (border == 0) & (ids > 0)
    return unknown


def _unknown_contact(contact: np.ndarray, ids: np.ndarray, radius: int) -> np.ndarray:
    side = 2 * radius + 1
    near = np.pad(_any_in_window(ids > 0, side, side), radius)
    unknown: np.ndarray = (contact == 0) & near
    return unknown


def _unknown_distance(distance: np.ndarray, _: np.ndarray, __: int) -> np.ndarray:
    # The centre of an outermost pixel is half a pixel inside, the least that is possible.
    unknown: np.ndarray = distance > _ZERO_DISTANCE + _STEPS_PER_PX // 2
    return unknown


TARGET_FUNCTIONS: dict[str, TargetFunction] = {
    "class": _mask,
    "building": _building,
    "border": _border,
    "contact": _contact,
    "distance": _distance,
}

_UNKNOWN_FUNCTIONS: dict[str, UnknownFunction] = {
    "border": _unknown_border,
    "contact": _unknown_contact,
    "distance": _unknown_distance,
}
