"""Runs that are interrupted or killed, and go on: they end as if nothing had happened."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from lightning.pytorch.utilities.exceptions import SIGTERMException

import geoseg.jobs.files
import geoseg.training.checkpoints
import geoseg.training.history
import geoseg.training.learner
import geoseg.training.loading.loaders
import geoseg.training.run
import geoseg.training.setup
from geoseg.cli import cli
from geoseg.data.tiles import TilesInfo, plan_tiles, tile_scenes
from geoseg.errors import (
    ConfigError,
    DiskFullError,
    MemoryLimitError,
    ModelFileError,
    OutputExistsError,
    RepeatedError,
    SceneReadError,
    TrainingError,
    TrainingInterrupted,
)
from geoseg.jobs.manifest import MANIFEST_NAME
from geoseg.networks.model_file import load_model
from geoseg.options import ModelOptions, Thresholds, TileOptions, TrainOptions
from geoseg.town import build_town, write_town
from geoseg.training.checkpoints import describe_run
from geoseg.training.dataset import TileDataset
from geoseg.training.run import train
from geoseg.training.schedule import rate_share
from geoseg.training.segmenter import Segmenter
from geoseg.training.validation.tuning import Tuned

MODEL = ModelOptions(arch="unet", options={"width": 4})
OPTIONS = TrainOptions(epochs=4, batch_size=2, precision="32-true", device="cpu", lr=2e-3)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    scene, footprints = write_town(build_town(64, 320, seed=4, nodata_corner=False), folder)
    plan = plan_tiles([scene], footprints, TileOptions(size=32, overlap=0, gap=0))
    tile_scenes(plan, folder / "tiles")
    return folder / "tiles"


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Short epochs without pictures; what follows the loop depends on its result alone."""
    monkeypatch.setattr(geoseg.training.loading.loaders, "_LEAST_STEPS", 5)
    monkeypatch.setattr(geoseg.training.history, "draw_curves", lambda *_: None)
    quick = replace(geoseg.training.setup.PIXEL_RECIPE, finish=lambda *_: Tuned(Thresholds(), None))
    monkeypatch.setattr(geoseg.training.setup, "PIXEL_RECIPE", quick)


def rows(folder):
    """The table of a run, but for its clock."""
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "minutes"} for row in csv.DictReader(file)]


def state_of(folder, name):
    """A training state, but for its clock."""
    state = torch.load(folder / name, weights_only=True)
    del state["callbacks"]["History"]
    return state


