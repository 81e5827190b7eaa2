"""What long work is given: who carries out its tasks, and whom it tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Calls a function on every task and yields the results in the order of the tasks, an exception
# for a task that was lost; `map` does so in this process.
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]

# Told how much is finished, of how much in all, and of what.
Progress = Callable[[int, int, str], None]

# Told one line.
Report = Callable[[str], None]
