"""Options and output that several commands share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from geoseg.config import Config, load_config

Function = TypeVar("Function", bound=Callable[..., Any])
Progress = Callable[[int, int], None]

# Where no terminal shows a bar, a line is written this often.
_SECONDS_PER_LINE = 10.0


def config_options(function: Function) -> Function:
    """Adds --config and --set."""
    function = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a setting, e.g. train.lr=1e-4. May be repeated.",
    )(function)
    return click.option(
        "--config", metavar="FILE", help="A YAML file, or one that geoseg ships: configs/small.yaml"
    )(function)


def overwrite_option(function: Function) -> Function:
    """Adds --overwrite."""
    return click.option("--overwrite", is_flag=True, help="Replace the output if it is there.")(
        function
    )


def output_option(help_text: str) -> Callable[[Function], Function]:
    """Adds -o/--output."""
    return click.option("-o", "--output", required=True, metavar="PATH", help=help_text)


def resolve(config: str | None, overrides: tuple[str, ...], **given: Any) -> Config:
    """Loads the configuration, the options given on the command line over it.

    Args:
        config: A YAML file.
        overrides: `section.key=value`.
        **given: Options by `section__key`; None means not given.
    """
    settings = load_config(config, overrides)
    sections: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        if value is not None:
            section, key = name.split("__")
            sections.setdefault(section, {})[key] = value
    for section, values in sections.items():
        settings = _replace(settings, section, values)
    return settings


def _replace(settings: Config, section: str, values: dict[str, Any]) -> Config:
    import pydantic

    from geoseg.errors import ConfigError

    options = getattr(settings, section)
    try:
        changed = type(options).model_validate(options.model_dump() | values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join((section, *map(str, first["loc"])))
        message = first["msg"].removeprefix("Value error, ")
        given = ", ".join(f"{name} {value}" for name, value in values.items())
        raise ConfigError(f"{key}: {message} (given: {given})") from error
    return settings.model_copy(update={section: changed})


def parse_bands(text: str | None) -> tuple[int | str, ...] | None:
    """`3,2,1` or `red,nir` → bands by number or name."""
    if text is None:
        return None
    return tuple(int(part) if part.strip().isdigit() else part.strip() for part in text.split(","))


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
