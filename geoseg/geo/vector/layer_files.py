"""Vector files: the names by which GDAL opens them, their layers and attributes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj.exceptions import CRSError
from shapely.errors import ShapelyError

from geoseg.credentials import get_logger
from geoseg.errors import VectorReadError, one_line
from geoseg.geo.paths import is_a_folder, is_missing, no_such_file
from geoseg.geo.plain_names import readable_name

logger = get_logger(__name__)

FOOTPRINT_LAYER = "footprints"

# Formats with a spatial index, whose features are numbered in file order.
INDEXED_SUFFIXES = (".gpkg", ".fgb")

_GEOPARQUET = (".parquet", ".geoparquet", ".pq")

# Files of a Shapefile beside its main file that are read with it.
_SHAPEFILE = (".shx", ".dbf", ".prj", ".cpg", ".qpj", ".qix", ".sbn", ".sbx")

# Vector files that are read from a zip archive, in any of its folders.
_ZIPPED = (".shp", ".gpkg", ".geojson", ".json", ".fgb", ".kml", ".gml")

# Vector files are packed to a tenth, seldom to a hundredth. Unpacked bytes below the second number
# are harmless.
_MOST_RATIO, _LEAST_SUSPECT, _MOST_MEMBERS = 200, 200_000_000, 10_000

# What pyarrow, geopandas and shapely raise for files that are damaged or of another kind.
PARQUET_ERRORS = (
    *(ValueError, OSError, TypeError, LookupError, AttributeError, RuntimeError),
    *(pa.ArrowException, CRSError, ShapelyError),
)


def list_layers(path: str | Path) -> list[str]:
    """List the layers of a vector file.

    Args:
        path: Any vector file that GDAL opens, or GeoParquet.

    Returns:
        Names in file order; GeoParquet has one, named after the file.

    Raises:
        VectorReadError: If the file does not exist or is not a vector file.
    """
    return [name for name, _ in _layers(path)]


def count_indexed(path: str | Path, layer: str | None = None) -> int:
    """Count the features of a layer in a spatially indexed format; 0 for other formats."""
    if Path(path).suffix.lower() not in INDEXED_SUFFIXES:
        return 0
    return max(0, int(read_layer_info(path, select_layer(path, layer))["features"]))


def read_geoparquet(path: str | Path) -> gpd.GeoDataFrame:
    """Read a GeoParquet file as it is.

    Raises:
        VectorReadError: If it is missing or damaged.
    """
    try:
        frame = gpd.read_parquet(readable_name(path))
        # Texts are decoded when they are used, which may be much later.
        texts = frame.select_dtypes("string")
        for column in range(texts.shape[1]):  # two may have the same name
            pa.array(texts.iloc[:, column]).validate(full=True)
    except PARQUET_ERRORS as error:
        raise not_vector_error(path, error) from error
    return frame


def is_geoparquet(path: str | Path) -> bool:
    """Whether a file is GeoParquet, by its suffix."""
    return Path(path).suffix.lower() in _GEOPARQUET


def list_layer_files(path: str | Path) -> list[Path]:
    """Return the files that hold a layer: the one that is given, and the others of a Shapefile."""
    path = Path(path)
    if path.suffix.lower() != ".shp" or not path.parent.is_dir():
        return [path]
    others = (
        file
        for file in path.parent.iterdir()
        if file.stem == path.stem and file.suffix.lower() in _SHAPEFILE and file.is_file()
    )
    return [path, *sorted(others)]


def is_empty_sequence(path: Path) -> bool:
    """Return whether a file is an empty GeoJSON sequence, which GDAL cannot open."""
    return path.suffix.lower() == ".geojsonl" and path.is_file() and path.stat().st_size == 0


def _layers(path: str | Path) -> list[tuple[str, str | None]]:
    name = str(path)
    if is_missing(name):
        raise VectorReadError(no_such_file(name))
    if is_geoparquet(name):
        return [(Path(name).stem, "Unknown")]
    try:
        layers = [(str(layer), kind) for layer, kind in pyogrio.list_layers(gdal_name(path))]
    except DataSourceError as error:
        raise not_vector_error(path, error) from error
    if not layers:
        raise VectorReadError(f"{name}: has no vector layer; give a file that has one")
    return layers


def gdal_name(path: str | Path) -> str:
    """Return the name by which GDAL opens a file; for a zip archive, that of its content."""
    if Path(path).suffix.lower() != ".zip" or not zipfile.is_zipfile(path):
        return readable_name(path)
    members = _list_members(path)
    found = [
        member
        for member in members
        if member.suffix.lower() in _ZIPPED and "__MACOSX" not in member.parts
    ]
    if not found:
        raise VectorReadError(
            f"{path}: has no vector file; give an archive of a Shapefile, GeoPackage or GeoJSON"
        )
    folders = {member.parent for member in found}
    if len(folders) > 1:
        raise VectorReadError(
            f"{path}: has several vector files ({_join(map(str, found))}); unpack it and give one"
        )
    inside = found[0] if len(found) == 1 else found[0].parent
    return f"/vsizip/{Path(readable_name(path)).absolute()}/{inside}"


def _list_members(path: str | Path) -> list[PurePosixPath]:
    """Return the names in a zip archive; refuse one that unpacks to far more than it weighs."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise not_vector_error(path, error) from error
    unpacked, packed = sum(member.file_size for member in members), Path(path).stat().st_size
    if len(members) > _MOST_MEMBERS or unpacked > max(_LEAST_SUSPECT, _MOST_RATIO * packed):
        raise VectorReadError(
            f"{path}: its {len(members)} files would unpack to {unpacked / 1e9:.3g} GB from "
            f"{packed / 1e6:.3g} MB, which no layer does; unpack it yourself if you trust it"
        )
    return [PurePosixPath(member.filename) for member in members]


