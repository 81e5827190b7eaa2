"""Alignment of the polygons of a layer with probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from geoseg.alignment.choice import ChosenShifts, Scores, choose_shifts
from geoseg.alignment.groups import move_polygons
from geoseg.alignment.lattice import ShiftLattice
from geoseg.alignment.likelihood import PIECE_PX, LikelihoodMeter, PolygonScore
from geoseg.geo.crs import ContinuousTransformer
from geoseg.geo.grid import Grid
from geoseg.geo.vector import to_crs_near
from geoseg.jobs.progress import Progress
from geoseg.options import AlignOptions
from geoseg.vectorization.prob_sources import ProbSource

# Columns that are added to a layer; metres to the east and to the north, and the growth of the
# mean log likelihood per pixel.
SHIFT_COLUMNS = ("shift_x_m", "shift_y_m", "shift_gain")

# Polygons are scored block by block, so that stored blocks of the raster are read few times.
_BLOCK_PX = 512

# File of the scores in the working folder.
_SCORES = "scores.npy"


@dataclass(frozen=True)
class Alignment:
    """An aligned layer.

    Attributes:
        frame: All polygons of the layer, in its CRS and order, with the columns `SHIFT_COLUMNS`.
        outside: Number of polygons outside the scene, or on nodata.
        unsupported: Number of other polygons where the probabilities have no building.
    """

    frame: gpd.GeoDataFrame
    outside: int
    unsupported: int


def align_polygons(
    layer: gpd.GeoDataFrame,
    source: ProbSource,
    folder: Path,
    *,
    options: AlignOptions | None = None,
    piece_px: int = PIECE_PX,
    progress: Progress | None = None,
) -> Alignment:
    """Move each polygon of a layer to the best agreement with the probabilities.

    Polygons that touch are moved together. Polygons outside the scene, or without any valid pixel,
    stay as they are.

    Args:
        layer: Valid polygons in any CRS with a location on Earth, or in that of the probabilities.
        source: Building probabilities.
        folder: Folder for a temporary file.
        options: Options of the alignment.
        piece_px: See `LikelihoodMeter`.
        progress: Called with the finished and the total number of polygons.

    Raises:
        MissingCRSError: If only one of the two CRSs has a location on Earth.
        SceneReadError: If the probabilities cannot be read.
    """
    options = options or AlignOptions()
    grid = source.grid
    lattice = ShiftLattice.of_grid(grid, options.max_shift_m)
    polygons = _to_metric_pixels(layer, grid)
    known = np.flatnonzero(~shapely.is_empty(polygons))
    chosen = _nowhere(len(layer))
    outside, unsupported = len(layer), 0
    inside = np.flatnonzero(shapely.intersects(polygons[known], _outline(grid)))
    if len(inside):
        meter = LikelihoodMeter(source, polygons[known], lattice, options, piece_px)
        scores = _score(meter, polygons[known], inside, grid, folder / _SCORES, options, progress)
        chosen = _place(chosen, choose_shifts(polygons[known], scores, meter), known)
        outside = len(layer) - int(scores.is_seen.sum())
        unsupported = int((scores.is_seen & ~scores.is_supported).sum())
    return Alignment(_move(layer, grid, chosen), outside, unsupported)


def add_shift_columns(layer: gpd.GeoDataFrame, values: np.ndarray) -> gpd.GeoDataFrame:
    """Return a layer with values (3, N) of the columns `SHIFT_COLUMNS`, which replace its own."""
    kept = layer.drop(columns=list(SHIFT_COLUMNS), errors="ignore")
    return kept.assign(**dict(zip(SHIFT_COLUMNS, values, strict=True)))


def _to_metric_pixels(layer: gpd.GeoDataFrame, grid: Grid) -> np.ndarray:
    """Return the polygons (N,) in columns and rows of a grid times metres per pixel.

    Those that cannot be projected to the CRS of the grid are empty.
    """
    flat = layer.set_geometry(layer.geometry.force_2d())
    shapes = np.array(to_crs_near(flat, grid.crs, grid).geometry.array, dtype=object)
    scale = np.array(grid.axis_gsd_m)
    lost = ~np.isfinite(shapely.bounds(shapes).reshape(-1, 4)).all(axis=1)
    shapes[lost] = shapely.Polygon()
    shapes = shapely.transform(
        shapes, lambda points: np.column_stack(grid.to_pixels(*points.T)) * scale
    )
    invalid = ~shapely.is_valid(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid], method="structure", keep_collapsed=False)
    return shapes


def _outline(grid: Grid) -> shapely.Polygon:
    width, height = np.array([grid.width, grid.height]) * grid.axis_gsd_m
    return shapely.box(0, 0, width, height)


def _score(
    meter: LikelihoodMeter,
    polygons: np.ndarray,
    inside: np.ndarray,
    grid: Grid,
    path: Path,
    options: AlignOptions,
    progress: Progress | None,
) -> Scores:
    """Score the polygons at some positions; the others have no valid pixel."""
    count = len(polygons)
    surfaces = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(len(inside), *meter.lattice.shape)
    )
    rows = np.full(count, -1)
    pixels, supported, seen = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
    for done, index in enumerate(_in_blocks(polygons, inside, grid), start=1):
        score = meter.measure(index)
        # Values relative to no shift, so that 32 bits suffice.
        middle = score.log_likelihood[meter.lattice.middle]
        surfaces[done - 1], rows[index] = score.log_likelihood - middle, done - 1
        pixels[index] = max(score.pixels, 1e-3)
        seen[index] = score.is_seen
        supported[index] = seen[index] and _is_supported(score, meter.lattice, options.least_prob)
        if progress:
            progress(done, len(inside), "polygons")
    return Scores(surfaces, rows, pixels, supported, seen)


def _is_supported(score: PolygonScore, lattice: ShiftLattice, least_prob: float) -> bool:
    """Whether the mean probability reaches a value within the polygon at its best shift."""
    best = np.argmax(np.where(lattice.allowed, score.log_likelihood, -np.inf))
    return bool(score.inside_prob.flat[best] >= least_prob)


def _in_blocks(polygons: np.ndarray, chosen: np.ndarray, grid: Grid) -> list[int]:
    """Return positions in the order of blocks of the raster, row by row."""
    left, top, _, _ = shapely.bounds(polygons[chosen]).reshape(-1, 4).T
    x, y = grid.axis_gsd_m
    columns, rows = left // (x * _BLOCK_PX), top // (y * _BLOCK_PX)
    order: list[int] = chosen[np.lexsort((left, columns, rows))].tolist()
    return order


def _nowhere(count: int) -> ChosenShifts:
    zeros = np.zeros((count, 2))
    return ChosenShifts(zeros, np.zeros(count), np.arange(count), zeros)


def _place(every: ChosenShifts, some: ChosenShifts, positions: np.ndarray) -> ChosenShifts:
    """Return the shifts of all polygons, with those of some at their positions."""
    shifts, gains, centres = every.shifts_m.copy(), every.gains.copy(), every.centres_m.copy()
    shifts[positions], gains[positions] = some.shifts_m, some.gains
    centres[positions] = some.centres_m
    return ChosenShifts(shifts, gains, every.groups, centres)


def _move(layer: gpd.GeoDataFrame, grid: Grid, chosen: ChosenShifts) -> gpd.GeoDataFrame:
    """Return a layer with moved polygons and the columns of their shifts.

    A group is moved as a whole in the CRS of the layer, by the shift in its middle, so that walls
    that its polygons share remain the same numbers.
    """
    shapes = np.array(layer.geometry.array, dtype=object)
    scale = np.array(grid.axis_gsd_m)
    moving = np.flatnonzero((chosen.shifts_m != 0).any(axis=1))
    places, steps = chosen.centres_m[moving] / scale, chosen.shifts_m[moving] / scale
    metres, offsets = np.zeros((len(layer), 2)), np.zeros((len(layer), 2))
    metres[moving] = grid.offsets_m(places, steps)
    offsets[moving] = _offsets_in_crs(layer, grid, places, steps)
    moved = gpd.GeoSeries(move_polygons(shapes, offsets), index=layer.index, crs=layer.crs)
    return add_shift_columns(layer, np.stack([*metres.T, chosen.gains])).set_geometry(moved)


def _offsets_in_crs(
    layer: gpd.GeoDataFrame, grid: Grid, places: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    """Return steps in pixels (n, 2) from places in pixels (n, 2) as offsets in the layer's CRS."""
    transformer = ContinuousTransformer(grid.crs, layer.crs)
    start, end = (
        transformer(np.column_stack(grid.transform * points.T))
        for points in (places, places + steps)
    )
    offsets: np.ndarray = end - start
    if transformer.period:
        offsets[:, 0] -= transformer.period.turns(offsets[:, 0])
    return offsets
