"""Detection of blank areas in scenes, and the warning about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from geoseg.credentials import get_logger
from geoseg.errors import DataError, GeosegError, SceneReadError
from geoseg.geo.raster.blank import BlankAreas, find_blank_areas
from geoseg.geo.raster.scene import SceneInfo, inspect_source

logger = get_logger(__name__)

# Scenes with blank areas that are named.
_MOST_NAMED = 3


def mark_blank_areas(info: SceneInfo) -> SceneInfo:
    """Return a scene whose blank areas, if it has any, are treated as nodata; warn of them."""
    (marked,) = mark_all_blank_areas([info])
    return marked


def mark_all_blank_areas(
    infos: Sequence[SceneInfo],
    *,
    are_parts: bool = False,
    failed: dict[str, GeosegError] | None = None,
) -> list[SceneInfo]:
    """Return scenes whose blank areas are treated as nodata; warn of them in a few lines.

    Args:
        infos: The scenes.
        are_parts: Whether they are joined, so that all of one may be blank.
        failed: Gets the errors of scenes of which a part cannot be read, by their paths; they are
            not returned then. Of None, the rest of such a scene is used.
    """
    marked = []
    for info in infos:
        try:
            found = _find_blank_areas(info, is_part=are_parts)
            marked.append(info if found is None else replace(info, blank=found))
        except SceneReadError as error:
            if failed is None:
                marked.append(info)
            else:
                failed[info.path] = error
    blank = [info for info in marked if info.blank]
    for info in blank[:_MOST_NAMED]:
        logger.warning(
            "%s: %s and is treated as nodata; --keep-blank uses it as an image",
            info.name,
            info.blank.describe() if info.blank else "",
        )
    if len(blank) > _MOST_NAMED:
        logger.warning("%d more scenes have blank areas", len(blank) - _MOST_NAMED)
    return marked


def _find_blank_areas(info: SceneInfo, *, is_part: bool = False) -> BlankAreas | None:
    # Not with several threads of GDAL (GDAL_NUM_THREADS), which would be faster: a process that is
    # forked afterwards would wait for them forever.
    with info.open_pixels() as scene:
        return find_blank_areas(scene, is_part=is_part)


def describe_blank_areas(source: Any, path: str | Path) -> str | None:
    """Return the share and the values of a raster's blank areas; None if it has none.

    Args:
        source: The open rasterio dataset, with or without georeferencing.
        path: Its path.
    """
    try:
        info, _, _ = inspect_source(source, str(path), None, assume_gsd_m=1.0)
    except DataError:  # its bands are no image
        return None
    try:
        blank = _find_blank_areas(info)
    except SceneReadError:  # damaged somewhere
        return None
    return None if blank is None else blank.describe()
