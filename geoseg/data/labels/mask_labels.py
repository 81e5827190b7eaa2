"""A mask raster as labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from rasterio.windows import Window
from scipy.ndimage import label

from geoseg.data.labels.class_scheme import IGNORE, ClassScheme
from geoseg.errors import LabelError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import NearestRaster

# Points along each side of a window by which its buildings are estimated.
_SAMPLES = 64


@dataclass(frozen=True)
class RasterLabels:
    """A mask raster, read at the centres of one scene's pixels.

    Without classes 0 is ground, the nodata value is not labelled unless it is 0, and all else
    is building. With classes a value counts as they say, the nodata value included, and what
    they do not name is not labelled. Three bands are colours, written #rrggbb.

    Attributes:
        grid: The grid that it is burnt on.
        path: Of the raster.
        scheme: Its classes.
        scene_grid: Where it lies if it does not say itself, and is of this size.
    """

    grid: Grid
    path: str
    scheme: ClassScheme = field(default_factory=ClassScheme)
    scene_grid: Grid | None = None

    def __post_init__(self) -> None:
        coloured = any(value.startswith("#") for value in self.scheme.values)
        with NearestRaster(self.path, self.scene_grid) as source:
            fits = source.bands == 1 or (source.bands >= 3 and coloured)
            if not fits or (coloured and source.bands < 3):
                raise LabelError(
                    f"{self.path}: has {source.bands} bands; a mask has one band of class numbers, "
                    "or three of colours that tile.classes.values names as '#rrggbb'"
                )

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Connected buildings of a window, and the mask of classes.

        Args:
            window: Of the grid's lattice, also beyond its edges.

        Returns:
            int32 (H, W), numbered within the window, 0 on the ground; uint8 (H, W).
        """
        mask = self._mask(window, (int(window.height), int(window.width)))
        if self.scheme.exclusive:
            return np.zeros(mask.shape, np.int32), mask
        return label(mask == 1)[0].astype(np.int32), mask

    def foreground_pixels(self, window: Window) -> float:
        """Pixels of any class but the ground's in a window, estimated from a lattice of points."""
        shape = (min(_SAMPLES, int(window.height)), min(_SAMPLES, int(window.width)))
        mask = self._mask(window, shape)
        share = ((mask != IGNORE) & (mask != self.scheme.background_value)).mean()
        return float(share * window.width * window.height)

    def subset(self, _: Window) -> RasterLabels:
        """Itself: it is read by window."""
        return self

    def _mask(self, window: Window, shape: tuple[int, int]) -> np.ndarray:
        with NearestRaster(self.path, self.scene_grid) as source:
            data, inside = source.read(self.grid, window, shape)
            nodata = source.nodata
        mask = self._classify(data, nodata)
        mask[~inside] = IGNORE
        return mask

    def _classify(self, data: np.ndarray, nodata: float | None) -> np.ndarray:
        if self.scheme.exclusive:
            return self._classes(data)
        mask = np.where(data[0] != 0, np.uint8(1), np.uint8(0))
        if nodata:
            mask[data[0] == nodata] = IGNORE
        return mask

    def _classes(self, data: np.ndarray) -> np.ndarray:
        coloured = len(data) >= 3
        if coloured:
            red, green, blue = data[:3].astype(np.int64)
            data = (red * 65536 + green * 256 + blue)[None]
        found, places = np.unique(data[0], return_inverse=True)
        names = [f"#{value:06x}" if coloured else value for value in found.tolist()]
        mask: np.ndarray = self.scheme.to_mask_values(names)[places].reshape(data[0].shape)
        return mask
