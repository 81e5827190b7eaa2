"""Two processes that train together, over gloo on the CPU, find what one process finds."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.errors import ConfigError
from geoseg.options import ModelOptions, TileOptions, TrainOptions
from geoseg.town import build_town, write_town
from geoseg.training.distributed import adopt_started, reduce_on_first
from geoseg.training.loop import choose_environment
from geoseg.training.run import train

PIXELWISE = ModelOptions(arch="pixelwise")
# Each sample is augmented alike in any batch, except for noise, which is switched off.
OPTIONS = TrainOptions.model_validate(
    {"epochs": 2, "batch_size": 4, "device": "cpu", "precision": "32-true", "lr": 0.02}
    | {"loss": {"bce": 1}, "sampling": "hard", "augment": {"preset": "light", "noise": 0}}
)
SETTINGS = """
model: {arch: pixelwise}
train: {epochs: 2, batch_size: 2, device: cpu, precision: 32-true, lr: 0.02, loss: {bce: 1},
  sampling: hard, augment: {preset: light, noise: 0}}
"""
SCORES = ("train_loss", "val_loss", "val_iou", "val_f1_pixel", "val_f1", "val_score")

MODULE = [sys.executable, "-m", "geoseg"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    scene, footprints = write_town(build_town(64, 320, seed=4, nodata_corner=False), folder)
    plan = plan_tiles([scene], footprints, TileOptions(size=32, overlap=0, gap=0))
    tile_scenes(plan, folder / "tiles")
    return folder / "tiles"


@pytest.fixture(scope="module")
def alone(tiles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "alone"
    train(tiles, folder, model=PIXELWISE, options=OPTIONS)
    return folder


@pytest.fixture
def start(tiles, tmp_path):
    """A function that starts `geoseg train` in a session of its own."""
    (tmp_path / "settings.yaml").write_text(SETTINGS)

    def start(launcher, *given):
        command = [*launcher, "train", str(tiles), "-o", str(tmp_path / "run")]
        command += ["--config", str(tmp_path / "settings.yaml"), *given]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_as_one(process, folder, alone):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert len(out.splitlines()) == 1
    # On a busy machine, long epochs report their progress.
    lines = [line for line in errors.splitlines() if "epoch" in line and "in progress" not in line]
    assert [line[:7] for line in lines if line.startswith("epoch ")] == ["epoch 1", "epoch 2"]
    assert "Traceback" not in errors
    assert "Warning" not in errors
    found, expected = rows(folder), rows(alone)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for name in SCORES:
        values = [float(row[name]) for row in found]
        assert values == pytest.approx([float(row[name]) for row in expected], rel=1e-4)
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()}


def test_two_processes_train_as_one(start, alone, tmp_path):
    process = start(MODULE, "--set", "train.devices=2", "--set", "train.max_memory_gb=0")
    assert_as_one(process, tmp_path / "run", alone)


@pytest.mark.slow  # imports everything in three more processes
def test_two_processes_of_torchrun_train_as_one(start, alone, tmp_path):
    assert_as_one(start([*TORCHRUN, "-m", "geoseg"]), tmp_path / "run", alone)


def wait_until_gone(group, seconds=30):
    """The last of a group of processes may take a moment to go."""
    for _ in range(10 * seconds):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"processes of group {group} are still there")


@pytest.mark.slow  # imports everything in two processes, to end them
def test_two_processes_end_together_and_go_on_together(start, alone, tmp_path):
    process = start(MODULE, "--set", "train.devices=2", "--set", "train.epochs=500")
    while not process.stderr.readline().startswith("epoch 3:"):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as ctrl-C does
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("interrupted; --resume continues from epoch ") == 1
    assert "Traceback" not in errors
    wait_until_gone(process.pid)
    count = len(rows(tmp_path / "run"))
    process = start(
        MODULE, "--set", "train.devices=2", "--set", f"train.epochs={count + 1}", "--resume"
    )
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert [int(row["epoch"]) for row in rows(tmp_path / "run")] == list(range(1, count + 2))


def test_a_single_process_reduces_its_own_value():
    assert reduce_on_first(3, sum) == 3


def test_processes_that_srun_started_are_counted(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    found = adopt_started(TrainOptions())
    assert (found.devices, found.nodes) == (4, 2)
    assert adopt_started(found) == found
    with pytest.raises(ConfigError, match="2 on 1 machines, but torchrun or srun started 4 on 2"):
        adopt_started(TrainOptions(devices=2))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert adopt_started(TrainOptions(devices=2)) == TrainOptions(devices=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 99}, "99 processes cannot share [0-9]+ validation tiles; use fewer"),
        ({"devices": 2, "batch_size": "auto"}, "auto works on one device only"),
    ],
)
def test_processes_that_cannot_train_together_are_refused(tiles, tmp_path, changes, message):
    options = OPTIONS.model_copy(update=changes)
    with pytest.raises(ConfigError, match=message):
        train(tiles, tmp_path / "run", model=PIXELWISE, options=options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "LightningEnvironment"),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, "LightningEnvironment"),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"},
            "SLURMEnvironment",
        ),
        ({"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}, None),
    ],
)
def test_who_started_the_processes_says_how_they_meet(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = [type(one).__name__ for one in choose_environment()]
    assert found == ([expected] if expected else [])
    # States that Lightning writes by itself before a job ends are nobody's.
    assert not any(getattr(one, "auto_requeue", False) for one in choose_environment())


def test_srun_must_know_the_tasks_of_each_machine(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(ConfigError, match="--ntasks-per-node"):
        choose_environment()
