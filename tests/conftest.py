"""What all tests share: Hypothesis profiles, one thread, and small scenes with known footprints."""

import gc
import os
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import settings
from rasterio.crs import CRS
from shapely.geometry import Polygon

from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.errors import GeosegError
from geoseg.geo.grid import Grid
from geoseg.jobs.memory import release_memory
from geoseg.options import TileOptions

# `HYPOTHESIS_PROFILE=ci pytest` tries more examples, the same ones each time.
settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

torch.set_num_threads(1)

# Folder of the public imagery; `GEOSEG_TEST_DATA=FOLDER pytest` names another one.
REALDATA = Path(os.environ.get("GEOSEG_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")

# A place in the middle of UTM zone 45N, where the scale is 0.9996.
X, Y = 500_000.0, 3_000_000.0

BUILDINGS = tuple(
    (left, top, left + 12, top + 9) for top in range(6, 84, 22) for left in range(5, 140, 24)
)


@dataclass(frozen=True)
class MadeScene:
    """A scene on disk, its footprints, and what is known of both.

    Attributes:
        path: The GeoTIFF.
        labels: The footprints, a GeoPackage with the attributes `id` and `label` (1 or 2).
        grid: Place of the scene.
        data: (C, H, W) as stored, nodata included.
        valid: (H, W).
        boxes: (left, top, right, bottom) of each building in pixels.
        polygons: The same on the ground, in the scene's CRS.
    """

    path: Path
    labels: Path
    grid: Grid
    data: np.ndarray
    valid: np.ndarray
    boxes: tuple[tuple[int, int, int, int], ...]
    polygons: list[Polygon]

    @property
    def mask(self):
        """(H, W) bool, True in a building."""
        mask = np.zeros(self.grid.shape, dtype=bool)
        for left, top, right, bottom in self.boxes:
            mask[top:bottom, left:right] = True
        return mask


@pytest.fixture(autouse=True, scope="module")
def free_memory():
    """Give back what the tests of a file have used: limits of memory count the whole process."""
    yield
    gc.collect()
    release_memory()


@pytest.fixture
def make_scene(tmp_path):
    """A function that writes a seeded scene with rectangular buildings."""

    def make(name="scene", **options):
        return write_scene(tmp_path, name, **options)

    return make


@pytest.fixture
def realdata():
    """Folder of the public imagery; skips where it is absent."""
    if not REALDATA.is_dir():
        pytest.skip(f"the public imagery is not in {REALDATA}; set GEOSEG_TEST_DATA to its folder")
    return REALDATA


@pytest.fixture
def magnify(tmp_path):
    """A function that writes a huge VRT: a small raster with its pixels repeated."""

    def write(path, side):
        with rasterio.open(path) as source:
            bands, height, width = source.count, source.height, source.width
            wkt, dtype = source.crs.to_string(), {"uint8": "Byte"}[source.dtypes[0]]
            transform = ", ".join(str(number) for number in source.transform.to_gdal())
        bands = "".join(
            f'<VRTRasterBand dataType="{dtype}" band="{band}"><SimpleSource>'
            f"<SourceFilename>{path}</SourceFilename><SourceBand>{band}</SourceBand>"
            f'<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
            f'<DstRect xOff="0" yOff="0" xSize="{side}" ySize="{side}"/>'
            "</SimpleSource></VRTRasterBand>"
            for band in range(1, bands + 1)
        )
        vrt = tmp_path / f"{path.stem}_{side}.vrt"
        vrt.write_text(
            f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{wkt}</SRS>'
            f"<GeoTransform>{transform}</GeoTransform>{bands}</VRTDataset>"
        )
        return vrt

    return write


def write_scene(
    folder,
    name="scene",
    *,
    height=96,
    width=160,
    bands=3,
    dtype="uint8",
    crs="EPSG:32645",
    gsd=0.5,
    origin=(X, Y),
    rotation=0.0,
    nodata=None,
    holes=(),
    tiled=True,
    descriptions=(),
    buildings=BUILDINGS,
    seed=0,
):
    """Writes a scene of noise with brighter rectangles, and their footprints beside it.

    Args:
        folder: Where to.
        name: Stem of both files.
        height: Rows.
        width: Columns.
        bands: Bands.
        dtype: Data type; values are between 20 and 120.
        crs: Anything rasterio takes, or None.
        gsd: Pixel size in the CRS's unit, or (x, y).
        origin: Upper left corner in the CRS.
        rotation: Degrees, counter-clockwise.
        nodata: Sentinel.
        holes: (left, top, right, bottom) in pixels that are set to the sentinel.
        tiled: Blocks of 64 x 64 instead of strips.
        descriptions: Band names.
        buildings: (left, top, right, bottom) in pixels; those outside the scene are left out.
        seed: Seed of the noise.
    """
    gsd_x, gsd_y = gsd if isinstance(gsd, tuple) else (gsd, gsd)
    transform = (
        Affine.translation(*origin) * Affine.rotation(rotation) * Affine.scale(gsd_x, -gsd_y)
    )
    boxes = tuple(b for b in buildings if b[2] <= width and b[3] <= height)
    data = np.random.default_rng(seed).integers(20, 60, (bands, height, width)).astype(dtype)
    valid = np.ones((height, width), dtype=bool)
    for left, top, right, bottom in boxes:
        data[:, top:bottom, left:right] += 60
    for left, top, right, bottom in holes:
        data[:, top:bottom, left:right] = nodata
        valid[top:bottom, left:right] = False

    path, labels = Path(folder) / f"{name}.tif", Path(folder) / f"{name}.gpkg"
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64} if tiled else {}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=dtype,
        crs=crs, transform=transform, nodata=nodata, photometric="minisblack", **blocks,
    ) as sink:  # fmt: skip
        sink.write(data)
        for index, description in enumerate(descriptions, start=1):
            sink.set_band_description(index, description)

    polygons = [
        Polygon([transform * corner for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))])
        for x0, y0, x1, y1 in boxes
    ]
    known = CRS.from_user_input(crs or "EPSG:32645")
    frame = {"id": range(len(boxes)), "label": [1 + i % 2 for i in range(len(boxes))]}
    gpd.GeoDataFrame(frame, geometry=polygons, crs=known.to_wkt()).to_file(labels)
    return MadeScene(
        path, labels, Grid(known, transform, height, width), data, valid, boxes, polygons
    )


