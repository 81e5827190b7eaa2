"""Prediction of scenes tile by tile."""

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from small_models import DEEPGLOBE as SPEC
from small_models import make_model

from geoseg.api.predict import predict
from geoseg.errors import ConfigError, GridMismatchError, OutputExistsError, SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, read_info, write_array
from geoseg.geo.raster.quantization import quantise
from geoseg.geo.tiling import TileGrid
from geoseg.geo.vector import read_footprints
from geoseg.jobs.manifest import MANIFEST_NAME, read_manifest
from geoseg.networks.model_file import load_model, load_spec, save_model
from geoseg.networks.models import build_model
from geoseg.options import CRFOptions, PredictOptions
from geoseg.prediction.batches import iter_batches
from geoseg.prediction.blocks import _load_predictor
from geoseg.prediction.crf.refinement import refine_raster
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.placing import count_threads
from geoseg.prediction.plan import plan_prediction
from geoseg.prediction.predictor import Predictor
from geoseg.prediction.stitching import TileBlock
from geoseg.town import build_town, write_town


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors", SPEC)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    town = build_town(150, 210, seed=3, gsd_m=0.5)
    scene, footprints = write_town(town, tmp_path_factory.mktemp("town"))
    return town, scene, footprints


@pytest.fixture(scope="module")
def pixelwise(tmp_path_factory):
    """A model of one 1x1 convolution: the result at a pixel depends only on that pixel."""
    spec = SPEC.model_copy(update={"arch": "pixelwise", "encoder": None, "options": {}})
    weights = {
        "encoder.weight": torch.tensor([[0.9, -0.5, 0.2], [-0.3, 0.8, -0.6]])[..., None, None],
        "encoder.bias": torch.tensor([0.1, -0.2]),
    }
    path = tmp_path_factory.mktemp("pixelwise") / "model.safetensors"
    save_model(path, weights, spec)
    return path


def floats(**options):
    return PredictOptions(floats=True, device="cpu", **options)


def read(path):
    with Scene(path) as scene:
        return scene.read()


def whole_scene(model, scene):
    """Predict a scene in one piece: (outputs, H, W)."""
    predictor = Predictor(*load_model(model), "cpu")
    with Scene(scene) as source:
        data, valid = source.read()
    return predictor(data[None], valid[None])[0]


