"""Training runs, from a folder of tiles to a model file."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from geoseg.data.tiles import describe_training_area, load_tiles_info
from geoseg.errors import (
    ConfigError,
    GeosegError,
    ModelFileError,
    OutputExistsError,
    TrainingInterrupted,
    one_line,
)
from geoseg.evaluation.metrics import Score
from geoseg.geo.training_area import join_areas
from geoseg.jobs.manifest import read_manifest
from geoseg.jobs.output import check_output
from geoseg.jobs.progress import Report
from geoseg.networks.device import lacks_memory
from geoseg.networks.model_file import MODEL_NAME, find_model, save_model
from geoseg.options import ModelOptions, Thresholds, TrainOptions
from geoseg.training.batch_size import no_room_for
from geoseg.training.checkpoints import (
    LAST_NAME,
    best_weights,
    check_state,
    describe_run,
    mosaic_folder,
)
from geoseg.training.distributed import is_first, leave_group
from geoseg.training.figures import draw_or_warn
from geoseg.training.fine_tuning import describe_start
from geoseg.training.history import History
from geoseg.training.learner import Recipe
from geoseg.training.loading.loaders import TileLossRecorder, build_sampler, unwrap_worker_error
from geoseg.training.loading.mosaic import remove_mosaic
from geoseg.training.loading.sampling import HardSampler
from geoseg.training.loggers import check_loggers
from geoseg.training.loop import build_trainer
from geoseg.training.places import Places
from geoseg.training.run_folder import RunFolder, lock_run
from geoseg.training.run_length import describe_short_run
from geoseg.training.session import quiet_session
from geoseg.training.setup import Setup, build_loaders, prepare_once
from geoseg.training.validation.tuning import Tuned
from geoseg.version import __version__


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        model: Path of the model file.
        val_iou: Pixel IoU of the best epoch on the validation tiles, for exclusive classes their
            mean; None if no epoch was validated.
        val_f1: Building F1@0.5 on the validation tiles with the tuned thresholds, the mean over
            places; None for exclusive classes.
        thresholds: The tuned thresholds.
        minutes: Training time, over all resumptions.
        places: Counts of buildings of each place that counts in `val_f1`, if there are several.
        merged_places: Counts of buildings where labels merge touching buildings, of each place that
            has such areas, if they do not count in `val_f1` and there are several places.
    """

    model: Path
    val_iou: float | None
    val_f1: float | None
    thresholds: Thresholds
    minutes: float
    places: Mapping[str, Score] = field(default_factory=dict)
    merged_places: Mapping[str, Score] = field(default_factory=dict)


@quiet_session()
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
) -> TrainResult | None:
    """Train a network on a folder of tiles.

    Args:
        tiles: A folder made by `geoseg tile`.
        output: Folder of the run. It gets `model.safetensors`, `metrics.csv`, the training states
            `last.ckpt` and `best.ckpt`, and the pictures `curves.png`, `validation.png` and
            `reliability.png`.
        model: Options of the network.
        options: Options of training.
        recipe: Recipe for what the network predicts; the pixel recipe when None.
        resume: Continue from `last.ckpt` if it exists. Tiles and settings must be those that the
            run began with; only duration, device, `lr` and `clip_norm` may change.
        overwrite: Replace the run in the folder.
        progress_bar: Show Lightning's progress bar.
        report: Called with one line per epoch.

    Returns:
        The best model and its scores. None in every process but the first if several processes
        train together (`devices`, `nodes`), as only the first writes the model.

    Raises:
        GeosegError: If tiles, network and options do not fit together; nothing is written then.
        TrainingInterrupted: If ctrl-C or SIGTERM stopped training; `resume` continues it.
    """
    model, options, folder = model or ModelOptions(), options or TrainOptions(), Path(output)
    with lock_run(folder, options.loggers) as run:
        setup, settings, epochs = _check_run(
            tiles,
            folder,
            model=model,
            options=options,
            recipe=recipe,
            resume=resume,
            overwrite=overwrite,
        )
        try:
            return _train(
                setup, settings, epochs, folder, run,
                resume=resume, progress_bar=progress_bar, report=report,
            )  # fmt: skip
        except TrainingInterrupted:
            raise
        except KeyboardInterrupt:  # before the first step, or after the last
            message = _describe_interruption(folder / LAST_NAME, None)
            raise TrainingInterrupted(message, signal.SIGINT) from None


