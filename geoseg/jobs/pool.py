"""Pools: open workers that run a function over tasks, and the outcomes of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from geoseg.errors import WorkerLostError

Task = TypeVar("Task")
Value = TypeVar("Value")

# Tasks in flight per worker: enough to keep it busy, few enough to hold little memory.
TASKS_PER_WORKER = 4


@dataclass(frozen=True)
class Success(Generic[Value]):
    """The result of a finished task."""

    value: Value


@dataclass(frozen=True)
class Failure:
    """A task that was given up, because the workers that had it died each time."""

    error: WorkerLostError


class Pool(ABC):
    """Open workers that run a function over tasks.

    Attributes:
        size: Tasks that are carried out at a time.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def is_serial(self) -> bool:
        """Whether this process carries out the tasks itself, one after the other."""
        return False

    @abstractmethod
    def outcomes(
        self, function: Callable[[Task], Value], tasks: Iterable[Task]
    ) -> Iterator[Success[Value] | Failure]:
        """Run a function over tasks and yield their outcomes in the order of the tasks.

        An exception that the function itself raises is raised here.

        Args:
            function: A function of a module, so that other processes find it.
            tasks: Paths, windows, small arrays; taken from the iterable as workers become free.
        """

    @abstractmethod
    def settle(self) -> None:
        """Wait until no task runs, after an error in one of them."""

    def map(self, function: Callable[[Task], Value], tasks: Iterable[Task]) -> Iterator[Value]:
        """Run a function over tasks and yield their results in the order of the tasks.

        Raises:
            WorkerLostError: If a task was given up.
        """
        for outcome in self.outcomes(function, tasks):
            if isinstance(outcome, Failure):
                raise outcome.error
            yield outcome.value


class SerialPool(Pool):
    """This process, which carries out the tasks one after the other."""

    def __init__(self) -> None:
        super().__init__(1)

    @property
    def is_serial(self) -> bool:
        """Whether this process carries out the tasks itself, one after the other."""
        return True

    def outcomes(
        self, function: Callable[[Task], Value], tasks: Iterable[Task]
    ) -> Iterator[Success[Value] | Failure]:
        """Run a function over tasks, each when its outcome is requested."""
        for task in tasks:
            yield Success(function(task))

    def settle(self) -> None:
        """Return at once: only the task that ended with an error was running."""


def worker_lost(reason: str) -> Failure:
    """Return the outcome of a task with which workers died repeatedly."""
    return Failure(
        WorkerLostError(
            "a worker process died several times with the same task, probably for lack of memory; "
            f"use fewer --workers or less --max-memory, and run the same command again ({reason})"
        )
    )
