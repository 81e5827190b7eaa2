"""One layer from the layers of several mosaics of scenes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from geoseg.geo.raster import outline_valid
from geoseg.geo.vector import ParquetParts
from geoseg.geo.vector.geodesic import geodesic_measures
from geoseg.geo.vector.reprojection import to_crs_densified
from geoseg.vectorization.overlaps import resolve_overlaps

# Column with the scene of a polygon.
SCENE_COLUMN = "scene"

# Smallest width of a building, metres.
_LEAST_WIDTH_M = 3.0

# Pixels of the coarser mosaic that may be between the two parts of a building at their edges.
_REACH_PX = 1.5


@dataclass(frozen=True)
class SceneArea:
    """Where a scene has pixels.

    Attributes:
        name: Name of the scene in the layer.
        outline: Its area that is not nodata, in the CRS of the layer.
    """

    name: str
    outline: BaseGeometry

    @classmethod
    def read(cls, name: str, raster: Path, own_crs: CRS, crs: CRS) -> SceneArea:
        """Read the area from a raster of the scene in its CRS, for a layer in another one."""
        outline = gpd.GeoSeries([outline_valid(raster)], crs=own_crs)
        placed = to_crs_densified(gpd.GeoDataFrame(geometry=outline), crs).geometry
        return cls(name, shapely.union_all(placed.to_numpy()))


@dataclass(frozen=True)
class MosaicLayer:
    """The layer of one mosaic.

    Attributes:
        path: GeoParquet file of its polygons, in its own CRS.
        scenes: Its scenes, the first on top.
        gsd_m: Its pixel size in metres.
    """

    path: Path
    scenes: tuple[SceneArea, ...]
    gsd_m: float

    @cached_property
    def area(self) -> BaseGeometry:
        """Its area that is not nodata."""
        return shapely.union_all([scene.outline for scene in self.scenes])


@dataclass
class JoinedLayer:
    """The polygons of several mosaics, in one CRS.

    Footprints of buildings that are in several mosaics are there once (see
    `geoseg.vectorization.overlaps`); polygons of classes are cut to what no earlier mosaic covers.

    Attributes:
        layers: The layers; earlier ones have priority.
        crs: CRS of the polygons.
        has_classes: Whether the polygons are those of classes.
        depth_m: Distance from the edge of a mosaic, in metres, from which on what is in earlier
            mosaics is preferred to later ones; nearer to the edge, the mosaic with the farthest
            edge is. Infinite: it always is.
        counts: Number of polygons of each scene, complete when all frames were taken.
    """

    layers: Sequence[MosaicLayer]
    crs: CRS
    has_classes: bool
    depth_m: float
    counts: Counter[str] = field(default_factory=Counter)

    def frames(self) -> Generator[gpd.GeoDataFrame, None, None]:
        """Yield all polygons in batches, in the order of mosaics; ids are numbered from 1."""
        last = 0
        for number, layer in enumerate(self.layers):
            finder = _SceneFinder(layer.scenes)
            for frame in self._finished(number):
                if not len(frame):
                    continue
                frame = frame.assign(
                    id=np.arange(last + 1, last + 1 + len(frame), dtype=np.int64),
                    **{SCENE_COLUMN: finder.find(frame.geometry.to_numpy())},
                )
                last += len(frame)
                self.counts.update(frame[SCENE_COLUMN])
                yield frame

    def _finished(self, number: int) -> Iterator[gpd.GeoDataFrame]:
        """Yield the polygons of a mosaic that are in the joined layer."""
        if len(self.layers) == 1:
            yield from self._read(number)
            return
        for begin, frame in _with_starts(self._read(number)):
            if self.has_classes:
                yield _cut_off(frame, self._covered_before(number), self.crs)
            else:
                yield self._replace(frame, number, begin)

    def _read(self, number: int) -> Iterator[gpd.GeoDataFrame]:
        for frame in ParquetParts(self.layers[number].path):
            frame = frame.drop(columns="bbox", errors="ignore")
            yield to_crs_densified(frame, self.crs).reset_index(drop=True)

    @cached_property
    def _reach(self) -> float:
        return _REACH_PX * max(layer.gsd_m for layer in self.layers) * self._units_per_m

    @cached_property
    def _units_per_m(self) -> float:
        """Length of a metre in units of the CRS, which in many CRSs depends on the place."""
        parts = shapely.get_parts([layer.area for layer in self.layers])
        if not len(parts):
            return 1.0
        largest = parts[shapely.area(parts).argmax()]
        areas_m2, _ = geodesic_measures(np.array([largest], dtype=object), self.crs)
        return math.sqrt(largest.area / float(areas_m2[0]))

    def _replace(self, frame: gpd.GeoDataFrame, number: int, begin: int) -> gpd.GeoDataFrame:
        """Replace the footprints that are near other mosaics by what is kept of them."""
        found = [self._resolved.get((number, row)) for row in range(begin, begin + len(frame))]
        changed = np.array([one is not None and one.status is not None for one in found], bool)
        if changed.any():
            frame = frame.copy()
            shapes = frame.geometry.to_numpy().copy()
            picked = [one for one in found if one is not None and one.status is not None]
            shapes[changed] = [one.polygon for one in picked]
            frame = frame.set_geometry(gpd.GeoSeries(shapes, index=frame.index, crs=self.crs))
            areas, perimeters = geodesic_measures(shapes[changed], self.crs)
            frame.loc[changed, "area_m2"] = areas.round(3)
            frame.loc[changed, "perimeter_m"] = perimeters.round(3)
            frame.loc[changed, "reg_status"] = [one.status for one in picked]
        kept = np.array([one is None or one.polygon is not None for one in found], bool)
        return frame[kept]

    @cached_property
    def _resolved(self) -> dict[tuple[int, int], _Outcome]:
        """What becomes of footprints near other mosaics, by mosaic and row."""
        keys: list[tuple[int, int]] = []
        shapes: list[np.ndarray] = []
        cut: list[np.ndarray] = []
        for number in range(len(self.layers)):
            others = self._near_others(number)
            if others.is_empty:
                continue
            shapely.prepare(others)
            for begin, frame in _with_starts(self._read(number)):
                polygons = frame.geometry.to_numpy()
                near = np.flatnonzero(shapely.intersects(others, polygons))
                keys += [(number, begin + row) for row in near.tolist()]
                shapes.append(polygons[near])
                cut.append(frame["edge"].to_numpy()[near])
        if not keys:
            return {}
        polygons = np.concatenate(shapes)
        resolved = resolve_overlaps(
            polygons, np.array([number for number, _ in keys]), np.concatenate(cut),
            [layer.area for layer in self.layers], depth=self.depth_m * self._units_per_m,
            width=_LEAST_WIDTH_M * self._units_per_m,
            reach=self._reach,
        )  # fmt: skip
        statuses = np.where(resolved.joined, "joined", np.where(resolved.clipped, "clipped", ""))
        return {
            key: _Outcome(polygon, status or None)
            for key, polygon, status in zip(keys, resolved.polygons, statuses.tolist(), strict=True)
        }

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree([layer.area for layer in self.layers])

    def _near_others(self, number: int) -> BaseGeometry:
        """Return where other mosaics are, and a little around them."""
        own = shapely.buffer(self.layers[number].area, 2 * self._reach)
        found = self._tree.query(own, predicate="intersects").tolist()
        near = [self.layers[index].area for index in found if index != number]
        return shapely.buffer(shapely.union_all(near), 2 * self._reach)

    def _covered_before(self, number: int) -> BaseGeometry:
        """Return where earlier mosaics are, near a mosaic."""
        found = self._tree.query(self.layers[number].area, predicate="intersects").tolist()
        return shapely.union_all([self.layers[index].area for index in found if index < number])


@dataclass(frozen=True)
class _Outcome:
    """What becomes of a footprint.

    Attributes:
        polygon: Its outline; None if it is not in the joined layer.
        status: How the outline was changed; None if it was not.
    """

    polygon: BaseGeometry | None
    status: str | None


def _with_starts(frames: Iterator[gpd.GeoDataFrame]) -> Iterator[tuple[int, gpd.GeoDataFrame]]:
    """Yield frames with the number of rows before each."""
    begin = 0
    for frame in frames:
        yield begin, frame
        begin += len(frame)


def _cut_off(frame: gpd.GeoDataFrame, covered: BaseGeometry, crs: CRS) -> gpd.GeoDataFrame:
    """Cut polygons of classes off where earlier mosaics are."""
    shapely.prepare(covered)
    shapes = frame.geometry.to_numpy()
    free = ~shapely.intersects(covered, shapes)
    whole, crossing = frame[free], frame[~free & ~shapely.covers(covered, shapes)]
    if not len(crossing):
        return whole
    parts = shapely.difference(crossing.geometry.to_numpy(), covered)
    crossing = crossing.set_geometry(gpd.GeoSeries(parts, index=crossing.index, crs=crs))
    crossing = crossing.explode()
    crossing = crossing[(crossing.geom_type == "Polygon") & ~crossing.is_empty]
    areas, perimeters = geodesic_measures(crossing.geometry.to_numpy(), crs)
    crossing = crossing.assign(area_m2=areas.round(3), perimeter_m=perimeters.round(3))
    cut: gpd.GeoDataFrame = pd.concat([whole, crossing]).sort_index(kind="stable")
    return cut.reset_index(drop=True)


class _SceneFinder:
    """Finds the scene of a polygon: the first that has pixels in the middle of it."""

    def __init__(self, scenes: Sequence[SceneArea]) -> None:
        self._names = np.array([scene.name for scene in scenes], dtype=object)
        self._tree = shapely.STRtree([scene.outline for scene in scenes])

    def find(self, polygons: np.ndarray) -> np.ndarray:
        """Return the names of the scenes (n,)."""
        points = shapely.point_on_surface(polygons)
        found = np.full(len(points), len(self._names))
        places, scenes = self._tree.query(points, predicate="intersects")
        np.minimum.at(found, places, scenes)
        missing = found == len(self._names)
        # Outlines of scenes are exact to some pixels only.
        found[missing] = self._tree.nearest(points[missing])
        names: np.ndarray = self._names[found]
        return names
