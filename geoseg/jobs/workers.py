"""Workers: local processes or a Dask cluster that carry out the tasks of a job.

Tasks and results travel between processes; open files and networks do not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from geoseg.credentials import get_logger
from geoseg.errors import ConfigError, counted
from geoseg.jobs.dask_cluster import DaskPool, check_workers, connect
from geoseg.jobs.local_processes import start_processes
from geoseg.jobs.pool import Pool, SerialPool

logger = get_logger(__name__)

DEFAULT_MEMORY_GB = 4.0


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
        resources: What workers of a cluster must have to predict, as Dask's resources, such as
            `{"GPU": 1}`; other tasks go to all workers.
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
    resources: Mapping[str, float] | None = field(default=None, hash=False)
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
        if self.resources and not self.is_remote:
            raise ConfigError("--resources: apply only to a Dask cluster; give --scheduler")

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
    def open(
        self,
        *functions: Callable[..., Any],
        preload: Sequence[str] = (),
        inputs: Iterable[str | Path] = (),
        folder: Path | None = None,
    ) -> Iterator[Pool]:
        """Start the workers, and stop them in the end.

        A worker that dies is replaced and its tasks are repeated. A task with which workers die
        repeatedly is given up.

        Args:
            functions: Functions of the tasks. Local processes start as forks of one that has
                imported their modules, where the system allows it.
            preload: Further modules to import before local processes start.
            inputs: Files that the tasks read; all workers of a cluster must see them.
            folder: Folder that the tasks write into, likewise.

        Raises:
            ConfigError: If the scheduler cannot be reached, or a worker cannot carry out tasks.
        """
        if self.is_remote:
            with self._connect() as client:
                check_workers(client, inputs, folder)
                cluster = DaskPool(client, self.processes, self.resources)
                logger.warning(
                    "computing on a Dask cluster with %s; its dashboard is at %s",
                    counted(cluster.size, "thread"), client.dashboard_link,
                )  # fmt: skip
                yield cluster
        elif self.local_processes == 1:
            yield SerialPool()
        else:
            if self.processes and self.processes > count_cores():
                logger.warning(
                    "--workers %d: this machine has %d cores; using %d",
                    self.processes, count_cores(), self.local_processes,
                )  # fmt: skip
            modules = [*(function.__module__ for function in functions), *preload]
            with start_processes(self.local_processes, modules) as pool:
                yield pool

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        if self.client:
            yield self.client
            return
        files = ("scheduler_file", "tls_ca", "tls_cert", "tls_key")
        for option in files:
            file = getattr(self, option)
            if file and not Path(file).is_file():
                raise ConfigError(f"--{option.replace('_', '-')} {file}: no such file")
        with connect(
            self.scheduler, self.scheduler_file,
            tls_ca=self.tls_ca, tls_cert=self.tls_cert, tls_key=self.tls_key,
        ) as client:  # fmt: skip
            yield client


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
