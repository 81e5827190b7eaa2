"""Polygons as labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from rasterio.windows import Window

from geoseg.data.labels.class_scheme import IGNORE, ClassScheme
from geoseg.errors import GridMismatchError, LabelError, MissingCRSError
from geoseg.geo.grid import Grid
from geoseg.geo.vector import list_layers, read_footprints

# A layer of this name holds ground that was not labelled.
IGNORED_LAYER = "ignored areas"


@dataclass(frozen=True)
class FootprintLabels:
    """Polygons on one scene's grid.

    Attributes:
        grid: The grid that they are burnt on.
        footprints: In the grid's CRS; of several classes with the mask value of each, `value`.
        scheme: Their classes.
        ignored: Ground that was not labelled, in the grid's CRS.
        repaired: How many of the layer's polygons near the scene were invalid and mended.
        dropped: How many of its features were no polygons.
    """

    grid: Grid
    footprints: gpd.GeoDataFrame
    scheme: ClassScheme = field(default_factory=ClassScheme)
    ignored: gpd.GeoSeries | None = None
    repaired: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.footprints)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Which footprint the centre of each pixel lies in, and the mask of classes.

        Args:
            window: Of the grid's lattice, also beyond its edges.

        Returns:
            int32 (H, W): position in `footprints` + 1, or 0 on the ground; uint8 (H, W).
        """
        ids = self.rasterize_ids(window)
        values = self._values()
        mask = values.take(ids)
        if self.ignored is not None and len(self.ignored):
            shapes = list(_describe(self.ignored.to_numpy()))
            hidden = _rasterize(self.grid, window, shapes, [1] * len(shapes))
            mask = np.where(hidden > 0, np.uint8(IGNORE), mask)
        return ids, mask

    def rasterize_ids(self, window: Window) -> np.ndarray:
        """Burns which footprint the centre of each pixel lies in; see `read`."""
        hits = np.sort(self._geometry.sindex.query(self.grid.window_polygon(window)))
        return _rasterize(self.grid, window, self._describe(hits), hits + 1)

    def foreground_pixels(self, window: Window) -> float:
        """Building pixels inside a window, by the footprints' area; overlaps count twice."""
        outline = self.grid.window_polygon(window)
        hits = self._geometry.sindex.query(outline, predicate="intersects")
        inside = shapely.intersection(self._shapes[hits], outline)
        return float(shapely.area(inside).sum() / self.grid.pixel_area)

    def subset(self, window: Window) -> FootprintLabels:
        """Those that meet a window: a small part that can be sent to another process."""
        outline = self.grid.window_polygon(window)
        hits = np.sort(self._geometry.sindex.query(outline))
        ignored = self.ignored
        if ignored is not None:
            ignored = ignored.iloc[np.sort(ignored.sindex.query(outline))]
        part = self.footprints.iloc[hits].reset_index(drop=True)
        return FootprintLabels(self.grid, part, self.scheme, ignored)

    def iter_footprints(self) -> Iterator[gpd.GeoDataFrame]:
        """Yields each footprint once: all of them."""
        yield self.footprints

    @cached_property
    def _geometry(self) -> gpd.GeoSeries:
        return self.footprints.geometry

    @cached_property
    def _shapes(self) -> np.ndarray:
        """The polygons (N,), by position: a Series would be indexed by label."""
        shapes: np.ndarray = self._geometry.to_numpy()
        return shapes

    @cached_property
    def _described(self) -> dict[int, dict[str, Any]]:
        return {}

    def _describe(self, hits: np.ndarray) -> list[dict[str, Any]]:
        """Footprints as GDAL's bindings take them; tiles overlap, so they are kept."""
        new = [hit for hit in hits.tolist() if hit not in self._described]
        if new:
            self._described.update(zip(new, _describe(self._shapes[new]), strict=True))
        return [self._described[hit] for hit in hits.tolist()]

    def _values(self) -> np.ndarray:
        """Mask value by position in `footprints` + 1; the first is the ground's."""
        ground = np.array([self.scheme.background_value], np.uint8)
        if not self.scheme.exclusive:
            return np.concatenate([ground, np.ones(len(self.footprints), np.uint8)])
        return np.concatenate([ground, self.footprints["value"].to_numpy(np.uint8)])


def _describe(shapes: np.ndarray) -> Iterator[dict[str, Any]]:
    """GeoJSON of polygons and multipolygons; shapely's own takes ten times as long."""
    parts, of_shape = shapely.get_parts(shapes, return_index=True)
    rings, of_part = shapely.get_rings(parts, return_index=True)
    points, of_ring = shapely.get_coordinates(rings, return_index=True)
    lines = _grouped(points.tolist(), of_ring, len(rings))
    polygons = _grouped(lines, of_part, len(parts))
    for shape, own in zip(shapes, _grouped(polygons, of_shape, len(shapes)), strict=True):
        single = shapely.get_type_id(shape) == shapely.GeometryType.POLYGON
        yield {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": own[0] if single else own,
        }


