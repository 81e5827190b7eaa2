"""Exceptions of geoseg.

    GeosegError
    ├── ConfigError            a configuration file or an option is wrong
    │   └── MemoryLimitError   the memory limit does not suffice
    ├── DataError              something is wrong with the data
    │   ├── SceneReadError     a raster cannot be opened or read
    │   ├── MissingCRSError    a scene or a layer has no georeferencing
    │   ├── GridMismatchError  two inputs do not fit together
    │   ├── LabelError         labels cannot be used
    │   ├── VectorReadError    a vector layer cannot be opened or read
    │   ├── EmptyDatasetError  no tiles are left
    │   ├── OutputExistsError  the output exists and may not be replaced
    │   ├── OutputLockedError  another job is writing the same output
    │   ├── OutputWriteError   the output cannot be written there
    │   └── DiskFullError      the output does not fit on the disk
    ├── WorkerLostError        workers died repeatedly with the same task
    ├── ModelError             something is wrong with a model
    │   ├── UnknownArchitectureError
    │   ├── ModelFileError     a model file cannot be read or used
    │   ├── TrainingError      training diverged: loss or weights are no longer finite
    │   ├── WeightsError       initial weights are missing or do not fit
    │   └── InputShapeError    the network does not support a size or number of bands
    └── RepeatedError          the first process of a training run reports the same error

A message says what is wrong, where, and what to do about it; credentials in names of files are
left out of it. The command line catches `GeosegError`, prints the message on one line and exits
with code 2. `TrainingInterrupted` is a `KeyboardInterrupt`; the command line exits with code 130 or
143.
"""

import os
import signal
import textwrap

from geoseg.credentials import hide_credentials


class GeosegError(Exception):
    """Base of all errors that a user can correct."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(hide_credentials(x) if isinstance(x, str) else x for x in args))

    def __str__(self) -> str:
        # KeyError would print the repr of its argument.
        return str(self.args[0]) if self.args else ""


class ConfigError(GeosegError, ValueError):
    """A configuration file or an option is wrong."""


class MemoryLimitError(ConfigError):
    """The memory limit does not suffice; finished work is kept."""


class DataError(GeosegError):
    """Something is wrong with the data."""


class SceneReadError(DataError, OSError):
    """A raster cannot be opened or read."""


class MissingCRSError(DataError, ValueError):
    """A scene or a layer has no georeferencing."""


class GridMismatchError(DataError, ValueError):
    """Two inputs differ in area, bands or pixel size where they must agree."""


class OutsideError(GridMismatchError):
    """A scene is outside the area of interest."""


class LabelError(DataError, ValueError):
    """Labels cannot be used for training."""


class VectorReadError(DataError, OSError):
    """A vector layer cannot be opened, read or written."""


class EmptyDatasetError(DataError, ValueError):
    """No tiles are left to train on."""


class OutputExistsError(DataError, OSError):
    """The output exists and may not be replaced."""


class OutputLockedError(DataError, OSError):
    """Another job is writing the same output."""


class OutputWriteError(DataError, OSError):
    """The output cannot be written there."""


class DiskFullError(DataError, OSError):
    """The output does not fit on the disk; finished work is kept."""


class WorkerLostError(GeosegError, RuntimeError):
    """Workers died repeatedly with the same task."""


class ModelError(GeosegError):
    """Something is wrong with a model."""


class UnknownArchitectureError(ModelError, KeyError):
    """There is no architecture of this name."""


class ModelFileError(ModelError, OSError):
    """A model file cannot be read or used."""


class TrainingError(ModelError, ArithmeticError):
    """Loss or weights are no longer finite; the best epoch so far is kept."""


class WeightsError(ModelError, OSError):
    """Initial weights are missing or do not fit."""


class InputShapeError(ModelError, ValueError):
    """The network does not support an image size or a number of bands."""


class RepeatedError(GeosegError):
    """The error with which the first training process ends, raised in one of the others."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by ctrl-C or SIGTERM; finished epochs are kept.

    Like any `KeyboardInterrupt` it is not an `Exception`, so that a loop over several runs that
    continues after errors ends, too.

    Attributes:
        signal: SIGINT or SIGTERM.
    """

    def __init__(self, message: str, received: signal.Signals) -> None:
        super().__init__(message)
        self.signal = received


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the singular or the plural: `1 band`, `3 bands`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def describe_os_error(error: OSError) -> str:
    """Return what the system says about a file: its name as it is, then the reason."""
    reason = error.strerror.lower() if error.strerror else " ".join(str(error).split()).rstrip(".")
    name = None if error.filename is None else os.fsdecode(error.filename)
    if not reason:
        reason = type(error).__name__
    return reason if name is None or name in reason else f"{name}: {reason}"


def one_line(error: BaseException) -> str:
    """Return the message of an error, or of its cause, in one short line to quote in another."""
    message = " ".join(str(error.__cause__ or error).split()).rstrip(".")
    message = hide_credentials(message)  # before it is cut, since a part would not be recognized
    return textwrap.shorten(message, 160, placeholder=" …")
