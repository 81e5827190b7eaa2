"""A probability raster becomes a layer, of footprints or of the polygons of each class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np

from geoseg.errors import OutputExistsError
from geoseg.grid import Grid
from geoseg.options import CRFOptions, Thresholds
from geoseg.plan import Progress
from geoseg.raster import read_prob_info
from geoseg.refine import refine_raster
from geoseg.vector import check_suffix, write_footprints
from geoseg.vectorize.buildings import BUILDING_COLUMNS, iter_buildings
from geoseg.vectorize.classes import CLASS_COLUMNS, iter_classes
from geoseg.vectorize.place import join_batches, place_footprints
from geoseg.vectorize.prob import ArrayProb, ClassProb, ProbSource, SceneProb
from geoseg.vectorize.thresholds import read_classes, read_thresholds

BLOCK_ROWS = 1024


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
    """Turns a probability raster into a file of footprints, or of polygons of each class.

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
    thresholds = thresholds or read_thresholds(prob)
    with _refined(prob, scene, crf, output, progress) as refined:
        batches = iter_footprints(refined, thresholds=thresholds, block_rows=block_rows)
        columns = CLASS_COLUMNS if read_classes(prob) else BUILDING_COLUMNS
        crs = read_prob_info(prob).grid.crs
        return write_footprints(output, batches, crs=crs, columns=columns)


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
    _open_source(prob).close()  # refuse what is no probability raster before the work begins
    parent = Path(output).parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".geoseg-", dir=parent) as folder:
        refined = Path(folder) / "refined.tif"
        refine_raster(prob, scene, refined, options=options, progress=progress)
        yield refined


def iter_footprints(
    prob: str | Path, *, thresholds: Thresholds, block_rows: int = BLOCK_ROWS
) -> Iterator[gpd.GeoDataFrame]:
    """Yields the footprints of a probability raster in batches, or the polygons of each class.

    Args:
        prob: Probability raster, see `SceneProb`.
        thresholds: What makes a building.
        block_rows: Rows in memory at a time; the result does not depend on it.

    Yields:
        Frames in the raster's CRS with the columns `BUILDING_COLUMNS` and geometry (valid
        Polygons): id (1..n in scan order), area_m2, perimeter_m, confidence (mean p_body inside,
        0..1), conf_p10 (its tenth percentile), edge (touches nodata or the raster's border) and
        reg_status (how the outline was drawn); of exclusive classes see `iter_classes`.

    Raises:
        SceneReadError: If `prob` cannot be read or is no probability raster.
        MissingCRSError: If `prob` does not say where it lies.
    """
    with _open_source(prob) as source:
        if isinstance(source, ClassProb):
            yield from iter_classes(source, thresholds, block_rows)
        else:
            yield from _iter_batches(source, thresholds, block_rows)


def _open_source(prob: str | Path) -> SceneProb | ClassProb:
    classes = read_classes(prob)
    return ClassProb(prob, classes) if classes else SceneProb(prob)


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
    batches = _iter_batches(source, thresholds, max(grid.height, 1))
    return join_batches(batches, grid, BUILDING_COLUMNS)


def _iter_batches(
    source: ProbSource, thresholds: Thresholds, block_rows: int
) -> Iterator[gpd.GeoDataFrame]:
    buildings = iter_buildings(source, thresholds, block_rows)
    return place_footprints(
        buildings, source.grid, thresholds.min_area_m2, thresholds.min_confidence
    )