def _grouped(members: list[Any], owners: np.ndarray, count: int) -> list[list[Any]]:
    """Members of each of `count` owners, which ascend."""
    edges = np.searchsorted(owners, np.arange(count + 1)).tolist()
    return [members[start:end] for start, end in pairwise(edges)]


def _rasterize(
    grid: Grid, window: Window, shapes: Sequence[dict[str, Any]], values: Iterable[int]
) -> np.ndarray:
    """int32 (H, W): the value of the last polygon that holds a pixel's centre, else 0."""
    shape = (int(window.height), int(window.width))
    if len(shapes) == 0:
        return np.zeros(shape, dtype=np.int32)
    burnt: np.ndarray = rasterize(
        list(zip(shapes, values, strict=True)),
        shape,
        transform=grid.window_transform(window),
        dtype="int32",
    )
    return burnt


def read_footprint_labels(
    path: str | Path,
    grid: Grid,
    scheme: ClassScheme,
    *,
    where: str | None = None,
    layer: str | None = None,
) -> FootprintLabels:
    """Reads the polygons that lie on a scene.

    Args:
        path: Any vector layer, in any CRS.
        grid: The scene's grid.
        scheme: Their classes.
        where: Attribute filter, e.g. `label == 1`.
        layer: Layer name, where the file has several.

    Returns:
        Polygons in the grid's CRS; none may meet the scene, see `check_footprints`.

    Raises:
        VectorReadError: If the layer cannot be read.
        LabelError: If it lacks the attribute that names the class.
        MissingCRSError: If it or the scene does not say where on Earth it lies.
    """
    footprints = _read_on(path, grid, where=where, layer=layer)
    if scheme.exclusive:
        footprints = add_mask_values(path, footprints, scheme)
    counts = {name: int(footprints.attrs.get(name, 0)) for name in ("repaired", "dropped")}
    return FootprintLabels(grid, footprints, scheme, read_ignored(path, grid, layer), **counts)


def read_ignored(path: str | Path, grid: Grid, layer: str | None = None) -> gpd.GeoSeries | None:
    """Reads ground that was not labelled, where the file has such a layer beside the labels'."""
    if layer == IGNORED_LAYER or IGNORED_LAYER not in list_layers(path):
        return None
    return _read_on(path, grid, layer=IGNORED_LAYER).geometry


def _read_on(
    path: str | Path, grid: Grid, *, where: str | None = None, layer: str | None = None
) -> gpd.GeoDataFrame:
    """The polygons of a layer that meet a grid, in its CRS."""
    try:
        part = read_footprints(
            path, where=where, layer=layer, bounds=_bounds_of(grid), bounds_crs=grid.crs
        )
    except ProjError as error:
        raise no_common_location(path) from error
    return reproject_to_grid(part, grid, path)


def crosses_antimeridian(grid: Grid) -> bool:
    """Whether a grid in degrees goes on past the antimeridian."""
    left, _, right, _ = grid.bounds
    return bool(grid.crs.is_geographic) and (left < -180 or right > 180)


def _bounds_of(grid: Grid) -> tuple[float, float, float, float] | None:
    return None if crosses_antimeridian(grid) else grid.bounds


def reproject_to_grid(part: gpd.GeoDataFrame, grid: Grid, path: str | Path) -> gpd.GeoDataFrame:
    """The polygons of a part of a layer that meet a grid, in its CRS.

    Raises:
        MissingCRSError: If one of both has no place on Earth.
    """
    try:
        footprints = part.to_crs(grid.crs.to_wkt())
    except ProjError as error:
        raise no_common_location(path) from error
    if crosses_antimeridian(grid):
        footprints = _wrap_longitudes(footprints, (grid.bounds[0] + grid.bounds[2]) / 2)
    # Of some places there is none in the scene's CRS.
    footprints = footprints[np.isfinite(footprints.bounds.to_numpy()).all(axis=1)]
    # A round trip between CRSs may fold a sliver over; only areas are kept of what that leaves.
    footprints.geometry = shapely.make_valid(
        footprints.geometry.to_numpy(), method="structure", keep_collapsed=False
    )
    meets = footprints.geometry.intersects(grid.polygon)
    found = footprints[meets].reset_index(drop=True)
    found.attrs.update(part.attrs)
    return found


