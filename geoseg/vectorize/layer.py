"""A probability raster becomes a layer of footprints, component by component."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from affine import Affine
from rasterio.windows import Window
from scipy import ndimage
from shapely.geometry import Polygon

from geoseg.errors import OutputExistsError
from geoseg.grid import Grid
from geoseg.options import CRFOptions, Thresholds
from geoseg.plan import Progress
from geoseg.refine import refine_raster
from geoseg.vector import FOOTPRINT_COLUMNS, as_crs, check_suffix, write_footprints
from geoseg.vector.measure import geodesic_measures, pixel_areas_m2
from geoseg.vectorize.components import EIGHT, Component, find_components
from geoseg.vectorize.prob import ArrayProb, Prob, ProbSource, SceneProb
from geoseg.vectorize.separate import fill_holes, separate
from geoseg.vectorize.thresholds import read_thresholds
from geoseg.vectorize.trace import simplify_coverage, trace

BLOCK_ROWS = 1024
_BATCH = 4096  # footprints
_SEED_SHARE = 0.25  # of the minimum area; a smaller seed is noise


def vectorize(
    prob: str | Path,
    output: str | Path,
    *,
    thresholds: Thresholds | None = None,
    scene: str | Path | None = None,
    crf: CRFOptions | None = None,
    block_rows: int = BLOCK_ROWS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Turns a probability raster into a file of footprints.

    Args:
        prob: Probability raster, see `SceneProb`.
        output: .geojson, .shp, .gpkg, .fgb or .parquet; appears only when complete.
        thresholds: When None those in the raster's tags, else the defaults.
        scene: When given, probabilities are first refined by its colours with a dense CRF.
        crf: How they are refined; the defaults when None.
        block_rows: Rows in memory at a time; the result does not depend on it.
        overwrite: Whether an existing output may be replaced.
        progress: Told the finished and the total number of blocks refined.

    Returns:
        Number of footprints written.

    Raises:
        ConfigError: If the suffix or the thresholds are wrong.
        OutputExistsError: If the output exists and may not be replaced.
        SceneReadError: If `prob` cannot be read or is no probability raster.
        MissingCRSError: If `prob` does not say where it lies.
    """
    check_suffix(output)
    if Path(output).exists() and not overwrite:
        raise OutputExistsError(f"{output}: exists already; pass --overwrite or another name")
    with _refined(prob, scene, crf, output, progress) as refined, SceneProb(refined) as source:
        batches = _iter_batches(source, thresholds or read_thresholds(prob), block_rows)
        return write_footprints(output, batches, crs=source.grid.crs)


@contextmanager
def _refined(
    prob: str | Path,
    scene: str | Path | None,
    options: CRFOptions | None,
    output: str | Path,
    progress: Progress | None,
) -> Iterator[str | Path]:
    """The probabilities refined beside the output, or as they are where no scene is given."""
    if scene is None:
        yield prob
        return
    with SceneProb(prob):  # refuse what is no probability raster before the work begins
        pass
    parent = Path(output).parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".geoseg-", dir=parent) as folder:
        refined = Path(folder) / "refined.tif"
        refine_raster(prob, scene, refined, options=options, progress=progress)
        yield refined


def iter_footprints(
    prob: str | Path, *, thresholds: Thresholds, block_rows: int = BLOCK_ROWS
) -> Iterator[gpd.GeoDataFrame]:
    """Yields the footprints of a probability raster in batches.

    Args:
        prob: Probability raster, see `SceneProb`.
        thresholds: What makes a building.
        block_rows: Rows in memory at a time; the result does not depend on it.

    Yields:
        Frames in the raster's CRS with id (1..n in scan order), area_m2, perimeter_m,
        confidence (mean p_body inside, 0..1) and geometry (valid Polygons).

    Raises:
        SceneReadError: If `prob` cannot be read or is no probability raster.
        MissingCRSError: If `prob` does not say where it lies.
    """
    with SceneProb(prob) as source:
        yield from _iter_batches(source, thresholds, block_rows)


def vectorize_arrays(
    body: np.ndarray,
    border: np.ndarray | None,
    valid: np.ndarray,
    grid: Grid,
    thresholds: Thresholds,
) -> gpd.GeoDataFrame:
    """Turns probabilities in memory into footprints, exactly as `vectorize` does from a file.

    Args:
        body: p_body (H, W), uint8 (255 = certain) or float in 0..1.
        border: p_border (H, W) likewise, or None.
        valid: Boolean (H, W), False on nodata.
        grid: Place on the ground.
        thresholds: What makes a building.

    Returns:
        All footprints, columns as in `iter_footprints`.
    """
    source = ArrayProb(body, border, valid, grid)
    return join_batches(_iter_batches(source, thresholds, grid.height), grid)


