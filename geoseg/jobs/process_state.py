"""Environment variables and loggers of this process, which Dask changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

_DASK_LOGGERS = ("dask", "distributed", "bokeh", "tornado")


@contextmanager
def restored_process() -> Iterator[None]:
    """Restore environment variables and loggers, which a local Dask cluster changes for good.

    Otherwise a network that is trained after it would have a single thread.
    """
    environment, loggers = dict(os.environ), _read_loggers()
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        for name in _read_loggers():
            logger = logging.getLogger(name)
            level, logger.propagate, handlers = loggers.get(name, (logging.NOTSET, True, ()))
            logger.setLevel(level)
            logger.handlers[:] = handlers


def _read_loggers() -> dict[str, tuple[int, bool, tuple[logging.Handler, ...]]]:
    """Read level, propagation and handlers of the loggers of Dask's packages."""
    return {
        name: (logger.level, logger.propagate, tuple(logger.handlers))
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.split(".")[0] in _DASK_LOGGERS
    }
