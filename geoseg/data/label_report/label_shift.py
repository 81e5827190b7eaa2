"""How far labels lie beside the image, from how well their outlines fit its edges."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
from pyproj import Transformer
from pyproj.exceptions import ProjError

from geoseg.data.label_report.class_counts import read_classes
from geoseg.data.label_report.edges import EdgeFit, fit_outlines
from geoseg.data.label_report.sampling import spread_tiles
from geoseg.data.label_report.summary import LabelShift
from geoseg.data.tiles import TilesInfo
from geoseg.geo.grid import WGS84_ELLIPSOID, Grid, unit_m
from geoseg.geo.raster import Scene

# Tiles that are looked at; a scene has a shift of its own if that many of them are its.
SHIFT_TILES = 96
_TILES_OF_SCENE = 8

# Shifts up to this are tried, and up to a quarter of a tile.
_REACH_PX = 32

# The peak itself is no background.
_PEAK_PX = 6

# How often the tiles are drawn anew to see how much the peak moves.
_DRAWS = 100
_USUALLY = 2 / 3


def measure_shifts(
    folder: Path, tiles: gpd.GeoDataFrame, info: TilesInfo, seed: int
) -> tuple[LabelShift | None, dict[str, LabelShift]]:
    """Estimates by how much labels are to be moved to fit the image.

    The image's edges are summed under the outlines of the labels for every shift, over a
    sample of tiles; the best shift is where the sum peaks. Memory is bounded by the sample.

    Args:
        folder: The folder of tiles.
        tiles: All its tiles.
        info: What the folder says of itself.
        seed: Of the draws that tell how sure the shift is.

    Returns:
        The shift over all scenes, None if no tile has both labels and edges; and that of each
        scene, where there are several and enough tiles of one.
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
        if len(part) >= _TILES_OF_SCENE
    }


def reach_px(size: int) -> int:
    """Up to which shift the tiles of a size are compared."""
    return max(1, min(_REACH_PX, size // 4))


def estimate_shift(fits: dict[str, list[EdgeFit]], grids: dict[str, Grid], seed: int) -> LabelShift:
    """Finds the shift at which the tiles of scenes fit best.

    Args:
        fits: Of the tiles of each scene.
        grids: Any tile's grid of each scene, which tells where its axes run on the ground.
        seed: Of the draws that tell how sure the shift is.
    """
    every = [fit for part in fits.values() for fit in part]
    edges, outlines = np.stack([f.edges for f in every]), np.stack([f.outlines for f in every])
    surface = _divide(edges.sum(axis=0), outlines.sum(axis=0))
    dx, dy = find_peak(surface)
    strengths = _strengths(surface)
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
        tiles=len(every),
        surface=tuple(tuple(row) for row in strengths.round(2).tolist()),
    )


def find_peak(surface: np.ndarray) -> tuple[float, float]:
    """Finds the highest point of a surface to a part of a pixel, by a parabola on each axis.

    Args:
        surface: Square, (2 * reach + 1)².

    Returns:
        (dx, dy) from the middle.
    """
    reach = len(surface) // 2
    row, column = np.unravel_index(np.argmax(surface), surface.shape)
    dx = column - reach + _vertex(surface[row], int(column))
    dy = row - reach + _vertex(surface[:, column], int(row))
    return float(dx), float(dy)


def shift_in_metres(grid: Grid, dx: float, dy: float) -> tuple[float, float]:
    """Metres to the east and to the north of a move by pixels at a grid's centre."""
    column, row = grid.width / 2, grid.height / 2
    (x, y), (moved_x, moved_y) = (
        grid.transform @ (column, row),
        grid.transform @ (column + dx, row + dy),
    )
    try:
        transformer = Transformer.from_crs(grid.crs.to_wkt(), 4326, always_xy=True)
        lon, lat = transformer.transform([x, moved_x], [y, moved_y], errcheck=True)
    except ProjError:
        unit = unit_m(grid.crs)
        return (moved_x - x) * unit, (moved_y - y) * unit
    azimuth, _, metres = WGS84_ELLIPSOID.inv(lon[0], lat[0], lon[1], lat[1])
    angle = np.deg2rad(azimuth)
    return float(metres * np.sin(angle)), float(metres * np.cos(angle))


def _rounded(value: float) -> float:
    """To a hundredth; adding zero turns -0.0 into 0.0."""
    return round(float(value), 2) + 0.0


def _fit_tile(folder: Path, id_: str, info: TilesInfo, reach: int) -> tuple[Grid, EdgeFit | None]:
    with Scene(folder / "images" / f"{id_}.tif") as scene:
        data, valid = scene.read()
    classes, known = read_classes(folder, id_, info)
    return scene.grid, fit_outlines(data, valid, classes, known, reach)


def _divide(edges: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    """Mean edge strength under the outlines; 0 where none lay on valid pixels."""
    mean: np.ndarray = edges / np.maximum(outlines, 1e-3 * outlines.max())
    return mean


def _strengths(surface: np.ndarray) -> np.ndarray:
    """A surface in deviations from its background, both by medians."""
    reach = len(surface) // 2
    rows, columns = np.indices(surface.shape)
    row, column = np.unravel_index(np.argmax(surface), surface.shape)
    far = np.hypot(rows - row, columns - column) > min(_PEAK_PX, reach / 2)
    middle = np.median(surface[far])
    deviation = 1.4826 * np.median(np.abs(surface[far] - middle))
    strengths: np.ndarray = (surface - middle) / max(deviation, 1e-9)
    return strengths


def _error(edges: np.ndarray, outlines: np.ndarray, shift: tuple[float, float], seed: int) -> float:
    """How far the peak moves when tiles are drawn anew: no further than this in two of three.

    The bootstrap (Efron, Annals of Statistics 7(1), 1979) over tiles. Not a standard deviation,
    which a single peak far away would decide.
    """
    tiles = len(edges)
    draws = np.random.default_rng(seed).multinomial(tiles, np.full(tiles, 1 / tiles), _DRAWS)
    peaks = [
        find_peak(_divide(np.tensordot(draw, edges, 1), np.tensordot(draw, outlines, 1)))
        for draw in draws.astype(edges.dtype)
    ]
    moved = np.hypot(*(np.array(peaks) - shift).T)
    return float(np.quantile(moved, _USUALLY))


def _vertex(values: np.ndarray, peak: int) -> float:
    """Where a parabola through the peak and its neighbours is highest, from the peak."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    before, at, after = (float(value) for value in values[peak - 1 : peak + 2])
    bend = before - 2 * at + after
    return (before - after) / (2 * bend) if bend < 0 else 0.0
