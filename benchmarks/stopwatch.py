"""Stopwatch of the stages of a job: seconds in their functions, none counted twice."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class Stopwatch:
    """Seconds per stage.

    Threads are added up, so that stages of several threads may take longer than the job.

    Args:
        nested: Whether the seconds of a stage inside another one are its own; otherwise they are
            those of the outermost one.

    Attributes:
        seconds: Seconds by stage.
    """

    def __init__(self, *, nested: bool) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._nested = nested
        self._lock, self._local = threading.Lock(), threading.local()

    @contextmanager
    def watch(self, stages: Mapping[str, Sequence[str]]) -> Iterator[None]:
        """Measure the functions of stages.

        Args:
            stages: Functions, as `module:name` or `module:class.name`, by stage. None of them may
                be a generator, whose work is done after it returns. Of a generator that a function
                is given, the seconds that belong to no other stage are those of the function.
        """
        undo: list[tuple[Any, str, Any]] = []
        try:
            for stage, functions in stages.items():
                for function in functions:
                    undo += self._replace(stage, function)
            yield
        finally:
            for owner, name, original in reversed(undo):
                setattr(owner, name, original)

    def _replace(self, stage: str, function: str) -> list[tuple[Any, str, Any]]:
        """Measure a function wherever it is imported; return what was there before."""
        module, _, path = function.partition(":")
        owner: Any = importlib.import_module(module)
        *classes, name = path.split(".")
        for one in classes:
            owner = getattr(owner, one)
        original = getattr(owner, name)
        measured = self._measure(stage, original)
        users = [(owner, name)] if classes else list(_find_users(original, module))
        for user, known_as in users:
            setattr(user, known_as, measured)
        return [(user, known_as, original) for user, known_as in users]

    def _measure(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def measured(*arguments: Any, **named: Any) -> Any:
            # The seconds of stages inside the running one; None outside of all.
            outer: float | None = getattr(self._local, "inside", None)
            if outer is not None and not self._nested:
                return function(*arguments, **named)
            self._local.inside, start = 0.0, time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                taken = time.perf_counter() - start
                with self._lock:
                    self.seconds[stage] += taken - self._local.inside
                self._local.inside = None if outer is None else outer + taken

        return measured


def _find_users(function: Callable[..., Any], home: str) -> Iterator[tuple[Any, str]]:
    """Yield the modules that have a function, its home and those of geoseg, and its name there."""
    for name, module in list(sys.modules.items()):
        if name == home or name.partition(".")[0] == "geoseg":
            for known_as, value in list(vars(module).items()):
                if value is function:
                    yield module, known_as
