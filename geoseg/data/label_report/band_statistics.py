"""Histograms of the values of each band."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np

from geoseg.data.label_report.sampling import spread_tiles
from geoseg.data.label_report.summary import Histogram
from geoseg.data.tiles import TilesInfo
from geoseg.geo.raster import Scene

BINS = 64

# Upper limits of the sample: tiles that are read and pixels kept in memory.
BAND_TILES = 64
_PIXELS = 1_000_000

# Range of the histograms for data types other than uint8, so that outliers do not stretch them.
_PERCENTILES = (0.1, 99.9)


def measure_bands(folder: Path, tiles: gpd.GeoDataFrame, info: TilesInfo) -> tuple[Histogram, ...]:
    """Compute the histogram of each band over a sample of tiles.

    Args:
        folder: Folder of tiles.
        tiles: Tiles to sample.
        info: Metadata of the folder.

    Returns:
        One histogram per band: from 0 to 256 for uint8, else from the 0.1 to the 99.9
        percentile.
    """
    sampled = spread_tiles(tiles, BAND_TILES)
    # An odd step, since one that divides the tile width would sample the same columns only.
    step = max(1, len(sampled) * info.size**2 // _PIXELS) | 1
    pixels = np.concatenate([_read_pixels(folder, id_, step) for id_ in sampled.id], axis=1)
    return tuple(
        _count_values(name, values) for name, values in zip(info.bands, pixels, strict=True)
    )


def _read_pixels(folder: Path, id_: str, step: int) -> np.ndarray:
    with Scene(folder / "images" / f"{id_}.tif") as scene:
        data, valid = scene.read()
    # A copy, since a view would keep all pixels of the tile in memory.
    return data[:, valid][:, ::step].copy()


def _count_values(name: str, values: np.ndarray) -> Histogram:
    if values.dtype == np.uint8:
        low, high = 0.0, 256.0
    else:
        low, high = (float(f"{edge:.6g}") for edge in np.percentile(values, _PERCENTILES))
    if low >= high:  # all values are equal
        high = low + (abs(low) or 1.0)
    counts, _ = np.histogram(values, BINS, range=(low, high))
    return Histogram(
        name=name,
        low=low,
        high=high,
        counts=tuple(counts.tolist()),
        below=int((values < low).sum()),
        above=int((values > high).sum()),
    )
