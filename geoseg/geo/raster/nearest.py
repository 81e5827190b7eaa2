"""Reads rasters of classes at the centres of another grid's pixels."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoseg.errors import MissingCRSError, SceneReadError, one_line
from geoseg.geo.grid import Grid
from geoseg.geo.raster.opening import open_raster


class NearestRaster:
    """An open raster whose values are never mixed, nor taken for nodata.

    Args:
        path: Any raster that GDAL opens.
        own: Where it lies if it does not say itself, and is of this height and width.

    Raises:
        SceneReadError: If the file is absent or GDAL cannot read it.
        MissingCRSError: If nothing says where it lies.
    """

    def __init__(self, path: str | Path, own: Grid | None = None) -> None:
        self._path = str(path)
        self._source = open_raster(path)
        self.bands: int = self._source.count
        self.nodata: float | None = self._source.nodata
        self._crs, self._transform = self._source.crs, self._source.transform
        if self._crs is None:
            try:
                self._crs, self._transform = self._place_of(own)
            except MissingCRSError:
                self._source.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._source.close()

    def read(
        self, grid: Grid, window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads the values at points spread evenly over a window of a grid.

        Args:
            grid: In any CRS.
            window: Of the grid's lattice, also beyond its edges.
            shape: (rows, columns) of points; of the window's shape they are its pixels' centres.

        Returns:
            Data (bands, rows, columns), 0 outside the raster; and bool (rows, columns), True
            inside of it.

        Raises:
            SceneReadError: If the file is damaged there.
        """
        columns, rows = self._places(grid, window, shape)
        inside = (rows >= 0) & (rows < self._source.height)
        inside &= (columns >= 0) & (columns < self._source.width)
        data = np.zeros((self.bands, *shape), dtype=np.result_type(*self._source.dtypes))
        if not inside.any():
            return data, inside
        top, left = int(rows[inside].min()), int(columns[inside].min())
        height, width = int(rows[inside].max()) - top + 1, int(columns[inside].max()) - left + 1
        try:
            block = self._source.read(window=Window(left, top, width, height))
        except RasterioError as error:
            raise SceneReadError(
                f"{self._path}: cannot read rows {top}-{top + height} ({one_line(error)}); the "
                "file looks damaged, copy or download it again"
            ) from error
        data[:, inside] = block[:, rows[inside] - top, columns[inside] - left]
        return data, inside

    def _place_of(self, own: Grid | None) -> tuple[CRS, Affine]:
        placeless = self._transform.is_identity
        if placeless and own is not None and own.shape == self._source.shape:
            return own.crs, own.transform
        sizes = ""
        if placeless and own is not None:
            size = "{} x {}".format(*self._source.shape)
            sizes = f", and {size} pixels are not the scene's {own.height} x {own.width}"
        raise MissingCRSError(
            f"{self._path}: has no coordinate reference system{sizes}; gdal_edit.py -a_srs "
            "EPSG:CODE file.tif writes one"
        )

    def _places(
        self, grid: Grid, window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Column and row of this raster under each point, int64 (rows, columns)."""
        scale = Affine.scale(window.width / shape[1], window.height / shape[0])
        points = grid.window_transform(window) @ scale
        column, row = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
        xs = points.a * column + points.b * row + points.c
        ys = points.d * column + points.e * row + points.f
        if grid.crs != self._crs:
            own = Transformer.from_crs(
                grid.crs.to_wkt(), self._crs.to_wkt(), always_xy=True
            )  # fmt: skip
            xs, ys = own.transform(xs, ys)
        inverse = ~self._transform
        places = (
            inverse.a * xs + inverse.b * ys + inverse.c,
            inverse.d * xs + inverse.e * ys + inverse.f,
        )
        # A point on the line between two pixels belongs to the second, rounding errors or not.
        columns, rows = (
            np.floor(np.nan_to_num(place, posinf=-1e9, neginf=-1e9) + 1e-6).astype(np.int64)
            for place in places
        )
        return columns, rows
