"""Class rasters, read at the pixel centres of another grid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoseg.errors import MissingCRSError, SceneReadError, one_line
from geoseg.geo.crs import as_crs, build_transformer, is_same_crs, x_period
from geoseg.geo.grid import Grid
from geoseg.geo.raster.opening import check_blocks, open_raster

# Largest window that is read at once, in pixels.
_MAX_PIXELS = 2**22

# Points whose coordinates are computed in one piece, about 100 bytes each.
_MOST_POINTS = 2**20


class NearestRaster:
    """An open raster, read by nearest neighbour; nodata is an ordinary value.

    Args:
        path: Any raster that GDAL opens.
        scene_grid: Grid of a raster without georeferencing, if it has this height and width.

    Raises:
        SceneReadError: If the file does not exist or GDAL cannot read it.
        MissingCRSError: If it has no georeferencing and no grid is given.
    """

    def __init__(self, path: str | Path, scene_grid: Grid | None = None) -> None:
        self._path = str(path)
        self._source = open_raster(path)
        check_blocks(self._source, path)
        self.bands: int = self._source.count
        self.nodata: float | None = self._source.nodata
        self._crs, self._transform = self._source.crs, self._source.transform
        if self._crs is None:
            try:
                self._crs, self._transform = self._fallback(scene_grid)
            except MissingCRSError:
                self._source.close()
                raise
        self._period = x_period(as_crs(self._crs, path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._source.close()

    def check_alignment(self, grid: Grid) -> None:
        """Check that positions on a grid are known in this raster.

        Raises:
            MissingCRSError: If only one of the two has a location on Earth.
        """
        if not is_same_crs(as_crs(grid.crs), as_crs(self._crs)):
            build_transformer(grid.crs, self._crs, self._path)

    def read(
        self, grid: Grid, window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read the values at points spread evenly over a window of a grid.

        Args:
            grid: In any CRS.
            window: Window of the grid, may extend beyond its edges.
            shape: (rows, columns) of points; with the window's shape they are pixel centres.

        Returns:
            Data (bands, rows, columns), 0 outside the raster; and bool (rows, columns), True
            inside it.

        Raises:
            SceneReadError: If the file is damaged there.
        """
        data = np.zeros((self.bands, *shape), dtype=np.result_type(*self._source.dtypes))
        inside = np.zeros(shape, dtype=bool)
        step = max(1, _MOST_POINTS // shape[1])
        for top in range(0, shape[0], step):
            part = slice(top, min(top + step, shape[0]))
            columns, rows = self._positions(grid, window, shape, part)
            data[:, part], inside[part] = self._read_places(columns, rows)
        return data, inside

    def _read_places(self, columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the values at pixels of this raster, and whether each is inside it."""
        inside = (rows >= 0) & (rows < self._source.height)
        inside &= (columns >= 0) & (columns < self._source.width)
        data = np.zeros((self.bands, *rows.shape), dtype=np.result_type(*self._source.dtypes))
        for part in _split_points(columns, rows, inside):
            self._read_points(data, columns, rows, part)
        return data, inside

    def _read_points(
        self, data: np.ndarray, columns: np.ndarray, rows: np.ndarray, part: np.ndarray
    ) -> None:
        """Read the values at some of the points into `data`, in one piece.

        Args:
            data: (bands, rows, columns), written to.
            columns: Column of each point in this raster (rows, columns).
            rows: Row of each point in this raster (rows, columns).
            part: Positions (N,) of the points in the flattened arrays.
        """
        columns, rows = columns.ravel()[part], rows.ravel()[part]
        window = _bounding_window(columns, rows)
        top, left = window.row_off, window.col_off
        try:
            block = self._source.read(window=window)
        except RasterioError as error:
            raise SceneReadError(
                f"{self._path}: cannot read rows {top}-{top + window.height} "
                f"({one_line(error)}); the file seems damaged, copy or download it again"
            ) from error
        data.reshape(self.bands, -1)[:, part] = block[:, rows - top, columns - left]

    def _fallback(self, scene_grid: Grid | None) -> tuple[CRS, Affine]:
        bare = self._transform.is_identity
        if bare and scene_grid is not None and scene_grid.shape == self._source.shape:
            return scene_grid.crs, scene_grid.transform
        sizes = ""
        if bare and scene_grid is not None:
            size = "{} x {}".format(*self._source.shape)
            other = f"{scene_grid.height} x {scene_grid.width}"
            sizes = f", and its {size} pixels are not the scene's {other}"
        raise MissingCRSError(
            f"{self._path}: has no coordinate reference system{sizes}; gdal_edit.py -a_srs "
            "EPSG:CODE file.tif writes one"
        )

    def _positions(
        self, grid: Grid, window: Window, shape: tuple[int, int], part: slice
    ) -> tuple[np.ndarray, np.ndarray]:
        """Column and row of this raster under the points of some rows, int64 (rows, columns)."""
        scale = Affine.scale(window.width / shape[1], window.height / shape[0])
        points = grid.window_transform(window) * scale
        column, row = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(part.start, part.stop) + 0.5)
        xs = points.a * column + points.b * row + points.c
        ys = points.d * column + points.e * row + points.f
        if not is_same_crs(as_crs(grid.crs), as_crs(self._crs)):
            transformer = build_transformer(grid.crs, self._crs, self._path)
            xs, ys = transformer.transform(xs, ys)
        xs = self._place(xs)
        inverse = ~self._transform
        positions = (
            inverse.a * xs + inverse.b * ys + inverse.c,
            inverse.d * xs + inverse.e * ys + inverse.f,
        )
        # A point on the edge between two pixels belongs to the second, despite rounding errors.
        columns, rows = (
            np.floor(np.nan_to_num(position, posinf=-1e9, neginf=-1e9) + 1e-6).astype(np.int64)
            for position in positions
        )
        return columns, rows

    def _place(self, xs: np.ndarray) -> np.ndarray:
        """Move x by whole periods of this raster's CRS to be nearest to its centre."""
        if self._period is None:
            return xs
        centre, _ = self._transform * (self._source.width / 2, self._source.height / 2)
        placed: np.ndarray = xs + np.nan_to_num(self._period.turns(centre - xs))
        return placed


def _split_points(
    columns: np.ndarray, rows: np.ndarray, inside: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the points inside the raster in parts whose bounding window is small.

    Points may be sparse (64 x 64 over a whole scene) or on a slanted lattice, so the window
    around all of them can be as large as the raster. Halving the lattice until the window is
    small keeps memory independent of the raster's size.

    Args:
        columns: Column of each point in the raster (rows, columns).
        rows: Row of each point in the raster (rows, columns).
        inside: Whether each point is inside the raster (rows, columns).

    Returns:
        Positions (N,) in the flattened arrays, N >= 1.
    """
    positions = np.arange(inside.size).reshape(inside.shape)
    pending = [positions]
    while pending:
        part = pending.pop()
        chosen = part[inside.ravel()[part]]
        if chosen.size == 0:
            continue
        window = _bounding_window(columns.ravel()[chosen], rows.ravel()[chosen])
        if part.size == 1 or window.width * window.height <= _MAX_PIXELS:
            yield chosen
            continue
        axis = int(np.argmax(part.shape))
        pending += reversed(np.array_split(part, 2, axis=axis))


def _bounding_window(columns: np.ndarray, rows: np.ndarray) -> Window:
    """Return the smallest window that contains all pixels."""
    left, top = int(columns.min()), int(rows.min())
    return Window(left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1)
