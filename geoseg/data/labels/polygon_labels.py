"""Polygon labels, kept in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from rasterio.features import rasterize
from rasterio.windows import Window

from geoseg.data.labels.class_scheme import IGNORE, ClassScheme
from geoseg.errors import GridMismatchError, LabelError, counted
from geoseg.geo.crs import has_location
from geoseg.geo.grid import Grid
from geoseg.geo.vector import (
    check_range,
    count_features,
    list_layers,
    read_footprints,
    to_crs_near,
    to_crs_whole,
)

# Layer of the labels' file with polygons of areas that were not labelled.
IGNORED_LAYER = "ignored areas"


@dataclass(frozen=True)
class FootprintLabels:
    """Polygon labels of one scene.

    Attributes:
        grid: Grid on which the polygons are rasterized.
        footprints: Polygons in the grid's CRS; with exclusive classes, column `value` holds the
            mask value of each.
        scheme: Class scheme.
        ignored: Areas that were not labelled, in the grid's CRS.
        repaired: Number of invalid polygons near the scene that were repaired.
        dropped: Number of features near the scene that are not polygons.
        elsewhere: Number of other features of the layer: those outside the scene, and those without
            a geometry, which are nowhere.
        unclassed: Number of polygons per label value that belongs to no class.
    """

    grid: Grid
    footprints: gpd.GeoDataFrame
    scheme: ClassScheme = field(default_factory=ClassScheme)
    ignored: gpd.GeoSeries | None = None
    repaired: int = 0
    dropped: int = 0
    elsewhere: int = 0
    unclassed: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.footprints)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Rasterize the footprint ids and the mask of a window.

        A pixel belongs to a footprint if its centre is inside.

        Args:
            window: Window on the grid; may reach beyond its edges.

        Returns:
            Ids, int32 (H, W): position in `footprints` + 1, or 0 outside of all; mask, uint8
            (H, W).
        """
        ids = self.rasterize_ids(window)
        values = self._values()
        mask = values.take(ids)
        if self.ignored is not None and len(self.ignored):
            areas = list(_to_geojson(self.ignored.to_numpy()))
            unlabelled = _rasterize(self.grid, window, areas, [1] * len(areas))
            mask = np.where(unlabelled > 0, np.uint8(IGNORE), mask)
        return ids, mask

    def rasterize_ids(self, window: Window) -> np.ndarray:
        """Rasterize the footprint ids of a window, int32 (H, W); see `read`."""
        hits = np.sort(self._geometry.sindex.query(self.grid.window_polygon(window)))
        return _rasterize(self.grid, window, self._cached_geojson(hits), hits + 1)

    def foreground_pixels(self, window: Window) -> float:
        """Return the area of footprints inside a window in pixels; overlaps count twice."""
        outline = self.grid.window_polygon(window)
        hits = self._geometry.sindex.query(outline, predicate="intersects")
        inside = shapely.intersection(self._shapes[hits], outline)
        return float(shapely.area(inside).sum() / self.grid.pixel_area)

    def subset(self, window: Window) -> FootprintLabels:
        """Return the labels that intersect a window, small enough to send to another process."""
        outline = self.grid.window_polygon(window)
        hits = np.sort(self._geometry.sindex.query(outline))
        ignored = self.ignored
        if ignored is not None:
            ignored = ignored.iloc[np.sort(ignored.sindex.query(outline))]
        part = self.footprints.iloc[hits].reset_index(drop=True)
        return FootprintLabels(self.grid, part, self.scheme, ignored)

    def iter_footprints(self) -> Iterator[gpd.GeoDataFrame]:
        """Yield each footprint exactly once, all in one part."""
        yield self.footprints

    @cached_property
    def _geometry(self) -> gpd.GeoSeries:
        return self.footprints.geometry

    @cached_property
    def _shapes(self) -> np.ndarray:
        """Polygons (N,); an array is indexed by position, a Series by label."""
        shapes: np.ndarray = self._geometry.to_numpy()
        return shapes

    @cached_property
    def _geojson_cache(self) -> dict[int, dict[str, Any]]:
        return {}

    def _cached_geojson(self, positions: np.ndarray) -> list[dict[str, Any]]:
        """Return footprints as GeoJSON; cached, as overlapping tiles need the same ones."""
        cache = self._geojson_cache
        new = [position for position in positions.tolist() if position not in cache]
        if new:
            cache.update(zip(new, _to_geojson(self._shapes[new]), strict=True))
        return [cache[position] for position in positions.tolist()]

    def _values(self) -> np.ndarray:
        """Return the mask value of each id (N + 1,); the first is that of the background."""
        background = np.array([self.scheme.background_value], np.uint8)
        if not self.scheme.exclusive:
            return np.concatenate([background, np.ones(len(self.footprints), np.uint8)])
        return np.concatenate([background, self.footprints["value"].to_numpy(np.uint8)])