@pytest.mark.parametrize("blend", ["cosine", "crop", "mean"])
@pytest.mark.parametrize(("overlap", "batch"), [(16, 3), (32, 1), (0, 5)])
def test_a_pixelwise_network_predicts_the_same_without_tiles(
    town, pixelwise, tmp_path, overlap, batch, blend
):
    built, scene, _ = town
    options = floats(overlap=overlap, batch_size=batch, blend=blend)
    predict(scene, tmp_path / "prob.tif", model=pixelwise, options=options)
    data, valid = read(tmp_path / "prob.tif")
    assert np.array_equal(valid, built.valid)
    np.testing.assert_allclose(
        data[:, valid], whole_scene(pixelwise, scene)[:, valid], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(("height", "width"), [(65, 64), (64, 65), (40, 51), (3, 200), (97, 113)])
def test_scenes_of_any_size(pixelwise, tmp_path, height, width):
    town = build_town(128, 256, seed=1, nodata_corner=False)
    grid = town.grid.window_grid(Window(20, 7, width, height))
    image = town.image[:, 7 : 7 + height, 20 : 20 + width]
    write_array(tmp_path / "scene.tif", grid, image, descriptions=("red", "green", "blue"))
    predict(tmp_path / "scene.tif", tmp_path / "prob.tif", model=pixelwise, options=floats())
    data, valid = read(tmp_path / "prob.tif")
    assert valid.all()
    assert read_info(tmp_path / "prob.tif").grid == grid
    np.testing.assert_allclose(
        data, whole_scene(pixelwise, tmp_path / "scene.tif"), atol=1e-6, rtol=0
    )


def test_a_constant_network_gives_a_constant_up_to_the_border(town, pixelwise, tmp_path):
    built, scene, _ = town
    spec = load_spec(pixelwise)
    flat = {"encoder.weight": torch.zeros(2, 3, 1, 1), "encoder.bias": torch.tensor([-0.875, 2.0])}
    save_model(tmp_path / "flat.safetensors", flat, spec)
    predict(scene, tmp_path / "prob.tif", model=tmp_path / "flat.safetensors", options=floats())
    data, valid = read(tmp_path / "prob.tif")
    assert np.array_equal(valid, built.valid)
    for band, bias in zip(data, (-0.875, 2.0), strict=True):
        assert np.abs(band[valid] - 1 / (1 + np.exp(-bias))).max() < 1e-6


def test_a_small_unet_agrees_with_the_whole_scene(tmp_path):
    # The receptive field of two levels of 3x3 convolutions is 18 pixels wide, so the 16 pixels
    # that `crop` cuts off at each side, half of the overlap, suffice.
    spec = SPEC.model_copy(
        update={"arch": "unet", "encoder": None, "options": {"width": 4, "depth": 1}, "overlap": 32}
    )
    torch.manual_seed(0)
    network = build_model("unet", None, bands=spec.bands, outputs=2, options=spec.options)
    save_model(tmp_path / "model.safetensors", network.state_dict(), spec)
    # Side lengths for which the last tiles begin at an even pixel, too.
    scene, _ = write_town(build_town(144, 208, seed=3, gsd_m=0.5, nodata_corner=False), tmp_path)
    predict(
        scene,
        tmp_path / "prob.tif",
        model=tmp_path / "model.safetensors",
        options=floats(blend="crop"),
    )
    data, _ = read(tmp_path / "prob.tif")
    whole = whole_scene(tmp_path / "model.safetensors", scene)
    np.testing.assert_allclose(data, whole, atol=0.01)  # bf16 rounds by size of the batch


def test_probabilities_of_the_published_unet_do_not_depend_on_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr("geoseg.prediction.backends.computes_bf16", lambda _: False)
    spec = SPEC.model_copy(
        update={"arch": "unet", "encoder": None, "options": {"padding": "valid", "width": 4}}
    )
    torch.manual_seed(0)
    network = build_model(
        spec.arch, spec.encoder, bands=spec.bands, outputs=2, options=spec.options
    )
    model = tmp_path / "model.safetensors"
    save_model(model, network.state_dict(), spec)
    assert Predictor(*load_model(model), "cpu").margin == network.margin(64) == 94
    # Side lengths for which the last tiles begin at a multiple of 16, too.
    scene, _ = write_town(build_town(144, 208, seed=3, gsd_m=0.5, nodata_corner=False), tmp_path)

    def whole(overlap, name):
        options = floats(overlap=overlap)
        predict(scene, tmp_path / name, model=model, options=options, overwrite=True)
        return read(tmp_path / name)[0]

    seen = np.abs(whole(0, "a.tif") - whole(32, "b.tif")).max()

    def short_sighted(*arguments):
        predictor = _load_predictor.__wrapped__(*arguments)
        predictor.margin = predictor.networks[0].margin = 0
        return predictor

    monkeypatch.setattr("geoseg.prediction.blocks._load_predictor", short_sighted)
    mirrored = np.abs(whole(0, "a.tif") - whole(32, "b.tif")).max()
    assert seen < 1e-5
    assert mirrored > 100 * seen


def batches_of(path, *, size, overlap, batch_size, margin=0, aoi=None):
    with Scene(path) as scene:
        plan = TileGrid(*scene.grid.shape, size, overlap)
        block = TileBlock.whole(plan)
        return list(iter_batches(scene, block, batch_size=batch_size, margin=margin, aoi=aoi))


def test_all_batches_have_one_shape_and_empty_tiles_are_skipped(tmp_path):
    grid = Grid(rasterio.CRS.from_epsg(32633), rasterio.Affine(1, 0, 5e5, 0, -1, 5e6), 70, 200)
    image = np.full((1, 70, 200), 7, np.uint8)
    image[:, :, 60:] = 0
    write_array(tmp_path / "scene.tif", grid, image, nodata=0)
    (batch,) = batches_of(tmp_path / "scene.tif", size=64, overlap=0, batch_size=4)
    assert batch.data.shape == (4, 1, 64, 64)
    assert batch.valid.shape == (4, 64, 64)
    places = [place for _, place in batch.tiles]
    assert places == [0, None, None, None, 1, None, None, None]
    assert np.array_equal(batch.data[1], batch.data[3])  # filled up
    assert batch.strip_valid[0].sum() == 64 * 60
    assert batch.strip_valid[1].sum() == 6 * 60


@given(
    size=st.integers(4, 40), overlap=st.integers(0, 2), margin=st.integers(0, 90),
    batch_size=st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=40)
def test_tiles_are_read_with_context(small_scene, size, overlap, margin, batch_size):
    path, data, valid = small_scene
    found = batches_of(path, size=size, overlap=overlap, batch_size=batch_size, margin=margin)
    tiles = [(tile, batch, place) for batch in found for tile, place in batch.tiles]
    assert len(tiles) == len(TileGrid(30, 44, size, overlap))
    for tile, batch, place in tiles:
        top, left = tile.window.row_off, tile.window.col_off
        # Context pixels of the scene where it has them, its mirror image outside; a tile larger
        # than the scene is mirrored at the edge of the scene, too.
        near_top, near_left = max(0, top - margin), max(0, left - margin)
        bottom = min(30, top + tile.window.height + margin)
        right = min(44, left + tile.window.width + margin)
        side = size + 2 * margin
        before = (margin - (top - near_top), margin - (left - near_left))
        pads = [
            (before[0], side - before[0] - (bottom - near_top)),
            (before[1], side - before[1] - (right - near_left)),
        ]
        part = (slice(near_top, bottom), slice(near_left, right))
        if place is None:
            assert not valid[tile.window.toslices()].any()
            continue
        wanted = np.pad(data[(slice(None), *part)], [(0, 0), *pads], mode="symmetric")
        assert np.array_equal(batch.data[place], wanted)
        assert np.array_equal(batch.valid[place], np.pad(valid[part], pads, mode="symmetric"))


@pytest.fixture(scope="module")
def small_scene(tmp_path_factory):
    town = build_town(64, 64, seed=2, nodata_corner=False)
    grid = Grid(town.grid.crs, town.grid.transform, 30, 44)
    data = np.random.default_rng(0).integers(1, 255, (3, 30, 44)).astype(np.uint8)
    data[:, 3:9, 5:20] = 0
    path = tmp_path_factory.mktemp("small") / "scene.tif"
    write_array(path, grid, data, nodata=0)
    return path, data, (data != 0).all(axis=0)


def test_quantizing_is_monotone_and_keeps_0_and_1():
    prob = np.linspace(0, 1, 10_001, dtype=np.float32)
    levels = quantise(prob)
    assert levels[0] == 0
    assert levels[-1] == 255
    assert (np.diff(levels.astype(int)) >= 0).all()
    assert len(np.unique(levels)) == 256


def test_a_folder_has_rasters_on_the_grid_of_the_scene_and_footprints(town, model, tmp_path):
    built, scene, _ = town
    files = predict(
        scene, tmp_path / "out", model=model, options=PredictOptions(batch_size=2)
    ).files
    assert [file.name for file in files] == ["prob.tif", "mask.tif", "footprints.gpkg"]
    written = sorted(p.name for p in (tmp_path / "out").iterdir() if p.name != MANIFEST_NAME)
    assert written == sorted([*(f.name for f in files), "mask.qml", "prob.qml"])
    recorded = read_manifest(tmp_path / "out")
    assert recorded == set(written)
    for name in ("prob.tif", "mask.tif"):
        assert read_info(tmp_path / "out" / name).grid == built.grid
    with (
        Scene(tmp_path / "out" / "prob.tif") as prob,
        rasterio.open(tmp_path / "out" / "mask.tif") as mask,
    ):
        assert prob.info.bands == ("building", "border")
        data, valid = prob.read()
        classes, known = mask.read(), mask.dataset_mask() > 0
    assert np.array_equal(valid, built.valid)
    assert np.array_equal(known, built.valid)
    assert np.array_equal(classes[0][valid], (data[0][valid] >= 0.4 * 255).astype(np.uint8))
    footprints = read_footprints(tmp_path / "out" / "footprints.gpkg")
    assert footprints.crs.to_epsg() == 32633


def test_batch_size_one_and_many_agree(town, model, tmp_path):
    _, scene, _ = town
    for size in (1, 7):
        options = floats(batch_size=size)
        predict(scene, tmp_path / f"{size}.tif", model=model, options=options)
    # bf16 kernels of different batch sizes round differently.
    np.testing.assert_allclose(read(tmp_path / "1.tif")[0], read(tmp_path / "7.tif")[0], atol=0.02)


def test_the_same_job_gives_the_same_bytes(town, model, tmp_path):
    _, scene, _ = town
    for name in ("a.tif", "b.tif"):
        predict(scene, tmp_path / name, model=model)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_scene_is_resampled_to_the_model_and_back(model, tmp_path):
    town = build_town(180, 260, seed=5, gsd_m=0.3, crs="EPSG:3857")
    scene, _ = write_town(town, tmp_path)
    plan = plan_prediction(scene, SPEC)
    assert plan.grid.gsd_m == pytest.approx(0.5, rel=0.01)
    assert plan.grid.shape == (108, 156)
    predict(scene, tmp_path / "out", model=model)
    info = read_info(tmp_path / "out" / "prob.tif")
    assert info.grid == town.grid
    with Scene(tmp_path / "out" / "prob.tif") as prob:
        _, valid = prob.read()
    assert np.array_equal(valid, town.valid)
    predict(scene, tmp_path / "own.tif", model=model, options=PredictOptions(keep_model_grid=True))
    assert read_info(tmp_path / "own.tif").grid == plan.grid


@pytest.mark.parametrize("with_aoi", [True, False])
def test_several_threads_place_the_same_pixels(model, tmp_path, monkeypatch, with_aoi):
    town = build_town(180, 260, seed=5, gsd_m=0.3)
    scene, _ = write_town(town, tmp_path)
    monkeypatch.setattr("geoseg.prediction.rasters.WINDOW", (48, 64))
    options = PredictOptions()
    if with_aoi:
        window = town.grid.window_polygon(Window(30, 20, 170, 110))
        area = gpd.GeoSeries([window.buffer(-5)], crs=town.grid.crs.to_wkt())
        area.to_file(tmp_path / "aoi.gpkg")
        options = PredictOptions(aoi=str(tmp_path / "aoi.gpkg"))
    for threads in (1, 3):
        monkeypatch.setattr("geoseg.prediction.rasters.count_threads", lambda *_, n=threads: n)
        predict(scene, tmp_path / f"{threads}.tif", model=model, options=options)
    one = (tmp_path / "1.tif").read_bytes()
    assert one == (tmp_path / "3.tif").read_bytes()
    with Scene(tmp_path / "1.tif") as prob:
        data, valid = prob.read()
    assert data[:, valid].std() > 1
    assert (valid.sum() < 0.5 * town.valid.sum()) == with_aoi


def test_threads_that_place_pixels_keep_to_the_memory(town):
    _, scene, _ = town
    plan, encoding = plan_prediction(scene, SPEC), OutputEncoding(("building", "border"))
    assert count_threads(plan, encoding, 3, 100.0) == 3
    assert count_threads(plan, encoding, 64, 100.0) == 4
    assert count_threads(plan, encoding, 3, 0.001) == 1


def test_a_constant_stays_constant_when_it_is_resampled(model, tmp_path):
    spec, weights = load_model(model)
    undecided = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    save_model(tmp_path / "flat.safetensors", undecided, spec)
    town = build_town(130, 190, seed=5, gsd_m=0.31)
    scene, _ = write_town(town, tmp_path)
    predict(scene, tmp_path / "prob.tif", model=tmp_path / "flat.safetensors")
    with Scene(tmp_path / "prob.tif") as prob:
        data, valid = prob.read()
    assert set(np.unique(data[:, valid])) == {128}
    assert np.array_equal(valid, town.valid)


def test_bands_are_matched_by_name_in_any_order(model, tmp_path):
    town = build_town(80, 96, seed=2)
    write_array(
        tmp_path / "bgr.tif", town.grid, town.image[::-1], nodata=0,
        descriptions=("blue", "green", "red"),
    )  # fmt: skip
    assert plan_prediction(tmp_path / "bgr.tif", SPEC).scene.indexes == (3, 2, 1)
    scene, _ = write_town(town, tmp_path)
    predict(scene, tmp_path / "rgb_prob.tif", model=model)
    predict(tmp_path / "bgr.tif", tmp_path / "bgr_prob.tif", model=model)
    with Scene(tmp_path / "rgb_prob.tif") as a, Scene(tmp_path / "bgr_prob.tif") as b:
        assert np.array_equal(a.read()[0], b.read()[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": 1}, r"has 1 band \(pan\), the model needs 3 \(.*, so the model cannot"),
        ({"dtype": "uint16"}, "has uint16 pixels, the model was trained on uint8"),
        ({"gsd_m": 2.5}, "2.5 m on the ground, the model needs 0.5 m"),
    ],
)
def test_scenes_that_do_not_suit_the_model_are_refused(model, tmp_path, changes, message):
    scene, _ = write_town(build_town(80, 100, **changes), tmp_path)
    with pytest.raises(GridMismatchError, match=message):
        predict(scene, tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()


def test_bands_are_suggested_only_where_there_are_enough(model, tmp_path):
    names = ("near", "mid", "far")
    few, _ = write_town(build_town(80, 100, bands=1), tmp_path / "few")
    with pytest.raises(GridMismatchError) as error:
        predict(few, tmp_path / "out", model=model)
    assert "--bands" not in str(error.value)
    many, _ = write_town(build_town(80, 100, bands=4), tmp_path / "many")
    with rasterio.open(many, "r+") as sink:
        for band, name in enumerate((*names, "last"), start=1):
            sink.set_band_description(band, name)
    with pytest.raises(GridMismatchError, match=r"has 4 bands .*; list the bands in the order"):
        predict(many, tmp_path / "out", model=model)
    with pytest.raises(GridMismatchError, match=r"2 bands chosen .* list as many bands with --ba"):
        predict(many, tmp_path / "out", model=model, options=PredictOptions(bands=(1, 2)))
    for bands in ((1, 1, 1), ("near", 1, 2)):
        with pytest.raises(ConfigError, match=r"band 1 \(.*\) is listed twice"):
            predict(few if bands == (1, 1, 1) else many, tmp_path / "out", model=model,
                    options=PredictOptions(bands=bands))  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_outputs_are_not_replaced_without_overwrite(town, model, tmp_path):
    _, scene, _ = town
    (tmp_path / "prob.tif").write_text("mine")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        predict(scene, tmp_path / "prob.tif", model=model)
    assert (tmp_path / "prob.tif").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"\.png"):
        predict(scene, tmp_path / "prob.png", model=model)


def test_a_style_of_somebody_else_is_kept(town, model, tmp_path, caplog):
    _, scene, _ = town
    predict(scene, tmp_path / "own.tif", model=model)
    style = (tmp_path / "own.qml").read_text()
    assert "singlebandpseudocolor" in style
    (tmp_path / "own.qml").write_text(style.replace("100 %", "old"))
    predict(scene, tmp_path / "own.tif", model=model, overwrite=True)
    assert (tmp_path / "own.qml").read_text() == style
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.qml", "own.tif"]

    mine = "<qgis version='3.40'><pipe/></qgis>"  # as QGIS saves it, without the mark
    for name in ("own", "new"):
        (tmp_path / f"{name}.qml").write_text(mine)
        caplog.clear()
        predict(scene, tmp_path / f"{name}.tif", model=model, overwrite=name == "own")
        assert (tmp_path / f"{name}.qml").read_text() == mine
        assert f"{name}.qml: is a style that geoseg did not write, and is kept" in caplog.text

    predict(scene, tmp_path / "out", model=model)
    predict(scene, tmp_path / "out", model=model, overwrite=True)
    (tmp_path / "out" / "mask.qml").write_text(mine)
    with pytest.raises(OutputExistsError, match=r"the style mask\.qml was changed by another"):
        predict(scene, tmp_path / "out", model=model, overwrite=True)
    assert (tmp_path / "out" / "mask.qml").read_text() == mine


def test_an_output_with_an_input_or_a_foreign_file_is_not_replaced(town, model, tmp_path):
    built, _, _ = town
    scene, _ = write_town(built, tmp_path / "project")
    before = scene.read_bytes()
    for output in (scene, scene.parent):
        with pytest.raises(OutputExistsError, match=r"scene\.tif"):
            predict(scene, output, model=model, overwrite=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"notes\.txt"):
        predict(scene, tmp_path / "notes", model=model, overwrite=True)
    assert scene.read_bytes() == before
    assert (tmp_path / "notes" / "notes.txt").read_text() == "mine"


def test_bands_of_other_names_are_refused(model, tmp_path):
    town = build_town(80, 96, seed=2)
    path = tmp_path / "cir.tif"
    write_array(path, town.grid, town.image, nodata=0, descriptions=("nir", "red", "green"))
    with pytest.raises(GridMismatchError, match=r"nir, red, green.*--bands"):
        plan_prediction(path, SPEC)
    chosen = plan_prediction(path, SPEC, PredictOptions(bands=("red", "green", "nir")))
    assert chosen.scene.indexes == (2, 3, 1)


def test_nodata_has_no_probability(town, model, tmp_path):
    built, scene, _ = town
    predict(scene, tmp_path / "prob.tif", model=model)
    with rasterio.open(tmp_path / "prob.tif") as prob:
        assert prob.read()[:, ~built.valid].max() == 0


def test_a_scene_is_refined_on_the_grid_of_the_model(model, tmp_path):
    town = build_town(120, 168, seed=9, gsd_m=0.4)
    scene, _ = write_town(town, tmp_path / "town")
    keep = {"keep_model_grid": True}
    crf = CRFOptions(bilateral_sigma=20)
    told = []
    predict(scene, tmp_path / "raw.tif", model=model, options=PredictOptions(**keep))
    predict(scene, tmp_path / "refined.tif", model=model, options=PredictOptions(crf=crf, **keep),
            progress=lambda done, total, what: told.append(what))  # fmt: skip
    refine_raster(tmp_path / "raw.tif", scene, tmp_path / "wanted.tif", options=crf)
    predict(scene, tmp_path / "out", model=model, options=PredictOptions(crf=crf))
    with Scene(tmp_path / "refined.tif") as found, Scene(tmp_path / "wanted.tif") as wanted:
        assert found.grid.gsd_m == pytest.approx(0.5)
        data, _ = found.read()
        assert (data == wanted.read()[0]).all()
    with Scene(tmp_path / "raw.tif") as raw:
        before = raw.read()[0]
    assert (data[1] == before[1]).all()
    assert np.abs(data[0].astype(int) - before[0]).max() > 20
    with Scene(tmp_path / "out" / "prob.tif") as placed:
        assert placed.grid.shape == (120, 168)
    assert list(dict.fromkeys(told)) == ["tiles", "blocks refined"]


@pytest.mark.parametrize("tta", ["flips", "d4"])
def test_views_of_a_tile_are_turned_back(model, tta):
    spec, weights = load_model(model)
    one, many = Predictor(spec, weights, "cpu"), Predictor(spec, weights, "cpu", tta)
    # A network that returns its input shows whether every view is turned back correctly.
    for predictor in (one, many):
        predictor.networks[0].logits = torch.clone
    data = np.random.default_rng(0).integers(0, 255, (2, 3, 64, 64)).astype(np.float32)
    valid = np.ones((2, 64, 64), bool)
    np.testing.assert_allclose(one(data, valid), many(data, valid), atol=1e-6)


def test_a_damaged_scene_with_alpha_and_nodata_is_named_with_the_place(town, pixelwise, tmp_path):
    built, _, _ = town
    path, opaque = tmp_path / "packed.tif", np.full((1, *built.grid.shape), 255, np.uint8)
    data = np.concatenate([np.random.default_rng(2).permuted(built.image), opaque])
    with rasterio.open(
        path, "w", driver="GTiff", height=150, width=210, count=4, dtype="uint8", nodata=0,
        crs=built.grid.crs, transform=built.grid.transform, compress="deflate", alpha="yes",
        photometric="rgb",
    ) as sink:  # fmt: skip
        sink.write(data)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(20_000))
    with pytest.raises(SceneReadError, match=r"packed.tif: cannot read rows \d+-\d+, columns \d+-"):
        predict(path, tmp_path / "prob.tif", model=pixelwise, options=floats())
