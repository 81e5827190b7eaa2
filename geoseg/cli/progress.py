"""Progress bars of the commands."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from geoseg.jobs.progress import Progress

# Seconds between two lines of progress where there is no terminal.
_SECONDS_PER_LINE = 10.0


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show progress with rate and remaining time: a bar on a terminal, plain lines elsewhere."""
    if sys.stderr.isatty():
        yield from _rich_bars()
    else:
        yield _plain_lines()


def _rich_bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> str:
            return f"{task.speed or 0:.1f} {task.description}/s"

    counts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Bar(*counts, *times, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def show(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show


def _plain_lines() -> Progress:
    started: dict[str, tuple[float, int]] = {}
    printed: dict[str, float] = {}

    def show(done: int, total: int, what: str) -> None:
        now = time.monotonic()
        # A resumed job starts with finished items, which must not count for its rate.
        start, before = started.setdefault(what, (now, done))
        short = now - start < _SECONDS_PER_LINE
        recent = now - printed.get(what, start) < _SECONDS_PER_LINE
        if short or (recent and done < total):
            return
        printed[what] = now
        rate = (done - before) / (now - start)
        left = (total - done) / max(rate, 1e-9)
        click.echo(f"{what}: {done}/{total}, {rate:.1f}/s, {left:.0f} s left", err=True)

    return show
