"""Places: groups of scenes that are near each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated

import numpy as np
import pyproj
import shapely
from pydantic import Field
from pyproj import Transformer

from geoseg.errors import counted
from geoseg.geo.crs import build_transformer, has_location
from geoseg.geo.grid import WGS84_ELLIPSOID, Grid
from geoseg.geo.raster import SceneInfo

# Scenes of one town, or of one flight, are closer than this; other towns usually look different.
PLACE_DISTANCE_M = 20_000.0

# Names become parts of column names and of names in experiment trackers.
_FORBIDDEN = r"\s\x00-\x1f\x7f\[\],;\"'/\\"
_LONGEST, _LONGEST_STEM = 120, 100
PLACE_PATTERN = rf"[^{_FORBIDDEN}]{{1,{_LONGEST}}}"
PlaceName = Annotated[str, Field(pattern=f"^{PLACE_PATTERN}$")]

# Points on each side of a scene by which its outline on the ellipsoid is described.
_SIDE_POINTS = 16

# Centres that are closer than the distance by this much need no exact measurement: a chord of
# 20 km is 8 mm shorter than the arc.
_CHORD_TOLERANCE_M = 1.0


def find_places(scenes: Sequence[SceneInfo]) -> tuple[str, ...]:
    """Group scenes into places: a scene belongs to the place of any scene within 20 km.

    Distances are geodesic, between the extents of scenes. Scenes without georeferencing and scenes
    with a local CRS are each a place of their own.

    Args:
        scenes: The scenes.

    Returns:
        The name of each scene's place: that of the file of the place's first scene.
    """
    return name_places([scene.name for scene in scenes], _link([_locate(one) for one in scenes]))


def describe_places(places: Sequence[str]) -> list[str]:
    """Return a line with the number of places, if there are several scenes.

    Args:
        places: Name of each scene's place.
    """
    if len(places) == 1:
        return []
    found, distance = counted(len(set(places)), "place"), PLACE_DISTANCE_M / 1000
    return [
        f"{len(places)} scenes in {found}; scenes within {distance:.0f} km of each other are one "
        "place"
    ]


def name_places(scenes: Sequence[str], firsts: Sequence[int]) -> tuple[str, ...]:
    """Return the name of each scene's place.

    Args:
        scenes: Paths of the scenes.
        firsts: Position of the first scene of each scene's place.
    """
    names: dict[int, str] = {}
    taken: set[str] = set()
    for first in dict.fromkeys(firsts):
        # Windows' separators count as well, since tiles may be moved to another system.
        stem = PurePath(re.split(r"[/\\]", scenes[first].rstrip("/\\"))[-1]).stem
        base = re.sub(f"[{_FORBIDDEN}]+", "_", stem).strip(".")[:_LONGEST_STEM] or "scene"
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        names[first] = name
    return tuple(names[first] for first in firsts)


@dataclass(frozen=True, eq=False)
class _Extent:
    """Extent of a scene on the ellipsoid.

    Attributes:
        outline: (N, 2), longitude and latitude of points along its edges.
        middle: Longitude and latitude of its centre.
        centre: (3,), geocentric coordinates of its centre in metres.
        radius_m: Largest straight distance from the centre to the outline.
    """

    outline: np.ndarray
    middle: tuple[float, float]
    centre: np.ndarray
    radius_m: float


def _locate(scene: SceneInfo) -> _Extent | None:
    """Return the extent of a scene; None if its location is not known."""
    grid = scene.grid
    if scene.georeferenced_by == "assumed" or not has_location(grid.crs):
        return None
    xs, ys = _edge_points(grid)
    lons, lats = build_transformer(grid.crs, 4326, scene.path).transform(xs, ys)
    points = np.column_stack([lons, lats])
    if not np.isfinite(points).all() or np.abs(points[:, 1]).max() > 90:
        return None
    centre, *edge = _to_geocentric(points)
    radius_m = float(np.linalg.norm(np.array(edge) - centre, axis=1).max())
    lon, lat = points[0].tolist()
    return _Extent(points[1:], (lon, lat), centre, radius_m)


def _edge_points(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the centre of a grid and of points along its edges."""
    steps = np.arange(_SIDE_POINTS) / _SIDE_POINTS
    zeros, ones = np.zeros(_SIDE_POINTS), np.ones(_SIDE_POINTS)
    columns = np.concatenate([[0.5], steps, ones, 1 - steps, zeros]) * grid.width
    rows = np.concatenate([[0.5], zeros, steps, ones, 1 - steps]) * grid.height
    xs, ys = grid.transform * (columns, rows)
    return xs, ys


def _to_geocentric(points: np.ndarray) -> np.ndarray:
    """Convert longitudes and latitudes (N, 2) to geocentric coordinates (N, 3) in metres."""
    lon, lat = np.radians(points).T
    eccentricity = WGS84_ELLIPSOID.es
    normal = WGS84_ELLIPSOID.a / np.sqrt(1 - eccentricity * np.sin(lat) ** 2)
    return np.column_stack(
        [
            normal * np.cos(lat) * np.cos(lon),
            normal * np.cos(lat) * np.sin(lon),
            normal * (1 - eccentricity) * np.sin(lat),
        ]
    )


def _link(extents: Sequence[_Extent | None]) -> list[int]:
    """Return the position of the first scene of each scene's place, by single linkage."""
    firsts = list(range(len(extents)))
    located = {index: extent for index, extent in enumerate(extents) if extent is not None}
    left = np.array(list(located), dtype=np.int64)
    centres = np.array([extent.centre for extent in located.values()]).reshape(-1, 3)
    radii = np.array([extent.radius_m for extent in located.values()])
    while len(left):
        first, reached = int(left[0]), [int(left[0])]
        left, centres, radii = left[1:], centres[1:], radii[1:]
        while reached and len(left):
            one = located[reached.pop()]
            chords = np.linalg.norm(centres - one.centre, axis=1)
            near = chords <= PLACE_DISTANCE_M - _CHORD_TOLERANCE_M
            # The straight distance is never longer than the one along the surface.
            unclear = ~near & (chords <= PLACE_DISTANCE_M + one.radius_m + radii)
            for position in np.flatnonzero(unclear).tolist():
                near[position] = _distance_m(one, located[int(left[position])]) <= PLACE_DISTANCE_M
            found = left[near].tolist()
            for index in found:
                firsts[index] = first
            reached += found
            left, centres, radii = left[~near], centres[~near], radii[~near]
    return firsts


def _distance_m(one: _Extent, other: _Extent) -> float:
    """Return the geodesic distance between two extents; 0 if they overlap."""
    lon, lat = one.middle
    # Has no edge at 180 degrees, and shows what is near its centre nearly without distortion.
    local = pyproj.CRS.from_dict({"proj": "aeqd", "lon_0": lon, "lat_0": lat, "ellps": "WGS84"})
    to_local = Transformer.from_crs(4326, local, always_xy=True)
    shapes = [
        shapely.Polygon(np.column_stack(to_local.transform(*extent.outline.T)))
        for extent in (one, other)
    ]
    if not shapely.distance(*shapes) > 0:
        return 0.0
    nearest = shapely.get_coordinates(shapely.shortest_line(*shapes))
    lons, lats = to_local.transform(*nearest.T, direction="INVERSE")
    _, _, distance = WGS84_ELLIPSOID.inv(lons[0], lats[0], lons[1], lats[1])
    return float(distance)
