"""Tiles → a model: the loop is Lightning's, the recipe is here."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from geoseg import __version__
from geoseg.boxes.learner import BOX_RECIPE
from geoseg.dataset import Sample, TileDataset
from geoseg.device import choose_device, computes_bf16
from geoseg.errors import ConfigError, ModelFileError
from geoseg.ground import gather_ground, remove_ground
from geoseg.history import History
from geoseg.journal import check_output
from geoseg.learner import Learner, Recipe
from geoseg.loading import LossesOfTiles, build_sampler, build_train_loader, build_val_loader
from geoseg.model_file import ModelSpec, save_model
from geoseg.models import (
    build_model,
    check_tile_size,
    choose_encoder,
    resolve_architecture,
    task_of,
)
from geoseg.options import ModelOptions, Thresholds, TrainOptions
from geoseg.predict import Predictor
from geoseg.sampling import DrawSampler, HardSampler
from geoseg.segmenter import Segmenter
from geoseg.tiles import TilesInfo, load_tiles_info
from geoseg.tune import Tuned, tune_thresholds

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
        output: The run's folder: `model.safetensors`, `metrics.csv`, `curves.png`, and the
            states `last.ckpt` and `best.ckpt`.
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
    recipe = RECIPES[task_of(model.arch)]
    if load_tiles_info(tiles).exclusive and task_of(model.arch) == "boxes":
        raise ConfigError(
            f"{tiles}: holds exclusive classes, which {model.arch} cannot learn, as it finds boxes "
            "around buildings; choose a network of pixels (geoseg models)"
        )
    train_set, val_set = recipe.datasets(tiles, options)
    folder, last = Path(output), Path(output) / "last.ckpt"
    resuming = resume and last.is_file()
    check_output(output, overwrite=overwrite or resuming)
    device = choose_device(options.device)

    _quieten_lightning()
    L.seed_everything(options.seed, verbose=False)
    spec = _describe(train_set.info, model, recipe)
    network = build_model(
        spec.arch,
        spec.encoder,
        bands=spec.bands,
        outputs=len(spec.outputs),
        encoder_weights=None if resuming else model.encoder_weights,
        options=spec.options,
    )
    check_tile_size(network, spec.size)
    pretrained = spec.encoder is not None and model.encoder_weights is not None
    module = recipe.learner(network, train_set, val_set, options, pretrained)
    history = History(folder, options, report, recipe.monitor)
    sampler = build_sampler(train_set, options)
    learning = [LossesOfTiles(sampler)] if isinstance(sampler, HardSampler) else []
    trainer = _build_trainer(folder, options, device, history, progress_bar, learning)
    checkpoint = str(_check_state(last, module, options)) if resuming else None
    if not resuming:
        if resume:
            report(f"{folder}: holds no run to go on with; beginning one")
        _clear(folder)
    at = folder / _GROUND_NAME
    loaders = _build_loaders(recipe, (train_set, val_set), sampler, options, at)
    try:
        trainer.fit(module, *loaders, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to ctrl-C
        report(_interrupted(last))
        raise
    remove_ground(at)

    weights = _best_weights(folder / "best.ckpt")
    if not spec.exclusive:
        report("tuning thresholds on validation ground")
    tuned = recipe.tune(spec, weights, options.device, val_set)
    if tuned.f1 == 0:
        report("no building of the validation ground is found; train longer, or look at its labels")
    provenance = _provenance(train_set.info, model, options, history, tuned.f1)
    spec = spec.model_copy(update={"thresholds": tuned.thresholds, "provenance": provenance})
    save_model(folder / MODEL_NAME, weights, spec)
    return TrainResult(
        folder / MODEL_NAME, history.best_iou, tuned.f1, tuned.thresholds, history.minutes
    )


class RunCheckpoints(ModelCheckpoint):
    """Lightning's checkpoints, which keep the best score when the run's folder was moved.

    Of epochs that score the same the last is the best: while nothing is found yet, all score 0.
    """

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Whether an epoch is as good as the best."""
        better: bool = super().check_monitor_top_k(trainer, current)
        best = self.best_model_score
        return better or (current is not None and best is not None and bool(current == best))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the state of an earlier process, its paths in the folder of this one."""
        folder = Path(str(self.dirpath))

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath}
        )


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
    share = train_set.building_share
    return Segmenter(network, val_set.info, options, building_share=share, pretrained=pretrained)


def _tune(spec: ModelSpec, weights: dict[str, Tensor], device: str, tiles: TileDataset) -> Tuned:
    if spec.exclusive:  # the likeliest class wins, whatever the thresholds
        return Tuned(Thresholds(), None)
    return tune_thresholds(Predictor(spec, weights, device), tiles)


# By what a network finds, see `task_of`.
RECIPES = {
    "pixels": Recipe(
        datasets=_load_tiles,
        outputs=lambda info: info.outputs,
        learner=_segment,
        monitor="val_iou",
        tune=_tune,
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


def _build_loaders(
    recipe: Recipe,
    sets: tuple[TileDataset, TileDataset],
    sampler: DrawSampler,
    options: TrainOptions,
    folder: Path,
) -> tuple[DataLoader[Sample], DataLoader[Sample]]:
    """Batches to train on and to validate; the ground may come to lie in files of a folder."""
    device, (train_set, val_set) = choose_device(options.device), sets
    granted = None if options.max_memory_gb is None else options.max_memory_gb * 1e9
    ground = gather_ground(train_set, folder, memory_bytes=granted) if recipe.windows else None
    return (
        build_train_loader(train_set, ground, sampler, options, device),
        build_val_loader(val_set, options, device),
    )


def _build_trainer(
    folder: Path,
    options: TrainOptions,
    device: torch.device,
    history: History,
    progress_bar: bool,
    others: Sequence[Callback] = (),
) -> L.Trainer:
    precision = options.precision
    if precision == "auto":
        precision = "bf16-mixed" if computes_bf16(device) else "32-true"
    best = RunCheckpoints(
        folder,
        "best",
        monitor=history.monitor,
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    averaging = [WeightAveraging(avg_fn=running_average(options.ema))] if options.ema else []
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,
        max_epochs=options.epochs,
        callbacks=[history, *others, best, *averaging],
        logger=False,
        enable_progress_bar=progress_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        default_root_dir=folder,
    )


def running_average(decay: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The exponential moving average of weights, which forgets faster in its first steps.

    Of n steps it keeps (1 + n) / (10 + n) at the most: else a short run would validate a mix of
    trained and initial weights, whose batch statistics belong to neither.

    Args:
        decay: Share of the average that a step keeps in the end.

    Returns:
        (average, weights, steps so far) → average.
    """

    def average(kept: Tensor, new: Tensor, steps: Tensor) -> Tensor:
        if not kept.is_floating_point():
            return new
        count = float(steps)
        return torch.lerp(new, kept, min(decay, (1 + count) / (10 + count)))

    return average


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
    info: TilesInfo,
    model: ModelOptions,
    options: TrainOptions,
    history: History,
    f1: float | None,
) -> dict[str, Any]:
    return {
        "geoseg": __version__,
        "torch": torch.__version__,
        "scenes": [Path(scene).name for scene in info.scenes],
        "split": info.split,
        "tiles": info.tiles,
        "model": model.model_dump(),
        "train": options.model_dump(),
        "minutes": round(history.minutes, 2),
        "val_iou": round(history.best_iou, 4),
        "val_f1": f1 if f1 is None else round(f1, 4),
    }
