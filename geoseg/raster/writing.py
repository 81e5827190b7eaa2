"""Writes rasters that appear under their final name only when they are complete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.shutil import copy as gdal_copy

from geoseg.grid import Grid
from geoseg.journal import replace_file

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
    colormap: dict[int, tuple[int, int, int, int]] | None = None,
    masked: bool = True,
    **profile: Any,
) -> Iterator[Any]:
    """Opens a tiled, compressed GeoTIFF that is renamed to `path` only when complete.

    Args:
        path: Final name.
        grid: Place on the ground.
        count: Bands.
        dtype: Data type.
        nodata: Sentinel.
        tags: Dataset tags.
        descriptions: Name of each band.
        colormap: Colours of the first band's values.
        masked: Whether a mask may be written; it goes into the file itself.
        **profile: Further GeoTIFF creation options.

    Yields:
        A rasterio dataset in mode w.
    """
    options = {
        "driver": "GTiff",
        "compress": "deflate",
        "predictor": 2 if np.dtype(dtype).kind in "iu" else 3,
        "zlevel": 6,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "bigtiff": "if_safer",
        # GDAL would take a fourth band of bytes for alpha.
        "photometric": "rgb" if tuple(descriptions) == _RGB else "minisblack",
        **profile,
    }
    with (
        replace_file(path) as partial,
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True) if masked else nullcontext(),
        rasterio.open(
            partial,
            "w",
            crs=grid.crs,
            transform=grid.transform,
            height=grid.height,
            width=grid.width,
            count=count,
            dtype=dtype,
            nodata=nodata,
            **options,
        ) as sink,
    ):
        if tags:
            sink.update_tags(**tags)
        for index, description in enumerate(descriptions, start=1):
            sink.set_band_description(index, description)
        if colormap:
            sink.write_colormap(1, colormap)
        yield sink


def write_array(
    path: str | Path,
    grid: Grid,
    array: np.ndarray,
    *,
    valid: np.ndarray | None = None,
    **options: Any,
) -> None:
    """Writes (C, H, W) as one GeoTIFF.

    Args:
        path: Final name.
        grid: Place on the ground.
        array: (C, H, W).
        valid: (H, W); where False, the file's own mask says nodata.
        **options: As in `open_for_writing`.
    """
    masked = valid is not None and not valid.all()
    stored = {"count": len(array), "dtype": array.dtype.name, "masked": masked, **options}
    with open_for_writing(path, grid, **stored) as sink:
        sink.write(array)
        if masked:
            sink.write_mask(valid)


def write_cog(source: str | Path, path: str | Path, *, resampling: str) -> None:
    """Rewrites a GeoTIFF as a Cloud Optimized GeoTIFF with overviews.

    Args:
        source: A complete GeoTIFF.
        path: Final name; appears only when complete.
        resampling: How overviews are made: `average` for probabilities, `nearest` or `mode`
            for classes.
    """
    with replace_file(path) as partial:
        gdal_copy(
            str(source),
            str(partial),
            driver="COG",
            compress="DEFLATE",
            predictor="YES",
            bigtiff="IF_SAFER",
            overview_resampling=resampling.upper(),
            blocksize="256",
            num_threads="1",
        )
