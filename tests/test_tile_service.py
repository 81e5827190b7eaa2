"""Tile services as scenes: the area of interest of a service at one pixel size."""

from __future__ import annotations

import io
import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner
from PIL import Image
from rasterio.windows import Window
from shapely.geometry import Polygon
from small_models import DEEPGLOBE, make_model

import geoseg
from geoseg.cli import cli
from geoseg.errors import GridMismatchError, SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, cover, plan_crop, read_info, write_scene_crop
from geoseg.options import PredictOptions
from geoseg.town import build_town

WEB_MERCATOR = rasterio.CRS.from_epsg(3857)
EDGE = 20037508.342789244
ZOOM, SIDE = 18, 256
LEVELS = 4

# Column and row of the town in the pixels of the finest level, about 48 degrees north.
COLUMN, ROW = 36_000_040, 23_300_024

SERVICE = """<GDAL_WMS>
  <Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png?key=SECRET</ServerUrl></Service>
  <DataWindow>
    <UpperLeftX>-20037508.342789244</UpperLeftX><UpperLeftY>20037508.342789244</UpperLeftY>
    <LowerRightX>20037508.342789244</LowerRightX><LowerRightY>-20037508.342789244</LowerRightY>
    <TileLevel>18</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY>
    <YOrigin>top</YOrigin>
  </DataWindow>
  <Projection>EPSG:3857</Projection>
  <BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY>
  <BandsCount>{bands}</BandsCount>
  {more}
</GDAL_WMS>"""
WMTS = """<GDAL_WMTS>
  <GetCapabilitiesUrl>{capabilities}</GetCapabilitiesUrl><Layer>town</Layer>
  <ZeroBlockHttpCodes>204,404</ZeroBlockHttpCodes>
  <Cache><Path>{cache}</Path></Cache>
</GDAL_WMTS>"""
CAPABILITIES = """<?xml version="1.0"?>
<Capabilities xmlns="http://www.opengis.net/wmts/1.0" version="1.0.0"
  xmlns:ows="http://www.opengis.net/ows/1.1"><Contents>
  <Layer>
    <ows:Identifier>town</ows:Identifier>
    <Style isDefault="true"><ows:Identifier>default</ows:Identifier></Style>
    <Format>image/png</Format>
    <TileMatrixSetLink><TileMatrixSet>world</TileMatrixSet></TileMatrixSetLink>
    <ResourceURL format="image/png" resourceType="tile"
      template="{url}/{{TileMatrix}}/{{TileCol}}/{{TileRow}}.png?key=SECRET"/>
  </Layer>
  <TileMatrixSet>
    <ows:Identifier>world</ows:Identifier>
    <ows:SupportedCRS>urn:ogc:def:crs:EPSG::3857</ows:SupportedCRS>
    {levels}
  </TileMatrixSet>
</Contents></Capabilities>"""
TILE_MATRIX = """<TileMatrix>
  <ows:Identifier>{zoom}</ows:Identifier><ScaleDenominator>{scale!r}</ScaleDenominator>
  <TopLeftCorner>-20037508.342789244 20037508.342789244</TopLeftCorner>
  <TileWidth>256</TileWidth><TileHeight>256</TileHeight>
  <MatrixWidth>{tiles}</MatrixWidth><MatrixHeight>{tiles}</MatrixHeight>
</TileMatrix>"""
NO_TILE_IS_NODATA = "<ZeroBlockHttpCodes>204,404</ZeroBlockHttpCodes>"


def level_grid(level, window=None):
    """Grid of the world at a zoom level below the finest one."""
    size = SIDE * 2 ** (ZOOM - level)
    pixel = 2 * EDGE / size
    grid = Grid(WEB_MERCATOR, Affine(pixel, 0, -EDGE, 0, -pixel, EDGE), size, size)
    return grid if window is None else grid.window_grid(window)


