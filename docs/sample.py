"""Generator of the sample in `geoseg/sample`: a scene, and the footprints that intersect it.

The sample is a part of a mosaic of tiles of OpenAerialMap, which are in the history of
github.com/hotosm/fAIr-utilities with their OpenStreetMap footprints (commits 61f1515 and d83e21c,
folder `ramp-data/TRAIN/HOTOSM/2/data/1`). The upper left tile is `OAM-1277168-1083840-21.png`; the
mosaic has the CRS EPSG:3857 and the pixel size of zoom level 20, 4096 columns and 2048 rows. Run

    python docs/sample.py mosaic.tif footprints.parquet
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio.shutil
import shapely
from rasterio.io import MemoryFile
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene
from geoseg.geo.vector import read_footprints
from geoseg.sample import SAMPLE_AREA, SAMPLE_FOOTPRINTS, SAMPLE_SCENE

# Columns 1344 to 2240, rows 0 to 1024. Shipped models are trained on other columns.
WINDOW = Window(1344, 0, 896, 1024)

JPEG_QUALITY = 85

# Decimals of degrees: 0.1 mm.
DECIMALS = 9

IMAGERY = "© OpenAerialMap contributors, CC BY 4.0; cut out of a mosaic and compressed again"
BUILDINGS = "© OpenStreetMap contributors, ODbL 1.0, https://opendatacommons.org/licenses/odbl/"


def main() -> None:
    """Write the sample into the package."""
    parser = argparse.ArgumentParser(description="Write the sample into the package.")
    parser.add_argument("mosaic", help="red, green and blue, uint8")
    parser.add_argument("footprints", help="footprints of the mosaic")
    arguments = parser.parse_args()
    with Scene(arguments.mosaic) as source:
        pixels, _ = source.read(WINDOW)
        grid = source.grid.window_grid(WINDOW)
    write_scene(pixels, grid)
    crs, extent = grid.crs.to_wkt(), grid.polygon
    footprints = read_footprints(arguments.footprints).to_crs(crs).geometry
    visible = footprints[footprints.intersects(extent)]
    write_polygons(SAMPLE_FOOTPRINTS, visible.to_crs(4326), BUILDINGS)
    area = gpd.GeoSeries([extent], crs=crs)
    write_polygons(SAMPLE_AREA, area.to_crs(4326), "extent of scene.tif")


def write_scene(pixels: np.ndarray, grid: Grid) -> None:
    """Write a Cloud Optimized GeoTIFF, compressed as JPEG."""
    _, height, width = pixels.shape
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 3, "height": height, "width": width,
        "crs": grid.crs.to_wkt(), "transform": grid.transform, "photometric": "rgb",
    }  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**profile) as whole:
            whole.write(pixels)
            whole.descriptions = ("red", "green", "blue")
            whole.update_tags(TIFFTAG_COPYRIGHT=IMAGERY)
        rasterio.shutil.copy(
            memory.name, SAMPLE_SCENE, driver="COG", compress="JPEG", quality=JPEG_QUALITY,
            overview_quality=JPEG_QUALITY, overview_resampling="average", blocksize=256,
        )  # fmt: skip


def write_polygons(path: Path, polygons: Iterable[shapely.Polygon], source: str) -> None:
    """Write polygons in degrees as GeoJSON, one a line, numbered from 1."""
    features = []
    for number, polygon in enumerate(polygons, start=1):
        rounded = shapely.transform(polygon.normalize(), lambda points: points.round(DECIMALS))
        geometry = json.loads(shapely.to_geojson(rounded))
        feature = {"type": "Feature", "properties": {"id": number}, "geometry": geometry}
        features.append(json.dumps(feature))
    lines = ",\n".join(features)
    head = f'"type": "FeatureCollection",\n"source": "{source}",\n"features": [\n'
    path.write_text(f"{{{head}{lines}\n]}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
