"""The models that installed with geoseg: what they say of themselves holds."""

import geopandas as gpd
import pytest
import shapely
from click.testing import CliRunner
from shapely.geometry import box

from geoseg.api.predict import predict
from geoseg.cli import cli
from geoseg.errors import ModelFileError
from geoseg.evaluation import evaluate_footprints as evaluate
from geoseg.geo.raster import read_info
from geoseg.networks.model_file import (
    DEFAULT_MODEL,
    find_model,
    load_model,
    load_spec,
    shipped_models,
)
from geoseg.networks.models import load_network
from geoseg.options import PredictOptions
from geoseg.town import build_town, write_town


@pytest.mark.parametrize("name", shipped_models())
def test_every_model_has_a_card_a_licence_and_a_bearable_size(name):
    path = shipped_models()[name]
    assert path.stat().st_size < 30e6
    spec, card = load_spec(path), path.with_suffix(".md").read_text()
    assert spec.provenance["licence"] in card
    assert f"resampled to {spec.gsd_m:g} m" in card
    assert "## Limits" in card
    area = shapely.from_wkt(spec.provenance["training_area"])  # in degrees
    assert area.is_valid
    assert 0 < area.area < 1e-3
    for key in ("batch_size", "ema", "val_every", "max_minutes"):
        assert f"`train.{key}={spec.provenance['train'][key]}`" in card
    parameters = sum(p.numel() for p in load_network(*load_model(path)).parameters())
    assert f"{parameters / 1e6:.1f} million parameters" in card


def test_a_model_goes_by_its_name_unless_a_file_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model(DEFAULT_MODEL) == shipped_models()[DEFAULT_MODEL]
    (tmp_path / DEFAULT_MODEL).mkdir()
    assert find_model() == find_model(DEFAULT_MODEL) == shipped_models()[DEFAULT_MODEL]
    (tmp_path / DEFAULT_MODEL).rmdir()
    (tmp_path / DEFAULT_MODEL).touch()
    assert find_model(DEFAULT_MODEL).resolve() == tmp_path / DEFAULT_MODEL
    assert find_model() == shipped_models()[DEFAULT_MODEL]
    with pytest.raises(ModelFileError, match=r"installed with geoseg: .*buildings"):
        load_spec(find_model("houses"))


def test_a_first_prediction_needs_no_training(tmp_path, caplog):
    scene, _ = write_town(build_town(160, 224, seed=5, nodata_corner=False), tmp_path)
    out = tmp_path / "footprints.geojson"
    done = CliRunner().invoke(cli, ["predict", str(scene), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "using the default model" in caplog.text
    assert not gpd.read_file(out).empty
    said = CliRunner().invoke(cli, ["info", DEFAULT_MODEL])
    assert "building, border, contact" in said.output


@pytest.mark.realdata
def test_the_default_model_finds_the_houses_of_unseen_ground(realdata, tmp_path):
    scene = realdata / "banepa" / "scene.tif"
    west, south, east, north = read_info(scene).grid.bounds
    unseen = box(east - 0.15 * (east - west), south, east, north)
    aoi = tmp_path / "unseen.gpkg"
    gpd.GeoDataFrame(geometry=[unseen], crs=read_info(scene).grid.crs.to_wkt()).to_file(aoi)
    layer = tmp_path / "footprints.parquet"
    predict(scene, layer, model=find_model(DEFAULT_MODEL), options=PredictOptions(aoi=str(aoi)))
    report = evaluate(layer, realdata / "banepa" / "footprints.geojson", aoi=aoi)
    assert report.tp + report.fn > 200
    assert report.f1 > 0.5
    assert report.iou_pixel > 0.7
