"""Blank areas: large connected areas of one value in all bands, which contain no image.

Mosaics and orthophotos are often filled with white or black outside the imagery without saying so.
A network takes such areas for roofs. They are found in a reduced image, and then pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.geo.raster.geotiff import open_for_writing

# Cells along each side of the reduced image.
_CELLS = 64

# Smallest share of the scene that a blank area covers: one at the edge, and a hole.
_LEAST_AT_EDGE, _LEAST_HOLE = 0.005, 0.02

# Smallest blank area in pixels, and the share of a scene above which nothing else would be left.
_LEAST_PX, _MOST_SHARE = 4096, 0.98

# Values that are examined, the most frequent first.
_MOST_VALUES = 3

# Rows that are written at a time.
_ROWS = 512


@dataclass(frozen=True)
class BlankAreas:
    """Blank areas of a scene.

    Attributes:
        values: Value of each band, per kind of blank area.
        shape: (rows, columns) of the cells of the reduced image.
        cells: uint8 of the cells as bytes: 0, or 1 + index of the value that is blank there.
        share: Share of the scene that is blank, as seen in the reduced image.
    """

    values: tuple[tuple[float, ...], ...]
    shape: tuple[int, int]
    cells: bytes
    share: float

    def describe(self) -> str:
        """Return the share and the values, e.g. `8 % of it is blank (value 255 in all bands)`."""
        kinds = [
            f"value {value[0]:g} in all bands" if len(set(value)) == 1
            else f"values {', '.join(f'{one:g}' for one in value)}"
            for value in self.values
        ]  # fmt: skip
        return f"{100 * self.share:.2g} % of it is blank ({'; '.join(kinds)})"


class PixelSource(Protocol):
    """An open scene."""

    @property
    def grid(self) -> Grid:
        """Its pixel grid."""

    def read(
        self, window: Window | None = None, *, shape: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read data (C, H, W) and valid (H, W) of a window, reduced to a shape."""


def find_blank_areas(scene: PixelSource, *, is_part: bool = False) -> BlankAreas | None:
    """Find the blank areas of a scene in a reduced image.

    Args:
        scene: The scene with the pixels of its file.
        is_part: Whether other scenes are around it, so that all of it may be blank.

    Returns:
        The areas; None if there are none. A scene that nearly all has one value may be an image of
        something else than usual: it has none, unless it is a part of others.
    """
    height, width = scene.grid.shape
    if height * width < 4 * _LEAST_PX:
        return None
    shape = min(_CELLS, height), min(_CELLS, width)
    data, valid = scene.read(shape=shape)
    colours, inverse, counts = np.unique(
        data.reshape(len(data), -1).T, axis=0, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(shape)
    cell_px = height * width / valid.size
    cells, values = np.zeros(shape, dtype=np.uint8), []
    for index in np.argsort(-counts, kind="stable")[:_MOST_VALUES]:
        kept = _keep_large((inverse == index) & valid, cell_px)
        if kept.any():
            values.append(tuple(float(value) for value in colours[index]))
            cells[kept] = len(values)
    share = float((cells > 0).mean())
    if not values or (share > _MOST_SHARE * valid.mean() and not is_part):
        return None
    return BlankAreas(tuple(values), shape, cells.tobytes(), share)


def _keep_large(mask: np.ndarray, cell_px: float) -> np.ndarray:
    """Return the parts of a mask that are large enough to be blank areas."""
    from scipy import ndimage  # slow to load

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    at_edge = np.isin(np.arange(count + 1), border)
    least = np.where(at_edge, _LEAST_AT_EDGE, _LEAST_HOLE) * mask.size
    large = (sizes >= least) & (sizes * cell_px >= _LEAST_PX)
    large[0] = False
    return np.asarray(large[labels])


def write_blank_mask(scene: PixelSource, blank: BlankAreas, path: Path) -> None:
    """Write a raster of the valid pixels of a scene, 255, without its blank areas, 0.

    Args:
        scene: The scene with the pixels of its file.
        blank: Its blank areas.
        path: Output file.
    """
    grid = scene.grid
    with open_for_writing(path, grid, count=1, dtype="uint8", masked=False) as sink:
        for window in grid.row_windows(_ROWS):
            data, valid = scene.read(window)
            valid[_find_blank(blank, grid.shape, window, data)] = False
            sink.write(valid.astype(np.uint8) * 255, 1, window=window)


def _find_blank(
    blank: BlankAreas, shape: tuple[int, int], window: Window, data: np.ndarray
) -> np.ndarray:
    """Return the blank pixels of some rows, bool (H, W)."""
    from scipy import ndimage  # slow to load

    cells = np.frombuffer(blank.cells, dtype=np.uint8).reshape(blank.shape)
    rows = np.arange(window.row_off, window.row_off + window.height) * blank.shape[0] // shape[0]
    columns = np.arange(window.width) * blank.shape[1] // shape[1]
    found = np.zeros(data.shape[1:], dtype=bool)
    for number, value in enumerate(blank.values, start=1):
        # A blank area may end anywhere in the cells around those that were seen to be blank.
        near = ndimage.binary_dilation(cells == number, structure=np.ones((3, 3)))
        if not near[rows].any():
            continue
        same = (data == np.array(value, dtype=data.dtype)[:, None, None]).all(axis=0)
        found |= same & near[np.ix_(rows, columns)]
    return found
