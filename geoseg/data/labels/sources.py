"""Reading labels of any kind: polygons in memory, large layers, mask rasters."""

from __future__ import annotations

from pathlib import Path

from geoseg.data.labels.class_scheme import ClassScheme
from geoseg.data.labels.large_layer import LayerLabels, read_layer_labels
from geoseg.data.labels.mask_labels import RasterLabels
from geoseg.data.labels.polygon_labels import FootprintLabels, read_footprint_labels
from geoseg.errors import LabelError
from geoseg.geo.grid import Grid
from geoseg.geo.paths import is_missing
from geoseg.geo.raster import is_raster
from geoseg.geo.vector import count_indexed, select_layer

Labels = FootprintLabels | LayerLabels | RasterLabels

# Layers with more polygons than this, about 100 MB, are read by window if their file has a
# spatial index.
MAX_IN_MEMORY = 50_000

# Placeholder for a scene's name in the path of labels.
SCENE_NAME = "{}"


def find_labels_path(scene: str | Path, labels: str | Path) -> str:
    """Find the labels of a scene.

    `{}` in the path of labels is replaced by the scene's name without its suffix. If that file does
    not exist, words separated by `_` are removed from the beginning or the end of the name, and
    the longest remaining part whose file exists is used: with `buildings_{}.geojson` the scene
    `RGB_img7.tif` has the labels `buildings_img7.geojson`; with `{}_mask.png` the scene
    `7_sat.jpg` has the labels `7_mask.png`.

    Args:
        scene: Path of the scene.
        labels: Path of the labels, with or without `{}`.

    Raises:
        LabelError: If no such file exists.
    """
    path = str(labels)
    if SCENE_NAME not in path:
        return path
    words = Path(scene).stem.split("_")
    parts = [words[start:] for start in range(len(words))]
    parts += [words[:end] for end in range(len(words) - 1, 0, -1)]
    tried = [path.replace(SCENE_NAME, "_".join(part)) for part in parts]
    existing = next((candidate for candidate in tried if not is_missing(candidate)), None)
    if existing is None:
        raise LabelError(
            f"{scene}: has no labels, none of {', '.join(tried)} exists; check the path of the "
            "labels, in which {} stands for a scene's name or a part of it"
        )
    return existing


def read_labels(
    path: str | Path,
    grid: Grid,
    scheme: ClassScheme | None = None,
    *,
    where: str | None = None,
    layer: str | None = None,
    scene_grid: Grid | None = None,
    total: int | None = None,
) -> Labels:
    """Read the labels of a scene: polygons or a mask raster.

    The polygons of a large GeoPackage or FlatGeobuf are only counted; they are read by window
    later.

    Args:
        path: Any vector file or raster, in any CRS.
        grid: Grid that the scene is tiled on.
        scheme: Class scheme; buildings if None.
        where: Attribute filter of polygons, e.g. `label == 1`.
        layer: Layer name, if a vector file has several.
        scene_grid: Grid of the scene's file; used for a mask without georeferencing if its shape
            is the same.
        total: Number of features of a vector layer that match the filter, if it is known.

    Raises:
        VectorReadError: If a vector layer cannot be read.
        SceneReadError: If a mask raster cannot be read.
        LabelError: If the labels lack the bands or the attribute that the classes need.
        MissingCRSError: If the labels have no georeferencing, or cannot be aligned with the scene.
    """
    scheme = scheme or ClassScheme()
    if is_raster(path):
        return RasterLabels(grid, str(path), scheme, scene_grid)
    layer = select_layer(path, layer)
    if count_indexed(path, layer) > MAX_IN_MEMORY:
        return read_layer_labels(path, grid, scheme, where=where, layer=layer, total=total)
    return read_footprint_labels(path, grid, scheme, where=where, layer=layer, total=total)
