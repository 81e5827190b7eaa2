"""Masks are vectorized as certain, and what is no probability is named."""

import numpy as np
import pytest
import rasterio
from affine import Affine

import geoseg
from geoseg.errors import ConfigError, SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import make_prob_tags, write_array
from geoseg.options import Thresholds, VectorizeOptions


def write_bytes(path, values, **how):
    grid = Grid(rasterio.CRS.from_epsg(32633), Affine(0.5, 0, 5e5, 0, -0.5, 5e6), 60, 90)
    data = np.zeros((1, 60, 90), values.dtype)
    data[0, 10:40, 20:60] = values.max()
    write_array(path, grid, data, **how)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_is_vectorized_as_certain(tmp_path, dtype, value):
    path = write_bytes(tmp_path / "mask.tif", np.array([value], dtype))
    layer = geoseg.vectorize(path, tmp_path / "a.gpkg", mask=True).footprints
    assert layer.area.tolist() == pytest.approx([30 * 40 * 0.25], rel=0.02)
    assert layer.confidence.tolist() == [1.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, "looks like a mask; vectorize it with --mask"),
        (5, "look like classes, not probabilities; vectorize all values but 0 with --mask"),
        (100, "0 to 100 of 255, which reach no threshold; if they are percent"),
    ],
)
def test_values_that_are_no_probabilities_are_refused(tmp_path, value, message):
    path, output = write_bytes(tmp_path / "mask.tif", np.uint8([value])), tmp_path / "a.gpkg"
    with pytest.raises(SceneReadError, match=message):
        geoseg.vectorize(path, output)
    assert [file.name for file in tmp_path.iterdir()] == ["mask.tif"]
    low = VectorizeOptions(body=value / 256, seed=value / 256)
    assert geoseg.vectorize(path, output, options=low).count == 1


@pytest.mark.parametrize(
    ("value", "tags"), [(0, {}), (101, {}), (60, make_prob_tags(Thresholds()))]
)
def test_probabilities_without_a_building_give_an_empty_layer(tmp_path, value, tags):
    path = write_bytes(tmp_path / "prob.tif", np.uint8([value]), tags=tags)
    assert geoseg.vectorize(path, tmp_path / "a.gpkg").count == 0


def test_a_mask_has_one_band_and_no_crf(tmp_path):
    path = write_bytes(tmp_path / "mask.tif", np.uint8([1]))
    with pytest.raises(ConfigError, match="--crf: refines probabilities, which a mask does not"):
        geoseg.vectorize(path, tmp_path / "a.gpkg", mask=True, scene=path)
    with rasterio.open(path) as source:
        write_array(tmp_path / "two.tif", Grid(source.crs, source.transform, 60, 90),
                    np.concatenate([source.read()] * 2))  # fmt: skip
    with pytest.raises(SceneReadError, match="has 2 bands, but a mask has one"):
        geoseg.vectorize(tmp_path / "two.tif", tmp_path / "a.gpkg", mask=True)


@pytest.mark.parametrize("nodata", [None, 255])
def test_a_mask_with_a_palette_is_vectorized_by_its_values(tmp_path, nodata):
    """Black is a colour of class 2, and class 0 is not black: only the values count."""
    colours = {0: (255, 255, 255, 255), 2: (0, 0, 0, 255)}
    how = {"tags": {"CLASS_0": "background"}, "colormap": colours, "nodata": nodata}
    path = write_bytes(tmp_path / "mask.tif", np.uint8([2]), **how)
    layer = geoseg.vectorize(path, tmp_path / "a.gpkg", mask=True).footprints
    assert layer.area.tolist() == pytest.approx([30 * 40 * 0.25], rel=0.02)
    assert layer.confidence.tolist() == [1.0]
    write_bytes(tmp_path / "other.tif", np.uint8([2]), colormap=colours)  # without class names
    assert geoseg.vectorize(tmp_path / "other.tif", tmp_path / "b.gpkg", mask=True).count == 1
    with pytest.raises(SceneReadError, match="has a colour table, so its values are classes"):
        geoseg.vectorize(tmp_path / "other.tif", tmp_path / "c.gpkg")