def place_footprints(
    outlines: Iterator[tuple[Polygon, float]], grid: Grid, min_area_m2: float
) -> Iterator[gpd.GeoDataFrame]:
    """Brings outlines to the ground, measures and numbers them.

    Args:
        outlines: Outline in pixels of the grid, and confidence.
        grid: Place on the ground.
        min_area_m2: Smaller footprints are dropped.

    Yields:
        Frames as in `iter_footprints`.
    """
    next_id = 1
    while batch := list(islice(outlines, _BATCH)):
        frame = _build_batch(batch, grid)
        frame = frame[frame["area_m2"] >= min_area_m2].reset_index(drop=True)
        frame["id"] = np.arange(next_id, next_id + len(frame), dtype=np.int64)
        next_id += len(frame)
        yield frame


def _iter_batches(
    source: ProbSource, thresholds: Thresholds, block_rows: int
) -> Iterator[gpd.GeoDataFrame]:
    objects = _iter_objects(source, thresholds, block_rows)
    return place_footprints(objects, source.grid, thresholds.min_area_m2)


def join_batches(batches: Iterator[gpd.GeoDataFrame], grid: Grid) -> gpd.GeoDataFrame:
    """All footprints of some frames as one, which may be empty, on their grid."""
    frames = list(batches)
    return pd.concat(frames, ignore_index=True) if frames else _build_batch([], grid)


def _iter_objects(
    source: ProbSource, thresholds: Thresholds, block_rows: int
) -> Iterator[tuple[Polygon, float]]:
    """Yields outline in pixels of the grid and confidence, component by component."""

    def read_mask(window: Window) -> np.ndarray:
        return _mask(source.read(window), thresholds)

    components = find_components(read_mask, source.grid.shape, block_rows)
    centres = np.array([component.centre for component in components]).reshape(-1, 2)
    areas_m2 = pixel_areas_m2(source.grid, centres[:, 1], centres[:, 0])
    for component, pixel_m2 in zip(components, areas_m2.tolist(), strict=True):
        if component.area * pixel_m2 >= thresholds.min_area_m2:
            prob = source.read(component.window)
            yield from _trace_component(prob, component, thresholds, pixel_m2)


def _trace_component(
    prob: Prob, component: Component, thresholds: Thresholds, pixel_m2: float
) -> list[tuple[Polygon, float]]:
    """Objects of one component, from the probabilities of its own window."""
    row, column = component.first[0], component.first[1]
    top, left = component.window.row_off, component.window.col_off
    pieces, _ = ndimage.label(_mask(prob, thresholds), structure=EIGHT)
    mask = pieces == pieces[row - top, column - left]
    min_area_px = thresholds.min_area_m2 / pixel_m2
    labels = separate(
        prob.body,
        prob.border,
        fill_holes(mask, prob.valid, min_area_px),
        thresholds,
        min_seed_px=_SEED_SHARE * min_area_px,
        min_area_px=min_area_px,
    )
    outlines = [polygon for _, polygon in trace(labels, Affine.translation(left, top))]
    if not outlines:
        return []
    tolerance = thresholds.simplify_m / math.sqrt(pixel_m2)
    confidences = ndimage.mean(prob.body, labels, np.arange(1, len(outlines) + 1))
    return list(zip(simplify_coverage(outlines, tolerance), confidences, strict=True))


def _mask(prob: Prob, thresholds: Thresholds) -> np.ndarray:
    mask: np.ndarray = prob.valid & (prob.body >= np.float32(thresholds.body))
    return mask


def _build_batch(objects: list[tuple[Polygon, float]], grid: Grid) -> gpd.GeoDataFrame:
    """Places outlines in pixels on the ground and measures them; ids are left at 0."""
    crs = as_crs(grid.crs)
    polygons = _to_ground(np.array([polygon for polygon, _ in objects], dtype=object), grid)
    areas, perimeters = geodesic_measures(polygons, crs)
    frame = pd.DataFrame(
        {
            "id": np.zeros(len(polygons)),
            "area_m2": areas.round(3),
            "perimeter_m": perimeters.round(3),
            "confidence": np.array([confidence for _, confidence in objects]).round(4),
        }
    )
    return gpd.GeoDataFrame(frame.astype(dict(FOOTPRINT_COLUMNS)), geometry=polygons, crs=crs)


def _to_ground(polygons: np.ndarray, grid: Grid) -> np.ndarray:
    ground: np.ndarray = shapely.transform(
        polygons, lambda pixels: np.column_stack(grid.transform @ (pixels[:, 0], pixels[:, 1]))
    )
    return ground