def assert_same(found, expected):
    """Two trees of tensors and values are the same to the last bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(torch.nan_to_num(found), torch.nan_to_num(expected))
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def assert_same_runs(found, expected):
    assert rows(found) == rows(expected)
    for name in ("last.ckpt", "best.ckpt"):
        assert_same(state_of(found, name), state_of(expected, name))
    model = "model.safetensors"
    weights = [load_model(folder / model)[1] for folder in (found, expected)]
    assert_same(*weights)
    hidden = [path.name for path in found.iterdir() if path.name.startswith(".")]
    assert hidden == [MANIFEST_NAME]


def pull_the_plug(epoch):
    def report(line):
        if line.startswith(f"epoch {epoch}:"):
            raise RuntimeError("no power")

    return report


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.9, "loss": {"bce": 1, "dice": 1}},
        {"swa": 0.6, "accumulate": 3, "optimizer": "sgd", "schedule": "one_cycle"},
        {"sampling": "hard", "val_every": 2, "max_memory_gb": 0, "workers": 1},
        {"patience": 2, "lr": 1e-9},
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tiles, tmp_path, changes):
    options = TrainOptions.model_validate(OPTIONS.model_dump() | changes)
    train(tiles, tmp_path / "a", model=MODEL, options=options)
    for epoch in (2, 3):  # the row of an epoch is reported before its state is kept
        with pytest.raises(RuntimeError, match="no power"):
            train(
                tiles, tmp_path / "b", model=MODEL, options=options, resume=True,
                report=pull_the_plug(epoch),
            )  # fmt: skip
    train(tiles, tmp_path / "b", model=MODEL, options=options, resume=True)
    assert_same_runs(tmp_path / "b", tmp_path / "a")


def test_a_run_may_go_on_with_steps_of_another_size(tiles, tmp_path, monkeypatch):
    options = OPTIONS.model_copy(update={"batch_size": "auto", "epochs": 2})
    longer = options.model_copy(update={"epochs": 4})
    for batch_size, chosen in ((1, options), (3, longer)):
        monkeypatch.setattr(
            geoseg.training.setup, "find_batch_size", lambda *_, size=batch_size, **__: size
        )
        train(tiles, tmp_path / "a", model=MODEL, options=chosen, resume=True)
    table = rows(tmp_path / "a")
    steps = np.diff([0, *(int(row["step"]) for row in table)])
    assert steps[0] == steps[1] != steps[2] == steps[3]
    # The rate of an epoch's last step, as if all had been of one size.
    for epoch, row in enumerate(table):
        ends = 2 if epoch < 2 else 4
        progress = (epoch + (steps[epoch] - 1) / steps[epoch]) / ends
        assert float(row["lr"]) == pytest.approx(OPTIONS.lr * rate_share(progress, OPTIONS))


@pytest.fixture(scope="module")
def begun(tiles, tmp_path_factory):
    """A run of two epochs, which is left as it is."""
    folder = tmp_path_factory.mktemp("runs") / "begun"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geoseg.training.loading.loaders, "_LEAST_STEPS", 1)
        train(tiles, folder, model=MODEL, options=OPTIONS.model_copy(update={"epochs": 2}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "train.optimizer=adamw, and cannot continue with sgd"),
        ({"weight_decay": 0.5}, "train.weight_decay=0.01, and cannot continue with 0.5"),
        ({"seed": 3}, "train.seed=0, and cannot continue with 3"),
        ({"encoder_lr": 0.25}, "train.encoder_lr=0.5, and cannot continue with 0.25"),
        ({"ema": 0.9}, "train.ema=0.0, and cannot continue with 0.9"),
        ({"augment": {"noise": 0.5}}, "train.augment.noise=0.08, and cannot continue with 0.5"),
        ({"augment": "none"}, "train.augment={"),
        ({"loss": {"dice": 1}}, "train.loss=null, and cannot continue with {"),
    ],
)
def test_a_run_goes_on_with_the_settings_it_began_with(begun, tiles, changes, message):
    options = TrainOptions.model_validate(OPTIONS.model_dump() | {"epochs": 3} | changes)
    kept = {path: path.read_bytes() for path in begun.iterdir()}
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        train(tiles, begun, model=MODEL, options=options, resume=True)
    assert "\n" not in str(refused.value)
    assert kept == {path: path.read_bytes() for path in begun.iterdir()}


def test_a_run_goes_on_with_its_network_and_its_tiles(begun, tiles, tmp_path):
    wider = ModelOptions(arch="unet", options={"width": 8})
    with pytest.raises(ConfigError, match=r"model\.options\.width=4, and cannot continue with 8"):
        train(tiles, begun, model=wider, options=OPTIONS, resume=True)
    others = shutil.copytree(tiles, tmp_path / "tiles")
    info = json.loads((others / "tiles.json").read_text())
    (others / "tiles.json").write_text(json.dumps(info | {"where": "kind = 'house'"}))
    with pytest.raises(ConfigError, match="started with other tiles"):
        train(others, begun, model=MODEL, options=OPTIONS, resume=True)


# tiles.json as it was before `blank`, and what a run recorded of it.
OLD_TILES = (
    '{"format":1,"bands":["red","green","blue"],"dtype":"uint8","scene_dtypes":["uint8"],'
    '"gsd_m":0.5002,"nodata":null,"size":64,"overlap":32,"classes":["building"],"colours":[],'
    '"background":null,"targets":["building","border"],"ignore":255,'
    '"mean":[84.75609,84.731717,84.905802],"std":[47.210316,47.293631,47.14956],'
    '"scenes":["scene.tif"],"labels":"labels.gpkg","where":null,"split":{"by":"stripes","gap":40,'
    '"seed":0,"fractions":[0.7,0.15,0.15]},"tiles":{"train":72,"val":12,"test":12},'
    '"shared_pixels":0,"failed":[]}'
)
OLD_HASH = "de0072fe4dc016a92b1a42e6537d3b7498b0d609b0d379a61e2832f93e41f4ad"


def test_tiles_of_an_earlier_version_are_the_same_tiles():
    old = TilesInfo.model_validate_json(OLD_TILES)
    assert describe_run(old, MODEL, OPTIONS)["tiles"] == OLD_HASH
    blank = old.model_copy(update={"blank": {"scene.tif": 0.25}})
    assert describe_run(blank, MODEL, OPTIONS)["tiles"] != OLD_HASH
    merged = old.model_copy(update={"merged": ("scene.tif",)})
    assert describe_run(merged, MODEL, OPTIONS)["tiles"] != OLD_HASH


def without_settings(run, folder, *names):
    """A copy of a run as a version of geoseg wrote it that did not have some settings."""
    shutil.copytree(run, folder)
    state = torch.load(folder / "last.ckpt", weights_only=True)
    for *parents, name in (one.split(".") for one in names):
        settings = state["callbacks"]["History"]["run"]
        for parent in parents:
            settings = settings[parent]
        del settings[name]
    torch.save(state, folder / "last.ckpt")
    return folder


def test_a_run_without_a_setting_of_today_goes_on_without_its_effect(begun, tiles, tmp_path):
    old = without_settings(begun, tmp_path / "run", "train.augment.blank_share")
    again = "the run was started without train.augment.blank_share; resume with --set "
    longer = OPTIONS.model_dump() | {"epochs": 3}
    with pytest.raises(ConfigError, match=f"{again}train.augment.blank_share=0, or start again"):
        train(
            tiles, old, model=MODEL, options=TrainOptions.model_validate(longer), resume=True
        )  # fmt: skip
    for augment in ({"blank_share": 0}, {"preset": "full", "blank_share": 0}):
        options = TrainOptions.model_validate(longer | {"augment": augment})
        train(tiles, old, model=MODEL, options=options, resume=True)
        longer["epochs"] += 1
    assert len(rows(old)) == 4


def test_a_setting_of_today_that_changes_a_run_is_named(begun, tiles, tmp_path):
    old = without_settings(begun, tmp_path / "run", "train.seed")
    message = r"by a version of geoseg without train\.seed, and cannot continue with 0; resume with"
    with pytest.raises(ConfigError, match=message):
        train(tiles, old, model=MODEL, options=OPTIONS, resume=True)


def test_a_run_may_end_later_and_compute_elsewhere(begun, tiles, tmp_path):
    moved = shutil.copytree(begun, tmp_path / "run")
    same = shutil.copytree(tiles, tmp_path / "tiles")
    changes = {"epochs": 3, "patience": 9, "max_minutes": 60, "workers": 1, "device": "auto"}
    options = OPTIONS.model_copy(update=changes)
    train(same, moved, model=MODEL, options=options, resume=True)
    assert len(rows(moved)) == 3


def test_patience_may_be_raised(tiles, tmp_path):
    options = OPTIONS.model_copy(update={"epochs": 20, "patience": 1, "lr": 1e-12})
    train(tiles, tmp_path / "a", model=MODEL, options=options)
    first = len(rows(tmp_path / "a"))
    patient = options.model_copy(update={"patience": 4})
    train(tiles, tmp_path / "a", model=MODEL, options=patient, resume=True)
    table = rows(tmp_path / "a")
    assert len(table) < 20
    # Of equal epochs none is better, so the wait began where the first ended.
    assert len(table) == first + 3


def test_without_a_validated_epoch_the_last_becomes_the_model(tiles, tmp_path):
    options = OPTIONS.model_copy(update={"epochs": 9, "val_every": 9})
    with pytest.raises(RuntimeError, match="no power"):
        train(tiles, tmp_path / "a", model=MODEL, options=options, report=pull_the_plug(3))
    assert not (tmp_path / "a" / "best.ckpt").exists()
    ended = options.model_copy(update={"epochs": 2})
    result = train(tiles, tmp_path / "a", model=MODEL, options=ended, resume=True)
    assert result.val_iou is None
    spec, weights = load_model(result.model)
    assert spec.provenance["val_iou"] is None
    last = torch.load(tmp_path / "a" / "last.ckpt", weights_only=True)["state_dict"]
    assert_same({f"network.{name}": one for name, one in weights.items()}, last)


def test_fewer_epochs_than_are_finished_end_the_run(tiles, tmp_path):
    with pytest.raises(RuntimeError, match="no power"):
        train(tiles, tmp_path / "a", model=MODEL, options=OPTIONS, report=pull_the_plug(4))
    ended = OPTIONS.model_copy(update={"epochs": 2})
    result = train(tiles, tmp_path / "a", model=MODEL, options=ended, resume=True)
    assert state_of(tmp_path / "a", "last.ckpt")["epoch"] == 2
    kept = torch.load(tmp_path / "a" / "best.ckpt", weights_only=True)
    assert_same(
        {f"network.{name}": one for name, one in load_model(result.model)[1].items()},
        kept["state_dict"],
    )


@pytest.mark.parametrize(
    ("error", "received"),
    [(SIGTERMException, signal.SIGTERM), (KeyboardInterrupt, signal.SIGINT)],
)
def test_an_interrupted_run_raises_its_signal_and_the_command_exits_with_it(
    tiles, tmp_path, monkeypatch, error, received
):
    def stop(*_):
        raise error

    monkeypatch.setattr(Segmenter, "validation_step", stop)
    with pytest.raises(TrainingInterrupted, match=r"^interrupted; no epoch was finished$") as ended:
        train(tiles, tmp_path / "a", model=MODEL, options=OPTIONS)
    assert ended.value.signal == received
    assert not isinstance(ended.value, Exception)
    words = ["train", str(tiles), "-o", str(tmp_path / "b"), "--set", "model.arch=pixelwise"]
    words += ["--set", "train.device=cpu"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 128 + received
    assert result.stderr.splitlines()[-1] == "interrupted; no epoch was finished"


def test_an_interruption_after_the_last_step_can_be_resumed(tiles, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("geoseg.training.run._finish", stop)
        with pytest.raises(TrainingInterrupted, match=r"^interrupted; --resume continues$"):
            train(tiles, tmp_path / "a", model=MODEL, options=OPTIONS)
    result = train(tiles, tmp_path / "a", model=MODEL, options=OPTIONS, resume=True)
    assert result.model.is_file()


def test_a_refusal_is_printed_by_the_first_process_alone(tiles, tmp_path, monkeypatch):
    monkeypatch.setattr(geoseg.training.setup, "is_first", lambda: False)
    tilted = ModelOptions(arch="unet", options={"padding": "tilt"})
    with pytest.raises(RepeatedError, match="tilt"):
        train(tiles, tmp_path / "a", model=tilted, options=OPTIONS)
    words = ["train", str(tiles), "-o", str(tmp_path / "a"), "--set", "model.arch=unet"]
    result = CliRunner().invoke(cli, [*words, "--set", "model.options={padding: tilt}"])
    assert (result.exit_code, result.output) == (2, "")
    assert not (tmp_path / "a").exists()


def test_a_run_is_not_written_among_the_tiles(tiles):
    with pytest.raises(ConfigError, match="contains the tiles"):
        train(tiles, tiles, model=MODEL, options=OPTIONS, overwrite=True)


def test_time_that_validating_takes_counts(tiles, tmp_path, monkeypatch):
    clock = {"now": 0.0}
    validate = Segmenter.on_validation_epoch_end

    def slowly(self):
        clock["now"] += 10
        validate(self)

    monkeypatch.setattr(Segmenter, "on_validation_epoch_end", slowly)
    monkeypatch.setattr(
        geoseg.training.history.History, "minutes", property(lambda _: clock["now"])
    )
    for limit, epochs in ((5.0, 1), (15.0, 2)):
        clock["now"] = 0.0
        options = OPTIONS.model_copy(update={"max_minutes": limit})
        train(tiles, tmp_path / "a", model=MODEL, options=options, overwrite=True)
        steps = [int(row["step"]) for row in rows(tmp_path / "a")]
        assert steps == [steps[0] * (epoch + 1) for epoch in range(epochs)]


def test_what_fails_in_a_loading_process_is_said_in_one_line(tiles, tmp_path):
    broken = shutil.copytree(tiles, tmp_path / "tiles")
    index = TileDataset(broken, "val").tiles
    path = broken / "images" / f"{index.id.iloc[-1]}.tif"
    path.write_bytes(path.read_bytes()[:200])
    for workers in (0, 1):
        options = OPTIONS.model_copy(update={"workers": workers})
        with pytest.raises(SceneReadError) as refused:
            train(broken, tmp_path / f"run{workers}", model=MODEL, options=options)
        assert "\n" not in str(refused.value)
        assert str(path) in str(refused.value)
        assert "Traceback" not in str(refused.value)


def test_a_step_that_does_not_fit_says_what_to_change(tiles, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Segmenter, "training_step", fail)
    with pytest.raises(MemoryLimitError, match=r"a step of 2 tiles .*train\.accumulate"):
        train(tiles, tmp_path / "a", model=MODEL, options=OPTIONS)
    monkeypatch.setattr(Segmenter, "training_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiles, tmp_path / "b", model=MODEL, options=OPTIONS)


def test_a_state_that_finds_no_room_leaves_the_one_before(tiles, tmp_path, monkeypatch):
    save = torch.save

    def fill(checkpoint, file):
        if checkpoint["epoch"] < 1:
            return save(checkpoint, file)
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        train(tiles, tmp_path / "a", model=MODEL, options=OPTIONS)
    monkeypatch.setattr(geoseg.training.checkpoints, "is_disk_full", lambda *_: True)
    with pytest.raises(DiskFullError, match=r"a: .*full"):
        train(tiles, tmp_path / "a", model=MODEL, options=OPTIONS, resume=True)
    monkeypatch.setattr(torch, "save", save)
    train(tiles, tmp_path / "a", model=MODEL, options=OPTIONS, resume=True)
    assert len(rows(tmp_path / "a")) == 4


def test_a_state_that_does_not_know_its_settings_is_refused(begun, tiles, tmp_path):
    older = shutil.copytree(begun, tmp_path / "run")
    state = torch.load(older / "last.ckpt", weights_only=True)
    del state["callbacks"]["History"]["run"]
    torch.save(state, older / "last.ckpt")
    with pytest.raises(ModelFileError, match=r"does not contain the settings.*--overwrite"):
        train(tiles, older, model=MODEL, options=OPTIONS, resume=True)


class Dropping(torch.nn.Module):
    """A network that draws numbers while it learns."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, image):
        return self.layer(torch.nn.functional.dropout(image, 0.5, self.training))


