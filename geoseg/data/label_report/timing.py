"""Estimated duration of a label report."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from geoseg.data.label_report.band_statistics import BAND_TILES
from geoseg.data.label_report.edges import fit_outlines
from geoseg.data.label_report.label_shift import SHIFT_TILES, reach_px
from geoseg.data.labels import IGNORE
from geoseg.geo.raster import Scene

# Tiles to time. The first is not counted, since it includes one-time imports.
_TIMED_TILES = 4

# Seconds for pictures, figures and the page.
_PAGE_S = 1.5


def estimate_report_seconds(folder: Path, tiles: pd.DataFrame, count: int) -> float:
    """Estimate the seconds that `write_label_report` will take.

    Args:
        folder: Folder with `images` and `targets` of the tiles.
        tiles: Some tiles, with the columns `id` and `building_fraction`.
        count: Number of tiles of the whole job.
    """
    built = tiles[tiles.building_fraction > 0]
    if built.empty:
        return _PAGE_S
    seconds = [_time_tile(folder, str(id_)) for id_ in built.id.iloc[:_TIMED_TILES]]
    steady = seconds[1:] or seconds
    reading = sum(read for read, _ in steady) / len(steady)
    fitting = sum(fit for _, fit in steady) / len(steady)
    fitted = min(SHIFT_TILES, count * len(built) / len(tiles))
    return _PAGE_S + min(BAND_TILES, count) * reading + fitted * (reading + fitting)


def _time_tile(folder: Path, id_: str) -> tuple[float, float]:
    """Return the seconds for reading a tile and for matching its outlines to its edges."""
    start = time.perf_counter()
    with (
        Scene(folder / "images" / f"{id_}.tif") as image,
        Scene(folder / "targets" / f"{id_}.tif", bands=[1]) as target,
    ):
        data, valid = image.read()
        classes, known = target.read()
    read = time.perf_counter()
    known &= classes[0] != IGNORE
    fit_outlines(data, valid, classes[0], known, reach_px(len(valid)))
    return read - start, time.perf_counter() - read
