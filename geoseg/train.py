"""Tiles → a model: the loop is Lightning's, the recipe is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

from geoseg import __version__
from geoseg.batch_size import find_batch_size
from geoseg.boxes.learner import BOX_RECIPE
from geoseg.dataset import Sample, TileDataset
from geoseg.device import choose_device
from geoseg.errors import ConfigError, GeosegError
from geoseg.finish import finish
from geoseg.ground import gather_ground, remove_ground
from geoseg.history import History
from geoseg.journal import check_output
from geoseg.learner import Learner, Recipe
from geoseg.loading import LossesOfTiles, build_sampler, build_train_loader, build_val_loader
from geoseg.loggers import check_loggers
from geoseg.loop import build_trainer, quieten_lightning
from geoseg.model_file import ModelSpec, save_model
from geoseg.models import (
    build_model,
    check_tile_size,
    choose_encoder,
    resolve_architecture,
    task_of,
)
from geoseg.options import ModelOptions, Thresholds, TrainOptions
from geoseg.ranks import adopt_started, check_processes, is_first
from geoseg.sampling import DrawSampler, HardSampler
from geoseg.segmenter import Segmenter
from geoseg.states import (
    MODEL_NAME,
    best_weights,
    check_state,
    clear_run,
    describe_run,
    locate_ground,
)
from geoseg.tiles import TilesInfo, load_tiles_info
from geoseg.tune import Tuned
from geoseg.validate import ValidationGround

Report = Callable[[str], None]


@dataclass(frozen=True)
class TrainResult:
    """What a training run ended with.

    Attributes:
        model: Path of the model file.
        val_iou: Pixel IoU of the best epoch on validation tiles; of exclusive classes their mean.
        val_f1: Building F1@0.5 on validation ground with the tuned thresholds; None of exclusive
            classes.
        thresholds: The tuned thresholds.
        minutes: Time in the loop, over all resumptions.
    """

    model: Path
    val_iou: float
    val_f1: float | None
    thresholds: Thresholds
    minutes: float


def train(
    tiles: str | Path,
    output: str | Path,
    *,
    model: ModelOptions | None = None,
    options: TrainOptions | None = None,
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
        resume: Go on from `last.ckpt` if it is there; with the tiles and settings that the run
            began with, but for when it ends and what computes.
        overwrite: Start anew in a folder that holds a run.
        progress_bar: Show Lightning's progress bar.
        report: Told one line per epoch.

    Returns:
        The best model and its scores.

    Raises:
        GeosegError: If tiles, network and options do not work together; nothing is written
            then.
    """
    model, options = model or ModelOptions(), options or TrainOptions()
    check_loggers(options.loggers)
    folder, last = Path(output), Path(output) / "last.ckpt"
    resuming = resume and last.is_file()
    setup = _prepare_once(tiles, model, options, pretrained=not resuming)
    options = setup.options
    run = describe_run(setup.train_set.info, model, options)
    history = History(folder, options, report, run)
    trainer = build_trainer(folder, options, setup.device, history, progress_bar=progress_bar)
    first = trainer.is_global_zero  # of several processes, the one that writes and speaks
    if first:
        begun = resume and not (folder / MODEL_NAME).exists()
        check_output(output, overwrite=overwrite or resuming or begun)
    else:
        history.report = report = lambda _: None
    sampler = build_sampler(
        setup.train_set,
        options,
        setup.batch_size,
        rank=trainer.global_rank,
        world=trainer.world_size,
    )
    if isinstance(sampler, HardSampler):
        cast(Any, trainer).callbacks.insert(0, LossesOfTiles(sampler))
    checkpoint = str(check_state(last, setup.module, options, run)) if resuming else None
    if not resuming and first:
        if resume:
            report(f"{folder}: holds no run to go on with; beginning one")
        clear_run(folder, trainer.world_size)
    report(_opening(setup))
    at = locate_ground(folder, trainer.global_rank)
    loaders = build_loaders(setup, sampler, at)
    try:
        trainer.fit(setup.module, *loaders, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to ctrl-C
        report(_interrupted(last))
        raise
    remove_ground(at)
    if not first:
        raise SystemExit(0)  # one process is enough for what follows

    history.draw()
    spec, weights = setup.spec, best_weights(folder / "best.ckpt")
    if not spec.exclusive:
        report("tuning thresholds on validation ground")
    tuned = setup.recipe.finish(spec, weights, options.device, setup.val_set, folder)
    if tuned.f1 == 0:
        report("no building of the validation ground is found; train longer, or look at its labels")
    provenance = _provenance(setup, model, options, history, tuned)
    spec = spec.model_copy(update={"thresholds": tuned.thresholds, "provenance": provenance})
    save_model(folder / MODEL_NAME, weights, spec)
    return TrainResult(
        folder / MODEL_NAME, history.best_iou, tuned.f1, tuned.thresholds, history.minutes
    )


@dataclass(frozen=True)
class Setup:
    """What a training run begins with.

    Attributes:
        recipe: What depends on what the network finds.
        train_set: Tiles to learn from.
        val_set: Tiles to be judged on.
        spec: The model's header as far as it is known.
        module: The network with its loss and its optimiser.
        options: How to train.
        batch_size: Tiles per step of a device.
        device: What computes.
    """

    recipe: Recipe
    train_set: TileDataset
    val_set: TileDataset
    spec: ModelSpec
    module: Learner
    options: TrainOptions
    batch_size: int
    device: torch.device


def _prepare_once(
    tiles: str | Path, model: ModelOptions, options: TrainOptions, *, pretrained: bool
) -> Setup:
    """As `prepare`, but of several processes that are refused the same only the first says so."""
    try:
        return prepare(tiles, model, options, pretrained=pretrained)
    except GeosegError:
        if is_first():
            raise
        raise SystemExit(2) from None


def prepare(
    tiles: str | Path, model: ModelOptions, options: TrainOptions, *, pretrained: bool = True
) -> Setup:
    """Reads tiles and builds the network for them, writing nothing.

    Args:
        tiles: A folder made by `geoseg tile`.
        model: Which network.
        options: How to train it.
        pretrained: Load the weights that the encoder has learnt before.

    Raises:
        GeosegError: If tiles, network and options do not work together.
    """
    recipe, options = RECIPES[task_of(model.arch)], adopt_started(options)
    if load_tiles_info(tiles).exclusive and task_of(model.arch) == "boxes":
        raise ConfigError(
            f"{tiles}: holds exclusive classes, which {model.arch} cannot learn, as it finds boxes "
            "around buildings; choose a network of pixels (geoseg models)"
        )
    train_set, val_set = recipe.datasets(tiles, options)
    device = choose_device(options.device)
    check_processes(options, len(val_set), device)
    quieten_lightning()
    L.seed_everything(options.seed, verbose=False)
    spec = _describe(train_set.info, model, recipe)
    network = build_model(
        spec.arch,
        spec.encoder,
        bands=spec.bands,
        outputs=len(spec.outputs),
        encoder_weights=model.encoder_weights if pretrained else None,
        options=spec.options,
    )
    check_tile_size(network, spec.size)
    learnt = spec.encoder is not None and model.encoder_weights is not None
    module = recipe.learner(network, train_set, val_set, options, learnt)
    batch_size = options.batch_size
    if batch_size == "auto":
        batch_size = find_batch_size(module, spec, device, most=len(train_set))
    if options.compile:
        network.compile()
    return Setup(recipe, train_set, val_set, spec, module, options, batch_size, device)


def _load_tiles(folder: str | Path, options: TrainOptions) -> tuple[TileDataset, TileDataset]:
    weighing = options.weight_map
    sigma_px = weighing.sigma(load_tiles_info(folder).gsd_m) if weighing else None
    train_set, val_set = (TileDataset(folder, s, sigma_px=sigma_px) for s in ("train", "val"))
    return train_set, val_set


def _segment(
    network: nn.Module,
    train_set: TileDataset,
    val_set: TileDataset,
    options: TrainOptions,
    pretrained: bool,
) -> Learner:
    ground = None if val_set.info.exclusive else ValidationGround(val_set)
    share = train_set.building_share
    return Segmenter(
        network, val_set.info, options, building_share=share, pretrained=pretrained, ground=ground
    )


# By what a network finds, see `task_of`.
RECIPES = {
    "pixels": Recipe(
        datasets=_load_tiles,
        outputs=lambda info: info.outputs,
        learner=_segment,
        finish=finish,
        windows=True,
    ),
    "boxes": BOX_RECIPE,
}


def _describe(info: TilesInfo, model: ModelOptions, recipe: Recipe) -> ModelSpec:
    """The model's header as far as it is known before training."""
    arch = resolve_architecture(model.arch)
    return ModelSpec(
        arch=arch,
        encoder=choose_encoder(arch, model.encoder),
        options=model.options,
        bands=info.bands,
        dtype=info.dtype,
        scene_dtypes=info.scene_dtypes,
        mean=info.mean,
        std=info.std,
        gsd_m=info.gsd_m,
        classes=info.classes,
        colours=info.colours,
        background=info.background,
        exclusive=info.exclusive,
        outputs=recipe.outputs(info),
        size=info.size,
        overlap=info.size // 4,
    )


def _opening(setup: Setup) -> str:
    """What begins, in one line."""
    spec, options = setup.spec, setup.options
    network = f"{spec.arch} on {spec.encoder}" if spec.encoder else spec.arch
    processes = options.devices * options.nodes
    times = f" x {processes} processes" if processes > 1 else ""
    return (
        f"{network}, computed by {setup.device.type}: {len(setup.train_set)} tiles to learn from, "
        f"{setup.batch_size}{times} in a step, {len(setup.val_set)} to validate"
    )


def _interrupted(last: Path) -> str:
    kept = "--resume goes on from the last epoch" if last.is_file() else "no epoch was finished"
    return f"interrupted; {kept}"


def build_loaders(
    setup: Setup, sampler: DrawSampler, folder: Path
) -> tuple[DataLoader[Sample], DataLoader[Sample]]:
    """Batches to learn from and to be judged on; ground may come to lie in files of a folder."""
    options, train_set, device = setup.options, setup.train_set, setup.device
    ground = None
    if setup.recipe.windows:
        granted = None if options.max_memory_gb is None else options.max_memory_gb * 1e9
        ground = gather_ground(train_set, folder, memory_bytes=granted, processes=options.devices)
    return (
        build_train_loader(train_set, ground, sampler, options, device),
        build_val_loader(setup.val_set, options, sampler, setup.batch_size, device),
    )


def _provenance(
    setup: Setup,
    model: ModelOptions,
    options: TrainOptions,
    history: History,
    tuned: Tuned,
) -> dict[str, Any]:
    info = setup.train_set.info
    return {
        "geoseg": __version__,
        "torch": torch.__version__,
        "scenes": [Path(scene).name for scene in info.scenes],
        "split": info.split,
        "tiles": info.tiles,
        "model": model.model_dump(),
        "train": options.model_dump(),
        "batch_size": setup.batch_size,
        "minutes": round(history.minutes, 2),
        "val_iou": round(history.best_iou, 4),
        "val_f1": tuned.f1 if tuned.f1 is None else round(tuned.f1, 4),
        "calibration": tuned.calibration,
    }