def _wrap_longitudes(footprints: gpd.GeoDataFrame, longitude: float) -> gpd.GeoDataFrame:
    """Writes longitudes as they lie around one: 181 for -179, where a scene goes on past 180."""
    turned = shapely.transform(
        footprints.geometry.to_numpy(),
        lambda xy: (
            xy - np.column_stack([360 * np.round((xy[:, 0] - longitude) / 360), 0 * xy[:, 0]])
        ),
    )
    result = footprints.set_geometry(gpd.GeoSeries(turned, footprints.index, footprints.crs))
    # What is at the other side of the Earth is torn apart by this.
    left, _, right, _ = shapely.bounds(turned).reshape(-1, 4).T
    return result[right - left < 180]


def no_common_location(path: str | Path) -> MissingCRSError:
    """The error of labels that cannot be laid over a scene."""
    return MissingCRSError(
        f"{path}: cannot be laid over the scene, the CRS of one of them is local and has no "
        "place on Earth; gdal_edit.py -a_srs or ogr2ogr -a_srs EPSG:CODE writes one that has"
    )


def add_mask_values(
    path: str | Path, footprints: gpd.GeoDataFrame, scheme: ClassScheme
) -> gpd.GeoDataFrame:
    """Adds the mask value of each footprint's class, `value`.

    Raises:
        LabelError: If the layer lacks the attribute that names the class.
    """
    return footprints.assign(value=_class_values(path, footprints, scheme))


def _class_values(
    path: str | Path, footprints: gpd.GeoDataFrame, scheme: ClassScheme
) -> np.ndarray:
    if scheme.attribute is None:
        raise LabelError(
            f"{path}: holds polygons, whose class an attribute must name; set "
            "tile.classes.attribute"
        )
    if scheme.attribute not in footprints:
        names = ", ".join(str(name) for name in footprints.columns if name != "geometry")
        raise LabelError(
            f"{path}: has no attribute {scheme.attribute} (tile.classes.attribute); it has {names}"
        )
    return scheme.to_mask_values(footprints[scheme.attribute])


class OnScene(Sized, Protocol):
    """Some number of footprints on a scene."""

    @property
    def grid(self) -> Grid:
        """The grid that they are burnt on."""


def check_footprints(
    labels: Sequence[OnScene],
    path: str | Path,
    where: str | None,
    layer: str | None = None,
    *,
    files: Iterable[str | Path] = (),
) -> None:
    """Refuses labels of which none meets any scene.

    Args:
        labels: Those of each scene.
        path: As the user names them.
        where: Attribute filter.
        layer: Layer name.
        files: Where they were read; `path` when there is none.

    Raises:
        LabelError: If the layer, or what the filter leaves of it, is empty.
        GridMismatchError: If it lies somewhere else.
    """
    if any(len(label) for label in labels):
        return
    layers = [
        read_footprints(file, where=where, layer=layer) for file in dict.fromkeys(files or [path])
    ]
    drawn = [found for found in layers if len(found)]
    if not drawn:
        kept = f" where {where}" if where else ""
        dropped = sum(found.attrs.get("dropped", 0) for found in layers)
        if dropped:
            raise LabelError(
                f"{path}: holds {dropped} features{kept}, but no polygon; footprints are polygons "
                "with finite coordinates"
            )
        raise LabelError(f"{path}: holds no footprint{kept}; check the layer and the filter")
    geometries = [found.geometry.to_crs(drawn[0].crs) for found in drawn]
    raise _elsewhere(gpd.GeoDataFrame(geometry=pd.concat(geometries)), labels, path)


def _elsewhere(
    footprints: gpd.GeoDataFrame, labels: Sequence[OnScene], path: str | Path
) -> GridMismatchError:
    """Says where footprints lie that meet no scene, and the likely reason."""
    west, south, east, north = footprints.to_crs(4326).total_bounds
    if not (abs(west) <= 540 and abs(east) <= 540 and abs(south) <= 90 and abs(north) <= 90):
        left, bottom, _, _ = footprints.total_bounds
        return GridMismatchError(
            f"{path}: its coordinates, about ({left:.6g}, {bottom:.6g}), are no place in "
            f"{footprints.crs.name}, which it says is its CRS; ogr2ogr -a_srs EPSG:CODE out.gpkg "
            "in.geojson says the right one"
        )
    said = (
        f"{path}: its {len(footprints)} footprints lie at longitude {west:.4f} to {east:.4f}, "
        f"latitude {south:.4f} to {north:.4f}, outside every scene; "
    )
    swapped = shapely.box(south, west, north, east)
    grounds = gpd.GeoSeries(pd.concat([_outline(label.grid) for label in labels]))
    if grounds.intersects(swapped).any():
        return GridMismatchError(f"{said}latitude and longitude are swapped, write longitude first")
    return GridMismatchError(f"{said}check its CRS and the scenes")


def _outline(grid: Grid) -> gpd.GeoSeries:
    return gpd.GeoSeries([grid.polygon], crs=grid.crs.to_wkt()).to_crs(4326)
