"""The command `geoseg train`."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from geoseg.cli.options import config_options, output_option, overwrite_option, resolve
from geoseg.config import Config
from geoseg.errors import ConfigError, RepeatedError, TrainingInterrupted

# Shells report a command that a signal ended by this plus its number: 130 for ctrl-C.
_SIGNAL_CODES = 128


@click.command()
@click.argument("tiles")
@output_option("Folder of the run.")
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
    settings = resolve(config, overrides)
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
    click.echo(f"{result.minutes:.1f} min{text} → {result.model}")


def _exit_interrupted(error: TrainingInterrupted) -> NoReturn:
    """Print how to resume, once for all processes, and exit with the code of the signal."""
    from geoseg.training.distributed import is_first

    if is_first():
        _print(str(error))
    sys.exit(_SIGNAL_CODES + error.signal)


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
    chosen = settings.model_dump(mode="json", include={"model", "train"})
    click.echo(yaml.safe_dump(chosen, sort_keys=False).rstrip())
