"""What scenes and labels must keep to be tiled together, and what users are warned of."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyproj
import shapely
from pyproj import Transformer
from pyproj.exceptions import ProjError

from geoseg.data.labels import Labels, RasterLabels
from geoseg.data.splits import SPLITS
from geoseg.errors import ConfigError, EmptyDatasetError, GridMismatchError, MissingCRSError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import SceneInfo
from geoseg.options import TileOptions

logger = logging.getLogger(__name__)

# A scene whose pixels are magnified by more than this shows less than its neighbours.
_MOST_MAGNIFIED = 2.0

# A split's share of the tiles may miss what was asked for by this much.
_MOST_MISSED = 0.1


def check_placeholder_overlap(infos: Sequence[SceneInfo]) -> None:
    """Refuses invented places that meet by chance."""
    if not infos:
        return
    outlines = np.array([info.grid.polygon for info in infos], dtype=object)
    pairs = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    first, second = pairs[:, pairs[0] < pairs[1]]
    shared = shapely.area(shapely.intersection(outlines[first], outlines[second]))
    if shared.any():
        pair = int(shared.argmax())
        one, other = infos[first[pair]].path, infos[second[pair]].path
        raise ConfigError(
            f"{one} and {other}: fall on one invented place, which their names decide; rename one"
        )


def check_geographic_crs(infos: Sequence[SceneInfo]) -> None:
    """Refuses scenes whose tiles have no longitude and latitude."""
    for info in infos:
        try:
            Transformer.from_crs(info.grid.crs.to_wkt(), 4326)
        except ProjError as error:
            name = pyproj.CRS.from_wkt(info.grid.crs.to_wkt()).name
            raise MissingCRSError(
                f"{info.path}: is not on Earth, or says not where: its CRS is {name}; "
                "gdal_edit.py -a_srs EPSG:CODE file.tif writes one that is"
            ) from error


def check_splits(
    infos: Sequence[SceneInfo], found: set[str], grids: list[Grid], options: TileOptions
) -> None:
    """Refuses ground that is too small for tiles, or for a split that was asked for."""
    wanted = [s for s, share in zip(SPLITS, options.fractions, strict=True) if share > 0]
    if options.is_drawn:
        wanted = ["train"]
    missing = [split for split in wanted if split not in found]
    largest = max(side for grid in grids for side in grid.shape)
    if missing or largest < options.size / 2:
        scenes = infos[0].path if len(infos) == 1 else f"{infos[0].path} and {len(infos) - 1} more"
        sides = ", ".join(f"{grid.height} x {grid.width}" for grid in grids)
        lack = "the ground is less than a tile"
        if largest >= options.size / 2:
            lack = f"no tile falls to {missing[0]}"
        raise EmptyDatasetError(
            f"{scenes}: {lack}, {sides} pixels at {grids[0].gsd_m:.3g} m for tiles of "
            f"{options.size}; check --gsd (metres per pixel), or choose a smaller --size or --gap, "
            "or other --fractions"
        )


def check_mask_georeferencing(infos: Sequence[SceneInfo], labels: Sequence[Labels]) -> None:
    """Refuses one mask on several scenes of which it cannot say on which ground it lies."""
    masks = [
        one.path
        for info, one in zip(infos, labels, strict=True)
        if isinstance(one, RasterLabels) and info.placed_by == "assumed"
    ]
    shared = next((path for path in masks if masks.count(path) > 1), None)
    if shared is not None:
        raise ConfigError(
            f"{shared}: would be the mask of {masks.count(shared)} scenes that do not say where "
            "they lie; name one for each, {} in the path of the labels stands for a scene's name"
        )


def warn_unlabelled_scenes(
    infos: Sequence[SceneInfo], labels: Sequence[Labels], files: Sequence[str]
) -> None:
    """Warns of scenes that no label lies on."""
    for info, one, file in zip(infos, labels, files, strict=True):
        if not isinstance(one, RasterLabels) and len(one) == 0:
            logger.warning(
                "%s: no label of %s lies on it, so that all of it is learnt as ground without a "
                "building; leave it out if it was not labelled",
                info.path,
                file,
            )


def warn_upsampled_scenes(infos: Sequence[SceneInfo], gsd_m: float, *, chosen: bool) -> None:
    """Warns of scenes much coarser than the tiles."""
    for info in infos:
        times = info.grid.gsd_m / gsd_m
        if times > _MOST_MAGNIFIED:
            logger.warning(
                "%s: its pixels of %.3g m are magnified %.1f times, to %.3g m%s",
                info.path,
                info.grid.gsd_m,
                times,
                gsd_m,
                "" if chosen else ", the first scene's; --gsd says otherwise",
            )


def warn_unbalanced_splits(found: pd.Series, options: TileOptions) -> None:
    """Warns of pieces so few that no deal comes close to the shares."""
    if options.split not in ("blocks", "scenes") or options.is_drawn:
        return
    for split, share in zip(SPLITS, options.fractions, strict=True):
        got = float((found == split).mean())
        if abs(got - share) > _MOST_MISSED:
            logger.warning(
                "%s gets %.0f %% of the tiles instead of %.0f %%: %s of the ground are too few to "
                "deal; choose a smaller --set tile.block, or --split stripes",
                split,
                100 * got,
                100 * share,
                options.split,
            )


def check_same_bands(infos: Sequence[SceneInfo], *, chosen: bool) -> None:
    """Refuses scenes that differ in their pixels; bands that the user chose may differ by name."""
    first = infos[0]
    for info in infos[1:]:
        if info.dtype != first.dtype:
            logger.warning(
                "%s: holds %s pixels, but %s holds %s; their numbers are kept as they are, in one "
                "type (gdal_translate -ot ... -scale brings ranges that differ together)",
                info.path,
                info.dtype,
                first.path,
                first.dtype,
            )
        if info.bands != first.bands and not chosen:
            raise GridMismatchError(
                f"{info.path}: has bands {', '.join(info.bands)}, but {first.path} has "
                f"{', '.join(first.bands)}; choose common bands with --bands"
            )
