"""The targets that a network learns, each by its formula."""

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

# How far a building's border, or its contact with another, reaches to either side.
BORDER_M = 0.75

# The signed distance is known up to here, in steps of an eighth.
DISTANCE_PX = 15
_STEPS = 8
_MIDDLE = 127

# The value of a target that a network learns as 1.
FULL_SCALE_VALUES = {"distance": _MIDDLE + _STEPS * DISTANCE_PX}

# What of buildings is learnt by default.
TARGETS = ("building", "border")


class GridLabels(Protocol):
    """Labels on a scene's grid."""

    @property
    def grid(self) -> Grid:
        """The grid that they are burnt on."""

    @property
    def scheme(self) -> ClassScheme:
        """Their classes."""

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """What lies in a window of the grid's lattice, also beyond the grid's edges.

        Returns:
            int32 (H, W), which building each pixel belongs to, 0 on the ground; uint8 (H, W),
            the mask of classes.
        """


# (which building, mask, reach in pixels) → uint8 (H, W).
Formula = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def rasterize_targets(
    labels: GridLabels, window: Window, valid: np.ndarray, targets: tuple[str, ...] = TARGETS
) -> np.ndarray:
    """Burns the targets of a window; they do not depend on how the ground is cut.

    All are `IGNORE` where the scene is nodata or the labels say nothing.

    - `class`: the mask of exclusive classes, 0, 1, 2 ...
    - `building`: 1 where a pixel's centre lies in a footprint, else 0.
    - `border`: 1 within `BORDER_M` of a footprint's edge, walls between touching buildings
      included: what is left of a building without its border is apart from its neighbours.
    - `contact`: 1 within `BORDER_M` of two buildings at once.
    - `distance`: 127 + 8 d, rounded; d is the distance in pixels from a pixel's centre to the
      nearest edge of a footprint, positive inside of one, cut at ±`DISTANCE_PX`; a network
      learns it as a share of its greatest value, `FULL_SCALE_VALUES`.

    Args:
        labels: The labels.
        window: Window of the grid.
        valid: (H, W), True where the scene has data.
        targets: Which, in this order.

    Returns:
        uint8 (targets, H, W).
    """
    reach, halo = border_radius_px(labels.grid), margin_px(labels.grid, targets)
    top, left = window.row_off - halo, window.col_off - halo
    ids, mask = labels.read(
        Window(left, top, window.width + 2 * halo, window.height + 2 * halo)
    )  # fmt: skip
    inside = (slice(halo, ids.shape[0] - halo), slice(halo, ids.shape[1] - halo))
    burnt = np.stack([FORMULAS[name](ids, mask, reach)[inside] for name in targets])
    burnt[:, ~valid | (mask[inside] == IGNORE)] = IGNORE
    return burnt


def border_radius_px(grid: Grid) -> int:
    """Half a border's width in pixels, at least one."""
    return max(1, round(BORDER_M / grid.gsd_m))


def margin_px(grid: Grid, targets: tuple[str, ...]) -> int:
    """How far around a pixel the targets look."""
    return max(border_radius_px(grid), DISTANCE_PX + 1 if "distance" in targets else 0)


def _mask(_: np.ndarray, mask: np.ndarray, __: int) -> np.ndarray:
    return mask


def _building(ids: np.ndarray, _: np.ndarray, __: int) -> np.ndarray:
    return np.where(ids > 0, np.uint8(1), np.uint8(0))


def _border(ids: np.ndarray, _: np.ndarray, reach: int) -> np.ndarray:
    # A square holds two values where two neighbours in it differ.
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    different = _any_in(across, 2 * reach + 1, 2 * reach) | _any_in(down, 2 * reach, 2 * reach + 1)
    return np.pad(different.view(np.uint8), reach)


def _any_in(hits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whether any of a rectangle is True, for each of that size that lies inside.

    It is widened by doubling. Of (H, W) that leaves (H - height + 1, W - width + 1).
    """
    seen = 1
    while seen < width:
        step = min(seen, width - seen)
        hits = hits[:, step:] | hits[:, :-step]
        seen += step
    return hits if height == 1 else _any_in(hits.T, 1, height).T


def _contact(ids: np.ndarray, _: np.ndarray, reach: int) -> np.ndarray:
    width = 2 * reach + 1
    none = np.iinfo(ids.dtype).max
    least = minimum_filter(np.where(ids > 0, ids, none), width)
    two = (least < none) & (maximum_filter(ids, width) > least)
    return np.where(two, np.uint8(1), np.uint8(0))


def _distance(ids: np.ndarray, _: np.ndarray, __: int) -> np.ndarray:
    # Edges lie half a pixel before the first pixel beyond them.
    signed = np.full(ids.shape, -float(DISTANCE_PX))
    if (ids > 0).any():
        signed = 0.5 - distance_transform_edt(ids == 0)
    for number, place in enumerate(find_objects(ids), start=1):
        if place is None:
            continue
        own = np.pad(ids[_wider(place)] == number, 1, mode="edge")
        depth = distance_transform_edt(own)[1:-1, 1:-1] - 0.5
        own = own[1:-1, 1:-1]
        signed[_wider(place)][own] = depth[own]
    steps = np.rint(_STEPS * np.clip(signed, -DISTANCE_PX, DISTANCE_PX))
    distance: np.ndarray = (_MIDDLE + steps).astype(np.uint8)
    return distance


def _wider(place: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(0, part.start - 1), part.stop + 1) for part in place)


FORMULAS: dict[str, Formula] = {
    "class": _mask,
    "building": _building,
    "border": _border,
    "contact": _contact,
    "distance": _distance,
}
