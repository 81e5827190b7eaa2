"""Likelihood of the probabilities around a polygon, for each shift of the polygon."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize
from rasterio.windows import Window
from scipy import fft
from shapely.geometry.base import BaseGeometry

from geoseg.alignment.lattice import ShiftLattice
from geoseg.data.labels.targets import BORDER_M
from geoseg.geo.grid import Grid
from geoseg.options import AlignOptions
from geoseg.vectorization.prob_sources import ProbSource, ProbWindow

# Probabilities nearer to 0 and 1 are not trusted: a single pixel must not decide.
_LEAST = 0.02

# Least share of the pixels with data at no shift that a shift must have, too, to be compared.
_LEAST_KNOWN = 0.5

# Part of a pixel that is more than a rounding error.
_A_PIXEL = 1e-3

# Subpixels per pixel and axis by which the share of a pixel in a zone is measured.
_SUBPIXELS = 3

# Side of the pieces in which the zones of a large polygon are compared.
PIECE_PX = 1024


@dataclass(frozen=True)
class _Zones:
    """Zones of a polygon in metric pixel coordinates, which move with it.

    Attributes:
        inside: The polygon.
        ring: Its surroundings without other polygons: no building is expected.
        outline: Where a model of borders has been taught a border.
        plain: Where it has been taught none.
    """

    inside: BaseGeometry
    ring: BaseGeometry
    outline: BaseGeometry
    plain: BaseGeometry


@dataclass(frozen=True)
class PolygonScore:
    """How well a polygon agrees with the probabilities at each shift of a lattice.

    Attributes:
        log_likelihood: Sum over the pixels of interior and ring, (rows, columns). Where some pixels
            of a zone are nodata, it is the mean of the others times their number without a shift,
            so that a polygon is neither drawn to nodata nor away from it.
        inside_prob: Mean building probability of the interior, (rows, columns).
        pixels: Pixels of interior and ring that have data without a shift.
        is_seen: Whether any pixel of the unshifted interior has data.
    """

    log_likelihood: np.ndarray
    inside_prob: np.ndarray
    pixels: float
    is_seen: bool


class LikelihoodMeter:
    """Measures the likelihood of shifted polygons.

    Args:
        source: Probabilities.
        polygons: All polygons (N,) in metric pixel coordinates: columns and rows of the grid times
            metres per pixel.
        lattice: Shifts that are tried.
        options: Options of the alignment.
        piece_px: Side of the pieces in which a large polygon is compared; only rounding errors of
            the result depend on it.
    """

    def __init__(
        self,
        source: ProbSource,
        polygons: np.ndarray,
        lattice: ShiftLattice,
        options: AlignOptions,
        piece_px: int = PIECE_PX,
    ) -> None:
        self.lattice = lattice
        self._source, self._polygons = source, polygons
        self._options, self._piece_px = options, piece_px
        self._tree = shapely.STRtree(polygons)
        self._margin_m = max(options.ring_m, 2 * max(lattice.gsd_m))

    def measure(self, index: int) -> PolygonScore:
        """Measure one polygon, in its own window or, if it is large, in pieces of it."""
        sums, known = self._add_up(self._build_zones(index), self.lattice)
        here = known[:, *self.lattice.middle]
        total, inside_prob = self._combine(sums, known, here)
        return PolygonScore(total, inside_prob, float(here[:2].sum()), bool(here[0] > _A_PIXEL))

    def compare(self, index: int, lattice: ShiftLattice) -> np.ndarray:
        """Return the log likelihood of one polygon at other shifts, relative to no shift.

        Args:
            index: Position of the polygon.
            lattice: The shifts, around any shift.

        Returns:
            Differences as of `PolygonScore.log_likelihood`, (rows, columns).
        """
        zones = self._build_zones(index)
        sums_here, known_here = self._add_up(zones, lattice.no_shift())
        here = known_here[:, 0, 0]
        still, _ = self._combine(sums_here, known_here, here)
        total, _ = self._combine(*self._add_up(zones, lattice), here)
        difference: np.ndarray = total - still
        return difference

    def _add_up(self, zones: _Zones, lattice: ShiftLattice) -> tuple[np.ndarray, np.ndarray]:
        """Return sums and numbers of pixels as `_measure_piece`, of all pieces."""
        sums, known = np.zeros((5, *lattice.shape)), np.zeros((4, *lattice.shape))
        for window in self._pieces(zones):
            sums_there, known_there = self._measure_piece(zones, window, lattice)
            sums, known = sums + sums_there, known + known_there
        return sums, known

    def _combine(
        self, sums: np.ndarray, known: np.ndarray, here: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the log likelihood, and the mean probability inside, by shift (rows, columns).

        Args:
            sums: Sums of interior, ring, outline and plain, and of the probability inside.
            known: Number of the pixels with data in each zone (4, rows, columns).
            here: Their number without a shift (4,).
        """
        means, is_comparable = _means(sums, known[[0, 1, 2, 3, 0]], here[[0, 1, 2, 3, 0]])
        weight = self._options.border_weight
        total = np.tensordot(here * (1, 1, weight, weight), means[:4], axes=1)
        if is_comparable.any():
            total[~is_comparable] = total[is_comparable].min()
        return total, means[4]

    def _build_zones(self, index: int) -> _Zones:
        polygon, margin = self._polygons[index], self._margin_m
        around = polygon.buffer(margin)
        near = self._tree.query(around, predicate="intersects")
        others = shapely.union_all(self._polygons[near[near != index]])
        outline = polygon.boundary.buffer(BORDER_M)
        return _Zones(
            inside=polygon,
            ring=around.difference(polygon).difference(others),
            outline=outline,
            plain=around.difference(outline).difference(others.buffer(BORDER_M)),
        )

    def _pieces(self, zones: _Zones) -> Iterator[Window]:
        """Yield the window of all zones, or pieces of it whose corners are on a fixed lattice."""
        size = self._piece_px
        bounds = shapely.union(zones.inside.envelope, zones.ring).bounds
        left, top, right, bottom = (
            edge / gsd for edge, gsd in zip(bounds, self.lattice.gsd_m * 2, strict=True)
        )
        left, top, right, bottom = map(
            int, (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
        )
        rows, columns = _cut(top, bottom, size), _cut(left, right, size)
        for row, row_end in rows:
            for column, column_end in columns:
                yield Window(column, row, column_end - column, row_end - row)

    def _measure_piece(
        self, zones: _Zones, window: Window, lattice: ShiftLattice
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums over the zones in a piece (5, ...), and their pixels with data (4, ...).

        Both are for each shift (rows, columns). The sums are of logarithms of the probability of
        what is expected in the zone, and of the building probability of the interior.
        """
        (x, y), (columns, rows) = lattice.reach, lattice.centre
        left, top = window.col_off + columns - x, window.row_off + rows - y
        wider = Window(left, top, window.width + 2 * x, window.height + 2 * y)
        read = read_padded(self._source, wider)
        sums, known = np.zeros((5, *lattice.shape)), np.zeros((4, *lattice.shape))
        compare = _Correlation(lattice, read.body.shape)
        rasters = [read.body, 1 - read.body]
        if read.border is not None and self._options.border_weight:
            rasters += [read.border, 1 - read.border]
        parts = (zones.inside, zones.ring, zones.outline, zones.plain)
        for number, (raster, zone) in enumerate(zip(rasters, parts, strict=False)):
            cover = self._cover(zone, window)
            sums[number] = compare(_log(raster, read.valid), cover)
            known[number] = cover.sum()
            if not read.valid.all():
                known[number] = compare(read.valid.astype(np.float64), cover)
            if zone is zones.inside:
                sums[4] = compare(np.where(read.valid, read.body, 0.0), cover)
        return sums, known

    def _cover(self, zone: BaseGeometry, window: Window) -> np.ndarray:
        """Return the share of each pixel of a window in a zone, (H, W)."""
        height, width = int(window.height), int(window.width)
        if zone.is_empty:
            return np.zeros((height, width))
        x, y = self.lattice.gsd_m
        fine = Affine.scale(x, y) * Affine.translation(window.col_off, window.row_off)
        fine = fine * Affine.scale(1 / _SUBPIXELS)
        shape = (height * _SUBPIXELS, width * _SUBPIXELS)
        hits = rasterize([zone], shape, transform=fine, dtype="uint8")
        parts = hits.reshape(height, _SUBPIXELS, width, _SUBPIXELS)
        share: np.ndarray = parts.mean(axis=(1, 3))
        return share


class _Correlation:
    """Correlation of rasters with the zones of a polygon at each shift of a lattice."""

    def __init__(self, lattice: ShiftLattice, shape: tuple[int, ...]) -> None:
        self._lattice = lattice
        self._fast = [fft.next_fast_len(side, real=True) for side in shape]

    def __call__(self, raster: np.ndarray, zone: np.ndarray) -> np.ndarray:
        """Return the sum of a raster over the shifted zone, (rows, columns)."""
        spectrum = fft.rfft2(raster, self._fast) * fft.rfft2(zone, self._fast).conj()
        (x_stride, y_stride), (rows, columns) = self._lattice.strides, self._lattice.shape
        every = fft.irfft2(spectrum, self._fast)
        tried: np.ndarray = every[: rows * y_stride : y_stride, : columns * x_stride : x_stride]
        return tried


def read_padded(source: ProbSource, window: Window) -> ProbWindow:
    """Read the probabilities of a window that may reach beyond the grid, where they are invalid."""
    grid: Grid = source.grid
    top, left = max(0, window.row_off), max(0, window.col_off)
    bottom = min(grid.height, window.row_off + window.height)
    right = min(grid.width, window.col_off + window.width)
    shape = (int(window.height), int(window.width))
    body, valid = np.zeros(shape, np.float32), np.zeros(shape, bool)
    if bottom <= top or right <= left:
        return ProbWindow(body, None, valid)
    read = source.read(Window(left, top, right - left, bottom - top))
    rows = slice(top - window.row_off, bottom - window.row_off)
    columns = slice(left - window.col_off, right - window.col_off)
    body[rows, columns], valid[rows, columns] = read.body, read.valid
    border = None
    if read.border is not None:
        border = np.zeros(shape, np.float32)
        border[rows, columns] = read.border
    return ProbWindow(body, border, valid)


def _log(prob: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the logarithm of probabilities (H, W), 0 where they are not valid."""
    logs = np.log(np.clip(prob.astype(np.float64), _LEAST, 1 - _LEAST))
    known: np.ndarray = np.where(valid, logs, 0.0)
    return known


def _means(sums: np.ndarray, known: np.ndarray, here: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of zones at each shift, and the shifts at which they can be compared.

    Args:
        sums: Sums over the pixels with data (zones, rows, columns).
        known: Number of these pixels.
        here: Their number without a shift (zones,).
    """
    least = _LEAST_KNOWN * here[:, None, None]
    is_comparable = np.logical_and.reduce(known >= least - _A_PIXEL)
    return sums / np.maximum(np.maximum(known, least), _A_PIXEL), is_comparable


def _cut(start: int, end: int, size: int) -> list[tuple[int, int]]:
    """Return the parts of a range that is longer than a size, cut at multiples of the size."""
    if end - start <= size:
        return [(start, end)]
    edges = [start, *range((start // size + 1) * size, end, size), end]
    return list(pairwise(edges))