def _to_geojson(polygons: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the GeoJSON geometry of each polygon or multipolygon.

    The coordinates of all polygons are extracted at once, which is ten times faster than
    `shapely.geometry.mapping`.
    """
    parts, of_polygon = shapely.get_parts(polygons, return_index=True)
    rings, of_part = shapely.get_rings(parts, return_index=True)
    points, of_ring = shapely.get_coordinates(rings, return_index=True)
    ring_points = _group_by_owner(points.tolist(), of_ring, len(rings))
    part_rings = _group_by_owner(ring_points, of_part, len(parts))
    polygon_parts = _group_by_owner(part_rings, of_polygon, len(polygons))
    for polygon, coordinates in zip(polygons, polygon_parts, strict=True):
        single = shapely.get_type_id(polygon) == shapely.GeometryType.POLYGON
        yield {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": coordinates[0] if single else coordinates,
        }


def _group_by_owner(members: list[Any], owners: np.ndarray, count: int) -> list[list[Any]]:
    """Return the members of each owner 0 ... count - 1; `owners` must be sorted."""
    edges = np.searchsorted(owners, np.arange(count + 1)).tolist()
    return [members[start:end] for start, end in pairwise(edges)]


def _rasterize(
    grid: Grid, window: Window, polygons: Sequence[dict[str, Any]], values: Iterable[int]
) -> np.ndarray:
    """Return int32 (H, W): the value of the last polygon that contains the pixel's centre, or 0."""
    shape = (int(window.height), int(window.width))
    if len(polygons) == 0:
        return np.zeros(shape, dtype=np.int32)
    rasterized: np.ndarray = rasterize(
        list(zip(polygons, values, strict=True)),
        shape,
        transform=grid.window_transform(window),
        dtype="int32",
    )
    return rasterized


def read_footprint_labels(
    path: str | Path,
    grid: Grid,
    scheme: ClassScheme,
    *,
    where: str | None = None,
    layer: str | None = None,
    total: int | None = None,
) -> FootprintLabels:
    """Read the polygons that intersect a scene.

    Args:
        path: Any vector file, in any CRS.
        grid: The scene's grid.
        scheme: Class scheme.
        where: Attribute filter, e.g. `label == 1`.
        layer: Layer name, if the file has several.
        total: Number of features of the layer that match the filter, if it is known.

    Returns:
        Polygons in the grid's CRS; may be empty, see `check_footprints`.

    Raises:
        VectorReadError: If the layer cannot be read.
        LabelError: If the layer lacks the attribute that names the class.
        MissingCRSError: If the layer or the scene has no CRS, or if one of them has a local CRS.
    """
    footprints = _read_on(path, grid, where=where, layer=layer)
    unclassed: Mapping[str, int] = {}
    if scheme.exclusive:
        footprints = add_mask_values(path, footprints, scheme)
        unclassed = count_unclassed(footprints, scheme)
    counts = {name: int(footprints.attrs.get(name, 0)) for name in ("repaired", "dropped")}
    if total is None:
        total = count_features(path, layer=layer, where=where)
    counts["elsewhere"] = total - len(footprints) - counts["dropped"]
    ignored = read_ignored(path, grid, layer)
    return FootprintLabels(grid, footprints, scheme, ignored, **counts, unclassed=unclassed)


def read_ignored(path: str | Path, grid: Grid, layer: str | None = None) -> gpd.GeoSeries | None:
    """Read the areas that were not labelled; None if the file has no such layer."""
    if layer == IGNORED_LAYER or IGNORED_LAYER not in list_layers(path):
        return None
    return _read_on(path, grid, layer=IGNORED_LAYER).geometry


def _read_on(
    path: str | Path, grid: Grid, *, where: str | None = None, layer: str | None = None
) -> gpd.GeoDataFrame:
    """Read the polygons of a layer that intersect a grid, in the grid's CRS."""
    part = read_footprints(path, where=where, layer=layer, bounds=grid.bounds, bounds_crs=grid.crs)
    return reproject_to_grid(part, grid, path)


def reproject_to_grid(part: gpd.GeoDataFrame, grid: Grid, path: str | Path) -> gpd.GeoDataFrame:
    """Return the polygons that intersect a grid, in the grid's CRS.

    Args:
        part: Polygons of a layer.
        grid: The scene's grid.
        path: File of the layer, for messages.

    Raises:
        MissingCRSError: If one of the two has a local CRS.
    """
    footprints = to_crs_near(part, grid.crs, grid, where=path)
    # Some locations cannot be projected to the scene's CRS.
    footprints = footprints[np.isfinite(footprints.bounds.to_numpy()).all(axis=1)]
    # Reprojection may make a sliver invalid; keep only its polygonal parts.
    footprints.geometry = shapely.make_valid(
        footprints.geometry.to_numpy(), method="structure", keep_collapsed=False
    )
    on_scene = footprints[footprints.geometry.intersects(grid.polygon)].reset_index(drop=True)
    on_scene.attrs.update(part.attrs)
    return on_scene


def add_mask_values(
    path: str | Path, footprints: gpd.GeoDataFrame, scheme: ClassScheme
) -> gpd.GeoDataFrame:
    """Add the column `value`, the mask value of each footprint.

    Raises:
        LabelError: If the layer lacks the attribute that names the class.
    """
    return footprints.assign(value=_class_values(path, footprints, scheme))


def count_unclassed(footprints: gpd.GeoDataFrame, scheme: ClassScheme) -> Counter[str]:
    """Count the polygons whose label value belongs to no class, by value.

    Args:
        footprints: Polygons with the attribute of the scheme and the column `value`.
        scheme: Class scheme.
    """
    values = footprints.loc[footprints["value"] == IGNORE, scheme.attribute]
    return Counter("no value" if pd.isna(value) else str(value) for value in values)


def _class_values(
    path: str | Path, footprints: gpd.GeoDataFrame, scheme: ClassScheme
) -> np.ndarray:
    if scheme.attribute is None:
        raise LabelError(
            f"{path}: its polygons need an attribute that names their class; set "
            "tile.classes.attribute"
        )
    if scheme.attribute not in footprints:
        names = ", ".join(str(name) for name in footprints.columns if name != "geometry")
        raise LabelError(
            f"{path}: has no attribute {scheme.attribute}; set tile.classes.attribute to one of "
            f"{names}"
        )
    return scheme.to_mask_values(footprints[scheme.attribute])


class CountedFootprints(Sized, Protocol):
    """Footprints on a scene; `len` is their number."""

    @property
    def grid(self) -> Grid:
        """The scene's grid."""


def check_footprints(
    labels: Sequence[CountedFootprints],
    path: str | Path,
    where: str | None,
    layer: str | None = None,
    *,
    files: Iterable[str | Path] = (),
) -> None:
    """Check that at least one footprint intersects a scene.

    Args:
        labels: Footprints of each scene.
        path: Path of the labels as the user wrote it.
        where: Attribute filter.
        layer: Layer name.
        files: Files that the footprints were read from; `path` if empty.

    Raises:
        LabelError: If the layers have no polygon that passes the filter.
        GridMismatchError: If all polygons are outside the scenes.
    """
    if any(len(label) for label in labels):
        return
    layers = [
        read_footprints(file, where=where, layer=layer) for file in dict.fromkeys(files or [path])
    ]
    filled = [footprints for footprints in layers if len(footprints)]
    if not filled:
        filtered = f" where {where}" if where else ""
        dropped = sum(footprints.attrs.get("dropped", 0) for footprints in layers)
        if dropped:
            raise LabelError(
                f"{path}: has {counted(dropped, 'feature')}{filtered}, but no polygon; labels must "
                "be polygons with finite coordinates"
            )
        raise LabelError(f"{path}: has no footprint{filtered}; check the layer and the filter")
    geometries = [to_crs_whole(footprints, filled[0].crs).geometry for footprints in filled]
    raise _outside_error(gpd.GeoDataFrame(geometry=pd.concat(geometries)), labels, path)


def _outside_error(
    footprints: gpd.GeoDataFrame, labels: Sequence[CountedFootprints], path: str | Path
) -> GridMismatchError:
    """Return the error for footprints outside all scenes, with their extent and likely cause."""
    if not has_location(footprints.crs):
        extent = ", ".join(f"{value:.6g}" for value in footprints.total_bounds)
        return GridMismatchError(
            f"{path}: its {len(footprints)} footprints, within {extent}, are outside all scenes; "
            "check that both have the same origin"
        )
    check_range(footprints, path)
    west, south, east, north = footprints.to_crs(4326).total_bounds
    message = (
        f"{path}: its {len(footprints)} footprints are at longitude {west:.4f} to {east:.4f}, "
        f"latitude {south:.4f} to {north:.4f}, outside all scenes; "
    )
    swapped = shapely.box(south, west, north, east)
    outlines = gpd.GeoSeries(pd.concat([_geographic_outline(label.grid) for label in labels]))
    west, south, east, north = outlines.total_bounds
    if outlines.intersects(swapped).any():
        return GridMismatchError(
            f"{message}latitude and longitude are swapped, write longitude first"
        )
    return GridMismatchError(
        f"{message}check the CRS of the labels, {footprints.crs.name}, and that of the scenes, "
        f"which are at longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f}"
    )


def _geographic_outline(grid: Grid) -> gpd.GeoSeries:
    return gpd.GeoSeries([grid.polygon], crs=grid.crs.to_wkt()).to_crs(4326)
