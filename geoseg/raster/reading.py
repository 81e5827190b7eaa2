"""Opens rasters, reads windows with their validity, warps on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.io import MemoryFile
from rasterio.shutil import copy as gdal_copy
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from geoseg.errors import ConfigError, MissingCRSError, SceneReadError, one_line
from geoseg.grid import Grid
from geoseg.paths import is_missing

# Pixels of error that GDAL's approximate transformer may make; its default of 1/8 moves
# outlines visibly, and exactly 0 is refused.
_WARP_TOLERANCE = 0.001


@dataclass(frozen=True)
class SceneInfo:
    """What a scene is, read without its pixels.

    Attributes:
        path: As given by the user.
        grid: Place on the ground.
        bands: Name of each data band: its description, else its colour, else `bandN`.
        indexes: 1-based GDAL band numbers of the data bands.
        dtype: Data type that holds every band.
        nodata: Sentinel value, or None where validity comes from a mask or alpha band.
    """

    path: str
    grid: Grid
    bands: tuple[str, ...]
    indexes: tuple[int, ...]
    dtype: str
    nodata: float | None


class Scene:
    """An open scene, its pixels read by window on its own grid or on another.

    Args:
        path: Any raster that GDAL opens, `/vsi...` and `https://` included.
        bands: Bands to read, by 1-based number or by name, in this order; all data bands
            when None. A band that is merely tagged as alpha counts as data when named.
        grid: Grid to read on; pixels are warped to it bilinearly. None for the scene's own.

    Raises:
        SceneReadError: If the file is absent or GDAL cannot read it.
        MissingCRSError: If the scene does not say where it lies.
        ConfigError: If a band is asked for that the scene lacks.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        bands: Sequence[int | str] | None = None,
        grid: Grid | None = None,
    ) -> None:
        self._source = open_raster(path)
        try:
            self.info = _inspect(self._source, str(path), bands)
            if _names_alpha(self._source, self.info.indexes):
                self._source = _without_alpha(self._source)
            self.grid = grid or self.info.grid
            self._reader = self._source
            self._alpha: int | None = None
            if self.grid != self.info.grid:
                self._reader = _warped(self._source, self.info.grid, self.grid)
                colours = self._reader.colorinterp
                if ColorInterp.alpha in colours:
                    self._alpha = colours.index(ColorInterp.alpha) + 1
        except BaseException:
            self.close()
            raise

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
        """Closes the file."""
        reader = getattr(self, "_reader", None)
        if reader is not None and reader is not self._source:
            reader.close()
        self._source.close()

    def read(
        self, window: Window | None = None, *, shape: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads a window of the grid.

        Args:
            window: Window inside the grid; the whole grid when None.
            shape: (height, width) to thin the window out to, by nearest pixels; overviews
                are used where there are some. Its own pixels when None.

        Returns:
            Data (C, H, W) in the scene's dtype, and valid (H, W), False on nodata. Data under
            invalid pixels is 0, never the sentinel.

        Raises:
            SceneReadError: If the file is damaged inside the window.
        """
        window = window or self.grid.window
        try:
            data, valid = self._read(window, shape or (window.height, window.width))
        except RasterioError as error:
            raise SceneReadError(
                f"{self.info.path}: cannot read rows {window.row_off}-"
                f"{window.row_off + window.height}, columns {window.col_off}-"
                f"{window.col_off + window.width} ({one_line(error)}); the file looks damaged, "
                "copy or download it again"
            ) from error
        if data.dtype.kind == "f":
            valid &= np.isfinite(data).all(axis=0)
        if _is_no_colour(self.info.nodata, data.dtype):
            valid &= (data != self.info.nodata).all(axis=0)
        data[:, ~valid] = 0
        return data, valid

    def _read(self, window: Window, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        indexes = list(self.info.indexes)
        data = self._reader.read(indexes, window=window, out_shape=(len(indexes), *shape))
        if self._alpha is not None:
            valid = self._reader.read(self._alpha, window=window, out_shape=shape)
        else:
            valid = self._reader.dataset_mask(window=window, out_shape=shape)
        return data, valid > 0


def read_info(path: str | Path, *, bands: Sequence[int | str] | None = None) -> SceneInfo:
    """Reads what a scene is, without its pixels. Raises as `Scene` does."""
    with Scene(path, bands=bands) as scene:
        return scene.info


def read_tags(path: str | Path) -> dict[str, str]:
    """Reads a raster's dataset tags."""
    with open_raster(path) as source:
        return dict(source.tags())


def open_raster(path: str | Path) -> Any:
    """Opens a raster with rasterio.

    Raises:
        SceneReadError: If the file is absent or GDAL cannot read it.
    """
    name = str(path)
    try:
        return rasterio.open(name)
    except RasterioIOError as error:
        if is_missing(name):
            raise SceneReadError(
                f"{name}: no such file; check the path (and quotes around spaces)"
            ) from error
        raise SceneReadError(
            f"{name}: GDAL cannot read this as a raster ({one_line(error)}); give a GeoTIFF, COG, "
            "VRT or another raster format"
        ) from error


def _inspect(source: Any, path: str, bands: Sequence[int | str] | None) -> SceneInfo:
    if source.count == 0:
        raise SceneReadError(
            f"{path}: holds {len(source.subdatasets)} subdatasets and no bands of its own; pass "
            f"one of them, e.g. {next(iter(source.subdatasets), 'a GeoTIFF')}"
        )
    if source.crs is None:
        remedy = "gdal_edit.py -a_srs EPSG:CODE file.tif writes one"
        if source.gcps[0]:
            remedy = "it has ground control points; gdalwarp in.tif out.tif places it"
        raise MissingCRSError(f"{path}: has no coordinate reference system; {remedy}")
    if source.transform.is_identity:
        raise MissingCRSError(
            f"{path}: has a CRS but no position (its transform is the identity); gdalwarp or "
            "gdal_translate -a_ullr ULX ULY LRX LRY in.tif out.tif writes one"
        )
    names = _band_names(source)
    indexes = _select_bands(source, path, names, bands)
    dtypes = [source.dtypes[i - 1] for i in indexes]
    if any(name.startswith("complex") for name in dtypes):
        raise SceneReadError(
            f"{path}: holds {dtypes[0]} pixels; geoseg reads integers and real numbers, "
            "gdal_translate -ot Float32 converts"
        )
    return SceneInfo(
        path=path,
        grid=Grid(source.crs, source.transform, source.height, source.width),
        bands=tuple(names[i - 1] for i in indexes),
        indexes=tuple(indexes),
        dtype=np.result_type(*dtypes).name,
        nodata=source.nodatavals[indexes[0] - 1],
    )


def _band_names(source: Any) -> list[str]:
    names = []
    for index, (description, colour) in enumerate(
        zip(source.descriptions, source.colorinterp, strict=True), start=1
    ):
        named = colour not in (ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette)
        names.append(description or (colour.name if named else f"band{index}"))
    return names


def _select_bands(
    source: Any, path: str, names: list[str], bands: Sequence[int | str] | None
) -> list[int]:
    if bands is None:
        data = [i for i, c in enumerate(source.colorinterp, start=1) if c != ColorInterp.alpha]
        return data or list(range(1, source.count + 1))
    indexes = []
    for band in bands:
        number = int(band) if str(band).isdecimal() else None
        if isinstance(band, str) and band in names:  # a name may be a number, as of Sentinel-2
            number = names.index(band) + 1
        if number is None or not 1 <= number <= source.count:
            choices = ", ".join(f"{i} ({name})" for i, name in enumerate(names, start=1))
            raise ConfigError(f"{path}: has no band {band!r}; its bands are {choices}")
        indexes.append(number)
    return indexes


def _names_alpha(source: Any, indexes: Sequence[int]) -> bool:
    return any(source.colorinterp[i - 1] == ColorInterp.alpha for i in indexes)


def _without_alpha(source: Any) -> Any:
    """Reopens a scene through a VRT in which its alpha band is plain data."""
    with MemoryFile(ext=".vrt") as vrt:
        gdal_copy(source, vrt.name, driver="VRT")
        vrt.seek(0)
        document = vrt.read().decode()
    source.close()
    return rasterio.open(document.replace("<ColorInterp>Alpha</ColorInterp>", ""))


def _is_no_colour(nodata: float | None, dtype: np.dtype[Any]) -> bool:
    """Whether a sentinel in one band makes the whole pixel nodata.

    Pure red has 0 in two bands, so a sentinel of 0, or of 255 in bytes, counts only where
    all bands have it. No pixel has -9999 but by lack of data.
    """
    if nodata is None or nodata == 0 or not np.isfinite(nodata):
        return False
    return dtype != np.uint8 or nodata != 255


def _warped(source: Any, own: Grid, grid: Grid) -> WarpedVRT:
    # Validity travels through the warp as an alpha band, by which a pixel is nodata where
    # all bands hold the sentinel; or as the sentinel, which `Scene.read` finds in any band.
    validity: dict[str, Any] = {"add_alpha": ColorInterp.alpha not in source.colorinterp}
    if _is_no_colour(source.nodata, np.dtype(source.dtypes[0])) and validity["add_alpha"]:
        validity = {"nodata": source.nodata, "UNIFIED_SRC_NODATA": "NO"}
    elif source.nodata is not None:
        validity["UNIFIED_SRC_NODATA"] = "YES"
    return WarpedVRT(
        source,
        crs=grid.crs,
        transform=grid.transform,
        height=grid.height,
        width=grid.width,
        resampling=Resampling.bilinear,
        tolerance=_WARP_TOLERANCE,
        # Else GDAL takes the kernel's width from each window's rounded extent, and a pixel
        # depends on the window that it is read with.
        XSCALE=str(own.axis_gsd_m[0] / grid.axis_gsd_m[0]),
        YSCALE=str(own.axis_gsd_m[1] / grid.axis_gsd_m[1]),
        **validity,
    )
