"""`geoseg train`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

import click

from geoseg.cli.options import config_options, output_option, overwrite_option, resolve
from geoseg.config import Config
from geoseg.errors import ConfigError, RepeatedError, TrainingInterrupted

if TYPE_CHECKING:
    from geoseg.training.learner import Recipe

# Shells report a command that a signal ended by this plus its number: 130 for ctrl-C.
_SIGNAL_CODES = 128


@click.command()
@click.argument("tiles")
@output_option("Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from where the run stopped.")
@click.option(
    "--find-lr",
    is_flag=True,
    help="Name a good learning rate and stop.",
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

    Writes model.safetensors, metrics.csv, curves.png and validation.png into the run's folder, of
    buildings reliability.png, too; networks of boxes draw curves.png alone.
    """
    if find_lr and (resume or dry_run):
        other = "--resume" if resume else "--dry-run"
        raise ConfigError(f"--find-lr and {other} are two things; ask for one of them")
    if resume and overwrite:
        raise ConfigError(
            "--resume and --overwrite are two things: go on with the run, or start anew"
        )
    settings = resolve(config, overrides)
    if dry_run:
        _check(tiles, output, settings, overwrite=overwrite, resume=resume)
        return
    if find_lr:
        from geoseg.training.lr_finder import find_lr as search

        found = search(
            tiles,
            output,
            model=settings.model,
            options=settings.train,
            recipe=recipe_for(settings.model.arch),
            report=_say,
        )
        click.echo(f"--set train.lr={found.lr:.1e} → {found.picture}")
        return
    from geoseg.training.run import train

    try:
        result = train(
            tiles,
            output,
            model=settings.model,
            options=settings.train,
            recipe=recipe_for(settings.model.arch),
            resume=resume,
            overwrite=overwrite,
            progress_bar=sys.stderr.isatty(),
            report=_say,
        )
    except TrainingInterrupted as error:
        _exit_interrupted(error)
    except RepeatedError:
        sys.exit(2)  # the first process prints the error
    if result is None:
        return  # one of several processes; the first writes the model
    scores = {"val pixel IoU": result.val_iou, "val building F1": result.val_f1}
    said = [f", {name} {score:.3f}" for name, score in scores.items() if score is not None]
    click.echo(f"{result.minutes:.1f} min{''.join(said)} → {result.model}")


def recipe_for(arch: str) -> Recipe:
    """Return the training recipe for what an architecture predicts."""
    from geoseg.networks.architectures import task_of

    if task_of(arch) == "boxes":
        from geoseg.boxes.box_learner import BOX_RECIPE

        return BOX_RECIPE
    from geoseg.training.setup import PIXEL_RECIPE

    return PIXEL_RECIPE


def _exit_interrupted(error: TrainingInterrupted) -> NoReturn:
    """Print how to resume, once for all processes, and exit with the code of the signal."""
    from geoseg.training.distributed import is_first

    if is_first():
        _say(str(error))
    sys.exit(_SIGNAL_CODES + error.signal)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _check(tiles: str, output: str, settings: Config, *, overwrite: bool, resume: bool) -> None:
    """Refuses what a run would refuse, and says what it would do."""
    import yaml

    from geoseg.training.run import check_run

    setup, *_ = check_run(
        tiles,
        output,
        model=settings.model,
        options=settings.train,
        recipe=recipe_for(settings.model.arch),
        resume=resume,
        overwrite=overwrite,
    )
    click.echo(
        f"{tiles}: {len(setup.train_set)} tiles to train on, {len(setup.val_set)} to validate"
    )
    chosen = settings.model_dump(mode="json", include={"model", "train"})
    click.echo(yaml.safe_dump(chosen, sort_keys=False).rstrip())
