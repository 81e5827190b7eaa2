"""GeoTIFF and COG writers; files appear under their final name only when complete."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.shutil import copy as gdal_copy

from geoseg.geo.grid import Grid
from geoseg.geo.plain_names import readable_name, writable_name
from geoseg.geo.raster.opening import as_read_errors
from geoseg.jobs.files import LEAST_FREE, free_space, replace_file

# Compression of results and of temporary files.
_SMALL = {"compress": "deflate", "zlevel": 6}
_QUICK = {"compress": "zstd", "zstd_level": 1}

# What helps where a finished raster cannot be copied to its final name.
_UNCOPIED = (
    "check the disk, and if an interrupted job left this file, remove its folder and run the same "
    "command again"
)

_RGB = ("red", "green", "blue")


@contextmanager
def open_for_writing(
    path: str | Path,
    grid: Grid,
    *,
    count: int,
    dtype: str,
    nodata: float | None = None,
    tags: dict[str, str] | None = None,
    descriptions: Sequence[str] = (),
    scales: Sequence[float] = (),
    colormap: dict[int, tuple[int, int, int, int]] | None = None,
    masked: bool = True,
    scratch: bool = False,
    **profile: Any,
) -> Iterator[Any]:
    """Open a tiled, compressed GeoTIFF that is renamed to `path` only when complete.

    Args:
        path: Final name.
        grid: Pixel grid.
        count: Bands.
        dtype: Data type.
        nodata: Sentinel.
        tags: Dataset tags.
        descriptions: Name of each band.
        scales: Factor of each band from stored to real values.
        colormap: Colours of the first band's values.
        masked: Whether a mask may be written; it is stored in the file itself.
        scratch: Whether the file is temporary: faster compression is used then.
        **profile: Further GeoTIFF creation options.

    Yields:
        A rasterio dataset in mode w.
    """
    options = {
        "driver": "GTiff",
        **(_QUICK if scratch else _SMALL),
        "predictor": 2 if np.dtype(dtype).kind in "iu" else 3,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "bigtiff": "if_safer",
        # By default GDAL tags a fourth band of bytes as alpha.
        "photometric": "rgb" if tuple(descriptions) == _RGB else "minisblack",
        **profile,
    }
    georeferencing = {"crs": grid.crs, "transform": grid.transform}
    shape = {"height": grid.height, "width": grid.width, "count": count, "dtype": dtype}
    stored = georeferencing | shape | {"nodata": nodata} | options
    with replace_file(path) as partial:
        with (
            writable_name(partial) as name,
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True) if masked else nullcontext(),
            rasterio.open(name, "w", **stored) as sink,
        ):
            if tags:
                sink.update_tags(**tags)
            for index, description in enumerate(descriptions, start=1):
                sink.set_band_description(index, description)
            if scales:
                sink.scales = scales
            if colormap:
                sink.write_colormap(1, colormap)
            yield sink
        _check_written(partial)


def _check_written(path: Path) -> None:
    """Raise if the disk is full: GDAL does not report that the end of a file is missing."""
    free = free_space(path.parent)
    if free is not None and free < LEAST_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def write_array(
    path: str | Path,
    grid: Grid,
    array: np.ndarray,
    *,
    valid: np.ndarray | None = None,
    **options: Any,
) -> None:
    """Write (C, H, W) as one GeoTIFF.

    Args:
        path: Final name.
        grid: Pixel grid.
        array: (C, H, W).
        valid: (H, W); False is stored as nodata in the file's mask.
        **options: As in `open_for_writing`.
    """
    masked = valid is not None and not valid.all()
    stored = {"count": len(array), "dtype": array.dtype.name, "masked": masked, **options}
    with open_for_writing(path, grid, **stored) as sink:
        sink.write(array)
        if masked:
            sink.write_mask(valid)


def write_cog(source: str | Path, path: str | Path, *, resampling: str, threads: int = 1) -> None:
    """Write a raster as a Cloud Optimized GeoTIFF with overviews.

    Args:
        source: A complete raster.
        path: Final name.
        resampling: Method for overviews: `average` for probabilities, `nearest` or `mode`
            for classes.
        threads: Number of threads that compress. Two take half as much CPU time again as one.
    """
    with replace_file(path) as partial:
        with (
            writable_name(partial) as name,
            as_read_errors(source, action="copied", remedy=_UNCOPIED),
        ):
            gdal_copy(
                readable_name(source),
                str(name),
                driver="COG",
                compress="DEFLATE",
                level=1,  # higher ones take three times as long to save a tenth
                predictor="YES",
                bigtiff="IF_SAFER",
                overview_resampling=resampling.upper(),
                blocksize="256",
                num_threads=str(threads),
            )
        _check_written(partial)
