"""Labels of any kind on a scene's grid."""

from __future__ import annotations

from pathlib import Path

from geoseg.grid import Grid
from geoseg.labels.classes import Scheme
from geoseg.labels.footprints import FootprintLabels, read_footprint_labels
from geoseg.labels.layer import LayerLabels, read_layer_labels
from geoseg.labels.raster import RasterLabels
from geoseg.raster import is_raster
from geoseg.vector import count_indexed

Labels = FootprintLabels | LayerLabels | RasterLabels

# More polygons than these, about 100 MB, are left in a file that finds them by place.
MOST_IN_MEMORY = 50_000


def read_labels(
    path: str | Path,
    grid: Grid,
    scheme: Scheme | None = None,
    *,
    where: str | None = None,
    layer: str | None = None,
) -> Labels:
    """Reads the labels that lie on a scene: polygons, or a mask raster.

    Of a large GeoPackage or FlatGeobuf the polygons are counted only; they are read by window.

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
    if count_indexed(path, layer) > MOST_IN_MEMORY:
        return read_layer_labels(path, grid, scheme, where=where, layer=layer)
    return read_footprint_labels(path, grid, scheme, where=where, layer=layer)
