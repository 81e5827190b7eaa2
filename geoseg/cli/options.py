"""Options shared by several commands, and their precedence over the configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from glob import has_magic
from typing import Any, TypeVar

import click

from geoseg.cli.hints import option_of, suggest_for_word
from geoseg.cli.sections import check_overrides
from geoseg.config import Config, load_config
from geoseg.errors import ConfigError, DataError
from geoseg.geo.paths import is_missing, no_such_file
from geoseg.jobs.workers import DEFAULT_MEMORY_GB, Workers

# Exit code when a part of the inputs could not be read.
INCOMPLETE = 3

# Settings that are shares of 1, which users may give in percent.
_SHARES = ("vectorize.body", "vectorize.min_confidence", "tile.fractions")
_PERCENT = 100

Function = TypeVar("Function", bound=Callable[..., Any])


def config_options(function: Function) -> Function:
    """Add --config and --set."""
    function = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a setting, e.g. train.lr=1e-4. May be repeated.",
    )(function)
    return click.option(
        "--config",
        metavar="FILE",
        help="A YAML file, or one that comes with geoseg, such as configs/small.yaml.",
    )(function)


def overwrite_option(function: Function) -> Function:
    """Add --overwrite."""
    return click.option("--overwrite", is_flag=True, help="Replace an existing output.")(function)


def output_option(help_text: str) -> Callable[[Function], Function]:
    """Add -o/--output."""
    return click.option("-o", "--output", required=True, metavar="PATH", help=help_text)


def asset_option(function: Function) -> Function:
    """Add --asset."""
    return click.option(
        "--asset",
        metavar="KEY",
        help="Asset of STAC items that is the scene.  [default: by its role]",
    )(function)


def refuse_missing(*inputs: str) -> None:
    """Refuse missing files before the libraries that read them are imported.

    Raises:
        DataError: If a file is missing. Names with a colon may be GDAL's and are not checked, like
            patterns.
    """
    for name in inputs:
        if ":" not in name and not has_magic(name) and is_missing(name):
            context = click.get_current_context(silent=True)
            hint = suggest_for_word(str(context.info_name), name) if context else ""
            raise DataError(no_such_file(name) if not hint else f"{name}: no such file; {hint}")


def resolve(
    command: str, config: str | None, overrides: tuple[str, ...], *, note: str = "", **given: Any
) -> Config:
    """Load the configuration and apply the options of the command line to it.

    Args:
        command: Name of the command, which may use only its own settings from `--set`.
        config: A YAML file.
        overrides: `section.key=value`.
        note: What to add to the refusal of a setting that the command does not use.
        **given: Options by `section__key`; those that are None are ignored.
    """
    check_overrides(command, overrides, note)
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
        # What was not given stays so: some defaults depend on other settings.
        given_before = options.model_dump(exclude_unset=True)
        changed = type(options).model_validate(given_before | values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join((section, *map(str, first["loc"])))
        message = first["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        if first["loc"]:  # one option is wrong, not several together
            values = {name: value for name, value in values.items() if name == first["loc"][0]}
            key = option_of(f"{section}.{first['loc'][0]}")
        given = ", ".join(_as_typed(section, *item) for item in values.items())
        hint = "".join(_suggest_shares(section, *item) for item in values.items())
        raise ConfigError(f"{key}: {message} (given: {given}){hint}") from error
    return settings.model_copy(update={section: changed})


def _as_typed(section: str, name: str, value: Any) -> str:
    return f"{option_of(f'{section}.{name}')} {_plain(value)}"


def _suggest_shares(section: str, name: str, value: Any) -> str:
    """Suggest shares of 1 for percent; empty for settings that are no shares, and other values."""
    if f"{section}.{name}" not in _SHARES:
        return ""
    try:
        percent = [float(part) for part in (value if isinstance(value, tuple) else (value,))]
    except ValueError:
        return ""
    whole = sum(percent) == _PERCENT if isinstance(value, tuple) else 1 < percent[0] <= _PERCENT
    if not whole or min(percent) < 0:
        return ""
    shares = ",".join(f"{part / _PERCENT:g}" for part in percent)
    return f"; shares are from 0 to 1, not percent: {option_of(f'{section}.{name}')} {shares}"


def _plain(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def parse_bands(text: str | None) -> tuple[int | str, ...] | None:
    """Return bands by number or name from a text such as `3,2,1` or `red,nir`."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def parse_batch_size(text: str | None) -> int | None:
    """Return the number of tiles; None for `auto`."""
    if text is None or text == "auto":
        return None
    if not text.isdecimal():
        raise ConfigError(f"--batch-size {text}: give a number of tiles, or auto")
    return int(text)


