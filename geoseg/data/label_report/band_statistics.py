"""How the values of each band are distributed."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np

from geoseg.data.label_report.sampling import spread_tiles
from geoseg.data.label_report.summary import Histogram
from geoseg.data.tiles import TilesInfo
from geoseg.geo.raster import Scene

BINS = 64

# At most this many tiles are read, and this many pixels kept in memory.
BAND_TILES = 64
_PIXELS = 1_000_000

# Histograms of other types than bytes leave out what lies beyond.
_PERCENTILES = (0.1, 99.9)


def measure_bands(folder: Path, tiles: gpd.GeoDataFrame, info: TilesInfo) -> tuple[Histogram, ...]:
    """Counts the values of each band over a sample of tiles.

    Args:
        folder: The folder of tiles.
        tiles: Tiles to sample.
        info: What the folder says of itself.

    Returns:
        One histogram per band: of bytes over all their 256 values, else from the 0.1 to the
        99.9 percentile.
    """
    sampled = spread_tiles(tiles, BAND_TILES)
    # An odd step does not fall into the columns of tiles.
    step = max(1, len(sampled) * info.size**2 // _PIXELS) | 1
    pixels = np.concatenate([_read_pixels(folder, id_, step) for id_ in sampled.id], axis=1)
    return tuple(
        _count_values(name, values) for name, values in zip(info.bands, pixels, strict=True)
    )


def _read_pixels(folder: Path, id_: str, step: int) -> np.ndarray:
    with Scene(folder / "images" / f"{id_}.tif") as scene:
        data, valid = scene.read()
    # A copy, as a view of some pixels would keep all of them in memory.
    return data[:, valid][:, ::step].copy()


def _count_values(name: str, values: np.ndarray) -> Histogram:
    if values.dtype == np.uint8:
        low, high = 0.0, 256.0
    else:
        low, high = (float(f"{edge:.6g}") for edge in np.percentile(values, _PERCENTILES))
    if low >= high:  # a band of one value has a bin of its own
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
