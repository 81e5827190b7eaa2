"""Options that several commands share, and how they override the configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from geoseg.config import Config, load_config
from geoseg.errors import ConfigError, DataError
from geoseg.geo.paths import is_missing, no_such_file

Function = TypeVar("Function", bound=Callable[..., Any])


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


def refuse_missing(*inputs: str) -> None:
    """Refuses files that are not there before what opens them is imported, which takes seconds.

    Raises:
        DataError: If one is missing. Names with a colon may mean something to GDAL alone.
    """
    for name in inputs:
        if ":" not in name and is_missing(name):
            raise DataError(no_such_file(name))


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
    parts = [part.strip() for part in text.split(",")]
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def parse_batch_size(text: str | None) -> int | None:
    """`auto` or a number → the number, or None."""
    if text is None or text == "auto":
        return None
    if not text.isdecimal():
        raise ConfigError(f"--batch-size {text}: give a number of tiles, or auto")
    return int(text)


# What letters after a size stand for, in gigabytes.
_GIGABYTES = {"": 1.0, "g": 1.0, "gb": 1.0, "m": 1e-3, "mb": 1e-3, "t": 1e3, "tb": 1e3}


def parse_memory(text: str | None) -> float | None:
    """`2GB` or `800MB` → gigabytes."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip().lower(), re.ASCII)
    if not found or found[2] not in _GIGABYTES:
        raise ConfigError(f"--max-memory {text}: give a size such as 2GB or 800MB")
    return float(found[1]) * _GIGABYTES[found[2]]
