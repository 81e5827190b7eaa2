"""Workers: local processes or a Dask cluster that carry out the tasks of a job.

The only module that imports dask. Tasks and results travel between processes; open files and
networks do not.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from geoseg.errors import ConfigError, WorkerLostError
from geoseg.jobs.process_state import restored_process

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Value = TypeVar("Value")

# Environment variable that numbers the worker processes of one machine from 0, so that each takes
# a GPU of its own.
WORKER_VARIABLE = "GEOSEG_WORKER"

# Dask lets the allocator return every large array to the system as soon as it is freed, and half of
# a worker's time would go into requesting the memory again. These are glibc's own upper limits.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}

# Tasks in flight per worker: enough to keep it busy, few enough to hold little memory.
_TASKS_PER_WORKER = 4

DEFAULT_MEMORY_GB = 4.0


@dataclass(frozen=True)
class Success(Generic[Value]):
    """The result of a finished task."""

    value: Value


@dataclass(frozen=True)
class Failure:
    """A task that was given up, because the workers that had it died each time."""

    error: WorkerLostError


@dataclass(frozen=True)
class Workers:
    """Where tasks run: in this process, in local processes, or on a Dask cluster.

    Attributes:
        processes: Local processes, or with a scheduler the number of its workers' threads. None
            stands for all threads of the cluster, else for one process. There are never more
            processes than cores.
        threads: Batches that each process computes at a time on a CPU. None shares the cores among
            the local processes; on a cluster it stands for 1. Processes times threads never exceed
            the cores.
        max_memory_gb: Peak memory of each process, in gigabytes of 1e9 bytes.
        scheduler: Address of a Dask scheduler, such as `tcp://host:8786` or `tls://host:8786`.
        scheduler_file: JSON file in which a Dask scheduler keeps its address, instead of that.
        tls_ca: Certificate of the authority, a PEM file, for `tls://` addresses.
        tls_cert: Own certificate, a PEM file.
        tls_key: Key of that certificate, a PEM file; None if it is in `tls_cert`.
        client: A connected `distributed.Client`, for clusters that are reached in another way, such
            as those of Dask Gateway. It is left open.

    Raises:
        ConfigError: If a number is out of range, or settings contradict each other.
    """

    processes: int | None = None
    threads: int | None = None
    max_memory_gb: float = DEFAULT_MEMORY_GB
    scheduler: str | None = None
    scheduler_file: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    client: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("processes", "threads"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ConfigError(f"workers: {name} is {number}; give 1 or more")
        if not self.max_memory_gb > 0:
            raise ConfigError(
                f"--max-memory: {self.max_memory_gb:g} GB is too little; give some gigabytes"
            )
        if sum(map(bool, (self.scheduler, self.scheduler_file, self.client))) > 1:
            raise ConfigError(
                "--scheduler and --scheduler-file: give one of them, or a client from Python"
            )
        if (self.tls_ca or self.tls_cert or self.tls_key) and not self.is_remote:
            raise ConfigError(
                "--tls-ca, --tls-cert and --tls-key: apply only to a Dask cluster; give --scheduler"
            )

    @property
    def is_remote(self) -> bool:
        """Whether a Dask cluster computes."""
        return bool(self.scheduler or self.scheduler_file or self.client)

    @property
    def local_processes(self) -> int:
        """Number of processes on this machine, at most one per core."""
        return min(self.processes or 1, count_cores())

    @property
    def local_threads(self) -> int:
        """Threads of each process, so that all processes together do not exceed the cores."""
        if self.is_remote:
            return self.threads or 1
        share = max(1, count_cores() // self.local_processes)
        return min(self.threads or share, share)

    def single(self) -> Workers:
        """Return the workers of a task that itself runs inside one of these workers."""
        return Workers(processes=1, threads=self.local_threads, max_memory_gb=self.max_memory_gb)

    def with_default_processes(self, processes: int) -> Workers:
        """Return the same workers with so many local processes where none were requested."""
        if self.is_remote or self.processes is not None:
            return self
        return replace(self, processes=max(1, processes))

    @contextmanager
    def open(self, *functions: Callable[..., Any], preload: Sequence[str] = ()) -> Iterator[Pool]:
        """Start the workers, and stop them in the end.

        A worker that dies is replaced and its tasks are repeated. A task with which workers die
        repeatedly is given up.

        Args:
            functions: Functions of the tasks. Local processes start as forks of one that has
                imported their modules, where the system allows it.
            preload: Further modules to import before local processes start.

        Raises:
            ConfigError: If the scheduler cannot be reached.
        """
        if not self.is_remote and self.local_processes == 1:
            yield Pool(None, 1)
            return
        if self.processes and self.processes > count_cores() and not self.is_remote:
            logger.warning(
                "--workers %d: this machine has %d cores; using %d",
                self.processes, count_cores(), self.local_processes,
            )  # fmt: skip
        modules = [*(function.__module__ for function in functions), *preload]
        with self._connect(modules) as client:
            yield Pool(client, self._count(client))

    def _count(self, client: Any) -> int:
        if not self.is_remote:
            return self.local_processes
        available: int = max(1, sum(client.nthreads().values()))
        return min(self.processes or available, available)

    @contextmanager
    def _connect(self, modules: Sequence[str]) -> Iterator[Any]:
        if self.client:
            yield self.client
        elif self.is_remote:
            with self._reach_scheduler() as client:
                yield client
        else:
            with _start_cluster(self.local_processes, modules) as client:
                yield client

    def _reach_scheduler(self) -> Any:
        from distributed import Client

        name = f"--scheduler {self.scheduler or self.scheduler_file}"
        for option in ("scheduler_file", "tls_ca", "tls_cert", "tls_key"):
            file = getattr(self, option)
            if file and not Path(file).is_file():
                raise ConfigError(f"--{option.replace('_', '-')} {file}: no such file")
        security = self._security()
        try:
            # A bare address of a computer is its TCP port 8786, as for Dask's own commands.
            address = {"scheduler_file": self.scheduler_file} if self.scheduler_file else {}
            target = () if self.scheduler_file else (self.scheduler,)
            return Client(*target, timeout=10, security=security, **address)
        except (OSError, ValueError, TypeError, TimeoutError, MemoryError) as error:
            raise ConfigError(
                f"{name}: no Dask scheduler answers there; start one with dask scheduler, or use "
                "--workers N for local processes"
            ) from error

    def _security(self) -> Any:
        from distributed.security import Security

        if not (self.tls_ca or self.tls_cert):
            return None
        return Security(
            require_encryption=True,
            tls_ca_file=self.tls_ca,
            tls_client_cert=self.tls_cert,
            tls_client_key=self.tls_key or self.tls_cert,
        )


class Pool:
    """Open workers that run a function over tasks.

    Attributes:
        size: Tasks that are carried out at a time.
    """

    def __init__(self, client: Any, size: int) -> None:
        self._client, self.size = client, size

    @property
    def is_local(self) -> bool:
        """Whether this process carries out the tasks itself, one after the other."""
        return self._client is None

    def outcomes(
        self, function: Callable[[Task], Value], tasks: Iterable[Task]
    ) -> Iterator[Success[Value] | Failure]:
        """Run a function over tasks and yield their outcomes in the order of the tasks.

        An exception that the function itself raises is raised here.

        Args:
            function: A function of a module, so that other processes find it.
            tasks: Paths, windows, small arrays; taken from the iterable as workers become free.
        """
        if self._client is None:
            for task in tasks:
                yield Success(function(task))
            return
        limit = _TASKS_PER_WORKER * self.size
        pending: deque[tuple[Task, Any]] = deque()
        remaining = iter(tasks)
        try:
            for task in islice(remaining, limit):
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

    def map(self, function: Callable[[Task], Value], tasks: Iterable[Task]) -> Iterator[Value]:
        """Run a function over tasks and yield their results in the order of the tasks.

        Raises:
            WorkerLostError: If a task was given up.
        """
        for outcome in self.outcomes(function, tasks):
            if isinstance(outcome, Failure):
                raise outcome.error
            yield outcome.value


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


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
        return Failure(
            WorkerLostError(
                "a worker process died several times with the same task, probably for lack of "
                "memory; use fewer --workers or less --max-memory, and run the same command again "
                f"({type(error).__name__})"
            )
        )


@contextmanager
def _start_cluster(processes: int, modules: Sequence[str]) -> Iterator[Any]:
    """Start local worker processes, each numbered by `WORKER_VARIABLE`, and connect to them.

    Args:
        processes: Number of processes.
        modules: Modules that all of them need.
    """
    with restored_process(), ExitStack() as stack:
        import dask
        from distributed import Client, LocalCluster

        stack.enter_context(_forking(modules))
        inherited = dask.config.get("distributed.nanny.pre-spawn-environ", {})
        with dask.config.set({"distributed.nanny.pre-spawn-environ": {**inherited, **_MALLOC}}):
            cluster = LocalCluster(
                n_workers=processes, threads_per_worker=1, dashboard_address=":0", silence_logs=40
            )
        stack.enter_context(cluster)
        client = stack.enter_context(Client(cluster))
        _number_workers(client)
        yield client


@contextmanager
def _forking(modules: Sequence[str]) -> Iterator[None]:
    """Let worker processes start as forks of a server that has imported what they need.

    The server ends with the workers, as it keeps the environment in which it was started. One that
    runs already has another environment, and is not used.
    """
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    if sys.platform != "linux" or server._forkserver_pid is not None:
        yield  # on other systems forking is not safe
        return
    import dask
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        before = list(server._preload_modules)
        context = get_mp_context()  # which preloads some modules itself
        context.set_forkserver_preload(["distributed", "distributed.nanny", *modules])
        try:
            yield
        finally:
            context.set_forkserver_preload(before)
            if server._forkserver_pid is not None:
                # Otherwise it waits for workers, which are left if the cluster did not start.
                os.kill(server._forkserver_pid, signal.SIGKILL)
                server._stop()


def _number_workers(client: Any) -> None:
    """Number the workers, and also those that replace them later."""
    from distributed import WorkerPlugin

    class Numbering(WorkerPlugin):  # type: ignore[misc]
        def setup(self, worker: Any) -> None:
            os.environ[WORKER_VARIABLE] = str(worker.name)

    client.register_plugin(Numbering())
