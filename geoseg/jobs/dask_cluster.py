"""A Dask cluster that carries out the tasks of a job; the only module that imports dask."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from geoseg.errors import ConfigError, WorkerLostError
from geoseg.jobs.pool import TASKS_PER_WORKER, Failure, Pool, Success, Task, Value, worker_lost


def connect(
    address: str | None,
    scheduler_file: str | None,
    *,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
) -> Any:
    """Return a client of a Dask scheduler.

    Args:
        address: Address of the scheduler; None if a file is given.
        scheduler_file: JSON file in which the scheduler keeps its address.
        tls_ca: Certificate of the authority, a PEM file.
        tls_cert: Own certificate, a PEM file.
        tls_key: Key of that certificate, a PEM file; None if it is in `tls_cert`.

    Raises:
        ConfigError: If no scheduler answers.
    """
    from distributed import Client
    from distributed.security import Security

    security = None
    try:
        if tls_ca or tls_cert:
            security = Security(
                require_encryption=True,
                tls_ca_file=tls_ca,
                tls_client_cert=tls_cert,
                tls_client_key=tls_key or tls_cert,
            )
        if scheduler_file:
            return Client(scheduler_file=scheduler_file, timeout=10, security=security)
        return Client(address, timeout=10, security=security)
    except (OSError, ValueError, TypeError, TimeoutError, MemoryError) as error:
        raise ConfigError(
            f"--scheduler {address or scheduler_file}: no Dask scheduler answers there; start one "
            "with dask scheduler, or use --workers N for local processes"
        ) from error


class DaskPool(Pool):
    """The workers of a Dask cluster.

    Args:
        client: Connected `distributed.Client`.
        most: Tasks to carry out at a time; None for as many as the cluster has threads.
    """

    def __init__(self, client: Any, most: int | None) -> None:
        available: int = max(1, sum(client.nthreads().values()))
        super().__init__(min(most or available, available))
        self._client = client

    def outcomes(
        self, function: Callable[[Task], Value], tasks: Iterable[Task]
    ) -> Iterator[Success[Value] | Failure]:
        """Run a function over tasks and yield their outcomes in the order of the tasks."""
        pending: deque[tuple[Task, Any]] = deque()
        remaining = iter(tasks)
        try:
            for task in islice(remaining, TASKS_PER_WORKER * self.size):
                pending.append((task, self._submit(function, task)))
            while pending:
                task, future = pending.popleft()
                outcome = _wait_for(future)
                if isinstance(outcome, Failure):
                    # Dask also blames the tasks that only waited on the workers that died. A task
                    # that runs alone shows whether it was the cause.
                    _settle([future for _, future in pending])
                    outcome = _wait_for(self._submit(function, task))
                yield outcome
                for task in islice(remaining, 1):
                    pending.append((task, self._submit(function, task)))
        finally:
            for _, future in pending:  # of an error, or of a caller that needs no more outcomes
                future.cancel()

    def _submit(self, function: Callable[[Task], Value], task: Task) -> Any:
        return self._client.submit(function, task, pure=False)


def _settle(futures: list[Any]) -> None:
    """Wait until each of the futures has a result or an error."""
    from distributed import wait

    if futures:
        wait(futures)


def _wait_for(future: Any) -> Success[Any] | Failure:
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    try:
        return Success(future.result())
    except (CancelledError, CommClosedError) as error:
        raise WorkerLostError(
            "the connection to the Dask scheduler was lost; check that it runs, and run the same "
            "command again"
        ) from error
    except KilledWorker as error:
        return worker_lost(type(error).__name__)