def _train(
    setup: Setup,
    settings: dict[str, Any],
    epochs: int,
    folder: Path,
    run: RunFolder,
    *,
    resume: bool,
    progress_bar: bool,
    report: Report,
) -> TrainResult | None:
    """Train a run that was checked; `epochs` epochs are already finished."""
    history = History(folder, setup.options, report, settings)
    trainer = build_trainer(
        folder, setup.options, setup.device, history, progress_bar=progress_bar, finished=epochs
    )
    first = trainer.is_global_zero  # of several processes, the one that reports and writes
    if not first:
        history.report = report = lambda _: None
    if first and not epochs:
        if resume:
            report(f"{folder}: has no run to resume; starting a new one")
        run.start(trainer.world_size)
    elif first:
        run.watch_logs()
    _fit(setup, trainer, folder, history, epochs)
    leave_group()
    return _finish(setup, folder, history, report) if first else None


@quiet_session()
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
    """Refuse what `train` would refuse, without writing anything.

    Args:
        tiles: See `train`.
        output: See `train`.
        model: See `train`.
        options: See `train`.
        recipe: See `train`.
        resume: See `train`.
        overwrite: See `train`.

    Returns:
        The network, data and options of the run, the settings that must not change on resume (see
        `describe_run`), and the number of finished epochs.

    Raises:
        GeosegError: As `train`.
    """
    return _check_run(
        tiles,
        output,
        model=model,
        options=options,
        recipe=recipe,
        resume=resume,
        overwrite=overwrite,
    )


def _check_run(
    tiles: str | Path,
    output: str | Path,
    *,
    model: ModelOptions,
    options: TrainOptions,
    recipe: Recipe | None,
    resume: bool,
    overwrite: bool,
) -> tuple[Setup, dict[str, Any], int]:
    check_loggers(options.loggers)
    folder = Path(output)
    if folder.resolve() == Path(tiles).resolve():
        raise ConfigError(f"{folder}: contains the tiles; choose another folder for the run")
    resuming = resume and (folder / LAST_NAME).is_file()
    if is_first() and not resuming:
        inputs = [tiles, *([find_model(model.start_from)] if model.start_from else [])]
        _check_folder(folder, inputs, resume=resume, overwrite=overwrite)
    # A resumed run reads its weights from the state, so pretrained ones are not needed.
    setup = prepare_once(tiles, model, options, recipe=recipe, pretrained=not resuming)
    # Of the tiles as they are stored: images may be normalized by another model's statistics.
    info = load_tiles_info(tiles)
    settings = describe_run(info, setup.model, setup.options, setup.start)
    if not resuming:
        return setup, settings, 0
    epochs = check_state(folder / LAST_NAME, setup.module, setup.options, settings)
    return setup, settings, epochs


def _check_folder(
    folder: Path, inputs: Sequence[str | Path], *, resume: bool, overwrite: bool
) -> None:
    """Check that a run may start in a folder."""
    if LAST_NAME in read_manifest(folder) and not (resume or overwrite):
        raise OutputExistsError(
            f"{folder}: already exists; continue its run with --resume, choose another output, or "
            "replace it with --overwrite"
        )
    # A run that was killed before its first epoch has a record, but nothing to resume.
    started = RunFolder(folder, ()).holds_run and not (folder / MODEL_NAME).exists()
    if not (resume and started):
        check_output(folder, overwrite=overwrite, inputs=inputs)


def _fit(setup: Setup, trainer: L.Trainer, folder: Path, history: History, epochs: int) -> None:
    """Train until an option ends the run; `epochs` epochs are already finished."""
    for line in _describe_start(setup, resumed=epochs > 0):
        history.report(line)
    sampler = build_sampler(
        setup.train_set,
        setup.options,
        setup.batch_size,
        rank=trainer.global_rank,
        world=trainer.world_size,
    )
    if isinstance(sampler, HardSampler):
        cast(Any, trainer).callbacks.insert(0, TileLossRecorder(sampler))
    # Loading processes fetch the first batches before Lightning calls set_epoch.
    sampler.set_epoch(epochs)
    last, mosaic = folder / LAST_NAME, mosaic_folder(folder, trainer.global_rank)
    loaders = build_loaders(setup, sampler, mosaic)
    state = str(last) if epochs else None
    try:
        trainer.fit(setup.module, *loaders, ckpt_path=state, weights_only=True)
    except SystemExit as error:
        received = _received_signal(error)
        if received is None:
            raise
        message = _describe_interruption(last, trainer.current_epoch)
        raise TrainingInterrupted(message, received) from None
    except GeosegError as error:
        if "\n" in str(error):
            raise unwrap_worker_error(error) from error
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and lacks_memory(error):
            raise no_room_for(setup.batch_size, setup.device) from error
        if state and not history.started:
            raise ModelFileError(
                f"{last}: cannot be resumed ({one_line(error)}); start again with --overwrite"
            ) from error
        raise
    remove_mosaic(mosaic)


