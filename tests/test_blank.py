"""Large areas of one value contain no image: they are named, and treated as nodata."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from scipy import ndimage
from small_models import PIXELWISE, make_model

import geoseg
from geoseg.api.info import describe_file
from geoseg.cli import cli
from geoseg.data.tiles import read_tiles
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, mark_blank_areas, read_info, write_array
from geoseg.options import PredictOptions

GRID = Grid(rasterio.CRS.from_epsg(32645), Affine(0.5, 0, 3e5, 0, -0.5, 3e6), 420, 530)


def make_scene(path, *, value=255, hole=False, nodata=None, dtype=np.uint8):
    """Write a noisy scene with a slanted blank margin or a blank hole; return what is blank."""
    rng = np.random.default_rng(4)
    data = rng.integers(1, 250, (3, *GRID.shape)).astype(dtype)
    rows, columns = np.indices(GRID.shape)
    blank = columns > 430 + rows // 9
    if hole:
        blank = np.hypot(rows - 200, columns - 250) < 70
    data[:, blank] = value
    saturated = rng.random(GRID.shape) < 0.01  # single bright pixels, anywhere
    data[:, saturated] = value
    grid = GRID
    write_array(path, grid, data, descriptions=("red", "green", "blue"), nodata=nodata)
    return blank, data


@pytest.mark.parametrize("hole", [False, True])
@pytest.mark.parametrize(("value", "dtype"), [(255, np.uint8), (0, np.uint8), (77, np.uint16)])
def test_blank_areas_are_found_to_the_pixel(tmp_path, caplog, hole, value, dtype):
    blank, data = make_scene(tmp_path / "a.tif", value=value, hole=hole, dtype=dtype)
    info = mark_blank_areas(read_info(tmp_path / "a.tif"))
    assert info.blank.values == ((value,) * 3,)
    assert info.blank.share == pytest.approx(blank.mean(), rel=0.1)
    assert f"is blank (value {value} in all bands) and is treated as nodata" in caplog.text
    with info.open() as scene:
        found, valid = scene.read()
    assert not valid[blank].any()
    # Saturated pixels far from the blank area are an image.
    far = np.zeros(GRID.shape, bool)
    far[:, :150] = True
    far[170:230, 150:] = False
    assert valid[far].all()
    assert (found[:, valid] == data[:, valid]).all()
    assert valid[~blank].mean() > 0.99
    part = rasterio.windows.Window(101, 60, 333, 217)
    with info.open() as scene:
        assert np.array_equal(scene.read(part)[1], valid[60:277, 101:434])


def test_blank_areas_are_nodata_on_other_grids(tmp_path):
    blank, _ = make_scene(tmp_path / "a.tif")
    info = mark_blank_areas(read_info(tmp_path / "a.tif"))
    coarse = GRID.resampled(1.5)
    with info.open(coarse) as scene:
        _, valid = scene.read()
    expected = ~blank[1::3, 1::3][: valid.shape[0], : valid.shape[1]]
    assert (valid[: expected.shape[0], : expected.shape[1]] == expected).mean() > 0.98


@pytest.mark.parametrize("case", ["noise", "small", "constant", "tiny", "band"])
def test_what_is_an_image_is_not_blank(tmp_path, case):
    rng = np.random.default_rng(1)
    shape = (90, 110) if case == "tiny" else GRID.shape
    data = rng.integers(1, 250, (3, *shape)).astype(np.uint8)
    if case == "small":
        data[:, 100:140, 200:260] = 255
    if case == "constant":
        data[:] = 90
    if case == "tiny":
        data[:, :, 60:] = 255
    if case == "band":  # one band is saturated
        data[0, :, 300:] = 255
    grid = Grid(GRID.crs, GRID.transform, *shape)
    write_array(tmp_path / "a.tif", grid, data)
    info = read_info(tmp_path / "a.tif")
    assert mark_blank_areas(info) is info


@pytest.mark.parametrize("workers", [1, 2])
def test_blank_areas_are_not_predicted(tmp_path, workers):
    blank, _ = make_scene(tmp_path / "a.tif")
    model = make_model(tmp_path / "m.safetensors", PIXELWISE.model_copy(update={"gsd_m": 0.5}))
    options = PredictOptions(device="cpu", footprints=False)
    team = geoseg.Workers(processes=workers)
    out = geoseg.predict(
        tmp_path / "a.tif", tmp_path / "out", model=model, options=options, workers=team
    )
    for path in (out.prob_path, out.mask_path):
        with Scene(path) as found:
            _, valid = found.read()
        assert not valid[blank].any()
        assert valid[~blank].mean() > 0.99
    kept = options.model_copy(update={"keep_blank": True})
    out = geoseg.predict(tmp_path / "a.tif", tmp_path / "kept", model=model, options=kept)
    with Scene(out.prob_path) as found:
        assert found.read()[1].all()


def test_tiles_ignore_blank_areas(make_town_labels, tmp_path):
    blank, _ = make_scene(tmp_path / "a.tif")
    for keep in (False, True):
        options = geoseg.TileOptions(size=64, overlap=0, gap=0, keep_blank=keep)
        folder = tmp_path / f"tiles_{keep}"
        geoseg.tile(tmp_path / "a.tif", make_town_labels, folder, options=options)
        seen = 0
        for tile in read_tiles(folder).itertuples():
            with Scene(folder / "images" / f"{tile.id}.tif") as image:
                _, valid = image.read()
            rows = slice(tile.row_off, tile.row_off + tile.height)
            own = blank[rows, tile.col_off : tile.col_off + tile.width]
            there = valid[: own.shape[0], : own.shape[1]]
            assert not (there & own).any() or keep
            assert there[~own].mean() > 0.98 if (~own).any() else True
            seen += own.sum()
        assert seen > 1000


def test_tiles_record_the_share_that_is_blank(make_town_labels, tmp_path):
    blank, _ = make_scene(tmp_path / "a.tif")
    options = geoseg.TileOptions(size=64, overlap=0, gap=0)
    result = geoseg.tile(tmp_path / "a.tif", make_town_labels, tmp_path / "tiles", options=options)
    ((path, share),) = result.info.blank.items()
    assert path == str(tmp_path / "a.tif")
    assert share == pytest.approx(blank.mean(), rel=0.1)


def place_by_points(path, kind):
    """Replace the transform of a scene by GCPs or RPCs, turned by 20 degrees."""
    with rasterio.open(path) as source:
        data, descriptions = source.read(), source.descriptions
    profile = {"driver": "GTiff", "height": GRID.height, "width": GRID.width, "count": 3,
               "dtype": data.dtype}  # fmt: skip
    turned = Affine(0.5, 0, 3e5, 0, -0.5, 3e6) * Affine.rotation(20)
    corners = [(0, 0), (GRID.width, 0), (0, GRID.height), (GRID.width, GRID.height)]
    points = [GroundControlPoint(row, column, *(turned * (column, row))) for column, row in corners]
    with rasterio.open(path, "w", **profile) as sink:
        sink.write(data)
        sink.descriptions = descriptions
        if kind == "gcps":
            sink.gcps = (points, GRID.crs)
        else:
            sink.rpcs = make_rpcs()
    return data


def make_rpcs():
    """RPCs of pixels of half a metre: column and row are linear in longitude and latitude."""
    half = GRID.width / 2, GRID.height / 2
    degrees = 0.5 / 111_000
    one, x, y = ([float(i == place) for i in range(20)] for place in (0, 1, 2))
    return RPC(
        height_off=0, height_scale=100, lat_off=1, lat_scale=half[1] * degrees, line_den_coeff=one,
        line_num_coeff=[-value for value in y], line_off=half[1], line_scale=half[1], long_off=30,
        long_scale=half[0] * degrees, samp_den_coeff=one, samp_num_coeff=x, samp_off=half[0],
        samp_scale=half[0], err_bias=0, err_rand=0,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["gcps", "rpcs"])
@pytest.mark.parametrize("hole", [False, True])
def test_blank_areas_of_scenes_placed_by_points(tmp_path, kind, hole):
    path = tmp_path / "a.tif"
    blank, _ = make_scene(path, hole=hole)
    place_by_points(path, kind)
    plain = read_info(path)
    assert plain.georeferenced_by == kind
    info = mark_blank_areas(plain)
    assert info.blank.values == ((255, 255, 255),)
    assert info.blank.share == pytest.approx(blank.mean(), rel=0.1)
    with info.open_pixels() as scene:
        pixels, all_valid = scene.read()
        assert scene.grid.shape == GRID.shape
        assert all_valid.all()
        assert (pixels[:, blank] == 255).all()
    with plain.open() as scene:
        data, valid_before = scene.read()
    with info.open() as scene:
        found, valid = scene.read()
        assert (scene.read(rasterio.windows.Window(101, 60, 333, 217))[1]
                == valid[60:277, 101:434]).all()  # fmt: skip
    white = (data == 255).all(axis=0) & valid_before
    white_core = ndimage.binary_erosion(white, iterations=5)
    assert white_core.sum() > 0.7 * blank.sum()
    assert not valid[white_core].any()
    assert valid[valid_before].mean() == pytest.approx(1 - blank.mean(), abs=0.02)
    # Single white pixels in the cells around the blank area are nodata, too.
    away = valid & ~ndimage.binary_dilation(white_core, iterations=40)
    assert away.mean() > 0.3
    assert (found[:, away] == data[:, away]).all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["plain", "bands", "bare", "gcps", "mask"])
def test_info_names_blank_areas_of_every_raster(tmp_path, kind):
    path = tmp_path / "a.tif"
    blank, data = make_scene(path)
    if kind == "bands":  # not those of the default model
        write_array(path, GRID, np.concatenate([data, data])[:5])
    if kind == "bare":
        with rasterio.open(path, "w", driver="GTiff", height=GRID.height, width=GRID.width, count=3,
                           dtype="uint8") as sink:  # fmt: skip
            sink.write(data)
    if kind == "gcps":
        place_by_points(path, kind)
    if kind == "mask":  # of geoseg: its background is no blank area
        classes = {"CLASS_0": "background", "CLASS_1": "building"}
        write_array(path, GRID, blank[None].astype(np.uint8), tags=classes)
    described = describe_file(path)
    if kind == "mask":
        assert described["blank"] is None
        return
    share = float(described["blank"].split(" %")[0]) / 100
    assert share == pytest.approx(blank.mean(), rel=0.1)
    assert described["blank"].endswith("(value 255 in all bands)")
    shown = CliRunner().invoke(cli, ["info", str(path)]).output
    assert f"{described['blank']}; nodata unless --keep-blank" in shown


@pytest.fixture
def make_town_labels(tmp_path):
    import geopandas as gpd
    from shapely.geometry import box

    left, top = 3e5, 3e6
    shapes = [
        box(left + x, top - y - 9, left + x + 12, top - y)
        for x in range(10, 200, 30) for y in range(10, 190, 30)
    ]  # fmt: skip
    gpd.GeoDataFrame(geometry=shapes, crs=32645).to_file(tmp_path / "labels.gpkg")
    return tmp_path / "labels.gpkg"


@pytest.mark.realdata
def test_the_blank_part_of_a_real_scene_has_no_footprint(realdata, tmp_path):
    path = realdata / "banepa" / "neighbour_unlabelled.tif"
    found = geoseg.predict(path, tmp_path / "a.gpkg", options=PredictOptions(device="cpu"))
    with Scene(path) as scene:
        data, _ = scene.read()
    white = (data == 255).all(axis=0)
    layer = found.footprints
    from rasterio.features import rasterize

    inside = rasterize(
        layer.geometry, white.shape, transform=read_info(path).grid.transform, dtype="uint8"
    )
    assert white.mean() > 0.07
    assert (white & (inside > 0)).sum() / white.sum() < 0.01
