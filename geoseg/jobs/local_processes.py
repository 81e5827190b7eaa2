"""Worker processes on this machine, each with a thread here that hands it one task at a time.

A process that dies is replaced, and its task is repeated. Unlike in the pools of the standard
library, it is known which task it had, and the other processes go on.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from typing import Any

from geoseg.errors import WorkerLostError
from geoseg.jobs.pool import TASKS_PER_WORKER, Failure, Pool, Success, Task, Value, worker_lost
from geoseg.jobs.threads import map_in_order

# Environment variable that numbers the worker processes of one machine from 0, so that each takes
# a GPU of its own.
WORKER_VARIABLE = "GEOSEG_WORKER"

# One thread per process in libraries that would otherwise start one per core. The allocator keeps
# the memory of large arrays for the next ones: these are glibc's own upper limits.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}

# Processes that may die with a task before it is given up.
_MAX_DEATHS = 4


@contextmanager
def start_processes(count: int, modules: Sequence[str]) -> Iterator[Pool]:
    """Start worker processes, and end them afterwards.

    Args:
        count: Number of processes.
        modules: Modules that their tasks need.
    """
    with _starting_method(modules) as context:
        pool = _LocalPool(count, context)
        try:
            pool.start()
            yield pool
        finally:
            pool.close()


class _LocalPool(Pool):
    """Worker processes on this machine."""

    def __init__(self, size: int, context: BaseContext) -> None:
        super().__init__(size)
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._processes: list[_Process] = []
        self._context = context
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="geoseg-worker")
        self._closed = threading.Event()

    def start(self) -> None:
        """Start the processes, which load their modules at the same time."""
        for number in range(self.size):
            process = _Process(self._context, number)
            self._processes.append(process)
            self._idle.put(process)

    def outcomes(
        self, function: Callable[[Task], Value], tasks: Iterable[Task]
    ) -> Iterator[Success[Value] | Failure]:
        """Run a function over tasks and yield their outcomes in the order of the tasks."""

        def run(task: Task) -> Success[Value] | Failure:
            return self._run(function, task)

        yield from map_in_order(self._threads, run, tasks, TASKS_PER_WORKER * self.size - 1)

    def settle(self) -> None:
        """Wait until no process has a task."""
        for process in [self._idle.get() for _ in self._processes]:
            self._idle.put(process)

    def _run(self, function: Callable[[Task], Value], task: Task) -> Success[Value] | Failure:
        process, reason = self._idle.get(), ""
        try:
            for _ in range(_MAX_DEATHS):
                try:
                    return Success(process.run(function, task))
                except _ProcessDiedError as error:
                    reason = str(error)
                    if self._closed.is_set():
                        raise
                    process.start()
                    if self._closed.is_set():
                        process.end()
                        raise
            if not process.has_worked:
                raise WorkerLostError(
                    "worker processes end as soon as they start; in a script, call geoseg under "
                    'if __name__ == "__main__": as all programs with several processes must'
                )
            return worker_lost(reason)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the processes, also those that work; tasks that wait are not started."""
        self._closed.set()
        for process in self._processes:
            process.end()
        self._threads.shutdown(cancel_futures=True)


class _ProcessDiedError(Exception):
    """A worker process died with a task."""


class _Process:
    """A worker process, and those that replace it.

    Attributes:
        has_worked: Whether a process was ready for a task once.
    """

    def __init__(self, context: Any, number: int) -> None:
        self._context, self._number = context, number
        self.has_worked = False
        self._starting = threading.Lock()
        self.start()

    def start(self) -> None:
        """Start the process, after the one before it has ended."""
        connection, other = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(other, self._number), daemon=True, name=f"geoseg-{self._number}"
        )
        with self._starting, _changed_environment(_ENVIRONMENT):
            process.start()
            self._connection, self._process, self._is_ready = connection, process, False
        other.close()  # so that the connection ends with the process

    def run(self, function: Callable[[Task], Value], task: Task) -> Value:
        """Let the process run a function.

        Raises:
            _ProcessDiedError: If the process dies.
        """
        try:
            if not self._is_ready:
                self._connection.recv()
                self._is_ready = self.has_worked = True
            self._connection.send((function, task))
            value, failed = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(1)  # its connection ends a moment before it does
            self.end()
            raise _ProcessDiedError(_describe_exit(self._process.exitcode or 0)) from error
        if failed:
            raise value
        return value  # type: ignore[no-any-return]

    def end(self) -> None:
        """End the process, whatever it does."""
        with self._starting:
            self._process.kill()
            self._process.join()


def _describe_exit(code: int) -> str:
    """Return how a process ended, such as `SIGKILL`."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(connection: Connection, number: int) -> None:
    """Run the functions that are received, until the process that sends them has ended."""
    # Ctrl+C in a terminal goes to all processes; the one that waits for this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[WORKER_VARIABLE] = str(number)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(None)  # ready for a task
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(_run_task(request))


def _run_task(request: bytes) -> memoryview:
    """Run a function on a task; return the result or the error, and whether it is an error."""
    try:
        function, task = ForkingPickler.loads(request)
        return _pickle((function(task), False))
    except BaseException as error:  # noqa: BLE001 - raised again where the task came from
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        try:
            answer = _pickle((error, True))
            ForkingPickler.loads(answer)
        except Exception:  # noqa: BLE001 - of a class whose instances cannot travel
            return _pickle((RuntimeError(f"{type(error).__name__}: {error}"), True))
        return answer


def _pickle(message: object) -> memoryview:
    """Return the bytes from which another process receives a message."""
    return ForkingPickler.dumps(message)


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, whatever the task is."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _starting_method(modules: Sequence[str]) -> Iterator[Any]:
    """Return how processes are started: as forks of a server that has imported what they need.

    The server ends with the workers, as it keeps the environment in which it was started. One that
    runs already has another environment, or belongs to other workers, and is not used. On other
    systems than Linux forking is not safe.
    """
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    if sys.platform != "linux" or not _server_lock.acquire(blocking=False):
        yield multiprocessing.get_context("spawn")
        return
    try:
        if server._forkserver_pid is not None:
            yield multiprocessing.get_context("spawn")
            return
        before = list(server._preload_modules)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *modules])
        try:
            yield context
        finally:
            context.set_forkserver_preload(before)
            if server._forkserver_pid is not None:
                # Otherwise it waits for workers, which are left if they did not all start.
                os.kill(server._forkserver_pid, signal.SIGKILL)
                server._stop()
    finally:
        _server_lock.release()


# Held while a server for forks of this module is used.
_server_lock = threading.Lock()

_environment_lock = threading.Lock()


@contextmanager
def _changed_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Change environment variables that a process inherits, for as long as it takes to start it."""
    with _environment_lock:
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
