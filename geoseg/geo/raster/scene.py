"""Scenes, read by window with their validity, on their own grid or another."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoseg.credentials import hide_credentials
from geoseg.errors import ConfigError, SceneReadError, one_line
from geoseg.geo.grid import Grid
from geoseg.geo.paths import is_remote
from geoseg.geo.raster.blank import BlankAreas, write_blank_mask
from geoseg.geo.raster.georeferencing import (
    GeoreferencedBy,
    Georeferencing,
    open_warped,
    read_georeferencing,
    warn_if_approximate,
)
from geoseg.geo.raster.opening import (
    as_read_errors,
    check_blocks,
    explain_service_error,
    is_service,
    lacks_file,
    missing_source,
    open_raster,
)
from geoseg.geo.raster.reduced import is_faster_by_rows, read_reduced
from geoseg.geo.raster.scene_vrt import (
    Band,
    check_dtypes,
    clean_name,
    differing_nodata,
    list_bands,
    may_be_colour,
    open_view,
    validity_band,
)
from geoseg.jobs.files import process_folder


@dataclass(frozen=True)
class SceneInfo:
    """Description of a scene, read without its pixels.

    Attributes:
        path: As given by the user.
        grid: Its pixel grid.
        bands: Name of each data band: its description, else its colour, else `bandN`.
        indexes: 1-based numbers of the data bands; of the palette's colours if there is one.
        dtype: Common data type of the bands.
        nodata: Sentinel value, or None if there is none, or the bands have different ones.
        georeferenced_by: `transform`; `gcps` or `rpcs` if pixels are warped even to the own
            grid; `assumed` if the scene has no georeferencing.
        assume_gsd_m: Assumed pixel size in metres of a scene without georeferencing.
        blank: Blank areas that are treated as nodata, see `find_blank_areas`.
        label: Its name in messages, where that is not the path.
        is_service: Whether its pixels come from a tile service, which has them at many zoom levels.
    """

    path: str
    grid: Grid
    bands: tuple[str, ...]
    indexes: tuple[int, ...]
    dtype: str
    nodata: float | None
    georeferenced_by: GeoreferencedBy = "transform"
    assume_gsd_m: float | None = None
    blank: BlankAreas | None = None
    label: str = ""
    is_service: bool = False

    @property
    def name(self) -> str:
        """Its name in messages and in files, without credentials."""
        return self.label or hide_credentials(self.path)

    def open(self, grid: Grid | None = None) -> Scene:
        """Open the scene with the same bands, on its own grid or another."""
        mask = _write_mask(self, _modified(self.path)) if self.blank else None
        scene = Scene(
            self.path, bands=self.indexes, grid=grid, assume_gsd_m=self.assume_gsd_m, mask=mask
        )
        scene.info = replace(scene.info, label=self.label, is_service=self.is_service)
        return scene

    def open_pixels(self) -> Scene:
        """Open the pixels of the file itself, not warped if it is georeferenced by points."""
        return Scene(self.path, bands=self.indexes, assume_gsd_m=self.assume_gsd_m, own_pixels=True)


class Scene:
    """An open scene, read by window on its own grid or on another.

    A palette is read as red, green and blue. A scene without a transform is georeferenced by its
    GCPs or RPCs, on a north-up grid. A pixel is valid if both the mask or alpha band and the
    sentinel, of each band its own, say so; infinite values and NaN are never valid.

    Args:
        path: Any raster that GDAL opens, `/vsi...` and `https://` included.
        bands: Bands to read, by 1-based number or by name, in this order; all data bands
            when None. An alpha band is read as data if it is listed.
        grid: Grid to read on; pixels are warped to it bilinearly. None for the scene's own.
        mask: Raster of the valid pixels of the file, see `write_blank_mask`.
        assume_gsd_m: Metres per pixel of a scene without georeferencing, which gets a
            placeholder location then.
        own_pixels: Read the pixels of a scene that is georeferenced by points without a warp, on
            a grid that has only their shape.
        palette: Whether a palette is read as colours, instead of as the values that it colours.

    Raises:
        SceneReadError: If the file does not exist or GDAL cannot read it.
        MissingCRSError: If the scene has no georeferencing.
        ConfigError: If the scene does not have one of the bands.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        bands: Sequence[int | str] | None = None,
        grid: Grid | None = None,
        assume_gsd_m: float | None = None,
        mask: str | None = None,
        own_pixels: bool = False,
        palette: bool = True,
    ) -> None:
        with ExitStack() as stack:
            source = stack.enter_context(open_raster(path))
            self.info, self._georeferencing, chosen = inspect_source(
                source, str(path), bands, assume_gsd_m, palette
            )
            by_points = self.info.georeferenced_by in ("gcps", "rpcs")
            self.grid = grid or self.info.grid
            if by_points and own_pixels:
                self.grid = Grid(self.info.grid.crs, Affine.scale(1, -1), *source.shape)
            self._validity = validity_band(source, chosen)
            self._reader, self._indexes = source, list(self.info.indexes)
            warped = (self.grid != self.info.grid or by_points) and not own_pixels
            self._is_warped = warped
            if warped or mask or not _are_plain(chosen):
                assumed = self.info.grid if self.info.georeferenced_by == "assumed" else None
                view = open_view(source, chosen, self._validity, assumed, mask)
                self._reader = stack.enter_context(view)
                self._indexes = [*range(1, len(chosen) + 1)]
                self._validity = self._find_alpha()
            self._has_opacity = self._validity is not None
            if warped:
                self._reader = stack.enter_context(self._open_warped())
                self._validity = self._find_alpha()
            self._files = stack.pop_all()

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
        self._files.close()

    def read(
        self, window: Window | None = None, *, shape: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window of the grid.

        Args:
            window: Window inside the grid; the whole grid when None.
            shape: (height, width) of the result, by nearest pixels; overviews are used if
                there are any. That of the window when None.

        Returns:
            Data (C, H, W) in the scene's dtype, and valid (H, W), False on nodata. Data under
            invalid pixels is 0, never the sentinel.

        Raises:
            SceneReadError: If the file is damaged inside the window.
        """
        window = window or self.grid.window
        try:
            if shape and is_faster_by_rows(self._reader, self._indexes, window.width, shape[1]):
                data, valid = read_reduced(self._read, window, shape)
            else:
                data, valid = self._read(window, shape or (window.height, window.width))
        except RasterioError as error:
            raise self._unreadable(window, error) from error
        if data.dtype.kind == "f":
            valid &= np.isfinite(data).all(axis=0)
        data[:, ~valid] = 0
        return data, valid

    def read_valid(self, window: Window) -> np.ndarray:
        """Read which pixels of a window are valid, bool (H, W).

        Their values are read only if validity depends on them: on a sentinel or on NaN.

        Raises:
            SceneReadError: If what must be read is damaged inside the window.
        """
        if self.info.nodata is not None or np.dtype(self.info.dtype).kind == "f":
            return self.read(window)[1]
        try:
            return self._read_validity(window, (window.height, window.width))
        except RasterioError as error:
            raise self._unreadable(window, error) from error

    def _unreadable(self, window: Window, error: RasterioError) -> SceneReadError:
        if self.info.is_service:
            return SceneReadError(f"{self.info.name}: {explain_service_error(error)}")
        reason = one_line(error)
        if lacks_file(error):
            return SceneReadError(
                f"{self.info.path}: refers to a file that does not exist ({reason}); copy "
                "that file to its place, or create the scene again"
            )
        if self.info.label:  # rows and columns of joined scenes would mean nothing
            return SceneReadError(
                f"{self.info.label}: one of them cannot be read ({reason}); it looks damaged, copy "
                "or download it again, or leave it out"
            )
        return SceneReadError(
            f"{self.info.path}: cannot read rows {window.row_off}-"
            f"{window.row_off + window.height}, columns {window.col_off}-"
            f"{window.col_off + window.width} ({reason}); the file looks damaged, copy or download "
            "it again, with all files that it refers to"
        )

    def _read(self, window: Window, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        data = self._reader.read(
            self._indexes, window=window, out_shape=(len(self._indexes), *shape)
        ).astype(self.info.dtype, copy=False)  # a warp gives int8 as int16
        nodata, valid = self.info.nodata, self._read_validity(window, shape)
        is_colour = may_be_colour(nodata, self.info.dtype)
        # A warp makes alpha of such a sentinel, and may mix colours to its value.
        if nodata is not None and not (is_colour and self._is_warped):
            differs = data != nodata
            valid &= differs.any(axis=0) if is_colour else differs.all(axis=0)
        return data, valid

    def _read_validity(self, window: Window, shape: tuple[int, int]) -> np.ndarray:
        """Read which pixels (H, W) are valid by the mask or alpha band."""
        if self._validity is None:
            return np.ones(shape, dtype=bool)
        band = self._validity.removeprefix("mask,")
        read = self._reader.read if band == self._validity else self._reader.read_masks
        valid: np.ndarray = read(int(band), window=window, out_shape=shape) > 0
        return valid

    def _find_alpha(self) -> str | None:
        """Return the number of a view's alpha band, which follows the data bands."""
        bands = len(self._indexes)
        return str(bands + 1) if self._reader.count > bands else None

    def _open_warped(self) -> Any:
        nodata = self.info.nodata
        return open_warped(
            self._reader,
            self._georeferencing,
            self.grid,
            alpha=self._has_opacity,
            nodata=nodata,
            is_colour=may_be_colour(nodata, self.info.dtype),
        )


@lru_cache(maxsize=64)
def _write_mask(info: SceneInfo, _: int) -> str:
    """Write the mask of a scene with blank areas, once per process."""
    assert info.blank is not None
    path = process_folder() / f"{secrets.token_hex(8)}.tif"
    with info.open_pixels() as scene:
        write_blank_mask(scene, info.blank, path)
    return str(path)


def _modified(path: str) -> int:
    """Return the time of modification of a file, 0 of a name that only GDAL opens."""
    return 0 if is_remote(path) or not Path(path).exists() else Path(path).stat().st_mtime_ns


def read_info(
    path: str | Path,
    *,
    bands: Sequence[int | str] | None = None,
    assume_gsd_m: float | None = None,
) -> SceneInfo:
    """Read the description of a scene. Arguments and errors are those of `Scene`."""
    with open_raster(path) as source:
        return describe_source(source, path, bands=bands, assume_gsd_m=assume_gsd_m)


def describe_source(
    source: Any,
    path: str | Path,
    *,
    bands: Sequence[int | str] | None = None,
    assume_gsd_m: float | None = None,
    palette: bool = True,
) -> SceneInfo:
    """Return the description of an open rasterio dataset, see `read_info` and `Scene`."""
    with as_read_errors(path):
        info, georeferencing, _ = inspect_source(source, str(path), bands, assume_gsd_m, palette)
    warn_if_approximate(georeferencing, info.path, assume_gsd_m)
    return info


def read_tags(path: str | Path) -> dict[str, str]:
    """Read the dataset tags of a raster."""
    with open_raster(path) as source:
        return dict(source.tags())


def inspect_source(
    source: Any,
    path: str,
    wanted: Sequence[int | str] | None,
    assume_gsd_m: float | None,
    palette: bool = True,
) -> tuple[SceneInfo, Georeferencing, list[Band]]:
    """Return the description of an open rasterio dataset, its georeferencing and its bands.

    Arguments and errors are those of `Scene`.
    """
    if source.count == 0:
        others = f" but {len(source.subdatasets)} subdatasets" if source.subdatasets else ""
        raise SceneReadError(
            f"{path}: has no bands{others}; give {next(iter(source.subdatasets), 'a GeoTIFF')}"
        )
    if missing := missing_source(path):
        raise SceneReadError(
            f"{path}: refers to a file that does not exist ({missing}); copy that file to its "
            "place, or create the scene again"
        )
    check_blocks(source, path)
    georeferencing = read_georeferencing(source, path, assume_gsd_m)
    bands = list_bands(source, palette=palette)
    indexes = _select_bands(bands, path, wanted)
    chosen = [bands[i - 1] for i in indexes]
    check_dtypes(chosen, path)
    info = SceneInfo(
        path=path,
        grid=georeferencing.grid,
        bands=tuple(band.name for band in chosen),
        indexes=tuple(indexes),
        dtype=np.result_type(*(band.dtype for band in chosen)).name,
        nodata=_common_nodata(chosen),
        georeferenced_by=georeferencing.by,
        assume_gsd_m=assume_gsd_m,
        is_service=is_service(source),
    )
    return info, georeferencing, chosen


def _select_bands(
    bands: Sequence[Band], path: str, wanted: Sequence[int | str] | None
) -> list[int]:
    if wanted is None:
        data = [i for i, band in enumerate(bands, start=1) if not band.is_alpha]
        return data or list(range(1, len(bands) + 1))
    names = [band.name for band in bands]
    indexes = []
    for band in wanted:
        number = int(band) if str(band).isdecimal() else None
        name = clean_name(str(band))
        if isinstance(band, str) and name in names:  # a name may be a number, as of Sentinel-2
            number = names.index(name) + 1
        if number is None or not 1 <= number <= len(bands):
            choices = ", ".join(f"{i} ({name})" for i, name in enumerate(names, start=1))
            raise ConfigError(f"{path}: has no band {band!r}; its bands are {choices}")
        if number in indexes:
            raise ConfigError(
                f"{path}: band {number} ({names[number - 1]}) is listed twice; list each band once "
                "(geoseg train takes scenes of any number of bands)"
            )
        indexes.append(number)
    return indexes


def _common_nodata(bands: Sequence[Band]) -> float | None:
    """Return the only sentinel of the bands, None if they have different ones.

    Bands without a sentinel are skipped.
    """
    if differing_nodata(bands):
        return None
    return next((band.nodata for band in bands if band.nodata is not None), None)


def _are_plain(bands: Sequence[Band]) -> bool:
    """Return whether bands can be read directly: one data type, one sentinel, no palette."""
    if differing_nodata(bands) or any(band.colour for band in bands):
        return False
    return len({band.dtype for band in bands}) == 1
