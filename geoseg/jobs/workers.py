"""Runs a plain function over tasks: here, on local processes, or on any Dask cluster.

The only module that imports dask. Tasks and results travel; open files and networks do not.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from geoseg.errors import ConfigError
from geoseg.jobs.environment import WORKER_VARIABLE
from geoseg.jobs.progress import Run

Task = TypeVar("Task")
Result = TypeVar("Result")

# Dask has every large array given back to the system as soon as it is freed, and half of a worker's
# time would go into fetching the memory again. These are the limits that glibc itself grows to.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}

# Tasks in flight per worker: enough to keep it busy, few enough to hold little memory.
_AHEAD = 4


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int = 1,
    scheduler: str | None = None,
) -> Iterator[Result | Exception]:
    """Calls a function on every task and yields the results in the order of the tasks.

    See `open_workers`, which serves several steps with the same workers.

    Args:
        function: A function of a module, so that other processes find it.
        tasks: Recipes: paths, windows, small arrays.
        workers: Local processes; 1 runs in this process.
        scheduler: Address of a Dask scheduler, instead of local processes.

    Raises:
        ConfigError: If the scheduler cannot be reached.
    """
    with open_workers(workers, scheduler) as run:
        yield from run(function, tasks)


@contextmanager
def open_workers(workers: int = 1, scheduler: str | None = None) -> Iterator[Run]:
    """Opens workers, and closes them in the end.

    A worker that dies is replaced and its tasks are done again. A task with which workers die
    every time is given up: an exception is yielded in place of its result.

    Args:
        workers: Local processes; 1 runs in this process.
        scheduler: Address of a Dask scheduler, instead of local processes.

    Yields:
        What runs a function over tasks, as `run_tasks` does.

    Raises:
        ConfigError: If the scheduler cannot be reached.
    """
    if workers <= 1 and scheduler is None:
        yield map
        return
    with _connect(workers, scheduler) as client:
        yield partial(_run_on, client, workers)


def count_workers(scheduler: str) -> int:
    """Tasks that the workers of a Dask scheduler carry out at a time, at least 1.

    Raises:
        ConfigError: If the scheduler cannot be reached.
    """
    with _connect(1, scheduler) as client:
        threads: list[int] = list(client.nthreads().values())
        return max(1, sum(threads))


def _run_on(
    client: Any, workers: int, function: Callable[[Any], Any], tasks: Iterable[Any]
) -> Iterator[Any]:
    ahead = _AHEAD * max(workers, len(client.nthreads()))
    waiting: deque[Any] = deque()
    remaining = iter(tasks)
    for task in islice(remaining, ahead):
        waiting.append(client.submit(function, task, pure=False))
    while waiting:
        yield _result(waiting.popleft())
        for task in islice(remaining, 1):
            waiting.append(client.submit(function, task, pure=False))


def _result(future: Any) -> Any:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        return error


def _connect(workers: int, scheduler: str | None) -> Any:
    from distributed import Client

    if scheduler is None:
        return _OwningClient(_start_workers(workers))
    try:
        return Client(scheduler, timeout=10)
    except (OSError, ValueError, TimeoutError, MemoryError) as error:  # or no Dask at all
        raise ConfigError(
            f"--scheduler {scheduler}: no Dask scheduler answers there; start one with dask "
            "scheduler, or use --workers N for local processes"
        ) from error


def _start_workers(workers: int) -> Any:
    import dask
    from distributed import LocalCluster

    kept = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {**kept, **_MALLOC}}):
        return LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=40
        )


def _number_workers(client: Any) -> None:
    """Tells each worker its number, also one that replaces another."""
    from distributed import WorkerPlugin

    class Numbering(WorkerPlugin):  # type: ignore[misc]
        def setup(self, worker: Any) -> None:
            os.environ[WORKER_VARIABLE] = str(worker.name)

    client.register_plugin(Numbering())


class _OwningClient:
    """A client that closes the local cluster it was made for."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def __enter__(self) -> Any:
        from distributed import Client

        self._client = Client(self._cluster)
        _number_workers(self._client)
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._cluster.close()
