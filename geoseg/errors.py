"""Every exception that geoseg raises for a user to read.

    GeosegError
    ├── ConfigError            a configuration file or an option is wrong
    │   └── MemoryLimitError   the memory that is granted does not suffice
    ├── DataError              something is wrong with the data
    │   ├── SceneReadError     a raster cannot be opened or read
    │   ├── MissingCRSError    a scene or a layer does not say where it lies
    │   ├── GridMismatchError  two things that must share ground do not
    │   ├── LabelError         footprints that cannot serve as labels
    │   ├── VectorReadError    a vector layer cannot be opened or read
    │   ├── EmptyDatasetError  no tile is left to work with
    │   ├── OutputExistsError  the output is there already and may not be overwritten
    │   ├── OutputLockedError  another job is writing the same output
    │   └── DiskFullError      there is no room for what is being written
    ├── WorkerLostError        workers died repeatedly with the same task
    ├── ModelError             something is wrong with a model
    │   ├── UnknownArchitectureError
    │   ├── ModelFileError     a model file cannot be read or used
    │   ├── TrainingError      training diverged: loss or weights are no longer finite
    │   ├── WeightsError       initial weights cannot be found or do not fit
    │   └── InputShapeError    a size or a band count that the network cannot take
    └── RepeatedError          the first process of a training run reports the same error

A message says what is wrong, where, and what to do about it. The command line catches
`GeosegError`, prints the message on one line and exits with code 2. `TrainingInterrupted` is a
`KeyboardInterrupt`; the command line exits with code 130 or 143.
"""

import signal
import textwrap


class GeosegError(Exception):
    """Base of all errors that a user can mend."""

    def __str__(self) -> str:
        # KeyError would print the repr of its argument.
        return str(self.args[0]) if self.args else ""


class ConfigError(GeosegError, ValueError):
    """A configuration file or an option is wrong."""


class MemoryLimitError(ConfigError):
    """The memory that is granted does not suffice; what is done so far is kept."""


class DataError(GeosegError):
    """Something is wrong with the data."""


class SceneReadError(DataError, OSError):
    """A raster cannot be opened or read."""


class MissingCRSError(DataError, ValueError):
    """A scene or a layer does not say where on Earth it lies."""


class GridMismatchError(DataError, ValueError):
    """Two things that must share ground, bands or pixel size do not."""


class LabelError(DataError, ValueError):
    """Footprints that cannot serve as labels."""


class VectorReadError(DataError, OSError):
    """A vector layer cannot be opened, read or written."""


class EmptyDatasetError(DataError, ValueError):
    """No tile is left to work with."""


class OutputExistsError(DataError, OSError):
    """The output is there already and may not be overwritten."""


class OutputLockedError(DataError, OSError):
    """Another job is writing the same output."""


class DiskFullError(DataError, OSError):
    """There is no room for what is being written; what is done so far is kept."""


class WorkerLostError(GeosegError, RuntimeError):
    """Workers died repeatedly with the same task."""


class ModelError(GeosegError):
    """Something is wrong with a model."""


class UnknownArchitectureError(ModelError, KeyError):
    """No network goes by this name."""


class ModelFileError(ModelError, OSError):
    """A model file cannot be read or used."""


class TrainingError(ModelError, ArithmeticError):
    """Training has led to a network that says nothing; what was good before is kept."""


class WeightsError(ModelError, OSError):
    """Initial weights cannot be found or do not fit."""


class InputShapeError(ModelError, ValueError):
    """A size or a band count that the network cannot take."""


class RepeatedError(GeosegError):
    """The error with which the first training process ends, raised in one of the others."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by ctrl-C or SIGTERM; finished epochs are kept.

    Like any `KeyboardInterrupt` it is no `Exception`, so that a loop over several runs that
    continues after errors ends, too.

    Attributes:
        signal: SIGINT or SIGTERM.
    """

    def __init__(self, message: str, received: signal.Signals) -> None:
        super().__init__(message)
        self.signal = received


def one_line(error: BaseException) -> str:
    """What a library, or the one beneath it, says went wrong, to stand inside a message."""
    said = " ".join(str(error.__cause__ or error).split()).rstrip(".")
    return textwrap.shorten(said, 160, placeholder=" …")
