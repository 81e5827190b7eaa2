"""Labels of any kind on a scene's grid."""

from __future__ import annotations

from pathlib import Path

from geoseg.grid import Grid
from geoseg.labels.classes import Scheme
from geoseg.labels.footprints import FootprintLabels, read_footprint_labels
from geoseg.labels.raster import RasterLabels
from geoseg.raster import is_raster

Labels = FootprintLabels | RasterLabels


def read_labels(
    path: str | Path,
    grid: Grid,
    scheme: Scheme | None = None,
    *,
    where: str | None = None,
    layer: str | None = None,
) -> Labels:
    """Reads the labels that lie on a scene: polygons, or a mask raster.

    Args:
        path: Any vector layer or raster, in any CRS.
        grid: The scene's grid.
        scheme: The classes; buildings when None.
        where: Attribute filter of polygons, e.g. `label == 1`.
        layer: Layer name, where a vector file has several.

    Raises:
        VectorReadError: If a vector layer cannot be read.
        SceneReadError: If a mask raster cannot be read.
        LabelError: If it has not the bands or the attribute that the classes need.
        MissingCRSError: If it or the scene does not say where on Earth it lies.
    """
    scheme = scheme or Scheme()
    if is_raster(path):
        return RasterLabels(grid, str(path), scheme)
    return read_footprint_labels(path, grid, scheme, where=where, layer=layer)