# What becomes of files that are given to `geoseg tile`, and a table of it when all tests have run

_TABLE = "given to geoseg tile"


@dataclass(frozen=True)
class TileOutcome:
    """How `geoseg tile` ended.

    Attributes:
        message: The line of the refusal, or nothing.
        folder: The tiles.
    """

    message: str
    folder: Path

    @property
    def refused(self):
        return bool(self.message)


@pytest.fixture
def give_to_tile(tmp_path, record_property):
    """A function that tiles scenes as `geoseg tile` does, and puts a row into the table.

    It either leaves whole tiles, or ends with one line of a `GeosegError` and leaves nothing.
    """

    def give(scenes, labels, *, about=None, finish=None, **options):
        folder, message = tmp_path / "tiles", ""
        try:
            plan = plan_tiles(scenes, labels, TileOptions(**options))
            info = tile_scenes(plan, folder, finish=finish)
            assert not info.failed
        except GeosegError as error:
            message = str(error)
            assert len(message.splitlines()) == 1
            assert "; " in message, f"does not say what to do: {message}"
            assert not folder.exists()
        if about is not None:
            row = {name: str(value) for name, value in about.items()}
            row["outcome"] = "refused" if message else "tiled"
            reason = message
            for given in (*map(str, scenes), str(labels)):
                reason = reason.replace(given, Path(given).name)
            record_property(_TABLE, {"reason": reason} | row)
        return TileOutcome(message, folder)

    return give


def pytest_terminal_summary(terminalreporter):
    """Shows what became of each file that tests gave to `geoseg tile`."""
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == _TABLE
    ]
    if not rows:
        return
    columns = ["file", "outcome", "bands", "dtype", "placed by", "reason"]
    columns = [name for name in columns if any(row.get(name) for row in rows)]
    width = {name: max(len(name), *(len(row.get(name, "")) for row in rows)) for name in columns}
    terminalreporter.section(_TABLE)
    heads = {name: name for name in columns}
    for row in [heads, *sorted(rows, key=lambda row: row["file"])]:
        line = "  ".join(row.get(name, "").ljust(width[name]) for name in columns)
        terminalreporter.write_line(line.rstrip())
