"""Tiles → a model: the loop is Lightning's, the recipe is here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from geoseg import __version__
from geoseg.errors import ConfigError, GeosegError
from geoseg.jobs.output import check_output
from geoseg.jobs.progress import Report
from geoseg.networks.device import lacks_memory
from geoseg.networks.model_file import save_model
from geoseg.options import ModelOptions, Thresholds, TrainOptions
from geoseg.training.batch_size import no_room_for
from geoseg.training.checkpoints import (
    LAST_NAME,
    MODEL_NAME,
    best_weights,
    check_state,
    clear_run,
    describe_run,
    mosaic_folder,
)
from geoseg.training.distributed import is_first
from geoseg.training.history import History
from geoseg.training.learner import Recipe
from geoseg.training.loading.loaders import LossesOfTiles, build_sampler, words_of_worker
from geoseg.training.loading.mosaic import remove_mosaic
from geoseg.training.loading.sampling import HardSampler
from geoseg.training.loggers import check_loggers
from geoseg.training.loop import build_trainer
from geoseg.training.setup import Setup, build_loaders, prepare_once
from geoseg.training.validation.tuning import Tuned

# Exit codes, as shells have them.
_INTERRUPTED, _TERMINATED = 130, 143


@dataclass(frozen=True)
class TrainResult:
    """What a training run ended with.

    Attributes:
        model: Path of the model file.
        val_iou: Pixel IoU of the best epoch on validation tiles; of exclusive classes their mean;
            None where no epoch was validated.
        val_f1: Building F1@0.5 on validation ground with the tuned thresholds; None of exclusive
            classes.
        thresholds: The tuned thresholds.
        minutes: Time in the loop, over all resumptions.
    """

    model: Path
    val_iou: float | None
    val_f1: float | None
    thresholds: Thresholds
    minutes: float


def train(
    tiles: str | Path,
    output: str | Path,
    *,
    model: ModelOptions | None = None,
    options: TrainOptions | None = None,
    recipe: Recipe | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress_bar: bool = False,
    report: Report = lambda _: None,
) -> TrainResult:
    """Trains a network on a folder of tiles.

    Args:
        tiles: A folder made by `geoseg tile`.
        output: The run's folder: `model.safetensors`, `metrics.csv`, the states `last.ckpt` and
            `best.ckpt`, and the pictures `curves.png`, `validation.png` and `reliability.png`.
        model: Which network.
        options: How to train it.
        recipe: The recipe for what the network predicts; that for pixels when None.
        resume: Go on from `last.ckpt` if it is there; with the tiles and settings that the run
            began with, but for when it ends, what computes, `lr` and `clip_norm`.
        overwrite: Start anew in a folder that holds a run.
        progress_bar: Show Lightning's progress bar.
        report: Told one line per epoch.

    Returns:
        The best model and its scores.

    Raises:
        GeosegError: If tiles, network and options do not work together; nothing is written
            then.
    """
    model, options, folder = model or ModelOptions(), options or TrainOptions(), Path(output)
    setup, settings, epochs = check_run(
        tiles,
        folder,
        model=model,
        options=options,
        recipe=recipe,
        resume=resume,
        overwrite=overwrite,
    )
    history = History(folder, setup.options, report, settings)
    trainer = build_trainer(folder, setup.options, setup.device, history, progress_bar=progress_bar)
    first = trainer.is_global_zero  # of several processes, the one that writes and speaks
    if not first:
        history.report = report = lambda _: None
    if first and not epochs:
        if resume:
            report(f"{folder}: holds no run to go on with; beginning one")
        clear_run(folder, trainer.world_size)
    _fit(setup, trainer, folder, report, epochs)
    if not first:
        raise SystemExit(0)  # one process is enough for what follows
    return _finish(setup, model, folder, history, report)


def check_run(
    tiles: str | Path,
    output: str | Path,
    *,
    model: ModelOptions,
    options: TrainOptions,
    recipe: Recipe | None = None,
    resume: bool,
    overwrite: bool,
) -> tuple[Setup, dict[str, Any], int]:
    """Refuses what `train` would refuse, writing nothing; the arguments are those of `train`.

    Returns:
        What the run begins with, what must stay the same in it (see `describe_run`), and how many
        of its epochs are finished.

    Raises:
        GeosegError: As `train`.
    """
    check_loggers(options.loggers)
    folder = Path(output)
    if folder.resolve() == Path(tiles).resolve():
        raise ConfigError(f"{folder}: holds the tiles; choose another folder for the run")
    resuming = resume and (folder / LAST_NAME).is_file()
    if is_first():
        begun = resume and not (folder / MODEL_NAME).exists()
        check_output(output, overwrite=overwrite or resuming or begun)
    setup = prepare_once(tiles, model, options, recipe=recipe, pretrained=not resuming)
    settings = describe_run(setup.train_set.info, model, options)
    if not resuming:
        return setup, settings, 0
    epochs = check_state(folder / LAST_NAME, setup.module, setup.options, settings)
    return setup, settings, epochs


def _fit(setup: Setup, trainer: L.Trainer, folder: Path, report: Report, epochs: int) -> None:
    """Trains until the options say that it is enough; `epochs` are finished already."""
    report(_opening(setup))
    sampler = build_sampler(
        setup.train_set,
        setup.options,
        setup.batch_size,
        rank=trainer.global_rank,
        world=trainer.world_size,
    )
    if isinstance(sampler, HardSampler):
        cast(Any, trainer).callbacks.insert(0, LossesOfTiles(sampler))
    # Where processes load, they ask for the first batches before Lightning says which epoch it is.
    sampler.set_epoch(epochs)
    # Of more finished epochs than are wanted the best becomes the model.
    trainer.fit_loop.max_epochs = max(setup.options.epochs, epochs)
    last, ground = folder / LAST_NAME, mosaic_folder(folder, trainer.global_rank)
    loaders = build_loaders(setup, sampler, ground)
    begun = str(last) if epochs else None
    try:
        trainer.fit(setup.module, *loaders, ckpt_path=begun, weights_only=True)
    except SystemExit as error:  # Lightning's answer to ctrl-C, and to SIGTERM
        report(_interrupted(last, trainer.current_epoch))
        code = _TERMINATED if isinstance(error, SIGTERMException) else _INTERRUPTED
        raise SystemExit(code) from None
    except GeosegError as error:
        if "\n" in str(error):
            raise words_of_worker(error) from error
        raise
    except RuntimeError as error:
        if lacks_memory(error):
            raise no_room_for(setup.batch_size, setup.device) from error
        raise
    remove_mosaic(ground)


def _finish(
    setup: Setup, model: ModelOptions, folder: Path, history: History, report: Report
) -> TrainResult:
    """Tunes the best epoch on validation ground, and writes the model."""
    history.draw()
    spec, weights = setup.spec, best_weights(folder)
    if not spec.exclusive:
        report("tuning thresholds on validation ground")
    tuned = setup.recipe.finish(spec, weights, setup.options.device, setup.val_set, folder)
    if tuned.f1 == 0:
        report("no building of the validation ground is found; train longer, or look at its labels")
    provenance = _provenance(setup, model, history, tuned)
    spec = spec.model_copy(update={"thresholds": tuned.thresholds, "provenance": provenance})
    save_model(folder / MODEL_NAME, weights, spec)
    return TrainResult(
        folder / MODEL_NAME, history.best_iou, tuned.f1, tuned.thresholds, history.minutes
    )


def _opening(setup: Setup) -> str:
    """What begins, in one line."""
    spec, options = setup.spec, setup.options
    network = f"{spec.arch} on {spec.encoder}" if spec.encoder else spec.arch
    processes = options.devices * options.nodes
    times = f" x {processes} processes" if processes > 1 else ""
    share = setup.module.scored_share
    part = f", buildings on {share:.0%} of that ground" if share < 1 else ""
    return (
        f"{network}, computed by {setup.device.type}: {len(setup.train_set)} tiles to learn from, "
        f"{setup.batch_size}{times} in a step, {len(setup.val_set)} to validate{part}"
    )


def _interrupted(last: Path, epochs: int) -> str:
    if not last.is_file():
        return "interrupted; no epoch was finished"
    return (
        f"interrupted; --resume goes on from epoch {epochs}, and with --set train.epochs={epochs} "
        "makes a model of the best so far"
    )


def _provenance(
    setup: Setup, model: ModelOptions, history: History, tuned: Tuned
) -> dict[str, Any]:
    info = setup.train_set.info
    return {
        "geoseg": __version__,
        "torch": torch.__version__,
        "scenes": [Path(scene).name for scene in info.scenes],
        "split": info.split,
        "tiles": info.tiles,
        "model": model.model_dump(),
        "train": setup.options.model_dump(),
        "batch_size": setup.batch_size,
        "minutes": round(history.minutes, 2),
        "val_iou": _rounded(history.best_iou),
        "val_f1": _rounded(tuned.f1),
        "calibration": tuned.calibration,
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)
