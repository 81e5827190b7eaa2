"""Estimation of the shift between labels and image.

The shift is the one at which the outlines of the labels agree best with the edges of the image.
"""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np

from geoseg.data.label_report.class_counts import read_classes
from geoseg.data.label_report.edges import EdgeFit, fit_outlines
from geoseg.data.label_report.sampling import spread_tiles
from geoseg.data.label_report.summary import LabelShift
from geoseg.data.tiles import TilesInfo
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene

# Size of the sample, and the tiles that a scene needs in it for a separate estimate.
SHIFT_TILES = 96
_SCENE_TILES = 8

# Largest shift that is tried; at most a quarter of the tile side, as outlines nearer to the
# border than the shift are left out.
_MAX_REACH_PX = 32

# The background is measured outside this radius around the peak.
_PEAK_RADIUS_PX = 6

# Bootstrap samples, and the share of them that is within the stated error.
_BOOTSTRAP_SAMPLES = 100
_CONFIDENCE = 2 / 3


def measure_shifts(
    folder: Path, tiles: gpd.GeoDataFrame, info: TilesInfo, seed: int
) -> tuple[LabelShift | None, dict[str, LabelShift]]:
    """Estimate the shift that aligns the labels with the image.

    The edge strength under the label outlines is averaged over a sample of tiles at each shift;
    the estimate is the shift with the highest mean.

    Args:
        folder: Folder of tiles.
        tiles: All its tiles.
        info: Metadata of the folder.
        seed: Random seed of the bootstrap.

    Returns:
        The shift over all scenes, None if no tile has both labels and image edges; and the shift
        of each scene, if there are several scenes with enough tiles each.
    """
    reach = reach_px(info.size)
    fits: dict[str, list[EdgeFit]] = {}
    grids: dict[str, Grid] = {}
    for tile in spread_tiles(tiles[tiles.building_fraction > 0], SHIFT_TILES).itertuples():
        grid, fit = _fit_tile(folder, str(tile.id), info, reach)
        if fit:
            fits.setdefault(str(tile.scene), []).append(fit)
            grids.setdefault(str(tile.scene), grid)
    if not fits:
        return None, {}
    overall = estimate_shift(fits, grids, seed)
    if len(fits) == 1:
        return overall, {}
    return overall, {
        scene: estimate_shift({scene: part}, grids, seed)
        for scene, part in fits.items()
        if len(part) >= _SCENE_TILES
    }


def reach_px(size: int) -> int:
    """Return the largest shift that is tried for tiles of a size."""
    return max(1, min(_MAX_REACH_PX, size // 4))


def estimate_shift(fits: dict[str, list[EdgeFit]], grids: dict[str, Grid], seed: int) -> LabelShift:
    """Estimate the shift from the agreement measured on tiles.

    Args:
        fits: Agreement of each tile, by scene.
        grids: Grid of any tile of each scene, for the direction of its axes.
        seed: Random seed of the bootstrap.
    """
    flat = [fit for part in fits.values() for fit in part]
    edges, outlines = np.stack([f.edges for f in flat]), np.stack([f.outlines for f in flat])
    surface = _divide(edges.sum(axis=0), outlines.sum(axis=0))
    dx, dy = find_peak(surface)
    strengths = _strengths(surface)
    # Scenes may have different axes and pixel sizes.
    east, north = np.average(
        [shift_in_metres(grids[scene], dx, dy) for scene in fits],
        axis=0,
        weights=[len(part) for part in fits.values()],
    )
    return LabelShift(
        dx=_rounded(dx),
        dy=_rounded(dy),
        east_m=_rounded(east),
        north_m=_rounded(north),
        error=round(_error(edges, outlines, (dx, dy), seed), 2),
        strength=round(float(strengths.max()), 1),
        reach=len(surface) // 2,
        tiles=len(flat),
        surface=tuple(tuple(row) for row in strengths.round(2).tolist()),
    )


def find_peak(surface: np.ndarray) -> tuple[float, float]:
    """Find the peak of a surface with subpixel precision, by a parabola along each axis.

    Args:
        surface: (2 * reach + 1, 2 * reach + 1).

    Returns:
        (dx, dy) from the centre.
    """
    reach = len(surface) // 2
    row, column = np.unravel_index(np.argmax(surface), surface.shape)
    dx = column - reach + _vertex(surface[row], int(column))
    dy = row - reach + _vertex(surface[:, column], int(row))
    return float(dx), float(dy)


def shift_in_metres(grid: Grid, dx: float, dy: float) -> tuple[float, float]:
    """Convert a shift in pixels at the centre of a grid to metres (east, north)."""
    centre, step = np.array([[grid.width, grid.height]]) / 2, np.array([[dx, dy]])
    ((east, north),) = grid.offsets_m(centre, step).tolist()
    return east, north


def _rounded(value: float) -> float:
    """Round to two decimals; adding zero turns -0.0 into 0.0."""
    return round(float(value), 2) + 0.0


def _fit_tile(folder: Path, id_: str, info: TilesInfo, reach: int) -> tuple[Grid, EdgeFit | None]:
    with Scene(folder / "images" / f"{id_}.tif") as scene:
        data, valid = scene.read()
    classes, known = read_classes(folder, id_, info)
    return scene.grid, fit_outlines(data, valid, classes, known, reach)


def _divide(edges: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    """Return the mean edge strength under the outlines, 0 without outlines on valid pixels."""
    mean: np.ndarray = edges / np.maximum(outlines, 1e-3 * outlines.max())
    return mean


def _strengths(surface: np.ndarray) -> np.ndarray:
    """Standardize a surface by the median and the MAD of its background."""
    reach = len(surface) // 2
    rows, columns = np.indices(surface.shape)
    row, column = np.unravel_index(np.argmax(surface), surface.shape)
    background = np.hypot(rows - row, columns - column) > min(_PEAK_RADIUS_PX, reach / 2)
    median = np.median(surface[background])
    # The factor turns the MAD of a normal distribution into its standard deviation.
    deviation = 1.4826 * np.median(np.abs(surface[background] - median))
    strengths: np.ndarray = (surface - median) / max(deviation, 1e-9)
    return strengths


def _error(edges: np.ndarray, outlines: np.ndarray, shift: tuple[float, float], seed: int) -> float:
    """Estimate the uncertainty of the peak in pixels by the bootstrap over tiles.

    See Efron, Annals of Statistics 7(1), 1979. The result is a quantile of the distances to the
    peak, since a standard deviation would be dominated by a single distant peak.
    """
    tiles = len(edges)
    draws = np.random.default_rng(seed).multinomial(
        tiles, np.full(tiles, 1 / tiles), _BOOTSTRAP_SAMPLES
    )
    peaks = [
        find_peak(_divide(np.tensordot(draw, edges, 1), np.tensordot(draw, outlines, 1)))
        for draw in draws.astype(edges.dtype)
    ]
    distances = np.hypot(*(np.array(peaks) - shift).T)
    return float(np.quantile(distances, _CONFIDENCE))


def _vertex(values: np.ndarray, peak: int) -> float:
    """Return the vertex of the parabola through a peak and its neighbours, relative to the peak."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    before, at, after = (float(value) for value in values[peak - 1 : peak + 2])
    bend = before - 2 * at + after
    return (before - after) / (2 * bend) if bend < 0 else 0.0
