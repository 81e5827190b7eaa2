"""Index of the scenes of a prediction, and the STAC item that describes its outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from rasterio.crs import CRS
from shapely.geometry.base import BaseGeometry

from geoseg.api.results import INDEX
from geoseg.credentials import hide_credentials
from geoseg.geo.crs import as_crs
from geoseg.geo.raster import SceneInfo
from geoseg.geo.vector import write_layers
from geoseg.geo.vector.antimeridian import to_degrees
from geoseg.geo.vector.geodesic import geodesic_measures
from geoseg.prediction.mosaic_job import MosaicJob
from geoseg.prediction.mosaic_prediction import MosaicRasters
from geoseg.vectorization.mosaic_layer import SceneArea
from geoseg.version import __version__

_ITEM = "item.json"

_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"

# Exactness of the outline in the item, as a share of its size.
_ITEM_TOLERANCE = 1e-3

_MEDIA_TYPES = {
    ".vrt": "application/xml",
    ".gpkg": "application/geopackage+sqlite3",
}


def write_index(
    path: Path,
    job: MosaicJob,
    rasters: Sequence[MosaicRasters],
    areas: Sequence[tuple[SceneArea, ...]],
    counts: Mapping[str, int] | None,
) -> None:
    """Write a GeoPackage with a layer `scenes`: what became of each scene, and where it is.

    Args:
        path: The index.
        job: The job.
        rasters: Rasters of each mosaic.
        areas: Areas of the scenes of each mosaic, in the CRS of the layer.
        counts: Number of footprints of each scene; None if there is no layer.
    """
    crs = as_crs(job.crs)
    rows = [
        _describe(scene, area, number, crs, counts)
        for number, (one, scenes) in enumerate(zip(rasters, areas, strict=True), start=1)
        for scene, area in zip(one.mosaic.scenes, scenes, strict=True)
    ]
    outlines: list[BaseGeometry | None] = [area.outline for scenes in areas for area in scenes]
    for status, others in (("left out", job.left_out), ("outside the area", job.outside)):
        rows += [
            {"status": status, "reason": reason.removeprefix(f"{name}: "), "source": name}
            for name, reason in others.items()
        ]
        outlines += [None] * len(others)
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    write_layers(path, {"scenes": gpd.GeoDataFrame(table, geometry=outlines, crs=crs)})


_COLUMNS = {
    "scene": "string",
    "status": "string",
    "reason": "string",
    "source": "string",
    "mosaic": "Int64",
    "crs": "string",
    "gsd_m": "Float64",
    "rows": "Int64",
    "columns": "Int64",
    "valid_m2": "Float64",
    "footprints": "Int64",
}


def _describe(
    scene: SceneInfo,
    area: SceneArea,
    mosaic: int,
    crs: pyproj.CRS,
    counts: Mapping[str, int] | None,
) -> dict[str, Any]:
    parts = shapely.get_parts(area.outline)
    valid_m2, _ = geodesic_measures(parts[~shapely.is_empty(parts)], crs)
    return {
        "scene": area.name,
        "status": "predicted",
        "source": hide_credentials(scene.path),
        "mosaic": mosaic,
        "crs": describe_crs(scene.grid.crs),
        "gsd_m": round(scene.grid.gsd_m, 6),
        "rows": scene.grid.height,
        "columns": scene.grid.width,
        "valid_m2": round(float(valid_m2.sum()), 1),
        "footprints": None if counts is None else counts.get(area.name, 0),
    }


def describe_crs(crs: CRS) -> str:
    """Return the code of a CRS, such as EPSG:32645, or its WKT if it has none."""
    authority = pyproj.CRS.from_wkt(crs.to_wkt()).to_authority()
    return ":".join(authority) if authority else crs.to_wkt()


def write_item(
    folder: Path,
    job: MosaicJob,
    rasters: Sequence[MosaicRasters],
    areas: Sequence[tuple[SceneArea, ...]],
    layer: Path | None,
) -> None:
    """Write a STAC item, `item.json`, version 1.1, whose assets are the outputs in its folder.

    Args:
        folder: The folder.
        job: The job.
        rasters: Rasters of each mosaic.
        areas: Areas of the scenes of each mosaic, in the CRS of the layer.
        layer: Layer of footprints; None if there is none.
    """
    whole = shapely.union_all([area.outline for scenes in areas for area in scenes])
    frame = gpd.GeoDataFrame(geometry=[whole], crs=as_crs(job.crs))
    outline = to_degrees(frame).geometry.union_all()
    size = np.ptp(np.reshape(outline.bounds, (2, 2)), axis=0).max()
    outline = shapely.simplify(outline, size * _ITEM_TOLERANCE)
    assets = {}
    for one in rasters:
        for file, title, roles in (
            (one.prob, "Probabilities", ["data"]),
            (one.mask, "Classes", ["data"]),
        ):
            if file is not None:
                assets[file.stem] = _describe_asset(file, title, roles)
    if layer is not None:
        assets["footprints"] = _describe_asset(layer, "Footprints", ["data"])
    assets["index"] = _describe_asset(folder / INDEX, "Scenes", ["metadata"])
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [_PROJECTION],
        "id": f"geoseg-{_digest(job)}",
        "geometry": shapely.geometry.mapping(outline),
        "bbox": list(outline.bounds),
        "properties": {
            # The scenes may have been taken at any time.
            "datetime": None,
            "start_datetime": "1900-01-01T00:00:00Z",
            "end_datetime": "9999-12-31T23:59:59Z",
            "proj:code": describe_crs(job.crs),
            "geoseg:version": __version__,
            "geoseg:scenes": len(job.scenes),
        },
        "links": [],
        "assets": assets,
    }
    (folder / _ITEM).write_text(json.dumps(item, indent=2) + "\n")


def _digest(job: MosaicJob) -> str:
    """Return a text that differs for jobs of different scenes or models."""
    names = [hide_credentials(scene.path) for scene in job.scenes]
    return hashlib.sha256(json.dumps([names, *map(str, job.models)]).encode()).hexdigest()[:16]


def _describe_asset(file: Path, title: str, roles: list[str]) -> dict[str, Any]:
    media = _MEDIA_TYPES.get(file.suffix)
    return {
        "href": f"./{file.name}",
        **({"type": media} if media else {}),
        "title": title,
        "roles": roles,
    }
