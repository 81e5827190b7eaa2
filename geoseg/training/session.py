"""Process-wide settings during training, and their restoration."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

# Loggers that advertise and that advise on settings which geoseg chooses itself.
_LOUD_LOGGERS = ("lightning.pytorch", "lightning.fabric")

# Parts of warnings about settings that are intended.
_KNOWN_WARNINGS = (
    "does not have many workers",
    "smaller than the logging interval",
    "treespec",
    # Forked workers copy arrays of the mosaic and open no file; other loaders do not fork.
    "is multi-threaded, use of fork",
    # Statistics of batch normalization that stay those of the starting model.
    "in eval mode at the start of training",
)

# How torch's own settings are read and written.
_TORCH_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], None]], ...] = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (
        lambda: torch.backends.cudnn.benchmark,
        lambda value: setattr(torch.backends.cudnn, "benchmark", value),
    ),
    (
        lambda: torch.backends.cudnn.deterministic,
        lambda value: setattr(torch.backends.cudnn, "deterministic", value),
    ),
)


@contextmanager
def quiet_session() -> Iterator[None]:
    """Silence Lightning while training, and restore what training changes in this process.

    Lightning seeds the generators of torch, numpy and Python, sets environment variables, and
    replaces signal handlers. All of these, levels of loggers, warning filters and torch's settings
    are as before when the context ends, however it ends.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for keep in (_keep_levels, _keep_environment, _keep_signals, _keep_torch, _keep_random):
            stack.callback(keep())
        for name in _LOUD_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        for part in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", f".*{part}.*")
        yield


# Each of these returns the function that restores what it has read.


def _keep_levels() -> Callable[[], None]:
    levels = {name: logging.getLogger(name).level for name in _LOUD_LOGGERS}

    def restore() -> None:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)

    return restore


def _keep_environment() -> Callable[[], None]:
    before = dict(os.environ)

    def restore() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    return restore


def _keep_signals() -> Callable[[], None]:
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def restore() -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread can change handlers, so none was changed here
        for number, handler in handlers.items():
            # None is a handler that was not installed from Python, and that Python cannot restore.
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)

    return restore


def _keep_torch() -> Callable[[], None]:
    values = [read() for read, _ in _TORCH_SETTINGS]

    def restore() -> None:
        for (read, write), value in zip(_TORCH_SETTINGS, values, strict=True):
            if read() != value:
                write(value)

    return restore


def _keep_random() -> Callable[[], None]:
    python, cpu = random.getstate(), torch.get_rng_state()
    legacy = np.random.get_state()  # noqa: NPY002  (Lightning seeds the legacy generator)
    # Reading the states of a GPU would start CUDA, which is for the run to decide.
    started = _uses_cuda()
    gpus = torch.cuda.get_rng_state_all() if started else []

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if started:
            torch.cuda.set_rng_state_all(gpus)
        elif _uses_cuda():
            # The state in which CUDA would have started without the run.
            torch.cuda.manual_seed_all(torch.initial_seed())

    return restore


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
