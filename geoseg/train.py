"""Tiles → a model: the loop is Lightning's, the recipe is here."""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from geoseg import __version__
from geoseg.averaging import LateAverage, RunningAverage
from geoseg.batch_size import find_batch_size
from geoseg.boxes.learner import BOX_RECIPE
from geoseg.dataset import Sample, TileDataset
from geoseg.device import choose_device, computes_bf16
from geoseg.errors import ConfigError, ModelFileError
from geoseg.finish import finish
from geoseg.ground import gather_ground, remove_ground
from geoseg.history import MONITOR, History, RunCheckpoints
from geoseg.journal import check_output
from geoseg.learner import Learner, Recipe
from geoseg.loading import LossesOfTiles, build_sampler, build_train_loader, build_val_loader
from geoseg.loggers import TENSORBOARD_NAME, check_loggers
from geoseg.model_file import ModelSpec, save_model
from geoseg.models import (
    build_model,
    check_tile_size,
    choose_encoder,
    resolve_architecture,
    task_of,
)
from geoseg.options import ModelOptions, Thresholds, TrainOptions
from geoseg.sampling import DrawSampler, HardSampler
from geoseg.segmenter import Segmenter
from geoseg.tiles import TilesInfo, load_tiles_info
from geoseg.tune import Tuned
from geoseg.validate import ValidationGround

Report = Callable[[str], None]

MODEL_NAME = "model.safetensors"

# Where the training ground lies while a run needs it, if memory has no room for it.
_GROUND_NAME = "ground"


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
        resume: Go on from `last.ckpt` if it is there.
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
    first = cast(Any, rank_zero_only).rank == 0  # of several processes, the one that writes
    setup = prepare(tiles, model, options, pretrained=not resuming)
    if first:
        check_output(output, overwrite=overwrite or resuming)
    history = History(folder, options, report)
    trainer = build_trainer(folder, setup, history, progress_bar=progress_bar)
    sampler = build_sampler(
        setup.train_set,
        options,
        setup.batch_size,
        rank=trainer.global_rank,
        world=trainer.world_size,
    )
    if isinstance(sampler, HardSampler):
        cast(Any, trainer).callbacks.insert(0, LossesOfTiles(sampler))
    checkpoint = str(_check_state(last, setup.module, options)) if resuming else None
    if not resuming and first:
        if resume:
            report(f"{folder}: holds no run to go on with; beginning one")
        _clear(folder)
    at = folder / (f"{_GROUND_NAME}_{trainer.global_rank}" if trainer.global_rank else _GROUND_NAME)
    loaders = build_loaders(setup, sampler, at)
    try:
        trainer.fit(setup.module, *loaders, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to ctrl-C
        report(_interrupted(last))
        raise
    remove_ground(at)
    if not trainer.is_global_zero:
        raise SystemExit(0)  # one process is enough for what follows

    spec, weights = setup.spec, _best_weights(folder / "best.ckpt")
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
    recipe = RECIPES[task_of(model.arch)]
    if load_tiles_info(tiles).exclusive and task_of(model.arch) == "boxes":
        raise ConfigError(
            f"{tiles}: holds exclusive classes, which {model.arch} cannot learn, as it finds boxes "
            "around buildings; choose a network of pixels (geoseg models)"
        )
    train_set, val_set = recipe.datasets(tiles, options)
    device = choose_device(options.device)
    _quieten_lightning()
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


def _interrupted(last: Path) -> str:
    kept = "--resume goes on from the last epoch" if last.is_file() else "no epoch was finished"
    return f"interrupted; {kept}"


def _clear(folder: Path) -> None:
    """Removes the states of an earlier run, which this one must not take for its own."""
    for name in (MODEL_NAME, "best.ckpt", "last.ckpt"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TENSORBOARD_NAME, ignore_errors=True)
    remove_ground(folder / _GROUND_NAME)


def _check_state(path: Path, module: nn.Module, options: TrainOptions) -> Path:
    """Refuses a training state that is damaged, of another network, or of a finished run."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state = checkpoint["state_dict"]
    except Exception as error:
        raise ModelFileError(
            f"{path}: cannot be read as a training state; start anew with --overwrite"
        ) from error
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if {name: tensor.shape for name, tensor in state.items()} != wanted:
        raise ModelFileError(
            f"{path}: is the state of another network; resume with the --config and --set that "
            "the run began with, or start anew with --overwrite"
        )
    epochs, minutes = checkpoint["epoch"] + 1, checkpoint["callbacks"]["History"]["minutes"]
    finished = epochs >= options.epochs or minutes >= (options.max_minutes or math.inf)
    if finished and (path.parent / MODEL_NAME).is_file():
        raise ConfigError(
            f"{path.parent}: the run is finished, after {epochs} epochs and {minutes:.1f} minutes; "
            "raise train.epochs and train.max_minutes to go on"
        )
    return path


def build_loaders(
    setup: Setup, sampler: DrawSampler, folder: Path
) -> tuple[DataLoader[Sample], DataLoader[Sample]]:
    """Batches to learn from and to be judged on; ground may come to lie in files of a folder."""
    options, train_set, device = setup.options, setup.train_set, setup.device
    ground = None
    if setup.recipe.windows:
        granted = None if options.max_memory_gb is None else options.max_memory_gb * 1e9
        ground = gather_ground(train_set, folder, memory_bytes=granted)
    return (
        build_train_loader(train_set, ground, sampler, options, device),
        build_val_loader(setup.val_set, options, setup.batch_size, device),
    )


def build_trainer(folder: Path, setup: Setup, history: History, *, progress_bar: bool) -> L.Trainer:
    """Lightning's loop, as the options want it."""
    options = setup.options
    return L.Trainer(
        **describe_hardware(options, setup.device),
        max_epochs=options.epochs,
        check_val_every_n_epoch=options.val_every,
        callbacks=[history, RunCheckpoints(folder), *_further_callbacks(options, history)],
        logger=False,
        enable_progress_bar=progress_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.clip_norm or None,
        default_root_dir=folder,
    )


def describe_hardware(options: TrainOptions, device: torch.device) -> dict[str, Any]:
    """Arguments of Lightning's trainer that say what computes, and in how many bits."""
    precision = options.precision
    if precision == "auto":
        precision = "bf16-mixed" if computes_bf16(device) else "32-true"
    on_gpu, alone = device.type == "cuda", options.devices * options.nodes == 1
    return {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": options.devices,
        "num_nodes": options.nodes,
        "strategy": "auto" if alone else "ddp",
        "sync_batchnorm": on_gpu and not alone,
        "use_distributed_sampler": False,  # the samplers know of the others
        "precision": precision,
    }


def _further_callbacks(options: TrainOptions, history: History) -> list[Callback]:
    callbacks: list[Callback] = []
    if options.ema:
        callbacks.append(RunningAverage(options.ema))
    if options.swa:
        callbacks.append(LateAverage(options.swa, lambda: history.progress))
    if options.patience:
        callbacks.append(EarlyStopping(MONITOR, patience=options.patience, mode="max"))
    return callbacks


def _quieten_lightning() -> None:
    """Keeps its advertisements and its advice on settings that are ours off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for about in (
        "does not have many workers",
        "smaller than the logging interval",
        "treespec",
        "is multi-threaded, use of fork",  # workers that load tiles only copy arrays
    ):
        warnings.filterwarnings("ignore", f".*{about}.*")


def _best_weights(checkpoint: Path) -> dict[str, Tensor]:
    if not checkpoint.is_file():
        raise ModelFileError(f"{checkpoint}: no epoch was finished; allow more train.max_minutes")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


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
