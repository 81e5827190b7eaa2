"""A Dask cluster that carries out the tasks of a job; the only module that imports dask."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from geoseg.errors import ConfigError, WorkerLostError, one_line
from geoseg.jobs.pool import TASKS_PER_WORKER, Failure, Pool, Success, Task, Value, worker_lost
from geoseg.version import __version__


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


def check_workers(client: Any, inputs: Iterable[str | Path], folder: Path | None) -> None:
    """Check that each worker has this version of geoseg, and sees the files of a job.

    Workers that join the cluster later are not checked.

    Args:
        client: Connected `distributed.Client`.
        inputs: Files that the tasks read; names that are no local files are not checked.
        folder: Folder that the tasks write into; None if they write no files.

    Raises:
        ConfigError: If a worker cannot carry out tasks; it is named.
    """
    # A function of the standard library: geoseg may be missing.
    versions = client.run(resolve_name, "geoseg.version:__version__", on_error="return")
    for worker, found in versions.items():
        if isinstance(found, BaseException):
            raise ConfigError(
                f"worker {worker}: cannot import geoseg ({one_line(found)}); install geoseg "
                f"{__version__} on all machines of the cluster"
            )
        if found != __version__:
            raise ConfigError(
                f"worker {worker}: has geoseg {found}, but this is geoseg {__version__}; install "
                "the same version on all machines of the cluster"
            )
    paths = [os.path.abspath(path) for path in inputs if os.path.exists(path)]
    with _probe(folder) as probe:
        paths += probe
        missing = client.run(find_missing, paths)
    for worker, path in missing.items():
        if path is not None:
            seen = str(folder) if path in probe else path
            raise ConfigError(
                f"worker {worker}: does not see {seen}; inputs and outputs must be on a file "
                "system that all machines of the cluster share, under the same path"
            )


@contextmanager
def _probe(folder: Path | None) -> Iterator[list[str]]:
    """Make a file with a new name, which only those who share the folder can see."""
    if folder is None:
        yield []
        return
    path = folder.absolute() / f".{secrets.token_hex(8)}.partial"
    path.touch()
    try:
        yield [str(path)]
    finally:
        path.unlink(missing_ok=True)


def find_missing(paths: Sequence[str]) -> str | None:
    """Return the first of some paths that does not exist."""
    return next((path for path in paths if not os.path.exists(path)), None)


class DaskPool(Pool):
    """The workers of a Dask cluster.

    Args:
        client: Connected `distributed.Client`.
        most: Tasks to carry out at a time; None for as many as the cluster has threads.
        resources: What a worker must have for tasks whose attribute `needs_device` is true, as
            Dask's resources, such as `{"GPU": 1}`.
    """

    def __init__(
        self, client: Any, most: int | None, resources: Mapping[str, float] | None = None
    ) -> None:
        available: int = max(1, sum(client.nthreads().values()))
        super().__init__(min(most or available, available))
        self._client, self._resources = client, dict(resources or {})
        self._left: list[Any] = []  # futures of an error

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
        except Exception:
            self._left = [future for _, future in pending]
            pending.clear()
            raise
        finally:
            for _, future in pending:  # of a caller that needs no more outcomes
                future.cancel()

    def settle(self) -> None:
        """Wait until the tasks that an error has left have ended, since they cannot be stopped."""
        _settle(self._left)
        self._left = []

    def _submit(self, function: Callable[[Task], Value], task: Task) -> Any:
        needed = self._resources if getattr(task, "needs_device", False) else {}
        return self._client.submit(function, task, pure=False, resources=needed or None)


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
