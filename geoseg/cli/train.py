"""The command `geoseg train`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import click

from geoseg.cli.options import config_options, output_option, overwrite_option, resolve
from geoseg.config import Config
from geoseg.errors import ConfigError, GeosegError, RepeatedError, TrainingInterrupted
from geoseg.options import TileOptions

if TYPE_CHECKING:
    from geoseg.evaluation.metrics import Score

# Shells report a command that a signal ended by this plus its number: 130 for ctrl-C.
_SIGNAL_CODES = 128


@click.command()
@click.argument("tiles")
@output_option("Folder of the run.")
@click.option(
    "--from",
    "start_from",
    metavar="MODEL",
    help="Continue from a trained model: a file, a run, or an installed one, e.g. buildings.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option(
    "--find-lr",
    is_flag=True,
    help="Find a good learning rate, and stop.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, print the settings, and stop.")
@overwrite_option
@config_options
def command(
    tiles: str,
    output: str,
    start_from: str | None,
    resume: bool,
    find_lr: bool,
    dry_run: bool,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Train a network on a folder of tiles.

    Writes model.safetensors, metrics.csv and figures (curves.png, validation.png and, for
    buildings, reliability.png) into the folder of the run.
    """
    if find_lr and (resume or dry_run):
        other = "--resume" if resume else "--dry-run"
        raise ConfigError(f"--find-lr and {other} exclude each other; give one of them")
    note = _describe_tiles(tiles, overrides)
    settings = resolve("train", config, overrides, note=note, model__start_from=start_from)
    if config is not None:
        _warn_of_other_tiles(tiles, config, settings.tile)
    if dry_run:
        _check(tiles, output, settings, overwrite=overwrite, resume=resume)
        return
    what: dict[str, Any] = {"model": settings.model, "options": settings.train}
    from geoseg.api import train as api

    if find_lr:
        rate = api.find_lr(tiles, output, overwrite=overwrite, report=_print, **what)
        click.echo(f"--set train.lr={rate.lr:.1e} → {rate.picture}")
        return
    try:
        result = api.train(
            tiles,
            output,
            resume=resume,
            overwrite=overwrite,
            progress_bar=sys.stderr.isatty(),
            report=_print,
            **what,
        )
    except TrainingInterrupted as error:
        _exit_interrupted(error)
    except RepeatedError:
        sys.exit(2)  # the first process prints the error
    if result is None:
        return  # one of several processes; the first writes the model
    iou = "val mean IoU of classes" if result.val_f1 is None else "val pixel IoU"
    scores = {iou: result.val_iou, "val building F1": result.val_f1}
    text = "".join(f", {name} {score:.3f}" for name, score in scores.items() if score is not None)
    text += _describe_places(result.places, result.merged_places)
    click.echo(f"{result.minutes:.1f} min{text} → {result.model}")


def _describe_places(places: Mapping[str, Score], merged_places: Mapping[str, Score]) -> str:
    """Return building F1 of each place, false buildings without true ones, and what is left out."""
    from geoseg.training.validation.tuning import list_not_counted

    scores = {name: counts for name, counts in places.items() if counts.tp + counts.fn}
    not_counted = list_not_counted(places, merged_places)
    parts = [f"{name} {counts.f1:.3f}" for name, counts in scores.items()]
    false = [
        f"{name} {counts.fp}"
        for name, counts in places.items()
        if name not in scores and (counts.fp or name not in not_counted)
    ]
    text = f"weighted mean of {', '.join(parts)}" if parts else "no place has buildings"
    text += f"; false buildings where there are none: {', '.join(false)}" if false else ""
    text += f"; {', '.join(not_counted)} not counted, merged labels" if not_counted else ""
    return f" ({text})" if places else ""


def _exit_interrupted(error: TrainingInterrupted) -> NoReturn:
    """Print how to resume, once for all processes, and exit with the code of the signal."""
    from geoseg.training.distributed import is_first

    if is_first():
        _print(str(error))
    sys.exit(_SIGNAL_CODES + error.signal)


def _describe_tiles(tiles: str, overrides: tuple[str, ...]) -> str:
    """Return how the tiles were cut, if settings of tiles are given; they cannot change any more.

    A folder that is not one of tiles is refused later.
    """
    from geoseg.data.tiles import list_cut_settings, load_tiles_info

    keys = [key.strip() for key, _, _ in (override.partition("=") for override in overrides)]
    if not any(key.startswith("tile.") for key in keys):
        return ""
    try:
        cut = list_cut_settings(load_tiles_info(tiles))
    except GeosegError:
        return ""
    known = [f"{key}={cut[key]}" for key in keys if key in cut]
    return f", since {tiles} was cut with {', '.join(known)}" if known else ""


def _warn_of_other_tiles(tiles: str, config: str, options: TileOptions) -> None:
    """Warn if a file sets something else for tiles than they were cut with."""
    from geoseg.data.tiles import find_other_settings, load_tiles_info

    for key, (given, cut) in find_other_settings(load_tiles_info(tiles), options).items():
        _print(
            f"{config}: {key} is {given}, but {tiles} was cut with {cut}, which is used; to change "
            "it, run geoseg tile again"
        )


def _print(line: str) -> None:
    click.echo(line, err=True)


def _check(tiles: str, output: str, settings: Config, *, overwrite: bool, resume: bool) -> None:
    """Check everything that a run would check, and print its settings."""
    import yaml

    from geoseg.api.train import plan_train

    setup = plan_train(
        tiles,
        output,
        model=settings.model,
        options=settings.train,
        resume=resume,
        overwrite=overwrite,
    )
    click.echo(
        f"{tiles}: {len(setup.train_set)} tiles to train on, {len(setup.val_set)} to validate"
    )
    used = {"model": setup.model, "train": setup.options}
    chosen = {section: options.model_dump(mode="json") for section, options in used.items()}
    click.echo(yaml.safe_dump(chosen, sort_keys=False).rstrip())
