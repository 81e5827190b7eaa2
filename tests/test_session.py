"""Training leaves the process in which it runs as it was."""

import logging
import os
import random
import signal
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import geoseg.training.loading.loaders
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.errors import ConfigError
from geoseg.options import ModelOptions, TileOptions, TrainOptions
from geoseg.training.lr_finder import find_lr
from geoseg.training.run import check_run, train
from geoseg.training.segmenter import Segmenter
from geoseg.training.session import quiet_session

MODEL = ModelOptions(arch="pixelwise", encoder_weights=None)
OPTIONS = TrainOptions(
    epochs=1, batch_size=2, precision="32-true", device="cpu", seed=5, loggers=("tensorboard",)
)


@pytest.fixture
def tiles(make_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(geoseg.training.loading.loaders, "_LEAST_STEPS", 2)
    made = make_scene(height=96, width=160)
    options = TileOptions(size=32, overlap=0, gap=0)
    tile_scenes(plan_tiles([made.path], made.labels, options), tmp_path / "tiles")
    return tmp_path / "tiles"


def process_state():
    """Everything in this process that training might change."""
    loggers = {
        name: (logger.level, logger.disabled, logger.propagate, list(logger.handlers))
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    return {
        "environment": dict(os.environ),
        "loggers": {name: state for name, state in loggers.items() if "lightning" in name},
        "root": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "python": random.getstate(),
        "numpy": str(np.random.get_state(legacy=False)),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "settings": (
            torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
        ),
        "group": torch.distributed.is_initialized(),
    }  # fmt: skip


@contextmanager
def unchanged():
    """Compares the process before and after a block, with seeded generators."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(123)
    before = process_state()
    try:
        yield
        after = process_state()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
    for name, value in before.items():
        assert after[name] == value, name


def test_training_leaves_the_process_unchanged(tiles, tmp_path):
    with unchanged():
        train(tiles, tmp_path / "run", model=MODEL, options=OPTIONS)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_training_that_fails_leaves_the_process_unchanged(tiles, tmp_path, monkeypatch, error):
    def fail(*_):
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float64)
        raise error("stop")

    monkeypatch.setattr(Segmenter, "training_step", fail)
    with unchanged(), pytest.raises(error):
        train(tiles, tmp_path / "run", model=MODEL, options=OPTIONS)


def test_checking_a_run_leaves_the_process_unchanged(tiles, tmp_path):
    given = {"resume": False, "overwrite": False}
    with unchanged():
        check_run(tiles, tmp_path / "run", model=MODEL, options=OPTIONS, **given)
        with pytest.raises(ConfigError):
            check_run(tiles, tiles, model=MODEL, options=OPTIONS, **given)


def test_finding_a_rate_leaves_the_process_unchanged(tiles, tmp_path):
    with unchanged():
        find_lr(tiles, tmp_path / "run", model=MODEL, options=OPTIONS, steps=20)


def test_warnings_of_the_caller_are_shown_during_a_session():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_session():
            warnings.warn("does not have many workers", stacklevel=1)
            warnings.warn("of the caller", stacklevel=1)
    assert [str(one.message) for one in caught] == ["of the caller"]


def test_draws_of_the_caller_are_those_without_training():
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    with quiet_session():
        torch.manual_seed(9)
        torch.rand(7)
    assert torch.equal(torch.rand(3), expected)
