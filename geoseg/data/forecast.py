"""What `geoseg tile` will take, from a few tiles that are really cut."""

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

# Runs of neighbours are cut, because neighbours share what a row of tiles reads once. Where tiles
# are slow there are fewer of them.
_RUN = 4
_RUNS = 16
_SECONDS = 20.0

# Until Dask and its processes are there.
_START_S = 3.0

# The page shows this many tiles, each in three bands as text, 4 letters for 3 bytes.
_SHOWN, _SHOWN_PX = 24, 256
_AS_TEXT = 4 / 3

# A row of tiles.parquet.
_ROW_BYTES = 150


@dataclass(frozen=True)
class Forecast:
    """What a run of `geoseg tile` is expected to make and to take.

    Attributes:
        tiles: Tiles per split that are kept.
        bytes: Size of the folder.
        seconds: Until it is there.
        report_seconds: Of these, for the label report.
        memory: Bytes at the peak, of all processes; None where it is not known.
        workers: Processes that cut.
        sampled: Tiles that were cut to find out.
    """

    tiles: dict[str, int]
    bytes: int
    seconds: float
    report_seconds: float
    memory: int | None
    workers: int
    sampled: int


def forecast_tiles(plan: TilingPlan, *, workers: int = 1) -> Forecast:
    """Cuts a few tiles of a plan into a temporary folder, and scales up what that took.

    Args:
        plan: From `plan_tiles`.
        workers: Processes that will cut.

    Raises:
        SceneReadError: If none of them can be cut.
    """
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for kind in ("images", "targets"):
            (folder / kind).mkdir()
        tiles, seconds = _cut_sample(plan, folder)
        report_s = estimate_report_seconds(folder, tiles[tiles.weight > 0], len(plan.tiles))
        grown = len(plan.tiles) / len(tiles)
        kept = _count_kept(plan, tiles)
        size = grown * float((tiles.weight * tiles.bytes).sum())
        size += _measure_rest(plan, tiles, sum(kept.values()))
    busy = min(workers, os.cpu_count() or 1)
    start_s = _START_S if workers > 1 else 0.0
    cutting_s = start_s + seconds * len(plan.tiles) / busy
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
    """Rows of tiles with their size on disk and the share of them that is kept; s per tile."""
    rows: list[dict[str, Any]] = []
    took: list[tuple[float, int]] = []
    begin = time.perf_counter()
    for run in _choose_runs(plan):
        start = time.perf_counter()
        rows += cut_tile_row(build_row_task(plan, folder, run))
        took.append((time.perf_counter() - start, len(run)))
        if time.perf_counter() - begin > _SECONDS:
            break
    # The first run also loads what all of them need.
    steady = took[1:] or took
    cut = pd.DataFrame(rows)
    if "building_fraction" not in cut:
        raise SceneReadError(rows[0]["error"])
    tiles = plan.tiles[["id", "split", "scene"]].merge(cut, on="id", sort=False)
    # Where every class is one to learn, no tile is empty.
    keep_empty = plan.options.keep_empty if plan.scheme.has_background else 1.0
    tiles["weight"] = _kept_share(tiles, keep_empty)
    tiles["bytes"] = [
        sum(file.stat().st_size for file in folder.glob(f"*/{id_}.tif")) for id_ in tiles.id
    ]
    return tiles, sum(s for s, _ in steady) / sum(count for _, count in steady)


def _choose_runs(plan: TilingPlan) -> Iterator[gpd.GeoDataFrame]:
    """Runs of neighbours in random order, no tile in two of them."""
    runs = [
        row.iloc[start : start + _RUN]
        for _, row in plan.tiles.groupby(["scene_index", "row_off"], sort=True)
        for start in range(0, len(row), _RUN)
    ]
    order = np.random.default_rng(plan.options.seed).permutation(len(runs))
    return (runs[place] for place in order[:_RUNS])


def _kept_share(tiles: pd.DataFrame, keep_empty: float) -> np.ndarray:
    """Which share of tiles like each is kept (N,)."""
    empty = (tiles.split == "train") & (tiles.building_fraction == 0)
    # Tiles that could not be read have no fractions.
    has_data = (tiles.valid_fraction > 0).to_numpy()
    return np.where(has_data, np.where(empty.to_numpy(), keep_empty, 1.0), 0.0)


def _count_kept(plan: TilingPlan, tiles: pd.DataFrame) -> dict[str, int]:
    """Tiles per split, by the share of each that the sample keeps."""
    shares = tiles.groupby("split").weight.mean()
    return {
        split: round(planned * float(shares.get(split, tiles.weight.mean())))
        for split, planned in plan.counts.items()
        if split in SPLITS
    }


def _measure_rest(plan: TilingPlan, tiles: pd.DataFrame, kept: int) -> float:
    """Bytes of what lies beside images and targets."""
    pixels = plan.options.size**2 * len(plan.scenes[0].bands)
    density = float(tiles.bytes.mean()) / pixels
    page = _AS_TEXT * min(_SHOWN, kept) * min(_SHOWN_PX**2, plan.options.size**2) * 3 * density
    return page + _ROW_BYTES * kept + _measure_footprints(plan)


def _measure_footprints(plan: TilingPlan) -> float:
    """Bytes of the footprints, from some of them."""
    total = 0.0
    for labels in plan.labels:
        if isinstance(labels, RasterLabels) or not len(labels):
            continue
        some = next(labels.iter_footprints()).geometry.to_numpy()[:1000]
        total += len(labels) * float(np.mean([len(wkb) for wkb in shapely.to_wkb(some)]))
    return total


def _peak_memory(workers: int) -> int | None:
    """Bytes: what this process took up to now, and as much for each worker."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    return int(peak * unit * (1 if workers == 1 else 1 + workers))
