"""Reading and writing of rasters: values and validity as stored, files complete or not at all."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import example, given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import rasterize
from rasterio.rpc import RPC
from rasterio.shutil import copy as gdal_copy
from rasterio.warp import reproject
from rasterio.windows import Window

from geoseg.errors import ConfigError, MissingCRSError, SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import (
    Scene,
    open_for_writing,
    read_info,
    read_tags,
    without_georeferencing_warnings,
    write_array,
    write_cog,
)

UTM = CRS.from_epsg(32645)
GRID = Grid(UTM, Affine(0.5, 0, 500_000, 0, -0.5, 3e6), 40, 60)


def noise(bands, dtype="uint8", grid=GRID, seed=0):
    values = np.random.default_rng(seed).integers(10, 100, (bands, *grid.shape))
    return values.astype(dtype)


def shifted(grid, columns, rows):
    """A grid of the same pixel size, moved by a share of a pixel."""
    moved = grid.transform * Affine.translation(columns, rows)
    return Grid(grid.crs, moved, grid.height - 1, grid.width - 1)


def read(path, **options):
    with Scene(path, **options) as scene:
        return scene.read()


# Reading


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"]
)
def test_values_come_in_as_stored(make_scene, dtype, tiled):
    made = make_scene(dtype=dtype, tiled=tiled, height=70, width=90)
    data, valid = read(made.path)
    assert data.dtype == dtype
    np.testing.assert_array_equal(data, made.data)
    assert valid.shape == (70, 90)
    assert valid.all()


def test_a_window_is_a_part_of_the_whole(make_scene):
    made = make_scene(rotation=25)
    with Scene(made.path) as scene:
        data, valid = scene.read(Window(30, 11, 41, 20))
    np.testing.assert_array_equal(data, made.data[:, 11:31, 30:71])
    assert valid.shape == (20, 41)


def test_a_scene_whose_first_row_lies_south(tmp_path):
    south_up = Grid(UTM, Affine(0.5, 0, 500_000, 0, 0.5, 3e6 - 20), *GRID.shape)
    data = noise(2, grid=south_up)
    write_array(tmp_path / "a.tif", south_up, data)
    found, valid = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, data)
    assert valid.all()
    turned, valid = read(tmp_path / "a.tif", grid=GRID)
    np.testing.assert_array_equal(turned, data[:, ::-1])
    assert valid.all()


def test_rpcs_place_pixels_as_gdals_own_warper_does(tmp_path):
    # Columns go east and rows south from 85 E, 27 N, half a metre each.
    one, none = [1.0] + [0.0] * 19, [0.0] * 20
    rows, columns = list(none), list(none)
    columns[1], rows[2] = 1.0, -1.0
    model = RPC(
        height_off=100, height_scale=50, lat_off=27, lat_scale=1e-4, line_den_coeff=one,
        line_num_coeff=rows, line_off=20, line_scale=20, long_off=85, long_scale=1.5e-4,
        samp_den_coeff=one, samp_num_coeff=columns, samp_off=30, samp_scale=30,
    )  # fmt: skip
    data = noise(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", height=40, width=60, count=1, dtype="uint8",
        ) as sink:  # fmt: skip
            sink.write(data)
            sink.rpcs = model
        info = read_info(tmp_path / "a.tif")
        found, valid = read(tmp_path / "a.tif")
    assert info.georeferenced_by == "rpcs"
    expected = np.full(info.grid.shape, np.nan)
    reproject(
        data[0].astype(float), expected, rpcs=model, src_crs="EPSG:4326", dst_crs="EPSG:4326",
        dst_transform=info.grid.transform, dst_nodata=np.nan, resampling=Resampling.bilinear,
        RPC_HEIGHT=100, tolerance=0.001,
    )  # fmt: skip
    both = valid & np.isfinite(expected)
    assert both.mean() > 0.9
    assert (np.abs(found[0][both] - expected[both]) < 1).mean() > 0.99


def test_a_scene_says_what_it_is(make_scene):
    made = make_scene(
        bands=4, dtype="uint16", nodata=0, rotation=12, descriptions=["red", "green", "blue", "nir"]
    )
    info = read_info(made.path)
    assert info.bands == ("red", "green", "blue", "nir")
    assert info.indexes == (1, 2, 3, 4)
    assert (info.dtype, info.nodata, info.path) == ("uint16", 0, str(made.path))
    assert info.grid.shape == made.grid.shape
    assert info.grid.transform.almost_equals(made.grid.transform)


# Bands


def test_bands_by_number_and_by_name_in_any_order(make_scene):
    made = make_scene(bands=4, descriptions=["red", "green", "blue", "nir"])
    data, _ = read(made.path, bands=["nir", 1, "2"])
    np.testing.assert_array_equal(data, made.data[[3, 0, 1]])
    assert read_info(made.path, bands=["nir", 1, "2"]).bands == ("nir", "red", "green")


def test_bands_without_a_name_are_numbered(make_scene):
    assert read_info(make_scene(bands=2).path).bands == ("band1", "band2")


def test_colours_name_bands(tmp_path):
    write_array(tmp_path / "a.tif", GRID, noise(3), photometric="rgb")
    assert read_info(tmp_path / "a.tif").bands == ("red", "green", "blue")


@pytest.mark.parametrize("band", [0, 4, "infrared", "-1", "²", ""])
def test_a_band_that_is_not_there(make_scene, band):
    made = make_scene(descriptions=["red", "green", "blue"])
    with pytest.raises(ConfigError, match=r"has no band .*1 \(red\), 2 \(green\), 3 \(blue\)"):
        Scene(made.path, bands=[1, band])


def test_a_band_of_every_type_is_held_by_the_common_one(tmp_path):
    write_array(tmp_path / "a.tif", GRID, noise(1))
    write_array(tmp_path / "b.tif", GRID, noise(1, "float32"))
    sources = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i}"><SimpleSource><SourceFilename>'
        f"{tmp_path}/{name}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, (name, kind) in enumerate((("a.tif", "Byte"), ("b.tif", "Float32")), start=1)
    )
    (tmp_path / "both.vrt").write_text(
        f'<VRTDataset rasterXSize="60" rasterYSize="40"><SRS>EPSG:32645</SRS><GeoTransform>'
        f"500000, 0.5, 0, 3000000, 0, -0.5</GeoTransform>{sources}</VRTDataset>"
    )
    assert read_info(tmp_path / "both.vrt").dtype == "float32"
    assert read_info(tmp_path / "both.vrt", bands=[1]).dtype == "uint8"
    found, valid = read(tmp_path / "both.vrt")
    assert valid.all()
    np.testing.assert_array_equal(found, np.concatenate([noise(1), noise(1, "float32")]))


@pytest.mark.parametrize("warp", [False, True])
@pytest.mark.parametrize(("bands", "dtype"), [(16, "uint16"), (40, "int8"), (20, "float32")])
def test_many_bands(tmp_path, bands, dtype, warp):
    data = noise(bands, dtype)
    if dtype == "int8":
        data -= 60
    names = [f"B{i:02d}" for i in range(1, bands + 1)]
    write_array(tmp_path / "a.tif", GRID, data, descriptions=names)
    found, valid = read(tmp_path / "a.tif", grid=shifted(GRID, 0, 0) if warp else None)
    height, width = valid.shape
    assert valid.all()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, data[:, :height, :width])
    last = [names[-1], 2]
    found, _ = read(tmp_path / "a.tif", bands=last, grid=shifted(GRID, 0, 0) if warp else None)
    np.testing.assert_array_equal(found, data[[-1, 1], :height, :width])
    assert read_info(tmp_path / "a.tif", bands=last).bands == (names[-1], "B02")


def test_a_bigtiff(tmp_path):
    data = noise(3, "uint16")
    write_array(tmp_path / "a.tif", GRID, data, bigtiff="yes")
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], data)


# Nodata


@pytest.mark.parametrize("warp", [False, True])
@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", 0), ("uint8", 255), ("uint16", 0), ("int16", -9999), ("float32", np.nan),
     ("float32", -3.4028234663852886e38), ("float32", 0.1), ("float64", -1e300)],
)  # fmt: skip
def test_nodata_by_value(make_scene, dtype, nodata, warp):
    made = make_scene(dtype=dtype, nodata=nodata, holes=[(50, 20, 61, 33)])
    data, valid = read(made.path, grid=shifted(made.grid, 0.25, 0.25) if warp else None)
    inside, outside = valid[21:32, 51:60], valid.copy()
    outside[19:34, 49:62] = True
    assert not inside.any()
    assert outside.all()
    assert (data[:, ~valid] == 0).all()
    assert data[:, valid].min() >= 20
    assert data[:, valid].max() < 120


@pytest.mark.parametrize("warp", [False, True])
@pytest.mark.parametrize(
    ("dtype", "nodata"), [("int16", -9999), ("float32", -1e30), ("uint16", 65535)]
)
def test_a_sentinel_in_one_band_is_never_data(make_scene, tmp_path, dtype, nodata, warp):
    data = noise(2, dtype)
    data[0, 10:14, 20:24] = nodata
    write_array(tmp_path / "a.tif", GRID, data, nodata=nodata)
    grid = shifted(GRID, 0.5, 0.5) if warp else None
    for bands in (None, [1], [2, 1]):
        found, valid = read(tmp_path / "a.tif", bands=bands, grid=grid)
        assert not valid[10:13, 20:23].any()
        assert valid.mean() > 0.98
        assert 10 <= found[:, valid].min() <= found[:, valid].max() < 100


@pytest.mark.parametrize(("nodata", "colour"), [(0, (200, 0, 0)), (255, (255, 255, 90))])
@pytest.mark.parametrize("warp", [False, True])
def test_a_colour_is_data_although_some_of_its_bands_hold_the_sentinel(
    tmp_path, nodata, colour, warp
):
    data = noise(3)
    data[:, 10:20, 20:30] = np.array(colour)[:, None, None]
    data[:, 30:35, 5:10] = nodata
    write_array(tmp_path / "a.tif", GRID, data, nodata=nodata)
    found, valid = read(tmp_path / "a.tif", grid=shifted(GRID, 0.5, 0.5) if warp else None)
    assert tuple(found[:, 15, 25]) == colour
    assert valid[15, 25]
    assert not valid[32, 7]


@pytest.mark.parametrize("warp", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_nodata_without_a_sentinel(tmp_path, bad, warp):
    data = noise(2, "float32")
    data[1, 10:14, 20:24] = bad
    write_array(tmp_path / "a.tif", GRID, data)
    found, valid = read(tmp_path / "a.tif", grid=shifted(GRID, 0.5, 0.5) if warp else None)
    assert not valid[10:13, 20:23].any()
    assert valid.mean() > 0.98
    assert np.isfinite(found).all()


@pytest.mark.parametrize("warp", [False, True])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_nodata_by_the_files_own_mask(tmp_path, bands, dtype, warp):
    valid = np.ones(GRID.shape, dtype=bool)
    valid[:15, :20] = False
    data = noise(bands, dtype)
    write_array(tmp_path / "a.tif", GRID, data, valid=valid)
    with rasterio.open(tmp_path / "a.tif") as source:
        assert source.mask_flag_enums[0] == [MaskFlags.per_dataset]
    found, known = read(tmp_path / "a.tif", grid=shifted(GRID, 0.0, 0.0) if warp else None)
    height, width = known.shape
    np.testing.assert_array_equal(known, valid[:height, :width])
    np.testing.assert_array_equal(found, (data * valid)[:, :height, :width])


@pytest.mark.parametrize("warp", [False, True])
def test_nodata_by_an_alpha_band(tmp_path, warp):
    data = noise(4)
    data[3] = 255
    data[3, :10, :30] = 0
    write_array(tmp_path / "a.tif", GRID, data, photometric="rgb", alpha="yes")
    assert read_info(tmp_path / "a.tif").bands == ("red", "green", "blue")
    found, valid = read(tmp_path / "a.tif", grid=shifted(GRID, 0, 0) if warp else None)
    assert found.shape[0] == 3
    assert not valid[:10, :30].any()
    assert valid[10:].all()
    assert valid[:, 30:].all()
    np.testing.assert_array_equal(found[:, 10:], data[:3, 10 : valid.shape[0], : valid.shape[1]])


@pytest.mark.parametrize("warp", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_nothing_is_seen_where_alpha_is_0_in_any_type(tmp_path, dtype, warp):
    data = noise(4, dtype)
    data[3] = 1
    data[3, :10, :30] = 0
    write_array(tmp_path / "a.tif", GRID, data, photometric="rgb", alpha="yes")
    found, valid = read(tmp_path / "a.tif", grid=shifted(GRID, 0, 0) if warp else None)
    assert found.shape[0] == 3
    expected = (data[3] > 0)[: valid.shape[0], : valid.shape[1]]
    np.testing.assert_array_equal(valid, expected)
    cut = data[:3, : valid.shape[0], : valid.shape[1]]
    np.testing.assert_array_equal(found, np.where(expected, cut, 0))


@pytest.mark.parametrize("warp", [False, True])
def test_a_band_tagged_as_alpha_is_data_when_it_is_named(tmp_path, warp):
    data = noise(4)
    data[3, :10, :30] = 0
    write_array(tmp_path / "a.tif", GRID, data, photometric="rgb", alpha="yes")
    assert len(read_info(tmp_path / "a.tif").bands) == 3
    grid = shifted(GRID, 0, 0) if warp else None
    found, valid = read(tmp_path / "a.tif", bands=[4, 1], grid=grid)
    assert valid.all()
    np.testing.assert_array_equal(found, data[[3, 0], : valid.shape[0], : valid.shape[1]])


def test_a_file_of_nothing_but_alpha_is_data(tmp_path):
    data = noise(1)
    write_array(tmp_path / "a.tif", GRID, data)
    with rasterio.open(tmp_path / "a.tif", "r+") as sink:
        sink.colorinterp = [ColorInterp.alpha]
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], data)


# Warping


def test_a_warp_onto_the_same_pixels_changes_nothing(make_scene):
    made = make_scene()
    part = made.grid.window_grid(Window(13, 7, 50, 40))
    data, valid = read(made.path, grid=part)
    np.testing.assert_array_equal(data, made.data[:, 7:47, 13:63])
    assert valid.all()


def test_what_lies_beyond_the_scene_is_nodata(make_scene):
    made = make_scene(height=40, width=60)
    wide = Grid(UTM, made.grid.transform * Affine.translation(-10, -5), 50, 80)
    data, valid = read(made.path, grid=wide)
    expected = np.zeros((50, 80), dtype=bool)
    expected[5:45, 10:70] = True
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(data[:, 5:45, 10:70], made.data)
    assert (data[:, ~valid] == 0).all()


@pytest.mark.parametrize("rotation", [0, 30])
def test_a_warp_to_half_the_pixels_keeps_the_mean(make_scene, rotation):
    made = make_scene(dtype="float32", rotation=rotation)
    grid = made.grid.resampled(2 * made.grid.gsd_m)
    data, valid = read(made.path, grid=grid)
    assert data.shape == (3, 48, 80)
    assert valid[1:-1, 1:-1].all()
    assert data[:, valid].mean() == pytest.approx(made.data.mean(), rel=0.01)


def test_a_plane_is_warped_to_a_fraction_of_a_pixel(tmp_path):
    rows, columns = np.mgrid[0:40, 0:60].astype("float32")
    write_array(tmp_path / "a.tif", GRID, np.stack([columns, rows]))
    found, valid = read(tmp_path / "a.tif", grid=shifted(GRID, 0.3, 0.6))
    inner = (slice(1, 37), slice(1, 57))
    assert valid[inner].all()
    np.testing.assert_allclose(found[0][inner], columns[inner] + 0.3, atol=0.01)
    np.testing.assert_allclose(found[1][inner], rows[inner] + 0.6, atol=0.01)


def test_a_warp_to_another_crs_finds_the_same_ground(make_scene):
    made = make_scene(dtype="float32", bands=1, gsd=0.5)
    # The same place in the next zone: pixels turned by about 2.7 degrees.
    from pyproj import Transformer

    to_44 = Transformer.from_crs(32645, 32644, always_xy=True)
    x, y = to_44.transform(*(made.grid.transform * (80, 48)))
    grid = Grid(CRS.from_epsg(32644), Affine(0.5, 0, x - 15, 0, -0.5, y + 10), 40, 60)
    found, valid = read(made.path, grid=grid)
    assert valid.all()
    rows, columns = np.mgrid[0:40, 0:60]
    xs, ys = (grid.transform * point for point in ((0, 0), (1, 0)))
    assert xs != ys
    ground = [
        grid.transform * (c + 0.5, r + 0.5) for r, c in zip(rows.flat, columns.flat, strict=True)
    ]
    back = Transformer.from_crs(32644, 32645, always_xy=True).transform(*np.array(ground).T)
    at_columns, at_rows = made.grid.to_pixels(*(np.array(v) for v in back))
    inside = made.mask[np.floor(at_rows).astype(int), np.floor(at_columns).astype(int)]
    agrees = (found[0].ravel() > 70) == inside
    assert agrees.mean() > 0.93  # what is left are the pixels that walls cross
    assert 0.1 < inside.mean() < 0.5


@given(
    top=st.integers(0, 140),
    left=st.integers(0, 200),
    height=st.integers(1, 150),
    width=st.integers(1, 210),
)
@example(top=0, left=0, height=150, width=210)
@example(top=0, left=3, height=149, width=128)
def test_a_warped_pixel_does_not_depend_on_its_window(resampled, top, left, height, width):
    scene, data, valid = resampled
    rows, columns = valid.shape
    window = Window(left, top, min(width, columns - left), min(height, rows - top))
    found, known = scene.read(window)
    np.testing.assert_array_equal(found, data[(slice(None), *window.toslices())])
    np.testing.assert_array_equal(known, valid[window.toslices()])


@pytest.fixture(scope="module", params=[(0.4, 0), (0.4, 20), (1.1, 0), (1.1, 20)])
def resampled(request, tmp_path_factory):
    """A scene of sentinels, gaps and noise, read on coarser or finer pixels."""
    gsd_m, rotation = request.param
    transform = GRID.transform * Affine.rotation(rotation)
    own = Grid(UTM, transform, *((121, 170) if gsd_m < 0.5 else (331, 463)))
    data = noise(3, "uint16", own)
    data[:, 40:60, 70:90] = 65535
    data[1, 5, 6] = 65535
    path = tmp_path_factory.mktemp("resampled") / "a.tif"
    write_array(path, own, data, nodata=65535)
    with Scene(path, grid=own.resampled(gsd_m)) as scene:
        data, valid = scene.read()
        assert 0.8 < valid.mean() < 1
        assert data.max() < 100
        yield scene, data, valid


# Errors


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SceneReadError, match=r"none\.tif: no such file"):
        Scene(tmp_path / "none.tif")


def test_a_text_file_named_tif(tmp_path):
    (tmp_path / "a.tif").write_text("hello")
    with pytest.raises(SceneReadError, match=r"a\.tif: GDAL cannot read this as a raster"):
        read_info(tmp_path / "a.tif")


def test_a_scene_without_a_crs(make_scene):
    with pytest.raises(MissingCRSError, match="no coordinate reference system; gdal_edit"):
        Scene(make_scene(crs=None).path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_with_a_crs_but_no_place(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=4, width=5, count=1, dtype="uint8", crs=UTM
    ) as sink:
        sink.write(np.ones((1, 4, 5), dtype="uint8"))
    with pytest.raises(MissingCRSError, match="has a CRS but no transform"):
        Scene(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", ["complex_int16", "complex64", "complex128"])
def test_complex_pixels_are_refused(tmp_path, dtype):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=4, width=5, count=1, dtype=dtype,
        crs=UTM, transform=GRID.transform,
    ):  # fmt: skip
        pass
    with pytest.raises(SceneReadError, match=f"has {dtype} pixels"):
        Scene(tmp_path / "a.tif")


def test_a_damaged_scene_names_the_place(make_scene):
    made = make_scene(tiled=False, height=200)
    whole = made.path.read_bytes()
    made.path.write_bytes(whole[: len(whole) // 2])
    with Scene(made.path) as scene:
        scene.read(Window(0, 0, 160, 5))
        with pytest.raises(SceneReadError, match=r"cannot read rows 150-200, columns 0-160"):
            scene.read(Window(0, 150, 160, 50))


def test_a_refused_scene_is_closed(make_scene):
    made = make_scene()
    code = (
        "import os, sys; from geoseg.geo.raster import Scene\n"
        "for _ in range(30):\n"
        "    try: Scene(sys.argv[1], bands=[9])\n"
        "    except ValueError: pass\n"
        "names = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{n}')]\n"
        "print(sum(name == os.path.realpath(sys.argv[1]) for name in names))"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    done = subprocess.run(
        [sys.executable, "-c", code, str(made.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"


# Writing


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "deep" / "a.tif"
    data = noise(2, "uint16")
    write_array(path, GRID, data, nodata=7, tags={"GEOSEG": "x"}, descriptions=["body", "border"])
    info = read_info(path)
    assert (info.bands, info.nodata, info.grid) == (("body", "border"), 7, GRID)
    assert read_tags(path)["GEOSEG"] == "x"
    np.testing.assert_array_equal(read(path)[0], data)
    with rasterio.open(path) as source:
        assert source.profile["tiled"]
        assert source.profile["compress"] == "deflate"


@given(bands=st.integers(1, 8), dtype=st.sampled_from(["uint8", "uint16", "float32"]))
def test_no_band_becomes_alpha(tmp_path_factory, bands, dtype):
    path = tmp_path_factory.mktemp("bands") / "a.tif"
    data = noise(bands, dtype)
    write_array(path, GRID, data, descriptions=["red", "green", "blue"] if bands == 3 else ())
    found, valid = read(path)
    np.testing.assert_array_equal(found, data)
    assert valid.all()


def test_colours_of_a_mask(tmp_path):
    write_array(tmp_path / "a.tif", GRID, noise(1), colormap={1: (227, 74, 51, 255)})
    with rasterio.open(tmp_path / "a.tif") as source:
        assert source.colormap(1)[1] == (227, 74, 51, 255)


@pytest.mark.parametrize("there", [False, True])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path, there):
    path = tmp_path / "a.tif"
    if there:
        path.write_text("earlier")

    def write():
        with open_for_writing(path, GRID, count=1, dtype="uint8") as sink:
            sink.write(noise(1))
            assert (
                len(list(tmp_path.glob(".a.tif.*.partial"))) == len(list(tmp_path.glob(".*"))) == 1
            )
            assert path.exists() == there
            raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        write()
    assert [p.name for p in tmp_path.iterdir()] == (["a.tif"] if there else [])
    if there:
        assert path.read_text() == "earlier"


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.tif"
    write_array(path, GRID, noise(1, seed=1))
    write_array(path, GRID, noise(1, seed=2))
    np.testing.assert_array_equal(read(path)[0], noise(1, seed=2))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("nodata", [None, 11])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("moved", [0, 0.4])
def test_validity_alone_is_that_of_the_values(tmp_path, dtype, nodata, masked, moved):
    data, valid = noise(2, dtype), np.ones(GRID.shape, dtype=bool)
    data[:, 3, 7:9] = np.nan if dtype == "float32" else 11
    valid[5:30, 20:45] = not masked
    options = {"valid": valid} if masked else {}
    write_array(tmp_path / "a.tif", GRID, data, nodata=nodata, **options)
    grid = shifted(GRID, moved, 0) if moved else None
    with Scene(tmp_path / "a.tif", grid=grid) as scene:
        window = Window(2, 1, 50, 36)
        np.testing.assert_array_equal(scene.read_valid(window), scene.read(window)[1])
        assert scene.read_valid(window).all() == (
            not masked and (dtype == "uint8" and nodata is None)
        )


# Reduced reading


@pytest.mark.parametrize("shape", [(7, 13), (40, 60), (55, 61), (1, 1)])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_a_reduced_scene_has_the_pixels_that_gdal_takes(tmp_path, shape, interleave):
    data, valid = noise(3), np.ones(GRID.shape, dtype=bool)
    valid[5:30, 20:45] = False
    write_array(tmp_path / "a.tif", GRID, data, valid=valid, interleave=interleave)
    window = Window(3, 2, 50, 36)
    with Scene(tmp_path / "a.tif", bands=[3, 1]) as scene, rasterio.open(tmp_path / "a.tif") as raw:
        for part in (None, window):
            found, known = scene.read(part, shape=shape)
            np.testing.assert_array_equal(
                known, raw.read_masks(1, window=part, out_shape=shape) > 0
            )
            expected = raw.read([3, 1], window=part, out_shape=(2, *shape)) * known
            np.testing.assert_array_equal(found, expected)


def test_a_reduced_scene_comes_from_overviews_if_there_are_any(tmp_path):
    grid = Grid(UTM, GRID.transform, 700, 900)
    write_array(tmp_path / "plain.tif", grid, noise(1, grid=grid))
    write_cog(tmp_path / "plain.tif", tmp_path / "cog.tif", resampling="average")
    gdal_copy(tmp_path / "cog.tif", tmp_path / "view.vrt", driver="VRT")
    for name in ("cog.tif", "view.vrt"):
        with Scene(tmp_path / name) as scene, rasterio.open(tmp_path / name) as raw:
            found, _ = scene.read(shape=(175, 225))
            np.testing.assert_array_equal(found, raw.read(out_shape=(1, 175, 225)))
            assert found.std() < 0.5 * noise(1, grid=grid).std()


# Cloud Optimized GeoTIFF


def test_a_cog_does_not_depend_on_the_number_of_threads(tmp_path):
    grid = Grid(UTM, GRID.transform, 700, 900)
    write_array(tmp_path / "plain.tif", grid, noise(3, grid=grid))
    for threads in (1, 3):
        path = tmp_path / f"{threads}.tif"
        write_cog(tmp_path / "plain.tif", path, resampling="average", threads=threads)
    assert (tmp_path / "1.tif").read_bytes() == (tmp_path / "3.tif").read_bytes()


@pytest.mark.parametrize(("resampling", "bands"), [("average", 2), ("mode", 1)])
def test_a_cog_has_overviews_and_keeps_every_pixel(tmp_path, resampling, bands):
    grid = Grid(UTM, GRID.transform, 700, 900)
    data = noise(bands, grid=grid)
    valid = np.ones(grid.shape, dtype=bool)
    valid[:200, :300] = False
    write_array(
        tmp_path / "plain.tif", grid, data, valid=valid, descriptions=["body", "border"][:bands],
        tags={"A": "b"},
    )  # fmt: skip
    write_cog(tmp_path / "plain.tif", tmp_path / "cog.tif", resampling=resampling)
    with rasterio.open(tmp_path / "cog.tif") as source:
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert source.overviews(1) == [2, 4]
        assert source.block_shapes == [(256, 256)] * bands
        assert source.tags()["A"] == "b"
        overview = source.read(1, out_shape=(350, 450))
    found, known = read(tmp_path / "cog.tif")
    np.testing.assert_array_equal(known, valid)
    np.testing.assert_array_equal(found, data * valid)
    assert read_info(tmp_path / "cog.tif").bands == ("body", "border")[:bands]
    if resampling == "average":
        blocks = data[0, 200:, 300:].reshape(250, 2, 300, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(overview[100:, 150:], blocks, atol=0.51)


def test_a_cog_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(Exception, match=r"text\.tif"):
        write_cog(tmp_path / "text.tif", tmp_path / "cog.tif", resampling="average")
    assert [p.name for p in tmp_path.iterdir()] == ["text.tif"]


# Public imagery


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore")
def test_odd_rasters_are_read_or_refused_with_a_reason(realdata):
    refused, read_well = [], 0
    for path in sorted((realdata / "odd_rasters").rglob("*")):
        if path.suffix.lower() not in (".tif", ".vrt", ".jp2", ".png"):
            continue
        try:
            with Scene(path) as scene:
                window = Window(0, 0, min(50, scene.grid.width), min(40, scene.grid.height))
                data, valid = scene.read(window)
        except (SceneReadError, MissingCRSError) as error:
            refused.append((str(path), str(error)))
            continue
        assert data.shape == (len(scene.info.bands), *valid.shape)
        assert 0 < scene.grid.gsd_m < 1e6
        assert np.isfinite(data).all()
        assert (data[:, ~valid] == 0).all()
        read_well += 1
    assert read_well > 80
    assert len(refused) > 20
    assert all(path in message and "; " in message for path, message in refused)


@pytest.mark.realdata
def test_an_infrared_band_that_is_tagged_as_alpha(realdata):
    path = realdata / "atlanta" / "rgbn_nir_tagged_alpha.tif"
    assert len(read_info(path).bands) == 3
    data, valid = read(path, bands=[4, 1, 2, 3])
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(data[0], source.read(4))
    assert valid.all()


# Threads


def rasterize_in_threads(around):
    """Rasterize in threads that are switched as often as possible; return how often it warned."""
    triangle = {"type": "Polygon", "coordinates": [[(0, 0), (3, 0), (3, 3), (0, 0)]]}

    def burn(_):
        for _ in range(30):
            rasterize([(triangle, 1)], (3, 5), transform=Affine(1, 0, 0, 0, -1, 5))

    warned = 0
    for _ in range(10):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=NotGeoreferencedWarning)
            before = list(warnings.filters)
            try:
                with around(), ThreadPoolExecutor(8) as pool:
                    list(pool.map(burn, range(16)))
            except NotGeoreferencedWarning:
                warned += 1
            if around is without_georeferencing_warnings:
                assert warnings.filters == before
    return warned


@pytest.fixture
def frequent_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("frequent_switches")
def test_threads_that_rasterize_do_not_warn_of_each_others_temporary_rasters():
    assert rasterize_in_threads(without_georeferencing_warnings) == 0
    assert rasterize_in_threads(nullcontext) > 0  # the check sees what it is for