def select_layer(path: str | Path, layer: str | None) -> str:
    """Return the layer to read: the given one, that of footprints, or the first of polygons.

    Raises:
        VectorReadError: If the file cannot be read or has no such layer.
    """
    if is_empty_sequence(Path(path)):
        return layer or Path(path).stem
    layers = _layers(path)
    names = [name for name, _ in layers]
    if layer is not None:
        if layer not in names:
            raise VectorReadError(f"{path}: has no layer {layer!r}; its layers are {_join(names)}")
        return layer
    if FOOTPRINT_LAYER in names:
        return FOOTPRINT_LAYER
    spatial = [name for name, kind in layers if kind is not None]
    polygonal = [
        name for name, kind in layers if kind and re.match(r"(Multi)?Polygon|Unknown|Geom", kind)
    ]
    chosen = (polygonal or spatial or names)[0]
    if len(names) > 1:
        logger.warning("%s: read layer %s of %s", path, chosen, _join(names))
    return chosen


def read_layer_info(path: str | Path, layer: str) -> dict[str, Any]:
    """Return what pyogrio tells of a layer; raise `VectorReadError` if it has no geometries."""
    try:
        info: dict[str, Any] = pyogrio.read_info(gdal_name(path), layer=layer)
    except (DataSourceError, DataLayerError) as error:
        raise not_vector_error(path, error) from error
    if info["geometry_type"] is None:
        raise _no_geometry(path)
    return info


def layer_extent(info: dict[str, Any]) -> tuple[float, float]:
    """Return the smallest and largest x of a layer; infinite if its format does not know them."""
    bounds = info["total_bounds"]
    if bounds is None or not np.isfinite(bounds).all():
        return -np.inf, np.inf
    return float(bounds[0]), float(bounds[2])


def ogr_where(where: str) -> str:
    """Replace `==` by OGR's `=`, except inside quotes."""
    return re.sub(r"""('[^']*'|"[^"]*")|==""", lambda match: match.group(1) or "=", where)


def not_vector_error(path: str | Path, error: Exception) -> VectorReadError:
    """Return the error for a file that cannot be read as a vector layer."""
    file = Path(path)
    if file.is_dir():
        return VectorReadError(is_a_folder(path, "layer"))
    indexes = (file.with_suffix(suffix) for suffix in (".shx", ".SHX"))
    if file.suffix.lower() == ".shp" and file.is_file() and not any(i.exists() for i in indexes):
        return VectorReadError(
            f"{path}: {file.stem}.shx, the Shapefile's index, is missing; copy it, too, or rebuild "
            "it with ogr2ogr --config SHAPE_RESTORE_SHX YES out.gpkg in.shp"
        )
    # The rest of the message is about drivers, which users need not specify.
    reason = one_line(Exception(str(error).partition("; It might help")[0]))
    return VectorReadError(
        f"{path}: cannot be read as a vector layer ({reason}); give a GeoJSON, GeoPackage, "
        "Shapefile, FlatGeobuf or GeoParquet file"
    )


def _no_geometry(path: str | Path) -> VectorReadError:
    return VectorReadError(f"{path}: is a table without geometries; give a layer of polygons")


def filter_error(path: str | Path, where: str, columns: Iterable[str]) -> VectorReadError:
    """Return the error for a filter that does not fit the attributes."""
    return VectorReadError(
        f"{path}: the filter {where!r} does not match; the attributes are {_join(columns)}"
    )


def _join(names: Iterable[str]) -> str:
    return ", ".join(map(str, names)) or "(none)"
