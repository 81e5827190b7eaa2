"""Filters drop footprints and change no other one."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy import ndimage

import geoseg
from geoseg.geo.grid import Grid
from geoseg.geo.raster import THRESHOLDS_TAG, write_array
from geoseg.options import Thresholds, VectorizeOptions

GRID = Grid(rasterio.CRS.from_epsg(32645), Affine(0.4, 0, 3e5, 0, -0.4, 3e6), 260, 310)
MODEL = Thresholds(min_area_m2=6.0, seed=0.55)


@pytest.fixture(scope="module")
def prob(tmp_path_factory):
    """Probabilities with many small and touching objects, and holes."""
    rng = np.random.default_rng(3)
    fields = ndimage.gaussian_filter(rng.random((2, *GRID.shape)), (0, 2.5, 2.5))
    low, high = fields.min(axis=(1, 2), keepdims=True), fields.max(axis=(1, 2), keepdims=True)
    body, border = np.clip((fields - low) / (high - low) * 1.6 - 0.35, 0, 1)
    path = tmp_path_factory.mktemp("prob") / "prob.tif"
    values = np.rint(np.stack([body, border * 0.6]) * 255).astype(np.uint8)
    tags = {THRESHOLDS_TAG: MODEL.model_dump_json()}
    write_array(path, GRID, values, descriptions=("building", "border"), tags=tags)
    return path


def rows(layer):
    attributes = layer.drop(columns=["geometry", "id"]).itertuples(index=False, name=None)
    return list(zip(layer.geometry.to_wkb(), attributes, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"min_area_m2": 30.0}, {"min_area_m2": 2.0}, {"min_confidence": 0.7},
        {"min_area_m2": 12.0, "min_confidence": 0.65},
    ],
)  # fmt: skip
def test_filters_only_drop(prob, tmp_path, changes):
    everything = VectorizeOptions(min_area_m2=0)
    whole = geoseg.vectorize(prob, tmp_path / "whole.gpkg", options=everything).footprints
    options = VectorizeOptions(**changes)
    found = geoseg.vectorize(prob, tmp_path / "found.gpkg", options=options).footprints
    large = whole.area_m2 >= changes.get("min_area_m2", MODEL.min_area_m2)
    expected = whole[large & (whole.confidence >= changes.get("min_confidence", 0))]
    assert 0 < len(expected) < len(whole)
    assert rows(found) == rows(expected)
    assert found.id.tolist() == list(range(1, len(found) + 1))


def test_parts_are_merged_by_their_own_setting(prob, tmp_path):
    layers = {
        size: geoseg.vectorize(
            prob, tmp_path / f"{size}.gpkg", options=VectorizeOptions(min_part_m2=size)
        ).footprints
        for size in (1.0, 6.0, 25.0)
    }
    default = geoseg.vectorize(prob, tmp_path / "default.gpkg").footprints
    assert rows(layers[6.0]) == rows(default)
    assert len({len(layer) for layer in layers.values()}) == 3
    assert layers[25.0].area.sum() == pytest.approx(layers[6.0].area.sum(), rel=0.1)
