"""How the commands show that they are at work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

Progress = Callable[[int, int], None]

# Where no terminal shows a bar, a line is written this often.
_SECONDS_PER_LINE = 10.0


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Shows progress with rate and remaining time: a bar on a terminal, else plain lines."""
    if sys.stderr.isatty():
        yield from _rich_bar(what)
    else:
        yield _plain_lines(what)


def _rich_bar(what: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    counts = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Bar(*counts, *times, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_lines(what: str) -> Progress:
    start = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_PER_LINE and (done < total or now - start < _SECONDS_PER_LINE):
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left = (total - done) / max(rate, 1e-9)
        click.echo(f"{what}: {done}/{total}, {rate:.1f}/s, {left:.0f} s left", err=True)

    return show
