"""Dense CRF on rasters."""

import dataclasses

import numpy as np
import pytest
import rasterio
from layers import vectorize

from geoseg.errors import GridMismatchError, SceneReadError
from geoseg.geo.raster import THRESHOLDS_TAG, Scene, read_info, read_tags, write_array
from geoseg.geo.raster.quantization import dequantise, quantise
from geoseg.geo.vector import read_footprints
from geoseg.options import CRFOptions, Thresholds
from geoseg.prediction.crf.mean_field import refine
from geoseg.prediction.crf.refinement import refine_raster


@pytest.fixture
def calm_scene(make_scene):
    """A function that writes a scene of little noise."""

    def make(name="scene", **options):
        made = make_scene(name, **options)
        noise = np.random.default_rng(1).integers(-4, 5, made.data.shape)
        data = (60 + 60 * made.mask + noise).astype(made.data.dtype)
        with rasterio.open(made.path, "r+") as sink:
            sink.write(data)
        return dataclasses.replace(made, data=data)

    return make


# A strong weight, so that clear colours move outlines by two pixels.
STRONG = CRFOptions(bilateral_weight=10)

TAGS = {THRESHOLDS_TAG: Thresholds(body=0.45, min_area_m2=1.0).model_dump_json()}


def doubtful(made, names=("building", "border"), *, dtype="uint8"):
    """Probabilities of the buildings, moved by two pixels, with nodata in a corner."""
    body = np.where(np.roll(made.mask, (2, 2), axis=(0, 1)), 0.85, 0.15)
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, body.shape)
    prob = np.stack([body + noise, np.full_like(body, 0.3)])[: len(names)]
    stored = quantise(prob) if dtype == "uint8" else prob.astype(dtype)
    valid = np.ones(body.shape, dtype=bool)
    valid[-10:, -14:] = False
    path = made.path.with_name(f"prob_{dtype}_{len(names)}.tif")
    write_array(path, made.grid, stored * valid, valid=valid, descriptions=names, tags=TAGS)
    return path, stored * valid, valid


def test_a_raster_is_refined_like_its_arrays(calm_scene, tmp_path):
    made = calm_scene()
    path, stored, valid = doubtful(made)
    out = tmp_path / "refined.tif"
    told = []
    refine_raster(path, made.path, out, options=STRONG, progress=lambda *words: told.append(words))
    with Scene(out) as found:
        data, known = found.read()
    wanted = quantise(refine(dequantise(stored[:1]), made.data, valid, STRONG))
    assert (known == valid).all()
    assert (data[0] == wanted[0] * valid).all()
    assert (data[1] == stored[1]).all()
    assert read_info(out).bands == ("building", "border")
    assert read_tags(out)[THRESHOLDS_TAG] == TAGS[THRESHOLDS_TAG]
    assert told == [(1, 1, "blocks refined")]
    before = ((stored[0] > 127) != made.mask)[valid].mean()
    after = ((data[0] > 127) != made.mask)[valid].mean()
    assert after < 0.1 * before


def test_the_same_job_gives_the_same_bytes(calm_scene, tmp_path):
    made = calm_scene()
    path, _, _ = doubtful(made)
    for name in ("one.tif", "two.tif"):
        refine_raster(path, made.path, tmp_path / name)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()


def test_float_rasters_stay_float(calm_scene, tmp_path):
    made = calm_scene()
    path, stored, valid = doubtful(made, ("building",), dtype="float32")
    refine_raster(path, made.path, tmp_path / "refined.tif")
    with Scene(tmp_path / "refined.tif") as found:
        data, _ = found.read()
    assert data.dtype == np.float32
    assert (data == refine(stored, made.data, valid) * valid).all()


def test_the_unit_of_colours_does_not_matter(calm_scene, tmp_path):
    bytes_ = calm_scene("bytes")
    path, _, valid = doubtful(bytes_)
    with rasterio.open(bytes_.path) as source:
        profile = source.profile
    scaled = {"dark": (np.uint16, 3, 0), "bright": (np.uint16, 60, 4000), "real": (float, 1e-3, -7)}
    labels = []
    for name, (dtype, factor, offset) in scaled.items():
        data = (bytes_.data.astype(float) * factor + offset).astype(dtype)
        scene = tmp_path / f"{name}.tif"
        with rasterio.open(scene, "w", **profile | {"dtype": data.dtype.name}) as sink:
            sink.write(data)
        refine_raster(path, scene, tmp_path / f"refined_{name}.tif", options=STRONG)
        with Scene(tmp_path / f"refined_{name}.tif") as found:
            labels.append(found.read()[0][0] > 127)
        assert (labels[-1] == bytes_.mask)[valid].mean() > 0.995
    assert (labels[0] == labels[1]).all()
    assert (labels[0] == labels[2]).all()


def test_several_classes_are_exclusive(calm_scene, tmp_path):
    made = calm_scene()
    path, stored, valid = doubtful(made, ("roof", "road"))
    rest = 255 - stored[0]
    write_array(path, made.grid, np.stack([stored[0], rest]), descriptions=("roof", "road"))
    refine_raster(path, made.path, tmp_path / "refined.tif", options=STRONG)
    with Scene(tmp_path / "refined.tif") as found:
        data, _ = found.read()
    assert np.abs(data.sum(axis=0, dtype=int) - 255).max() <= 1
    assert ((data[0] > 127) == made.mask)[valid].mean() > 0.99


def test_a_scene_of_another_area_is_refused(calm_scene, tmp_path):
    made, far = calm_scene(), calm_scene("far", origin=(700_000.0, 2_900_000.0))
    path, _, _ = doubtful(made)
    with pytest.raises(GridMismatchError, match=r"far.tif: has no valid pixel in"):
        refine_raster(path, far.path, tmp_path / "refined.tif")
    assert not (tmp_path / "refined.tif").exists()


def test_a_mask_is_refused(calm_scene, tmp_path):
    made = calm_scene()
    mask = tmp_path / "mask.tif"
    tags = {"CLASS_0": "background", "CLASS_1": "building"}
    write_array(mask, made.grid, made.mask[None].astype(np.uint8), tags=tags)
    with pytest.raises(SceneReadError, match="class mask"):
        refine_raster(mask, made.path, tmp_path / "refined.tif")
    with pytest.raises(SceneReadError, match="class mask"):
        vectorize(mask, tmp_path / "found.gpkg", scene=made.path)


def test_vectorize_refines_by_a_scene(calm_scene, tmp_path):
    made = calm_scene()
    path, _, _ = doubtful(made)
    refine_raster(path, made.path, tmp_path / "refined.tif", options=STRONG)
    vectorize(tmp_path / "refined.tif", tmp_path / "two.gpkg")
    vectorize(path, tmp_path / "new" / "one.gpkg", scene=made.path, crf=STRONG)
    one = read_footprints(tmp_path / "new" / "one.gpkg")
    two = read_footprints(tmp_path / "two.gpkg")
    assert list(one.geometry.to_wkb()) == list(two.geometry.to_wkb())
    assert len(one) == len(made.boxes)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["one.gpkg"]