def workers_options(*, memory: bool = True) -> Callable[[Function], Function]:
    """Add the options for processes, memory and clusters; `read_workers` reads them."""
    options = [
        click.option("--workers", type=click.IntRange(1), help="Worker processes.  [default: 1]"),
        click.option(
            "--threads", type=click.IntRange(1), help="Threads per process.  [default: the cores]"
        ),
        click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler, tcp://host:8786."),
        click.option("--scheduler-file", metavar="FILE", help="Scheduler file of a Dask cluster."),
        click.option("--tls-ca", metavar="FILE", help="Certificate authority of a tls:// cluster."),
        click.option("--tls-cert", metavar="FILE", help="Own certificate for a tls:// cluster."),
        click.option("--tls-key", metavar="FILE", help="Key of that certificate."),
        click.option(
            "--resources",
            metavar="NAME=N",
            help="What cluster workers need to predict, e.g. GPU=1 (Dask's --resources).",
        ),
    ]
    if memory:
        options.append(
            click.option(
                "--max-memory", metavar="SIZE", help="Memory per process, e.g. 2GB.  [default: 4GB]"
            )
        )

    def add(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def read_workers(given: dict[str, Any]) -> Workers:
    """Take the options of `workers_options` out of the keyword arguments of a command."""
    names = ("threads", "scheduler", "scheduler_file", "tls_ca", "tls_cert", "tls_key")
    settings = {name: given.pop(name) for name in names}
    memory_gb = parse_memory(given.pop("max_memory", None))
    return Workers(
        processes=given.pop("workers"),
        max_memory_gb=memory_gb or DEFAULT_MEMORY_GB,
        resources=parse_resources(given.pop("resources")),
        **settings,
    )


def parse_resources(text: str | None) -> dict[str, float] | None:
    """Return Dask's resources from a text such as `GPU=1` or `GPU=1,MEMORY=8e9`."""
    if text is None:
        return None
    found = re.findall(r"(?:^|,)\s*([A-Za-z]\w*)\s*=\s*(\d+\.?\d*(?:e\d+)?)\s*(?=,|$)", text)
    if len(found) != text.count(",") + 1:
        raise ConfigError(f"--resources {text}: give names with numbers, such as GPU=1")
    return {name: float(number) for name, number in found}


# Gigabytes per unit.
_GIGABYTES = {"": 1.0, "g": 1.0, "gb": 1.0, "m": 1e-3, "mb": 1e-3, "t": 1e3, "tb": 1e3}


# Gigabytes; the libraries alone need more, which is checked when the work is planned.
_LEAST_MEMORY_GB = 0.1


def parse_memory(text: str | None) -> float | None:
    """Return gigabytes from a text such as `2GB` or `800MB`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip().lower(), re.ASCII)
    if not found or found[2] not in _GIGABYTES:
        raise ConfigError(f"--max-memory {text}: give a size such as 2GB or 800MB")
    gigabytes = float(found[1]) * _GIGABYTES[found[2]]
    if gigabytes < _LEAST_MEMORY_GB:
        raise ConfigError(
            f"--max-memory {text}: is too little; give {_LEAST_MEMORY_GB:g}GB or more"
        )
    return gigabytes
