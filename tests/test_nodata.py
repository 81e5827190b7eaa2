"""Each band's own nodata value, and nodata values beside masks and alpha bands."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, read_info

HEIGHT, WIDTH = 40, 64
TRANSFORM = from_origin(500000, 5000000, 0.5, 0.5)

# Values of a pixel, by what a rule says of it. Elsewhere there is an image without any of them.
COLOURS = {
    "all": (0, 255, 0),  # all bands that have a nodata value have theirs
    "one": (0, 100, 90),  # may be a colour
    "other": (100, 255, 90),
}


def write_bands(folder, data, nodata, *, alpha=None):
    """A GeoTIFF, and a VRT that gives each of its bands its own nodata value."""
    count, height, width = data.shape
    with rasterio.open(
        folder / "bands.tif", "w", driver="GTiff", height=height, width=width,
        count=count + (alpha is not None), dtype=data.dtype, crs="EPSG:32633", transform=TRANSFORM,
    ) as sink:  # fmt: skip
        sink.write(data, [*range(1, count + 1)])
        if alpha is not None:
            sink.write(alpha.astype(data.dtype), count + 1)
            sink.colorinterp = [*[ColorInterp.gray] * count, ColorInterp.alpha]
    kinds = {"uint8": "Byte", "int16": "Int16", "float32": "Float32"}
    bands = "".join(
        f'<VRTRasterBand dataType="{kinds[str(data.dtype)]}" band="{number}">'
        + ("" if value is None else f"<NoDataValue>{value}</NoDataValue>")
        + ("<ColorInterp>Alpha</ColorInterp>" if number > count else "")
        + f'<SimpleSource><SourceFilename relativeToVRT="1">bands.tif</SourceFilename>'
        f"<SourceBand>{number}</SourceBand></SimpleSource></VRTRasterBand>"
        for number, value in enumerate([*nodata, *([None] if alpha is not None else [])], start=1)
    )
    crs = rasterio.CRS.from_epsg(32633).to_wkt().replace("&", "&amp;")
    (folder / "scene.vrt").write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{', '.join(map(str, TRANSFORM.to_gdal()))}</GeoTransform>"
        f"{bands}</VRTDataset>"
    )
    return folder / "scene.vrt"


def image(dtype="uint8"):
    rng = np.random.default_rng(5)
    return rng.integers(20, 200, (3, HEIGHT, WIDTH)).astype(dtype)


def colour_scene(folder):
    """A scene with pixels of each kind, in rows of their own, and which are valid."""
    data, valid = image(), np.ones((HEIGHT, WIDTH), dtype=bool)
    for row, (name, colour) in enumerate(COLOURS.items()):
        data[:, 8 * row + 2, 10:30] = np.array(colour)[:, None]
        valid[8 * row + 2, 10:30] = name != "all"
    return write_bands(folder, data, (0, 255, None)), data, valid


def resampled(grid, factor):
    """The same extent with pixels `factor` times as large."""
    height, width = (round(side / factor) for side in grid.shape)
    return Grid(grid.crs, grid.transform * Affine.scale(factor), height, width)


def test_each_band_has_its_own_nodata_value(tmp_path):
    path, data, valid = colour_scene(tmp_path)
    with read_info(path).open() as scene:
        assert scene.info.nodata is None
        found, found_valid = scene.read()
        np.testing.assert_array_equal(found_valid, valid)
        np.testing.assert_array_equal(found, np.where(valid, data, 0))
        window = Window(5, 1, 31, 9)
        part, part_valid = scene.read(window)
        np.testing.assert_array_equal(part_valid, valid[1:10, 5:36])
        np.testing.assert_array_equal(part, np.where(valid, data, 0)[:, 1:10, 5:36])


@pytest.mark.parametrize(
    ("bands", "invalid_rows"), [((1,), {2, 10}), ((2,), {2, 18}), ((3,), set()), ((3, 2), {2, 18}),
                                ((2, 1), {2})]
)  # fmt: skip
def test_only_the_bands_that_are_read_count(tmp_path, bands, invalid_rows):
    path, data, _ = colour_scene(tmp_path)
    data[2] = 255  # for `(3, 2)`: both have the one nodata value
    path = write_bands(tmp_path, data, (0, 255, None))
    with Scene(path, bands=bands) as scene:
        found, valid = scene.read()
    assert set(np.flatnonzero(~valid.all(axis=1))) == invalid_rows
    assert valid.sum() == HEIGHT * WIDTH - 20 * len(invalid_rows)
    expected = data[[band - 1 for band in bands]]
    np.testing.assert_array_equal(found, np.where(valid, expected, 0))


@pytest.mark.parametrize(
    ("dtype", "nodata", "pixel", "valid"),
    [
        ("int16", (-9999, 0, None), (-9999, 7, 7), False),  # no colour: in its band alone
        ("int16", (-9999, 0, None), (7, 0, 7), True),  # may be a colour
        ("int16", (-9999, -1, None), (7, -1, 7), False),
        ("int16", (-9999, -1, None), (-1, -9999, -9999), True),  # those of other bands
        ("float32", ("nan", -9999, None), (7, -9999, 7), False),
        ("float32", ("nan", -9999, None), (np.nan, 7, 7), False),
        ("float32", (0, -3.5, None), (0, 7, 7), True),
        ("float32", (0, -3.5, None), (7, -3.5, 7), False),
    ],
)  # fmt: skip
def test_nodata_values_that_are_no_colours(tmp_path, dtype, nodata, pixel, valid):
    data = image(dtype)
    data[:, 4:9, 6:20] = np.array(pixel, dtype)[:, None, None]
    path = write_bands(tmp_path, data, nodata)
    expected = np.ones((HEIGHT, WIDTH), dtype=bool)
    expected[4:9, 6:20] = valid
    with Scene(path) as scene:
        found, found_valid = scene.read()
        np.testing.assert_array_equal(found_valid, expected)
        np.testing.assert_array_equal(found, np.where(expected, data, 0))
        coarse = resampled(scene.grid, 4)
    with Scene(path, grid=coarse) as scene:
        found, found_valid = scene.read()
    assert found_valid[3:].all()
    assert found_valid[1, 2:5].all() == valid
    assert found.max() < 200
    if not valid:
        assert found[:, found_valid].min() >= 20  # no nodata value is mixed in


def test_the_same_nodata_windows_when_resampled(tmp_path):
    data = image()
    data[:, :17, :33] = np.array(COLOURS["all"])[:, None, None]
    path = write_bands(tmp_path, data, (0, 255, None))
    with Scene(path) as scene:
        fine = resampled(scene.grid, 0.4)
    with Scene(path, grid=fine) as scene:
        whole, valid = scene.read()
        assert not valid[:41, :80].any()
        assert valid[45:].all()
        assert valid[:, 86:].all()
        assert whole[:, valid].min() >= 20  # no nodata value is mixed in
        part, part_valid = scene.read(Window(60, 30, 50, 37))
    np.testing.assert_array_equal(part, whole[:, 30:67, 60:110])
    np.testing.assert_array_equal(part_valid, valid[30:67, 60:110])


def write_masked(folder, data, mask, kind):
    """Write a scene with the nodata value 0 and a mask: internal, as `.msk`, or an alpha band."""
    path, alpha = folder / "scene.tif", kind == "alpha"
    _, height, width = data.shape
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal"),
        rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=3 + alpha, dtype="uint8",
            crs="EPSG:32633", transform=TRANSFORM, nodata=0,
        ) as sink,
    ):  # fmt: skip
        sink.write(data, [1, 2, 3])
        if alpha:
            sink.write(mask, 4)
            sink.colorinterp = [*[ColorInterp.gray] * 3, ColorInterp.alpha]
        else:
            sink.write_mask(mask)
    return path


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("kind", ["internal", "msk", "alpha"])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_nodata_value_counts_beside_a_mask(tmp_path, kind, excluded, factor):
    data = image()
    data[:, 8:24, 8:40] = 0
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    if excluded:
        mask[:, 52:] = 0
    path = write_masked(tmp_path, data, mask, kind)
    assert path.with_suffix(".tif.msk").exists() == (kind == "msk")
    with Scene(path) as scene:
        grid = resampled(scene.grid, factor)
    with Scene(path, grid=grid) as scene:
        _, valid = scene.read()
    expected = np.ones((HEIGHT, WIDTH), dtype=bool)
    expected[8:24, 8:40] = False
    if excluded:
        expected[:, 52:] = False
    sure = slice(3, None, 4)
    if factor == 1:
        np.testing.assert_array_equal(valid, expected)
    else:
        np.testing.assert_array_equal(valid[1::2, 1::2], expected[sure, sure])


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("kind", ["internal", "alpha"])
def test_a_thin_gap_in_a_mask_is_nodata_beside_a_nodata_value(tmp_path, kind, factor):
    height, width = 1024, 640
    data = np.random.default_rng(3).integers(20, 200, (3, height, width), dtype=np.uint8)
    mask = np.full((height, width), 255, np.uint8)
    mask[503:505] = 0  # between the rows of a mask that is reduced to 256 by nearest pixels
    data[:, 503:505] = 255
    path = write_masked(tmp_path, data, mask, kind)
    with Scene(path) as scene:
        grid = resampled(scene.grid, factor)
    with Scene(path, grid=grid) as scene:
        found, valid = scene.read()
    if factor == 1:
        np.testing.assert_array_equal(valid, mask > 0)
        np.testing.assert_array_equal(found, np.where(mask > 0, data, 0))
    else:
        assert valid[:250].all()
        assert valid[254:].all()
        assert found[:, valid].min() >= 20
        assert found.max() < 200  # nothing under the mask is mixed in


@pytest.mark.parametrize("factor", [1, 2])
def test_colours_that_a_warp_mixes_to_the_nodata_value_are_data(tmp_path, factor):
    data = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    data[np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3, *np.indices((HEIGHT, WIDTH))] = 1
    path, alpha = tmp_path / "scene.tif", np.full((HEIGHT, WIDTH), 255, np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=4, dtype="uint8",
        crs="EPSG:32633", transform=TRANSFORM, nodata=0,
    ) as sink:  # fmt: skip
        sink.write(np.concatenate([data, alpha[None]]))
        sink.colorinterp = [*[ColorInterp.gray] * 3, ColorInterp.alpha]
    with Scene(path) as scene:
        grid = resampled(scene.grid, factor)
    with Scene(path, grid=grid) as scene:
        assert scene.read()[1].all()


@pytest.mark.parametrize("factor", [1, 2])
def test_the_nodata_index_of_a_palette_counts_beside_an_alpha_band(tmp_path, factor):
    index = np.ones((HEIGHT, WIDTH), np.uint8)
    index[8:24, 8:40] = 7
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, 52:] = 0
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=2, dtype="uint8",
        crs="EPSG:32633", transform=TRANSFORM, nodata=7,
    ) as sink:  # fmt: skip
        sink.write(index, 1)
        sink.write(alpha, 2)
        sink.colorinterp = [ColorInterp.palette, ColorInterp.alpha]
        sink.write_colormap(1, {1: (90, 120, 60, 255), 7: (255, 0, 255, 255)})
    with Scene(path) as scene:
        grid = resampled(scene.grid, factor)
    with Scene(path, grid=grid) as scene:
        found, valid = scene.read()
    expected = np.ones((HEIGHT, WIDTH), dtype=bool)
    expected[8:24, 8:40] = expected[:, 52:] = False
    cut = slice(factor // 2, None, factor)
    np.testing.assert_array_equal(valid, expected[cut, cut])
    assert found[:, valid].T.tolist() == [[90, 120, 60]] * valid.sum()