def test_dropout_is_that_of_the_epoch(tiles, tmp_path, monkeypatch):
    monkeypatch.setattr(geoseg.training.setup, "build_model", lambda *_, **__: Dropping())
    monkeypatch.setattr(geoseg.training.learner, "encoder_of", lambda network: network.layer)
    options = OPTIONS.model_copy(update={"epochs": 2})
    train(tiles, tmp_path / "a", model=MODEL, options=options)
    with pytest.raises(RuntimeError, match="no power"):
        train(tiles, tmp_path / "b", model=MODEL, options=options, report=pull_the_plug(2))
    torch.rand(7)
    train(tiles, tmp_path / "b", model=MODEL, options=options, resume=True)
    assert_same_runs(tmp_path / "b", tmp_path / "a")


def test_a_run_that_is_lost_from_the_first_leaves_no_state(tiles, tmp_path):
    lost = OPTIONS.model_copy(update={"lr": 1e30})
    with pytest.raises(TrainingError, match=r"in epoch 1; .*start again.*train\.lr .*clip_norm"):
        train(tiles, tmp_path / "a", model=MODEL, options=lost)
    assert not any((tmp_path / "a").glob("[!.]*.*"))


@pytest.mark.parametrize(
    ("changes", "from_step", "good"),
    [
        ({}, 10, 2),
        ({"ema": 0.9}, 10, 2),
        ({"val_every": 2}, 10, 2),  # an epoch that is not validated
        ({}, 9, 1),  # the last step of an epoch, whose losses are all fine
    ],
)
def test_a_run_that_is_lost_keeps_the_epoch_before(
    tiles, tmp_path, monkeypatch, changes, from_step, good
):
    monkeypatch.setattr(
        geoseg.training.history,
        "rate_share",
        lambda done, _: 1.0 if done < from_step / 20 else 1e42,
    )
    options = TrainOptions.model_validate(OPTIONS.model_dump() | changes)
    with pytest.raises(
        TrainingError, match=rf"in epoch {good + 1}; .*continues from epoch {good},"
    ):
        train(tiles, tmp_path / "a", model=MODEL, options=options)
    assert len(rows(tmp_path / "a")) == good
    assert state_of(tmp_path / "a", "last.ckpt")["epoch"] == good - 1
    gentler = options.model_copy(update={"lr": 1e-45, "clip_norm": 0.5})
    again = shutil.copytree(tmp_path / "a", tmp_path / "b")
    train(tiles, again, model=MODEL, options=gentler, resume=True)
    assert [float(row["lr"]) for row in rows(again)[good:]] == [pytest.approx(1e-3)] * (4 - good)
    ended = options.model_copy(update={"epochs": good})
    model = train(tiles, tmp_path / "a", model=MODEL, options=ended, resume=True).model
    assert all(weight.isfinite().all() for weight in load_model(model)[1].values())


