"""Train a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.errors import ConfigError
from geoseg.jobs.progress import Report
from geoseg.networks.architectures import resolve_architecture, task_of
from geoseg.networks.starting_model import find_start, use_network
from geoseg.options import ModelOptions, TrainOptions

if TYPE_CHECKING:
    from geoseg.training.learner import Recipe
    from geoseg.training.lr_finder import FoundRate
    from geoseg.training.run import TrainResult
    from geoseg.training.setup import Setup


def train(
    tiles: str | Path,
    output: str | Path,
    *,
    model: ModelOptions | None = None,
    options: TrainOptions | None = None,
    start_from: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress_bar: bool = False,
    report: Report | None = None,
) -> TrainResult | None:
    """Train a network on a folder of tiles.

    Args:
        tiles: A folder made by `geoseg.tile`.
        output: Folder of the run: `model.safetensors`, `metrics.csv`, checkpoints and figures.
        model: Architecture, encoder and their options; the defaults when None.
        options: Settings of training; the defaults when None.
        start_from: Trained model to continue from, with its network and all its weights: a model
            file, the folder of a run, or the name of a model that is installed with geoseg. As
            `model.start_from`.
        resume: Continue an interrupted run.
        overwrite: Start anew in the folder of an earlier run.
        progress_bar: Show a progress bar on standard error.
        report: Called with one line per epoch.

    Returns:
        The model file with its scores; None in every process but the first, if several processes
        train together.

    Raises:
        GeosegError: If tiles, network and options do not fit together; nothing is written then.
        TrainingInterrupted: If ctrl-C or SIGTERM stopped training; `resume` continues it.
    """
    _check_start(resume, overwrite)
    model, network = _check_inputs(tiles, model, start_from)
    from geoseg.training.run import train as run

    return run(
        tiles,
        output,
        model=model,
        options=options,
        recipe=_choose_recipe(network),
        resume=resume,
        overwrite=overwrite,
        progress_bar=progress_bar,
        report=report or _ignore,
    )


def find_lr(
    tiles: str | Path,
    output: str | Path,
    *,
    model: ModelOptions | None = None,
    options: TrainOptions | None = None,
    start_from: str | Path | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> FoundRate:
    """Find a good learning rate by a short run with rising rates.

    The rates and losses are written to `OUTPUT_learning_rates.csv` and drawn in
    `OUTPUT_learning_rates.png`. Arguments and errors are those of `train`.
    """
    model, network = _check_inputs(tiles, model, start_from)
    from geoseg.training.lr_finder import find_lr as search

    return search(
        tiles,
        output,
        model=model,
        options=options or TrainOptions(),
        recipe=_choose_recipe(network),
        overwrite=overwrite,
        report=report or _ignore,
    )


def plan_train(
    tiles: str | Path,
    output: str | Path,
    *,
    model: ModelOptions | None = None,
    options: TrainOptions | None = None,
    start_from: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Setup:
    """Check tiles, network and options, writing nothing; arguments and errors as of `train`."""
    _check_start(resume, overwrite)
    model, network = _check_inputs(tiles, model, start_from)
    from geoseg.training.run import check_run

    setup, *_ = check_run(
        tiles,
        output,
        model=model,
        options=options or TrainOptions(),
        recipe=_choose_recipe(network),
        resume=resume,
        overwrite=overwrite,
    )
    return setup


def _check_start(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ConfigError(
            "--resume and --overwrite exclude each other: continue the run, or start anew"
        )


def _check_inputs(
    tiles: str | Path, model: ModelOptions | None, start_from: str | Path | None
) -> tuple[ModelOptions, ModelOptions]:
    """Refuse what can be refused before torch is imported, which takes seconds.

    Returns:
        The given options, and those of the network that is trained.
    """
    from geoseg.data.tiles import load_tiles_info

    model = model or ModelOptions()
    if start_from is not None:
        model = model.model_copy(update={"start_from": str(start_from)})
    network = use_network(model, find_start(model))
    resolve_architecture(network.arch)
    load_tiles_info(tiles)
    return model, network


def _choose_recipe(model: ModelOptions) -> Recipe | None:
    """Return the recipe of networks of boxes; None for that of pixels."""
    if task_of(model.arch) != "boxes":
        return None
    from geoseg.detection.box_learner import BOX_RECIPE

    return BOX_RECIPE


def _ignore(_: str) -> None:
    """Report nothing."""
