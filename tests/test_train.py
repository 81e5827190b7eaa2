"""A few steps of training, and what they leave behind."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch

import geoseg.training.history
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.errors import (
    ConfigError,
    EmptyDatasetError,
    InputShapeError,
    OutputExistsError,
    UnknownArchitectureError,
)
from geoseg.geo.raster import read_info, write_array
from geoseg.jobs.manifest import MANIFEST_NAME
from geoseg.networks.model_file import load_model
from geoseg.options import LossOptions, ModelOptions, TileOptions, TrainOptions, WeightMapOptions
from geoseg.prediction.predictor import Predictor
from geoseg.town import build_town, write_town
from geoseg.training.best_epoch import EQUAL_SCORES
from geoseg.training.checkpoints import RunCheckpoints
from geoseg.training.dataset import TileDataset
from geoseg.training.history import History
from geoseg.training.lr_finder import HIGHEST, LOWEST, find_lr, smooth_losses, steepest_rate
from geoseg.training.run import train
from geoseg.training.validation.areas import ValidationAreas
from geoseg.training.validation.tuning import tune_thresholds

MODEL = ModelOptions(
    encoder="tu-tf_efficientnet_lite0", options={"aspp_channels": 16, "fusion": "add"}
)
OPTIONS = TrainOptions(epochs=2, batch_size=2, precision="32-true", device="cpu", lr=2e-3)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    scene, footprints = write_town(build_town(128, 320, seed=4, nodata_corner=False), folder)
    plan = plan_tiles([scene], footprints, TileOptions(size=64, overlap=0, gap=0))
    tile_scenes(plan, folder / "tiles")
    return folder / "tiles"


@pytest.fixture(scope="module")
def run(tiles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    lines = []
    result = train(tiles, folder, model=MODEL, options=OPTIONS, report=lines.append)
    return folder, result, lines


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_short_run_says_so_at_its_end(run):
    _, _, lines = run
    assert lines[-1].startswith("this run was too short: ")
    assert "; continue it with --resume --set train.epochs=" in lines[-1]
    assert any("val pixel IoU 0." in line and "val building F1 0." in line for line in lines)


def test_a_run_leaves_model_metrics_and_curves(run, tiles):
    folder, result, lines = run
    pictures = {"curves.png", "validation.png", "reliability.png"}
    written = {path.name for path in folder.iterdir()} - {MANIFEST_NAME}
    assert {"model.safetensors", "metrics.csv", "last.ckpt", "best.ckpt"} | pictures == written
    table = rows(folder)
    assert [row["epoch"] for row in table] == ["1", "2"]
    assert float(table[-1]["train_loss"]) < float(table[0]["train_loss"])
    best = max(table, key=lambda row: float(row["val_score"]))
    assert result.val_iou == pytest.approx(float(best["val_iou"]))
    for row in table:
        both = float(row["val_iou"]), float(row["val_f1"])
        assert float(row["val_score"]) == pytest.approx(sum(both) / 2)
    assert lines[0].startswith("deepglobe with tu-tf_efficientnet_lite0 on cpu: ")
    assert lines[1].startswith("epoch 1: ")
    for name in pictures:
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"


def test_the_model_file_knows_what_it_eats(run, tiles):
    _, result, _ = run
    spec, weights = load_model(result.model)
    info = TileDataset(tiles, "train").info
    assert (spec.bands, spec.dtype, spec.mean, spec.std) == (
        info.bands,
        info.dtype,
        info.mean,
        info.std,
    )
    assert spec.gsd_m == pytest.approx(0.5, rel=0.01)
    assert spec.outputs == ("building", "border")
    assert spec.thresholds == result.thresholds
    assert spec.provenance["tiles"] == info.tiles
    Predictor(spec, weights, "cpu")


def test_tuning_finds_the_thresholds_of_its_score(run, tiles):
    _, result, _ = run
    spec, weights = load_model(result.model)
    ground = ValidationAreas(TileDataset(tiles, "val"))
    ground.predict(Predictor(spec, weights, "cpu"))
    tuned = tune_thresholds(ground)
    temperature = spec.provenance["calibration"]["temperature"]
    assert result.thresholds == tuned.model_copy(update={"temperature": temperature})
    ((buildings, _),) = ground.score_places(result.thresholds)
    assert result.val_f1 == buildings.f1


def test_a_perfect_network_is_tuned_to_nearly_all_buildings(tiles):
    dataset = TileDataset(tiles, "val")
    by_image = {
        dataset[i]["image"].numpy().tobytes(): dataset[i]["target"].numpy()
        for i in range(len(dataset))
    }

    def oracle(data, valid):
        return torch.stack(
            [torch.from_numpy((by_image[image.tobytes()] == 1) * 0.98 + 0.01) for image in data]
        ).numpy()

    ground = ValidationAreas(dataset)
    ground.predict(oracle)
    ((buildings, _),) = ground.score_places(tune_thresholds(ground))
    assert buildings.f1 > 0.9


def test_a_running_average_is_validated_and_kept(tiles, tmp_path):
    slow = OPTIONS.model_copy(update={"ema": 0.9})
    result = train(tiles, tmp_path / "a", model=MODEL, options=slow)
    state = torch.load(tmp_path / "a" / "last.ckpt", weights_only=True)
    best = torch.load(tmp_path / "a" / "best.ckpt", weights_only=True)
    kept = load_model(result.model)[1]
    moved = 0
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, best["state_dict"][f"network.{name}"])
        moved += not torch.equal(
            state["current_model_state"][f"network.{name}"], state["state_dict"][f"network.{name}"]
        )
    assert moved > 0.9 * sum(tensor.is_floating_point() for tensor in kept.values())
    assert not any(name.startswith(("module.", "n_averaged")) for name in kept)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.5, 0.6, 0.4], 1),
        ([0.5, 0.6, 0.59, 0.585, 0.57], 3),  # the last that is as good as the best
        ([0.5, 0.515, 0.53, 0.505], 2),  # as good as the highest score, not as the one kept before
        ([0.6, None, 0.59, None], 2),  # not validated
        ([0.0, 0.0, 0.0], 2),
        ([0.0, 0.018, 0.0], 1),  # to find nothing is worse than to find little
        ([0.8, float("nan"), 0.3], 0),
    ],
)
def test_the_best_epoch_is_the_last_that_is_as_good_as_the_highest_score(tmp_path, scores, kept):
    callback = RunCheckpoints(tmp_path)
    for epoch, score in enumerate(scores):
        trainer = SimpleNamespace(
            sanity_checking=False, is_global_zero=True, current_epoch=epoch,
            callback_metrics={"val_score": score},
            save_checkpoint=lambda path, epoch=epoch: Path(path).write_text(str(epoch)),
        )  # fmt: skip
        if score is not None:
            callback.on_validation_end(trainer, None)
        callback.on_train_epoch_end(trainer, None)
        # A resumed run goes on as if it had not been interrupted.
        state, callback = callback.state_dict(), RunCheckpoints(tmp_path)
        callback.load_state_dict(state)
    assert (tmp_path / "best.ckpt").read_text() == str(kept)
    # The pixel IoU in the header is that of the same epoch.
    history = History(tmp_path, OPTIONS, lambda _: None)
    history.rows = [
        {"epoch": n} if score is None else {"val_score": score, "val_iou": float(n)}
        for n, score in enumerate(scores)
    ]
    assert history.best_iou == kept


def test_a_run_that_was_moved_keeps_its_best_epoch(run, tiles, tmp_path, monkeypatch):
    folder, _, _ = run
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    # At this rate the network forgets what it knew.
    monkeypatch.setattr(geoseg.training.history, "rate_share", lambda *_: 1 / OPTIONS.lr)
    longer = OPTIONS.model_copy(update={"epochs": 4})
    result = train(tiles, moved, model=MODEL, options=longer, resume=True)
    scores = [float(row["val_score"]) for row in rows(moved)]
    assert len(scores) == 4
    best = np.flatnonzero(np.array(scores) >= max(scores) - EQUAL_SCORES)[-1]
    assert best < 2
    assert torch.load(moved / "best.ckpt", weights_only=True)["epoch"] == best
    assert result.val_iou == pytest.approx(float(rows(moved)[best]["val_iou"]))
    assert torch.load(moved / "last.ckpt", weights_only=True)["epoch"] == 3


def test_a_run_with_every_option_of_the_papers(tiles, tmp_path):
    loss = {"bce": 1, "focal": {"weight": 10, "alpha": 0.25}, "lovasz_hinge": {"per_image": True},
            "tversky": {"alpha": 0.3, "beta": 0.7}}  # fmt: skip
    options = TrainOptions.model_validate(
        OPTIONS.model_dump()
        | {"loss": loss, "weight_map": {"w0": 5, "sigma_m": 1.5}, "lr": 5e-3}
        | {"augment": {"elastic_px": 3, "band_dropout": 0.2}}
    )
    train(tiles, tmp_path / "papers", model=MODEL, options=options)
    table = rows(tmp_path / "papers")
    assert float(table[-1]["train_loss"]) < float(table[0]["train_loss"])
    spec, _ = load_model(tmp_path / "papers" / "model.safetensors")
    kept = TrainOptions.model_validate(spec.provenance["train"])
    assert kept == options
    # The weights of pixels are no part of the state: resuming asks for none.
    state = torch.load(tmp_path / "papers" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"network"}


def test_a_loss_for_another_task_leaves_no_folder(tiles, tmp_path):
    options = OPTIONS.model_copy(update={"loss": LossOptions(cross_entropy=1)})
    with pytest.raises(ConfigError, match="cross_entropy: is for exclusive classes"):
        train(tiles, tmp_path / "run", model=MODEL, options=options)
    assert not (tmp_path / "run").exists()


def test_time_ends_training_and_without_a_state_resume_begins_one(tiles, tmp_path):
    limited = OPTIONS.model_copy(update={"epochs": 1000, "max_minutes": 0.001})
    result = train(tiles, tmp_path / "short", model=MODEL, options=limited, resume=True)
    assert len(rows(tmp_path / "short")) == 1
    assert result.model.is_file()


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (ModelOptions(arch="nonet"), UnknownArchitectureError, "choose from deepglobe"),
        (ModelOptions(encoder="nonet", encoder_weights=None), UnknownArchitectureError, "nonet"),
    ],
)
def test_wrong_networks_leave_no_folder(tiles, tmp_path, model, error, message):
    with pytest.raises(error, match=message):
        train(tiles, tmp_path / "run", model=model, options=OPTIONS)
    assert not (tmp_path / "run").exists()


def test_a_tile_size_that_the_encoder_cannot_take_names_one_that_it_can(tmp_path):
    scene, footprints = write_town(build_town(120, 300, seed=4, nodata_corner=False), tmp_path)
    plan = plan_tiles([scene], footprints, TileOptions(size=50, overlap=0, gap=0))
    tile_scenes(plan, tmp_path / "tiles")
    with pytest.raises(InputShapeError, match="--size 32 or 64"):
        train(tmp_path / "tiles", tmp_path / "run", model=MODEL, options=OPTIONS)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_replaced_unasked(run, tiles):
    folder, _, _ = run
    with pytest.raises(OutputExistsError, match=r"continue its run with --resume, .* --overwrite"):
        train(tiles, folder, model=MODEL, options=OPTIONS)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_good_rate_is_found_and_the_run_is_not_in_its_way(tiles, tmp_path, accumulate):
    options = OPTIONS.model_copy(update={"accumulate": accumulate})
    found = find_lr(tiles, tmp_path / "a", model=MODEL, options=options, steps=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a_learning_rates.csv", "a_learning_rates.png"
    ]  # fmt: skip
    assert found.picture == tmp_path / "a_learning_rates.png"
    with (tmp_path / "a_learning_rates.csv").open() as file:
        table = list(csv.DictReader(file))
    rates = [float(row["lr"]) for row in table]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(LOWEST)
    assert rates[1] / rates[0] == pytest.approx((HIGHEST / LOWEST) ** (1 / 29))
    assert found.lr in [pytest.approx(rate) for rate in rates]
    assert 0.3 < float(table[0]["loss"]) < 3
    with pytest.raises(OutputExistsError, match=r"a_learning_rates\.csv: already exists"):
        find_lr(tiles, tmp_path / "a", model=MODEL, options=options, steps=30)


def test_what_cannot_be_written_is_refused_before_rates_are_tried(tiles, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("tried")

    monkeypatch.setattr("geoseg.training.lr_finder._try_rates", never)
    (tmp_path / "a_learning_rates.png").mkdir()
    (tmp_path / "file").touch()
    for output in (tmp_path / "a", tmp_path / "file" / "a"):
        with pytest.raises(OutputExistsError):
            find_lr(tiles, output, model=MODEL, options=OPTIONS)


def test_the_steepest_fall_is_found_by_hand():
    rates = np.geomspace(1e-5, 1, 60).tolist()
    losses = [2 - 1.5 / (1 + (1e-2 / rate) ** 2) for rate in rates]  # falls around 1e-2
    losses[50:] = [100.0 * 2**step for step in range(10)]
    rows = smooth_losses(rates, losses)
    assert len(rows) < 60
    assert 5e-3 < steepest_rate(rows) < 5e-2
    with pytest.raises(ConfigError, match="the loss falls at no learning rate"):
        steepest_rate(smooth_losses(rates, [1.0 + rate for rate in rates]))


@pytest.mark.parametrize("sd", [0.03, 0.1])
def test_noise_is_not_taken_for_the_steepest_fall(sd):
    rates = np.geomspace(LOWEST, HIGHEST, 100)
    clean = 1 - 0.6 / (1 + 2e-3 / rates) + np.minimum((rates / 4e-2) ** 2, 100)
    steepest = rates[np.gradient(clean, np.log(rates)).argmin()]
    noise = np.random.default_rng(0).normal(0, sd, (200, len(rates)))
    found = np.array([steepest_rate(smooth_losses(rates, clean + one)) for one in noise])
    assert np.mean(np.abs(np.log(found / steepest)) <= np.log(5)) >= 0.95


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "schedule": "one_cycle", "lr": 0.05, "accumulate": 2},
        {"optimizer": "adamw", "schedule": "poly", "swa": 0.5, "clip_norm": 0},
    ],
)
def test_every_recipe_learns(tiles, tmp_path, changes):
    options = OPTIONS.model_copy(update=changes)
    train(tiles, tmp_path / "run", model=MODEL, options=options)
    table = rows(tmp_path / "run")
    assert float(table[-1]["train_loss"]) < float(table[0]["train_loss"])


def test_training_ends_early_when_nothing_gets_better(tiles, tmp_path):
    still = OPTIONS.model_copy(update={"epochs": 20, "lr": 1e-12, "patience": 2})
    train(tiles, tmp_path / "run", model=MODEL, options=still)
    assert len(rows(tmp_path / "run")) < 20


@pytest.mark.parametrize(
    "changes",
    [
        {"max_memory_gb": 0},
        {"mosaic": False, "sampling": "balanced"},
        {"workers": 2, "augment": None},
    ],
)
def test_however_tiles_are_read_a_run_ends_without_leftovers(tiles, tmp_path, changes):
    options = OPTIONS.model_copy(update={"epochs": 1} | changes)
    train(tiles, tmp_path / "run", model=MODEL, options=options)
    assert not (tmp_path / "run" / "mosaic").exists()
    assert len(rows(tmp_path / "run")) == 1


def test_ground_in_files_trains_the_same(run, tiles, tmp_path):
    options = OPTIONS.model_copy(update={"max_memory_gb": 0})
    train(tiles, tmp_path / "b", model=MODEL, options=options)
    for key in ("train_loss", "val_loss"):
        found = [float(row[key]) for row in rows(tmp_path / "b")]
        assert found == pytest.approx([float(row[key]) for row in rows(run[0])], rel=1e-5)


def test_a_mask_raster_trains_buildings(tmp_path):
    town = build_town(128, 320, seed=4, nodata_corner=False)
    scene, _ = write_town(town, tmp_path)
    with rasterio.open(scene) as source:
        bright = source.read(1) > np.median(source.read(1))
        grid = read_info(scene).grid
    mask = np.kron(bright[::16, ::16], np.ones((16, 16), bool))[None, :128, :320]
    write_array(tmp_path / "mask.tif", grid, mask.astype(np.uint8) * 255)
    options = TileOptions(size=64, overlap=0, gap=0)
    tile_scenes(plan_tiles([scene], tmp_path / "mask.tif", options), tmp_path / "tiles")
    assert not (tmp_path / "tiles" / "footprints.parquet").exists()
    result = train(tmp_path / "tiles", tmp_path / "run", model=MODEL, options=OPTIONS)
    assert [float(row["val_f1"]) >= 0 for row in rows(tmp_path / "run")] == [True, True]
    assert load_model(result.model)[0].provenance["val_f1"] == pytest.approx(
        result.val_f1, abs=1e-4
    )
    weighed = OPTIONS.model_copy(update={"weight_map": WeightMapOptions()})
    with pytest.raises(EmptyDatasetError, match=r"mask raster, with polygons of it"):
        train(tmp_path / "tiles", tmp_path / "b", model=MODEL, options=weighed)
