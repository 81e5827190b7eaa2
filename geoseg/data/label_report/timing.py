"""How long a survey takes, from a few of its tiles."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from geoseg.data.label_report.band_statistics import BAND_TILES
from geoseg.data.label_report.edges import fit_outlines
from geoseg.data.label_report.label_shift import SHIFT_TILES, reach_px
from geoseg.data.labels import IGNORE
from geoseg.geo.raster import Scene

# Tiles that are tried: one more than counts, as the first loads what all of them need.
_TRIED = 4

# For pictures, diagrams and the page.
_PAGE_S = 1.5


def estimate_report_seconds(folder: Path, tiles: pd.DataFrame, count: int) -> float:
    """Estimates the seconds that `write_label_report` will take.

    Args:
        folder: With `images` and `targets` of the tiles.
        tiles: Some tiles, with `id` and `building_fraction`.
        count: How many there will be.
    """
    built = tiles[tiles.building_fraction > 0]
    if built.empty:
        return _PAGE_S
    took = [_time_tile(folder, str(id_)) for id_ in built.id.iloc[:_TRIED]]
    steady = took[1:] or took
    reading = sum(read for read, _ in steady) / len(steady)
    fitting = sum(fit for _, fit in steady) / len(steady)
    fitted = min(SHIFT_TILES, count * len(built) / len(tiles))
    return _PAGE_S + min(BAND_TILES, count) * reading + fitted * (reading + fitting)


def _time_tile(folder: Path, id_: str) -> tuple[float, float]:
    """Seconds for reading a tile, and for moving its labels over it."""
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
