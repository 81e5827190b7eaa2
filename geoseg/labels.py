"""Footprints burnt into the targets that a network learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from rasterio.windows import Window
from scipy.ndimage import maximum_filter, minimum_filter

from geoseg.errors import GridMismatchError, LabelError, MissingCRSError
from geoseg.grid import Grid
from geoseg.vector import read_footprints

IGNORE = 255
TARGETS = ("building", "border")

# How far a building's border reaches to either side of its walls, on the ground.
BORDER_M = 0.75


@dataclass(frozen=True)
class Labels:
    """Footprints on one scene's grid.

    Attributes:
        grid: The grid that they are burnt on.
        footprints: In the grid's CRS.
        repaired: How many of the layer's polygons near the scene were invalid and mended.
        dropped: How many of the layer's features near the scene were no polygons.
    """

    grid: Grid
    footprints: gpd.GeoDataFrame
    repaired: int = 0
    dropped: int = 0

    @property
    def border_px(self) -> int:
        """Half the border's width in pixels, at least one."""
        return max(1, round(BORDER_M / self.grid.gsd_m))

    def built(self, window: Window) -> float:
        """Building pixels inside a window, by the footprints' area; overlaps count twice."""
        outline = self.grid.window_polygon(window)
        geometry = self.footprints.geometry
        near = geometry.iloc[geometry.sindex.query(outline, predicate="intersects")]
        inside = shapely.intersection(near.values, outline)
        return float(shapely.area(inside).sum() / abs(self.grid.transform.determinant))

    def burn(self, window: Window, valid: np.ndarray) -> np.ndarray:
        """Burns the targets of a window.

        `building` is 1 where a pixel's centre lies in a footprint. `border` is 1 within
        `BORDER_M` of a footprint's edge, walls between touching buildings included: what is
        left of a building without its border is apart from its neighbours. Both are `IGNORE`
        where the scene is nodata.

        Args:
            window: Window of the grid.
            valid: (H, W), True where the scene has data.

        Returns:
            uint8 (2, H, W): building, border.
        """
        halo = self.border_px
        wide = Window(
            window.col_off - halo,
            window.row_off - halo,
            window.width + 2 * halo,
            window.height + 2 * halo,
        )
        ids = self.burn_ids(wide)
        border = _edges(ids, 2 * halo + 1)
        targets = np.stack([ids > 0, border])[:, halo:-halo, halo:-halo].astype(np.uint8)
        targets[:, ~valid] = IGNORE
        return targets

    def burn_ids(self, window: Window) -> np.ndarray:
        """Burns which footprint the centre of each pixel lies in.

        Args:
            window: Of the grid's lattice, also beyond its edges.

        Returns:
            int32 (H, W): position in `footprints` + 1, or 0 on the ground.
        """
        geometry = self.footprints.geometry
        hits = np.sort(geometry.sindex.query(self.grid.window_polygon(window)))
        shapes = [(geometry.iloc[i], i + 1) for i in hits]
        shape = (int(window.height), int(window.width))
        if not shapes:
            return np.zeros(shape, dtype=np.int32)
        burnt: np.ndarray = rasterize(
            shapes, shape, transform=self.grid.window_transform(window), dtype="int32"
        )
        return burnt


def read_labels(
    path: str | Path, grid: Grid, *, where: str | None = None, layer: str | None = None
) -> Labels:
    """Reads the footprints that lie on a scene.

    Args:
        path: Any vector layer, in any CRS.
        grid: The scene's grid.
        where: Attribute filter, e.g. `label == 1`.
        layer: Layer name, where the file has several.

    Returns:
        Footprints in the grid's CRS; none may meet the scene, see `check_labels`.

    Raises:
        VectorReadError: If the layer cannot be read.
        MissingCRSError: If it or the scene does not say where on Earth it lies.
    """
    try:
        layer_part = read_footprints(
            path, where=where, layer=layer, bounds=grid.bounds, bounds_crs=grid.crs
        )
        footprints = layer_part.to_crs(grid.crs.to_wkt())
    except ProjError as error:
        raise MissingCRSError(
            f"{path}: cannot be laid over the scene, the CRS of one of them is local and has no "
            "place on Earth; gdal_edit.py -a_srs or ogr2ogr -a_srs EPSG:CODE writes one that has"
        ) from error
    # A round trip between CRSs may fold a sliver over; only areas are kept of what that leaves.
    footprints.geometry = shapely.make_valid(
        footprints.geometry.values, method="structure", keep_collapsed=False
    )
    meets = footprints.geometry.intersects(grid.polygon)
    footprints = footprints[meets].reset_index(drop=True)
    repaired, dropped = (int(layer_part.attrs.get(name, 0)) for name in ("repaired", "dropped"))
    return Labels(grid, footprints, repaired, dropped)


def check_labels(
    labels: list[Labels], path: str | Path, where: str | None, layer: str | None = None
) -> None:
    """Refuses labels of which none meets any scene.

    Raises:
        LabelError: If the layer, or what the filter leaves of it, is empty.
        GridMismatchError: If it lies somewhere else.
    """
    if any(len(label.footprints) for label in labels):
        return
    everything = read_footprints(path, where=where, layer=layer)
    if everything.empty:
        kept = f" where {where}" if where else ""
        if everything.attrs.get("dropped"):
            raise LabelError(
                f"{path}: holds {everything.attrs['dropped']} features{kept}, but no polygon; "
                "footprints are polygons"
            )
        raise LabelError(f"{path}: holds no footprint{kept}; check the layer and the filter")
    west, south, east, north = everything.to_crs(4326).total_bounds
    raise GridMismatchError(
        f"{path}: its {len(everything)} footprints lie at longitude {west:.4f} to {east:.4f}, "
        f"latitude {south:.4f} to {north:.4f}, outside every scene; check its CRS and the scenes"
    )


def _edges(ids: np.ndarray, width: int) -> np.ndarray:
    """Where a square of `width` pixels sees two different ids, the ground's 0 included."""
    different: np.ndarray = maximum_filter(ids, width) != minimum_filter(ids, width)
    return different