def _received_signal(error: SystemExit) -> signal.Signals | None:
    """Return the signal for which Lightning exits, None for any other exit."""
    if isinstance(error, SIGTERMException):
        return signal.SIGTERM
    return signal.SIGINT if isinstance(error.__context__, KeyboardInterrupt) else None


def _finish(setup: Setup, folder: Path, history: History, report: Report) -> TrainResult:
    """Tune the best epoch on the validation tiles, save the model, then draw the pictures."""
    spec, weights = setup.spec, best_weights(folder)
    if not spec.exclusive:
        report("tuning thresholds on the validation tiles")
    tuned = setup.recipe.finish(spec, weights, setup.options.device, setup.val_set, setup.start)
    if tuned.f1 == 0:
        report("no building of the validation tiles is found; train longer, or check the labels")
    for note in tuned.notes:
        report(note)
    provenance = _provenance(setup, history, tuned)
    spec = spec.model_copy(update={"thresholds": tuned.thresholds, "provenance": provenance})
    save_model(folder / MODEL_NAME, weights, spec)
    # Only now: a run must not lose its model because a picture cannot be drawn.
    history.draw()
    for name, draw in tuned.pictures.items():
        draw_or_warn(draw, folder / name)
    if hint := describe_short_run(history.rows, setup.options, history.minutes):
        report(hint)
    return TrainResult(
        folder / MODEL_NAME,
        history.best_iou,
        tuned.f1,
        tuned.thresholds,
        history.minutes,
        tuned.places,
        tuned.merged_places,
    )


def _describe_start(setup: Setup, *, resumed: bool) -> Iterator[str]:
    """Yield lines about network, device and data, and about the model that training starts from."""
    spec, options = setup.spec, setup.options
    network = f"{spec.arch} with {spec.encoder}" if spec.encoder else spec.arch
    processes = options.devices * options.nodes
    times = f" x {processes} processes" if processes > 1 else ""
    share = setup.module.scored_share
    part = f", buildings scored on {share:.0%} of their area" if share < 1 else ""
    yield (
        f"{network} on {setup.device.type}: {len(setup.train_set)} training tiles, "
        f"{setup.batch_size}{times} per step, {len(setup.val_set)} validation tiles"
        f"{_describe_places(setup.val_set.places)}{part}"
    )
    if setup.start and not resumed:
        yield from describe_start(setup.start, setup.val_set, spec.outputs)


def _describe_places(places: Places) -> str:
    """Return how many places there are, and whether each has its own score."""
    count = len(places.names)
    if count == 1:
        return ""
    return f" in {count} places" + (" (scored together)" if places.scored is not places else "")


def _describe_interruption(last: Path, epochs: int | None) -> str:
    if not last.is_file():
        return "interrupted; no epoch was finished"
    if epochs is None:
        return "interrupted; --resume continues"
    return (
        f"interrupted; --resume continues from epoch {epochs}, and with "
        f"--set train.epochs={epochs} makes a model of the best epoch so far"
    )


def _provenance(setup: Setup, history: History, tuned: Tuned) -> dict[str, Any]:
    info, start = setup.train_set.info, setup.start
    own_area = describe_training_area(setup.train_set.folder)
    before = start.spec.provenance.get("training_area") if start else None
    merged = {} if tuned.merged_f1 is None else {"val_f1_merged": _rounded(tuned.merged_f1)}
    return {
        "geoseg": __version__,
        "torch": torch.__version__,
        "scenes": [Path(scene).name for scene in info.scenes],
        "split": info.split,
        "tiles": info.tiles,
        "training_area": join_areas([own_area, before]),
        "model": setup.model.model_dump(),
        "train": setup.options.model_dump(),
        "batch_size": setup.batch_size,
        "minutes": round(history.minutes, 2),
        "val_iou": _rounded(history.best_iou),
        "val_f1": _rounded(tuned.f1),
        **merged,
        "calibration": tuned.calibration,
        **tuned.describe_places(),
    } | ({"start": start.describe_origin()} if start else {})


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)
