"""Workers whose tasks are run by a function of the test."""

from contextlib import contextmanager
from dataclasses import dataclass

from geoseg.jobs.pool import Failure, Pool, Success
from geoseg.jobs.workers import Workers


class PoolOf(Pool):
    """A pool that runs tasks by `run(function, tasks)`, which yields results or failures."""

    def __init__(self, run):
        super().__init__(1)
        self._run = run

    def settle(self):
        pass

    def outcomes(self, function, tasks):
        for result in self._run(function, tasks):
            yield result if isinstance(result, Failure) else Success(result)


@dataclass(frozen=True)
class WorkersOf(Workers):
    """Workers that open a `PoolOf`."""

    run: object = map

    @contextmanager
    def open(self, *_, **__):
        yield PoolOf(self.run)
