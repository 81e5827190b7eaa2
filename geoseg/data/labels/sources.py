"""Labels of any kind on a scene's grid."""

from __future__ import annotations

from pathlib import Path

from geoseg.data.labels.class_scheme import ClassScheme
from geoseg.data.labels.large_layer import LayerLabels, read_layer_labels
from geoseg.data.labels.mask_labels import RasterLabels
from geoseg.data.labels.polygon_labels import (
    FootprintLabels,
    crosses_antimeridian,
    read_footprint_labels,
)
from geoseg.errors import LabelError
from geoseg.geo.grid import Grid
from geoseg.geo.paths import is_missing
from geoseg.geo.raster import is_raster
from geoseg.geo.vector import count_indexed

Labels = FootprintLabels | LayerLabels | RasterLabels

# More polygons than these, about 100 MB, are left in a file that finds them by place.
MAX_IN_MEMORY = 50_000

# In a path of labels, stands for the name of a scene.
SCENE_NAME = "{}"


def find_labels_path(scene: str | Path, labels: str | Path) -> str:
    """The path of a scene's labels.

    `{}` in the path of labels stands for the scene's name without its suffix; where no such file
    is, for the longest part of it that leaves out words at its beginning or at its end, divided
    by `_`: scene `RGB_img7.tif` may have the labels `buildings_img7.geojson`, of the path
    `buildings_{}.geojson`, and `7_sat.jpg` those of `{}_mask.png`.

    Args:
        scene: Path of the scene.
        labels: Path of the labels, with or without `{}`.

    Raises:
        LabelError: If no such file is there.
    """
    path = str(labels)
    if SCENE_NAME not in path:
        return path
    words = Path(scene).stem.split("_")
    parts = [words[start:] for start in range(len(words))]
    parts += [words[:end] for end in range(len(words) - 1, 0, -1)]
    tried = [path.replace(SCENE_NAME, "_".join(part)) for part in parts]
    found = next((one for one in tried if not is_missing(one)), None)
    if found is None:
        raise LabelError(
            f"{scene}: has no labels; there is none of {', '.join(tried)}; check the path of the "
            "labels, in which {} stands for a scene's name or a part of it"
        )
    return found


def read_labels(
    path: str | Path,
    grid: Grid,
    scheme: ClassScheme | None = None,
    *,
    where: str | None = None,
    layer: str | None = None,
    scene_grid: Grid | None = None,
) -> Labels:
    """Reads the labels that lie on a scene: polygons, or a mask raster.

    Of a large GeoPackage or FlatGeobuf the polygons are counted only; they are read by window.

    Args:
        path: Any vector layer or raster, in any CRS.
        grid: The scene's grid.
        scheme: The classes; buildings when None.
        where: Attribute filter of polygons, e.g. `label == 1`.
        layer: Layer name, where a vector file has several.
        scene_grid: The scene's own grid, on which a mask of its size lies that does not say where.

    Raises:
        VectorReadError: If a vector layer cannot be read.
        SceneReadError: If a mask raster cannot be read.
        LabelError: If it has not the bands or the attribute that the classes need.
        MissingCRSError: If it or the scene does not say where on Earth it lies.
    """
    scheme = scheme or ClassScheme()
    if is_raster(path):
        return RasterLabels(grid, str(path), scheme, scene_grid)
    if count_indexed(path, layer) > MAX_IN_MEMORY and not crosses_antimeridian(grid):
        return read_layer_labels(path, grid, scheme, where=where, layer=layer)
    return read_footprint_labels(path, grid, scheme, where=where, layer=layer)
