"""Odd rasters brought to another pixel size are what GDAL's own warper makes of them."""

import pytest
from plain_reading import compare, describe, read_georeferencing, write_labels

from geoseg.geo.grid import Grid

pytestmark = [
    pytest.mark.realdata,
    # What the command line passes over as well: the refusal says it.
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:CRS EPSG.* is deprecated"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

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


@pytest.mark.parametrize(("name", "factor"), RESAMPLED)
def test_resampled_right(realdata, tmp_path, give_to_tile, name, factor):
    path = (realdata / "odd_rasters" / name).resolve()
    place = read_georeferencing(path)
    options = write_labels(path, place, tmp_path)
    gsd_m = factor * Grid(place.crs, place.transform, place.height, place.width).gsd_m
    about = {"file": f"odd_rasters/{name} at {factor} of its gsd", **describe(path)}
    outcome = give_to_tile([path], **options, gsd_m=gsd_m, keep_blank=True, about=about)
    assert not outcome.refused, outcome.message
    assert compare(path, place, outcome.folder, options["labels"]) > 0