class TileServer(ThreadingHTTPServer):
    """Serves an image (4, H, W) in XYZ tiles of PNG with the zoom levels of its means.

    Attributes:
        levels: The image at each level, with its column and row.
        requests: Level, x and y of each tile that was asked for.
    """

    def __init__(self, image):
        super().__init__(("127.0.0.1", 0), TileHandler)
        self.levels, self.requests = [(image, COLUMN, ROW)], []
        for _ in range(1, LEVELS):
            image, column, row = self.levels[-1]
            bands, height, width = image.shape
            blocks = image.reshape(bands, height // 2, 2, width // 2, 2)
            self.levels.append((blocks.mean(axis=(2, 4)).astype("uint8"), column // 2, row // 2))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/SECRET"

    def find_tile(self, level, x, y):
        """Bytes of a tile; None where the image is not."""
        if level >= LEVELS:
            return None
        image, column, row = self.levels[level]
        left, top = x * SIDE - column, y * SIDE - row
        rows = slice(max(top, 0), max(min(top + SIDE, image.shape[1]), 0))
        columns = slice(max(left, 0), max(min(left + SIDE, image.shape[2]), 0))
        part = image[:, rows, columns]
        if not part.size:
            return None
        tile = np.zeros((4, SIDE, SIDE), "uint8")
        first_row, first_column = rows.start - top, columns.start - left
        tile[:, first_row : first_row + part.shape[1], first_column:][..., : part.shape[2]] = part
        file = io.BytesIO()
        Image.fromarray(tile.transpose(1, 2, 0)).save(file, "PNG", compress_level=1)
        return file.getvalue()


class TileHandler(BaseHTTPRequestHandler):
    """Answers a request of a tile."""

    def do_GET(self):
        zoom, x, y = map(int, re.match(r"/SECRET/(\d+)/(\d+)/(\d+)\.png", self.path).groups())
        self.server.requests.append((ZOOM - zoom, x, y))
        tile = self.server.find_tile(ZOOM - zoom, x, y)
        if tile is None:
            self.send_error(404, "no tile for SECRET")
            return
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(tile)))
        self.end_headers()
        self.wfile.write(tile)

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture(scope="module")
def image():
    """A town (4, H, W) with alpha, without its lower left corner."""
    pixels = build_town(1200, 1600, seed=5, gsd_m=0.4, nodata=None).image
    alpha = np.full((1, 1200, 1600), 255, "uint8")
    alpha[:, 1000:, :160] = 0
    return np.concatenate([pixels, alpha])


@pytest.fixture
def server(image):
    with TileServer(image) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def service(server, tmp_path):
    return write_service(server, tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors", DEEPGLOBE)


def write_service(server, folder, *, bands=4, more=NO_TILE_IS_NODATA):
    path = folder / "service.xml"
    path.write_text(SERVICE.format(url=server.url, bands=bands, more=more))
    return path


def write_wmts(server, folder):
    # A pixel of the standard measures 0.28 mm on the screen.
    levels = "".join(
        TILE_MATRIX.format(zoom=zoom, tiles=2**zoom, scale=2 * EDGE / SIDE / 2**zoom / 0.00028)
        for zoom in range(ZOOM + 1)
    )
    capabilities = folder / "capabilities.xml"
    capabilities.write_text(CAPABILITIES.format(url=server.url, levels=levels))
    path = folder / "service.xml"
    path.write_text(WMTS.format(capabilities=capabilities, cache=folder / "cache"))
    return path


def write_area(folder, left, top, right, bottom):
    """Write a triangle around pixels of the town, in degrees."""
    corners = [(left, top), (right, top), (left, bottom)]
    transform = level_grid(0).transform
    polygon = Polygon([transform * (COLUMN + x, ROW + y) for x, y in corners])
    path = folder / "area.geojson"
    gpd.GeoDataFrame(geometry=[polygon], crs=WEB_MERCATOR.to_wkt()).to_crs(4326).to_file(path)
    return path


def predict_area(service, area, model, output, **more):
    options = PredictOptions(device="cpu", aoi=str(area), footprints=False, **more)
    return geoseg.predict(service, output, model=model, options=options)


@pytest.mark.parametrize(("gsd_m", "level"), [(None, 0), (0.4, 0), (0.8, 1), (1.0, 1)])
def test_the_area_of_interest_is_predicted(server, service, model, tmp_path, gsd_m, level):
    area = write_area(tmp_path, 300, 250, 900, 640)
    result = predict_area(service, area, model, tmp_path / "out", gsd_m=gsd_m)
    assert result.scene == str(service)
    with rasterio.open(result.prob_path) as prob:
        grid = Grid(prob.crs, prob.transform, *prob.shape)
        data, valid = prob.read(1), prob.dataset_mask() > 0
    assert grid.crs == WEB_MERCATOR
    assert grid.gsd_m == pytest.approx(gsd_m or DEEPGLOBE.gsd_m, rel=0.01)
    assert grid.height != grid.width
    # The rectangle around the area and one tile of the model on each side.
    scale = level_grid(0).transform.a / grid.transform.a
    margin = DEEPGLOBE.size * DEEPGLOBE.gsd_m / grid.gsd_m
    assert grid.height == pytest.approx(390 * scale + 2 * margin, abs=4)
    assert grid.width == pytest.approx(600 * scale + 2 * margin, abs=4)
    column, row = ~level_grid(level).transform * (grid.transform.c, grid.transform.f)
    assert (column, row) == pytest.approx((round(column), round(row)), abs=1e-3)
    polygons = gpd.read_file(area).to_crs(3857).geometry
    inside = rasterio.features.geometry_mask(polygons, grid.shape, grid.transform, invert=True)
    np.testing.assert_array_equal(valid, inside)
    assert np.ptp(data[valid]) > 0
    # Only tiles near the area, at the level that is wanted and at coarser ones.
    assert min(asked for asked, _, _ in server.requests) == level
    for asked, x, y in server.requests:
        scale = SIDE * 2**asked
        reach = scale + 2 * DEEPGLOBE.size * DEEPGLOBE.gsd_m / 0.39
        assert COLUMN + 300 - reach < x * scale < COLUMN + 900 + reach
        assert ROW + 250 - reach < y * scale < ROW + 640 + reach


@pytest.mark.parametrize("kind", ["3 bands", "4 bands", "WMTS"])
def test_pixels_are_those_of_the_service(server, tmp_path, kind):
    if kind == "WMTS":
        service = write_wmts(server, tmp_path)
    else:
        service = write_service(server, tmp_path, bands=int(kind[0]))
    for level, (served, column, row) in enumerate(server.levels[:3]):
        window = Window(column - 30, row + 250 // 2**level, 430 // 2**level, 220 // 2**level)
        bounds = level_grid(level, window).polygon.buffer(-0.01).bounds
        crop = plan_crop(read_info(service), 0.4 * 2**level, bounds=bounds)
        assert crop.level == (level - 1 if level else None)
        write_scene_crop(tmp_path / "scene.vrt", crop)
        with Scene(tmp_path / "scene.vrt") as scene:
            assert scene.grid.shape == (window.height, window.width)
            assert scene.grid.bounds == pytest.approx(level_grid(level, window).bounds)
            assert scene.info.bands == ("red", "green", "blue")
            data, valid = scene.read()
        rows = slice(window.row_off - row, window.row_off - row + window.height)
        np.testing.assert_array_equal(data[..., 30:], served[:3, rows, : window.width - 30])
        assert not data[..., :30].any()
        if kind != "3 bands":  # a tile that the service lacks has alpha 0
            np.testing.assert_array_equal(valid[:, 30:], served[3, rows, : window.width - 30] > 0)
            assert not valid[:, :30].any()


def test_processes_read_the_same(server, model, tmp_path):
    more = f"{NO_TILE_IS_NODATA}<Cache><Path>{tmp_path}/cache</Path></Cache>"
    service = write_service(server, tmp_path, more=more)
    area = write_area(tmp_path, 300, 250, 900, 640)
    predict_area(service, area, model, tmp_path / "a", gsd_m=0.8)
    assert len(server.requests) == len(set(server.requests))
    options = PredictOptions(device="cpu", aoi=str(area), gsd_m=0.8, footprints=False)
    workers = geoseg.Workers(processes=2)
    geoseg.predict(service, tmp_path / "b", model=model, options=options, workers=workers)
    assert (tmp_path / "a/prob.tif").read_bytes() == (tmp_path / "b/prob.tif").read_bytes()


def test_an_area_is_needed(server, service, model, tmp_path):
    with pytest.raises(GridMismatchError, match=r"service\.xml: is a tile service of 67,108,864 x"):
        geoseg.predict(service, tmp_path / "out", model=model)
    elsewhere = write_area(tmp_path, 10, 10, 20, 20)
    shifted = gpd.read_file(elsewhere)
    shifted.geometry = shifted.translate(0, 41)  # beyond the edge of the service
    shifted.to_file(elsewhere)
    with pytest.raises(GridMismatchError, match=r"area\.geojson: has no polygon on .*service\.xml"):
        predict_area(service, elsewhere, model, tmp_path / "out")
    assert server.requests == []


@pytest.mark.parametrize(
    ("gsd_m", "message"),
    [
        (0.1, r"its pixels measure 0\.39\d m on the ground, and would show no more with --gsd 0.1"),
        (4.0, r"its pixels measure 4 m on the ground, the model needs 0\.5 m"),
    ],
)
def test_unsuitable_pixel_sizes_are_refused(service, model, tmp_path, gsd_m, message):
    area = write_area(tmp_path, 300, 250, 900, 640)
    with pytest.raises(GridMismatchError, match=message):
        predict_area(service, area, model, tmp_path / "out", gsd_m=gsd_m)


def test_a_large_area_is_refused(service, model, tmp_path):
    area = write_area(tmp_path, 0, 0, 400_000, 300_000)
    with pytest.raises(GridMismatchError, match=r"the rectangle around .*area\.geojson has 300,"):
        predict_area(service, area, model, tmp_path / "out", gsd_m=0.4)


def test_missing_tiles_are_named_without_the_key(server, model, tmp_path, caplog):
    service = write_service(server, tmp_path, more="")
    area = write_area(tmp_path, -300, -100, 500, 200)
    caplog.set_level(logging.DEBUG)
    arguments = ["predict", str(service), "-m", str(model), "--aoi", str(area), "--gsd", "0.4"]
    done = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert isinstance(done.exception, SceneReadError)
    message = str(done.exception)
    assert message.startswith(f"{service}: the service refuses a tile (HTTP status 404); if it ")
    assert "<ZeroBlockHttpCodes>204,404</ZeroBlockHttpCodes>" in message
    for text in (message, done.output, done.stderr, *geoseg_messages(caplog)):
        assert "SECRET" not in text
    assert not (tmp_path / "out").exists()


def geoseg_messages(caplog):
    """Messages of geoseg, and those of others that are printed by default."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("geoseg") or record.levelno >= logging.WARNING
    ]


def test_a_server_that_does_not_answer_is_named_without_the_key(image, model, tmp_path):
    with TileServer(image) as server:
        service = write_service(server, tmp_path)
    area = write_area(tmp_path, 300, 250, 900, 640)
    with pytest.raises(SceneReadError, match=r"does not send a tile .*connect to") as refusal:
        predict_area(service, area, model, tmp_path / "out")
    assert "SECRET" not in str(refusal.value)


def test_a_service_is_not_joined_with_other_scenes(service, model, tmp_path):
    area = write_area(tmp_path, 300, 250, 900, 640)
    options = PredictOptions(device="cpu", aoi=str(area))
    second = service.with_name("second.xml")
    second.write_bytes(service.read_bytes())
    with pytest.raises(GridMismatchError, match=r"service\.xml: is a tile service, which cannot"):
        geoseg.predict([service, second], tmp_path / "out", model=model, options=options)


@pytest.mark.parametrize("kind", ["alpha", "mask", "palette", "nodata"])
def test_overviews_of_other_scenes_are_read_with_their_validity(tmp_path, kind):
    path, grid = tmp_path / "scene.tif", level_grid(0, Window(COLUMN, ROW, 400, 320))
    rng = np.random.default_rng(1)
    count = {"alpha": 4, "palette": 1}.get(kind, 3)
    pixels = np.repeat(np.repeat(rng.integers(1, 5, (count, 80, 100)), 4, 1), 4, 2).astype("uint8")
    good = np.ones(grid.shape, bool)
    good[:80, 200:] = False
    if kind == "alpha":
        pixels[3] = 255 * good
    elif kind != "mask":
        pixels[:, ~good] = 9
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(
        path, "w", driver="GTiff", crs=grid.crs, transform=grid.transform, count=count,
        height=grid.height, width=grid.width, dtype="uint8",
        nodata=9 if kind in ("nodata", "palette") else None,
        photometric="palette" if kind == "palette" else "rgb",
    ) as sink:  # fmt: skip
        if kind == "alpha":
            sink.colorinterp = [*sink.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
        sink.write(pixels)
        if kind == "mask":
            sink.write_mask(good)
        if kind == "palette":
            sink.write_colormap(1, {n: (n, 2 * n, 3 * n, 255) for n in range(10)})
    with rasterio.open(path, "r+") as sink:
        sink.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    info = read_info(path)
    crop = plan_crop(info, 4 * info.grid.gsd_m)
    assert crop.level == 1
    write_scene_crop(tmp_path / "crop.vrt", crop)
    with Scene(path) as scene, Scene(tmp_path / "crop.vrt") as cropped:
        whole, all_valid = scene.read()
        data, valid = cropped.read()
        assert cropped.info.bands == scene.info.bands
        assert cropped.grid.bounds == pytest.approx(scene.grid.bounds)
    np.testing.assert_array_equal(valid, all_valid[::4, ::4])
    assert not valid.all()
    np.testing.assert_array_equal(data, whole[:, ::4, ::4])


def test_the_pixel_size_of_other_scenes_can_be_chosen(image, model, tmp_path):
    path, grid = tmp_path / "scene.tif", level_grid(0, Window(COLUMN, ROW, 400, 320))
    with rasterio.open(
        path, "w", driver="GTiff", crs=grid.crs, transform=grid.transform, count=3,
        height=grid.height, width=grid.width, dtype="uint8",
    ) as sink:  # fmt: skip
        sink.write(image[:3, :320, :400])
    options = PredictOptions(device="cpu", gsd_m=0.8, footprints=False)
    result = geoseg.predict(path, tmp_path / "whole", model=model, options=options)
    with rasterio.open(result.prob_path) as prob:
        assert prob.shape == (160, 200)
        assert prob.bounds == pytest.approx(grid.bounds, abs=1.5)
        assert (prob.dataset_mask()[:-1, :-1] > 0).all()
    for number in (0, 1):
        half = Window(200 * number, 0, 200, 320)
        with rasterio.open(path) as source, rasterio.open(
            tmp_path / f"half{number}.tif", "w", **source.profile
            | {"width": 200, "transform": source.window_transform(half)}
        ) as sink:  # fmt: skip
            sink.write(source.read(window=half))
    halves = [tmp_path / "half0.tif", tmp_path / "half1.tif"]
    joined = geoseg.predict(halves, tmp_path / "joined", model=model, options=options)
    with rasterio.open(joined.prob_path) as parts, rasterio.open(result.prob_path) as prob:
        assert parts.transform == prob.transform
        np.testing.assert_array_equal(parts.read(), prob.read())
    area = write_area(tmp_path, 150, 100, 250, 180)
    result = predict_area(path, area, model, tmp_path / "part", gsd_m=0.4)
    with rasterio.open(result.prob_path) as prob:
        assert prob.transform.a == pytest.approx(grid.transform.a)
        assert prob.shape == pytest.approx((80 + 2 * 81, 100 + 2 * 81), abs=4)


def test_bounds_are_covered_by_whole_pixels():
    grid = Grid(WEB_MERCATOR, Affine(2, 0, 100, 0, -2, 200), 10, 20)
    assert cover(grid, (103, 191, 107.5, 197)) == Window(1, 1, 3, 4)
    assert cover(grid, (0, 0, 1000, 1000)) == grid.window
    assert cover(grid, (140, 100, 150, 180)) == Window(19, 9, 1, 1)
    turned = Grid(grid.crs, grid.transform * Affine.rotation(90), 10, 20)
    assert cover(turned, turned.window_polygon(Window(3, 2, 5, 4)).bounds) == Window(3, 2, 5, 4)
