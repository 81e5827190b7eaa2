"""Labels of a mask raster."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from rasterio.windows import Window
from scipy.ndimage import label

from geoseg.data.labels.class_scheme import IGNORE, ClassScheme
from geoseg.errors import LabelError, counted
from geoseg.geo.grid import Grid
from geoseg.geo.raster import NearestRaster

# Points along each side of the lattice from which labelled pixels of a window are estimated.
_SAMPLES = 64


@dataclass(frozen=True)
class RasterLabels:
    """A mask raster, sampled at the pixel centres of one scene's grid.

    Without classes, 0 is background, the nodata value (unless it is 0) is ignored, and every
    other value is building. With classes, each value (the nodata value included) has the class
    that lists it, and values of no class are ignored. The bands of a three-band raster are
    red, green and blue; its values are written #rrggbb.

    Attributes:
        grid: Grid on which the mask is sampled.
        path: File of the raster.
        scheme: Class scheme.
        scene_grid: Grid that the raster has if it has no georeferencing; its shape must match.
    """

    grid: Grid
    path: str
    scheme: ClassScheme = field(default_factory=ClassScheme)
    scene_grid: Grid | None = None

    def __post_init__(self) -> None:
        by_colour = any(value.startswith("#") for value in self.scheme.values)
        with NearestRaster(self.path, self.scene_grid) as source:
            source.check_alignment(self.grid)
            supported = source.bands == 1 or (source.bands >= 3 and by_colour)
            if not supported or (by_colour and source.bands < 3):
                raise LabelError(
                    f"{self.path}: has {counted(source.bands, 'band')}; a mask has one band of "
                    "class numbers, or three of colours that tile.classes.values names as '#rrggbb'"
                )

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read the connected buildings and the mask of a window.

        Args:
            window: Window on the grid; may reach beyond its edges.

        Returns:
            Building ids, int32 (H, W), numbered within the window, 0 on the background (and
            everywhere for exclusive classes); mask, uint8 (H, W).
        """
        mask = self._mask(window, (int(window.height), int(window.width)))
        if self.scheme.exclusive:
            return np.zeros(mask.shape, np.int32), mask
        return label(mask == 1)[0].astype(np.int32), mask

    def foreground_pixels(self, window: Window) -> float:
        """Estimate the pixels of a window that are not background, from a lattice of points."""
        shape = (min(_SAMPLES, int(window.height)), min(_SAMPLES, int(window.width)))
        mask = self._mask(window, shape)
        fraction = ((mask != IGNORE) & (mask != self.scheme.background_value)).mean()
        return float(fraction * window.width * window.height)

    def subset(self, _: Window) -> RasterLabels:
        """Return the labels themselves, as their file is read by window."""
        return self

    def _mask(self, window: Window, shape: tuple[int, int]) -> np.ndarray:
        """Return the mask at `shape` points spread over a window; `IGNORE` outside the raster."""
        with NearestRaster(self.path, self.scene_grid) as source:
            data, inside = source.read(self.grid, window, shape)
            nodata = source.nodata
        mask = self._classify(data, nodata)
        mask[~inside] = IGNORE
        return mask

    def _classify(self, data: np.ndarray, nodata: float | None) -> np.ndarray:
        if self.scheme.exclusive:
            return self._map_values(data)
        mask = np.where(data[0] != 0, np.uint8(1), np.uint8(0))
        if nodata:
            mask[data[0] == nodata] = IGNORE
        return mask

    def _map_values(self, data: np.ndarray) -> np.ndarray:
        """Return the mask values (H, W) of stored values (bands, H, W)."""
        by_colour = len(data) >= 3
        if by_colour:
            red, green, blue = data[:3].astype(np.int64)
            data = (red * 65536 + green * 256 + blue)[None]
        # Look up each distinct value once: there are few, but millions of pixels.
        distinct, inverse = np.unique(data[0], return_inverse=True)
        values = [f"#{value:06x}" if by_colour else value for value in distinct.tolist()]
        mask: np.ndarray = self.scheme.to_mask_values(values)[inverse].reshape(data[0].shape)
        return mask
