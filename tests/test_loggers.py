"""Experiment loggers receive the rows of metrics.csv."""

import csv
import importlib.util

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import geoseg.training.history
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.errors import ConfigError
from geoseg.options import ModelOptions, TileOptions, TrainOptions
from geoseg.training.best_epoch import EQUAL_SCORES
from geoseg.training.history import COLUMNS
from geoseg.training.loggers import check_loggers
from geoseg.training.run import train

MODEL = ModelOptions(arch="pixelwise", encoder_weights=None)
OPTIONS = TrainOptions(
    epochs=3, batch_size=2, precision="32-true", device="cpu", augment="none", val_every=2,
    loggers=("tensorboard",),
)  # fmt: skip


@pytest.fixture
def tiles(make_scene, tmp_path):
    made = make_scene(height=96, width=160)
    options = TileOptions(size=32, overlap=0, gap=0)
    tile_scenes(plan_tiles([made.path], made.labels, options), tmp_path / "tiles")
    return tmp_path / "tiles"


def rows_of(folder):
    with (folder / "metrics.csv").open() as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def scalars_of(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_holds_every_row_and_last_ckpt_every_epoch(tiles, tmp_path):
    run, epochs = tmp_path / "run", []

    def record(line):
        if (run / "last.ckpt").exists():
            epochs.append(torch.load(run / "last.ckpt", weights_only=True)["epoch"])

    result = train(tiles, run, model=MODEL, options=OPTIONS, report=record)
    rows, scalars = rows_of(run), scalars_of(run)
    # With val_every=2 the second epoch is validated, and the third because it is the last.
    assert ["val_score" in row for row in rows] == [False, True, True]
    assert set(scalars) == set(COLUMNS)
    for row in rows:
        for name in COLUMNS:
            found = scalars[name].get(int(row["step"]))
            assert found == (pytest.approx(row[name], rel=1e-5) if name in row else None)
    assert yaml.safe_load((run / "tensorboard" / "hparams.yaml").read_text())["val_every"] == 2
    # When a line is reported, the previous epoch has been saved.
    assert epochs[:2] == [0, 1]
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 2
    validated = [row for row in rows if "val_score" in row]
    least = max(row["val_score"] for row in validated) - EQUAL_SCORES
    best = [row for row in validated if row["val_score"] >= least][-1]
    assert result.val_iou == pytest.approx(best["val_iou"])
    kept = torch.load(run / "best.ckpt", weights_only=True)
    scores = [row.get("val_score", -1) for row in rows]
    assert scores[kept["epoch"]] == best["val_score"]

    more = OPTIONS.model_copy(update={"epochs": 5})
    train(tiles, run, model=MODEL, options=more, resume=True)
    assert len(rows_of(run)) == len(scalars_of(run)["lr"]) == 5
    train(tiles, run, model=MODEL, options=OPTIONS, overwrite=True)
    assert len(scalars_of(run)["lr"]) == 3


def test_curves_are_drawn_at_intervals_and_at_the_end(tiles, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        geoseg.training.history,
        "draw_curves",
        lambda rows, path: drawn.append((len(rows), path.name)),
    )
    options = OPTIONS.model_copy(update={"epochs": 5, "loggers": ()})
    train(tiles, tmp_path / "a", model=MODEL, options=options)
    assert len(rows_of(tmp_path / "a")) == 5
    assert drawn == [(1, "curves.png"), (5, "curves.png")]


def test_a_run_ended_by_the_time_limit_is_validated(tiles, tmp_path):
    options = OPTIONS.model_copy(
        update={"epochs": 1000, "val_every": 1000, "max_minutes": 1e-4, "loggers": ()}
    )
    train(tiles, tmp_path / "run", model=MODEL, options=options)
    (row,) = rows_of(tmp_path / "run")
    assert 0 <= row["val_score"] <= 1
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    options = TrainOptions(loggers=(name,))
    with pytest.raises(ConfigError, match=rf"{name} is not installed; pip install 'geoseg\[{name}"):
        train(tmp_path / "tiles", tmp_path / "run", options=options)
    assert not (tmp_path / "run").exists()
    check_loggers(())