# Moments at which a process may die


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def in_step(number):
    step, count = Segmenter.training_step, iter(range(number))

    def training_step(self, *given):
        if next(count, None) is None:
            die()
        return step(self, *given)

    Segmenter.training_step = training_step


def before(name):
    """Just before a file takes its place."""
    move = os.replace
    geoseg.jobs.files.os.replace = lambda source, target: (
        die() if os.path.basename(target) == name else move(source, target)
    )


def while_saving():
    save = torch.save

    def half(state, file):
        save(state, file)
        file.truncate(file.tell() // 2)
        die()

    geoseg.training.checkpoints.torch.save = half


def while_copying():
    def half(source, target):
        target.write_bytes(source.read_bytes()[:1000])
        die()

    geoseg.training.checkpoints.shutil.copyfile = half


def before_the_model():
    geoseg.training.run.save_model = die


def kill(moment, *given, tiles, folder):
    """Trains in a process that dies at a moment."""
    child = os.fork()
    if not child:
        try:
            moment(*given)
            train(tiles, folder, model=MODEL, options=OPTIONS, resume=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_run_may_be_killed_at_any_moment(tiles, tmp_path):
    whole, folder = tmp_path / "a", tmp_path / "b"
    train(tiles, whole, model=MODEL, options=OPTIONS)
    given = {"tiles": tiles, "folder": folder}
    kill(in_step, 5, **given)
    kill(before, "metrics.csv", **given)
    kill(while_saving, **given)
    assert not (folder / "last.ckpt").exists()
    kill(while_copying, **given)
    assert state_of(folder, "last.ckpt")["epoch"] == 0
    assert not (folder / "best.ckpt").exists()
    kill(in_step, 10, **given)  # of the third epoch
    assert_same(state_of(folder, "best.ckpt"), state_of(folder, "last.ckpt"))
    for moment in (while_saving, while_copying):
        kill(moment, **given)
    kill(before, "last.ckpt", **given)
    kill(before, "best.ckpt", **given)
    kill(before_the_model, **given)
    assert rows(folder) == rows(whole)
    assert not (folder / "model.safetensors").exists()
    train(tiles, folder, model=MODEL, options=OPTIONS, resume=True)
    assert_same_runs(folder, whole)


def test_a_run_that_ended_early_is_finished(tiles, tmp_path):
    options = OPTIONS.model_copy(update={"epochs": 20, "patience": 1, "lr": 1e-12})
    train(tiles, tmp_path / "a", model=MODEL, options=options)
    table = rows(tmp_path / "a")
    assert len(table) < 20
    with pytest.raises(ConfigError, match=r"the run is finished.*raise .*train\.patience"):
        train(tiles, tmp_path / "a", model=MODEL, options=options, resume=True)
    # Killed before its model was there, it does not train on.
    (tmp_path / "a" / "model.safetensors").unlink()
    train(tiles, tmp_path / "a", model=MODEL, options=options, resume=True)
    assert rows(tmp_path / "a") == table


def test_time_that_was_up_stays_up(tiles, tmp_path):
    options = OPTIONS.model_copy(update={"epochs": 1000, "max_minutes": 0.001})
    train(tiles, tmp_path / "a", model=MODEL, options=options)
    (tmp_path / "a" / "model.safetensors").unlink()
    train(tiles, tmp_path / "a", model=MODEL, options=options, resume=True)
    assert len(rows(tmp_path / "a")) == 1


def test_a_model_without_its_state_is_not_replaced_by_resuming(tiles, tmp_path):
    options = OPTIONS.model_copy(update={"epochs": 1})
    train(tiles, tmp_path / "a", model=MODEL, options=options)
    (tmp_path / "a" / "last.ckpt").unlink()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        train(tiles, tmp_path / "a", model=MODEL, options=options, resume=True)


@pytest.mark.slow  # imports all in another process, and runs long epochs
def test_the_command_goes_on_after_it_was_killed(tiles, tmp_path, monkeypatch):
    monkeypatch.setattr(geoseg.training.loading.loaders, "_LEAST_STEPS", 25)
    sets = {"model.arch": "unet", "model.options": "{width: 4}", "train.epochs": 3}
    sets |= {"train.batch_size": 2, "train.precision": "32-true", "train.device": "cpu"}
    command = [sys.executable, "-m", "geoseg", "train", str(tiles), "-o", str(tmp_path / "b")]
    for name, value in sets.items():
        command += ["--set", f"{name}={value}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        while not process.stderr.readline().startswith("epoch 2:"):
            assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL  # not finished before
    options = OPTIONS.model_copy(update={"epochs": 3, "lr": TrainOptions().lr})
    for name, resume in (("a", False), ("b", True)):
        train(tiles, tmp_path / name, model=MODEL, options=options, resume=resume)
    assert_same_runs(tmp_path / "b", tmp_path / "a")
