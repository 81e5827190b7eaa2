"""Forecast of time, memory and disk space of `geoseg tile`, from a sample of tiles."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geoseg.data.label_report import estimate_report_seconds
from geoseg.data.labels import RasterLabels
from geoseg.data.splits import SPLITS
from geoseg.data.tiles import TilingPlan, build_row_task, cut_tile_row
from geoseg.errors import SceneReadError

# Groups of adjacent tiles are cut, as adjacent tiles share pixels that are read only once; fewer
# groups if the time limit is reached.
_GROUP_SIZE = 4
_MAX_GROUPS = 16
_TIME_LIMIT_S = 20.0

# Time until Dask and its worker processes have started.
_START_S = 3.0

# The label report shows this many tiles in three bands, encoded as base64: 4 bytes for 3.
_SHOWN_TILES, _SHOWN_PX = 24, 256
_BASE64_FACTOR = 4 / 3

# Size of a row of tiles.parquet.
_ROW_BYTES = 150


@dataclass(frozen=True)
class Forecast:
    """Expected output size, duration and memory of `geoseg tile`.

    Attributes:
        tiles: Number of tiles per split.
        bytes: Size of the output folder.
        seconds: Duration, label report included.
        report_seconds: Duration of the label report.
        memory: Peak memory of all processes in bytes; None if unknown.
        workers: Number of worker processes.
        sampled: Number of tiles that were cut to measure.
    """

    tiles: dict[str, int]
    bytes: int
    seconds: float
    report_seconds: float
    memory: int | None
    workers: int
    sampled: int


def forecast_tiles(plan: TilingPlan, *, workers: int = 1) -> Forecast:
    """Cut a sample of tiles into a temporary folder and extrapolate to all tiles.

    Args:
        plan: From `plan_tiles`.
        workers: Number of worker processes that will cut tiles.

    Raises:
        SceneReadError: If no tile of the sample can be cut.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("images", "targets"):
            (folder / kind).mkdir()
        tiles, seconds = _cut_sample(plan, folder)
        report_s = estimate_report_seconds(folder, tiles[tiles.weight > 0], len(plan.tiles))
        scale = len(plan.tiles) / len(tiles)
        kept = _count_kept(plan, tiles)
        size = scale * float((tiles.weight * tiles.bytes).sum())
        size += _estimate_other_bytes(plan, tiles, sum(kept.values()))
    parallel = min(workers, os.cpu_count() or 1)
    start_s = _START_S if workers > 1 else 0.0
    cutting_s = start_s + seconds * len(plan.tiles) / parallel
    return Forecast(
        tiles=kept,
        bytes=round(size),
        seconds=cutting_s + report_s,
        report_seconds=report_s,
        memory=_peak_memory(workers),
        workers=workers,
        sampled=len(tiles),
    )


def _cut_sample(plan: TilingPlan, folder: Path) -> tuple[pd.DataFrame, float]:
    """Return a table of sampled tiles with columns bytes and weight, and seconds per tile.

    The weight of a tile is the fraction of tiles like it that is kept.
    """
    rows: list[dict[str, Any]] = []
    durations: list[tuple[float, int]] = []
    begin = time.perf_counter()
    for group in _choose_groups(plan):
        start = time.perf_counter()
        rows += cut_tile_row(build_row_task(plan, folder, group))
        durations.append((time.perf_counter() - start, len(group)))
        if time.perf_counter() - begin > _TIME_LIMIT_S:
            break
    # The first group is slower, as it also imports modules and opens files.
    steady = durations[1:] or durations
    cut = pd.DataFrame(rows)
    if "building_fraction" not in cut:
        raise SceneReadError(rows[0]["error"])
    tiles = plan.tiles[["id", "split", "scene"]].merge(cut, on="id", sort=False)
    # If every class is a class to learn, no tile is empty.
    keep_empty = plan.options.keep_empty if plan.scheme.has_background else 1.0
    tiles["weight"] = _kept_fractions(tiles, keep_empty)
    tiles["bytes"] = [
        sum(file.stat().st_size for file in folder.glob(f"*/{id_}.tif")) for id_ in tiles.id
    ]
    return tiles, sum(s for s, _ in steady) / sum(count for _, count in steady)


def _choose_groups(plan: TilingPlan) -> Iterator[gpd.GeoDataFrame]:
    """Return disjoint groups of adjacent tiles in random order."""
    groups = [
        row.iloc[start : start + _GROUP_SIZE]
        for _, row in plan.tiles.groupby(["scene_index", "row_off"], sort=True)
        for start in range(0, len(row), _GROUP_SIZE)
    ]
    order = np.random.default_rng(plan.options.seed).permutation(len(groups))
    return (groups[index] for index in order[:_MAX_GROUPS])


def _kept_fractions(tiles: pd.DataFrame, keep_empty: float) -> np.ndarray:
    """Return the fraction of tiles like each that is kept (N,)."""
    empty = (tiles.split == "train") & (tiles.building_fraction == 0)
    # Tiles that could not be read have a NaN here, which is not greater than 0.
    has_data = (tiles.valid_fraction > 0).to_numpy()
    return np.where(has_data, np.where(empty.to_numpy(), keep_empty, 1.0), 0.0)


def _count_kept(plan: TilingPlan, tiles: pd.DataFrame) -> dict[str, int]:
    """Return the expected number of kept tiles per split, from the sample."""
    fractions = tiles.groupby("split").weight.mean()
    return {
        split: round(planned * float(fractions.get(split, tiles.weight.mean())))
        for split, planned in plan.counts.items()
        if split in SPLITS
    }


def _estimate_other_bytes(plan: TilingPlan, tiles: pd.DataFrame, kept: int) -> float:
    """Return the expected size of everything but images and targets, in bytes."""
    pixels = plan.options.size**2 * len(plan.scenes[0].bands)
    bytes_per_value = float(tiles.bytes.mean()) / pixels
    shown_values = 3 * min(_SHOWN_TILES, kept) * min(_SHOWN_PX**2, plan.options.size**2)
    page = _BASE64_FACTOR * shown_values * bytes_per_value
    return page + _ROW_BYTES * kept + _estimate_footprint_bytes(plan)


def _estimate_footprint_bytes(plan: TilingPlan) -> float:
    """Return the expected size of footprints.parquet in bytes, from a sample."""
    total = 0.0
    for labels in plan.labels:
        if isinstance(labels, RasterLabels) or not len(labels):
            continue
        sample = next(labels.iter_footprints()).geometry.to_numpy()[:1000]
        total += len(labels) * float(np.mean([len(wkb) for wkb in shapely.to_wkb(sample)]))
    return total


def _peak_memory(workers: int) -> int | None:
    """Return the expected peak memory in bytes: this process's peak, also for each worker."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    return int(peak * unit * (1 if workers == 1 else 1 + workers))
