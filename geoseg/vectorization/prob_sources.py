"""Sources of probabilities by window: files and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from rasterio.windows import Window

from geoseg.errors import SceneReadError, counted
from geoseg.geo.grid import Grid
from geoseg.geo.raster import SPREAD, ExclusiveClasses, ProbInfo, Scene
from geoseg.geo.raster.quantization import dequantise

# Bands that separate touching buildings.
_SEPARATING = ("border", "contact")

_TOLERANCE = 1e-3  # resampling may overshoot 0..1 by this much in float rasters


@dataclass(frozen=True)
class ProbWindow:
    """Building probabilities of a window.

    Attributes:
        body: Float32 (H, W) in 0..1, probability of a building.
        border: Float32 (H, W) in 0..1, probability of the border of a building, or None.
        valid: Boolean (H, W), False on nodata.
        contact: Float32 (H, W) in 0..1, probability that two buildings touch there, or None.
    """

    body: np.ndarray
    border: np.ndarray | None
    valid: np.ndarray
    contact: np.ndarray | None = None


class ProbSource(Protocol):
    """Source of building probabilities by window."""

    @property
    def grid(self) -> Grid:
        """Grid of the probabilities."""

    def read(self, window: Window) -> ProbWindow:
        """Read the probabilities of a window inside the grid."""


class ArrayProb:
    """Probabilities in memory.

    Args:
        body: (H, W), uint8 (255 = probability 1) or float, which is clipped to 0..1.
        border: Like `body`, or None.
        valid: Boolean (H, W); pixels that are not finite in any band are invalid, too.
        grid: Grid of the same shape.
        contact: Like `border`.

    Raises:
        ValueError: If the shapes differ.
    """

    def __init__(
        self,
        body: np.ndarray,
        border: np.ndarray | None,
        valid: np.ndarray,
        grid: Grid,
        contact: np.ndarray | None = None,
    ) -> None:
        arrays = (body, border, contact, valid)
        shapes = {array.shape for array in arrays if array is not None} | {grid.shape}
        if len(shapes) > 1:
            raise ValueError(f"probabilities, valid and grid differ in shape: {sorted(shapes)}")
        self.grid = grid
        self._body, self._border, self._contact, self._valid = arrays

    def read(self, window: Window) -> ProbWindow:
        """Read the probabilities of a window inside the grid."""
        part = window.toslices()
        border, contact = (
            None if band is None else dequantise(band[part])
            for band in (self._border, self._contact)
        )
        valid = self._valid[part].copy()
        for band in (self._body, self._border, self._contact):
            if band is not None:
                valid &= np.isfinite(band[part])
        return ProbWindow(dequantise(self._body[part]), border, valid, contact)


class _OpenProb:
    """Open probability raster; a context manager that closes it."""

    def __init__(self, info: ProbInfo, bands: Mapping[str, int]) -> None:
        self._scene = Scene(info.path, bands=list(bands.values()), palette=not info.is_mask)
        self._is_mask = info.is_mask
        self.grid = self._scene.grid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._scene.close()

    def _read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read float32 (bands, H, W) in 0..1, and valid (H, W)."""
        data, valid = self._scene.read(window)
        if self._is_mask:
            return (data != 0).astype(np.float32), valid
        if data.dtype.kind == "f" and data.size:
            low, high = float(data.min()), float(data.max())
            if low < -_TOLERANCE or high > 1 + _TOLERANCE:
                raise SceneReadError(
                    f"{self._scene.info.path}: has values from {low:g} to {high:g}, not "
                    "probabilities from 0 to 1; pass the prob.tif that predict writes"
                )
        return dequantise(data), valid


class SceneProb(_OpenProb):
    """Building probabilities of an open file; a context manager that closes it.

    Args:
        info: Raster with a band named `building` and optionally `border` and `contact`; or with
            one or two bands without these names, of buildings and of their borders.

    Raises:
        SceneReadError: If the file cannot be read or lacks the bands.
    """

    def __init__(self, info: ProbInfo) -> None:
        bands = prob_bands(info)
        super().__init__(info, bands)
        self._positions = {name: position for position, name in enumerate(bands)}

    def read(self, window: Window) -> ProbWindow:
        """Read the probabilities of a window inside the grid.

        Raises:
            SceneReadError: If the file is damaged in the window, or values are outside 0..1.
        """
        prob, valid = self._read(window)
        border, contact = (
            prob[self._positions[name]] if name in self._positions else None for name in _SEPARATING
        )
        return ProbWindow(prob[0], border, valid, contact)


class ClassProb(_OpenProb):
    """Probabilities of exclusive classes of an open file; a context manager that closes it.

    Args:
        info: Raster with a band per class.
        classes: Its classes.

    Raises:
        SceneReadError: If the file cannot be read or lacks bands.
    """

    def __init__(self, info: ProbInfo, classes: ExclusiveClasses) -> None:
        super().__init__(info, prob_bands(info))
        self.classes = classes

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read the probabilities of a window inside the grid.

        Returns:
            Float32 (classes, H, W) in 0..1, and valid (H, W).

        Raises:
            SceneReadError: If the file is damaged in the window, or values are outside 0..1.
        """
        return self._read(window)


def open_prob(info: ProbInfo) -> SceneProb | ClassProb:
    """Open a probability raster of buildings or of exclusive classes.

    Raises:
        SceneReadError: If it cannot be read or lacks bands.
    """
    return ClassProb(info, info.classes) if info.classes else SceneProb(info)


def prob_bands(info: ProbInfo) -> dict[str, int]:
    """Return the 1-based numbers of the bands that vectorization reads, by name.

    These are the bands of all exclusive classes; or `building` and those of `border` and
    `contact` that are present.

    Raises:
        SceneReadError: If bands are missing.
    """
    return _class_bands(info, info.classes) if info.classes else _building_bands(info)


def _class_bands(info: ProbInfo, classes: ExclusiveClasses) -> dict[str, int]:
    numbered = zip(info.indexes, info.bands, strict=True)
    numbers = [index for index, name in numbered if name != SPREAD]
    if len(numbers) != len(set(classes.names)):
        raise SceneReadError(
            f"{info.path}: has {counted(len(info.bands), 'band')} for {len(classes.names)} "
            "classes; pass the prob.tif that predict wrote, with all its bands"
        )
    return dict(zip(classes.names, numbers, strict=True))


def _building_bands(info: ProbInfo) -> dict[str, int]:
    if "building" in info.bands:
        names = [name for name in ("building", *_SEPARATING) if name in info.bands]
        return {name: info.indexes[info.bands.index(name)] for name in names}
    if len(info.bands) > 2:
        raise SceneReadError(
            f"{info.path}: has bands {', '.join(info.bands)} and none named building; pass the "
            "prob.tif that predict writes, or a raster of one band"
        )
    return dict(zip(("building", "border"), info.indexes, strict=False))
