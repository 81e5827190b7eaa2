"""Groups of scenes that can be joined: of one pixel grid, and not apart from each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.geo.raster.scene import SceneInfo
from geoseg.geo.raster.scene_mosaic import find_difference, offset_px

# Parts of a pixel that are told apart at once.
_STEPS = 16


def group_scenes(scenes: Sequence[SceneInfo], reach_px: int) -> list[list[int]]:
    """Group scenes that have one pixel grid and lie at most some pixels apart, directly or in turn.

    Args:
        scenes: The scenes.
        reach_px: Largest distance of neighbours in pixels.

    Returns:
        Indices of the scenes of each group, ascending; groups in the order of their first scene.
    """
    # Most scenes are compared with those of their CRS, data type and pixel size only.
    alike: dict[tuple[object, ...], list[list[int]]] = {}
    wkt = {crs: crs.to_wkt() for crs in {scene.grid.crs for scene in scenes}}
    for index, scene in enumerate(scenes):
        groups = alike.setdefault(_key(scene, wkt[scene.grid.crs]), [])
        same = next((group for group in groups if _is_alike(scenes[group[0]], scene)), None)
        if same is None:
            groups.append([index])
        else:
            same.append(index)
    near = [
        [group[place] for place in places]
        for groups in alike.values()
        for group in groups
        for places in _near_each_other([scenes[index] for index in group], reach_px)
    ]
    return sorted(near)


def _key(scene: SceneInfo, wkt: str) -> tuple[object, ...]:
    """Return what scenes of one pixel grid have in common and is quickly compared."""
    transform = scene.grid.transform
    sizes = [float(f"{part:.5g}") for part in (transform.a, transform.b, transform.d, transform.e)]
    # Where the origin of the CRS is in a pixel; scenes of one grid have it at the same place.
    places = [round(_STEPS * place) % _STEPS for place in ~transform * (0.0, 0.0)]
    return (wkt, scene.dtype, *sizes, *places)


def _is_alike(first: SceneInfo, scene: SceneInfo) -> bool:
    return first.georeferenced_by == "transform" and find_difference(first, scene) is None


def _near_each_other(scenes: Sequence[SceneInfo], reach_px: int) -> list[list[int]]:
    corners = np.array([offset_px(scenes[0].grid, scene.grid) for scene in scenes])
    sizes = np.array([(scene.grid.width, scene.grid.height) for scene in scenes])
    boxes = shapely.box(*corners.T, *(corners + sizes).T)
    pairs = shapely.STRtree(boxes).query(boxes, predicate="dwithin", distance=reach_px)
    links = coo_array((np.ones(pairs.shape[1]), pairs), shape=(len(scenes),) * 2)
    count, group = connected_components(links, directed=False)
    return [np.flatnonzero(group == number).tolist() for number in range(count)]
