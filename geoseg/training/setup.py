"""Setup of a training run: datasets, network, loss and data loaders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

from geoseg.data.tiles import TilesInfo, load_tiles_info
from geoseg.errors import ConfigError, GeosegError, RepeatedError
from geoseg.networks.architectures import resolve_architecture, task_of
from geoseg.networks.device import choose_device
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models import build_model, check_tile_size, choose_encoder
from geoseg.networks.models.sketch import check_side
from geoseg.networks.models.transfer import transfer_weights
from geoseg.networks.starting_model import StartingModel, find_start, use_network
from geoseg.options import ModelOptions, TrainOptions
from geoseg.training.batch_size import find_batch_size
from geoseg.training.dataset import Sample, TileDataset
from geoseg.training.distributed import adopt_started, check_processes, is_first
from geoseg.training.fine_tuning import (
    check_tiles,
    keeps_statistics,
    use_defaults,
    use_statistics,
)
from geoseg.training.finishing import finish
from geoseg.training.learner import Learner, Recipe
from geoseg.training.loading.loaders import build_train_loader, build_val_loader
from geoseg.training.loading.mosaic import build_mosaic
from geoseg.training.loading.sampling import DrawSampler
from geoseg.training.segmenter import Segmenter
from geoseg.training.validation.areas import ValidationAreas


@dataclass(frozen=True)
class Setup:
    """Everything that a training run needs before it starts.

    Attributes:
        recipe: Recipe for what the network predicts.
        train_set: Training tiles.
        val_set: Validation tiles.
        spec: The model's header, without thresholds and provenance.
        module: The network with its loss and its optimizer.
        model: Options of the network; with a starting model, those of its network.
        options: Training options; with a starting model, with the defaults of fine-tuning.
        batch_size: Tiles per step of one device.
        device: Device to train on.
        start: The model that training continues from; None if it starts anew.
    """

    recipe: Recipe
    train_set: TileDataset
    val_set: TileDataset
    spec: ModelSpec
    module: Learner
    model: ModelOptions
    options: TrainOptions
    batch_size: int
    device: torch.device
    start: StartingModel | None = None


def prepare(
    tiles: str | Path,
    model: ModelOptions,
    options: TrainOptions,
    *,
    recipe: Recipe | None = None,
    pretrained: bool = True,
) -> Setup:
    """Read the tiles and build the network for them, without writing anything.

    Args:
        tiles: A folder made by `geoseg tile`.
        model: Options of the network.
        options: Options of training.
        recipe: Recipe for what the network predicts; `PIXEL_RECIPE` when None.
        pretrained: Load the weights of the encoder, or of the model that training continues from.

    Raises:
        GeosegError: If tiles, network and options do not fit together.
    """
    start = find_start(model)
    model = use_network(model, start)
    options = use_defaults(options) if start else options
    recipe, options = _choose_recipe(model, recipe), adopt_started(options)
    train_set, val_set = recipe.datasets(tiles, options)
    if start:
        check_tiles(start, train_set.info, tiles)
        for part in (train_set, val_set):
            part.info = use_statistics(start, part.info)
    device = choose_device(options.device)
    check_processes(options, len(val_set), device)
    spec = _describe(train_set.info, model, recipe)
    # Before the seed, because building a sketch may draw random numbers.
    check_side(spec, spec.size)
    L.seed_everything(options.seed, verbose=False)
    network = build_model(
        spec.arch,
        spec.encoder,
        bands=spec.bands,
        outputs=len(spec.outputs),
        encoder_weights=model.encoder_weights if pretrained else None,
        options=spec.options,
    )
    check_tile_size(network, spec.size)
    if start and pretrained:
        transfer_weights(network, spec.outputs, start.spec, start.load_weights())
    is_pretrained = start is not None or model.encoder_weights is not None
    module = recipe.learner(
        network, train_set, val_set, options, is_pretrained and spec.encoder is not None
    )
    if start and keeps_statistics(start, train_set.info):
        module.fix_statistics()
    batch_size = options.batch_size
    if batch_size == "auto":
        batch_size = find_batch_size(module, spec, device, most=len(train_set))
    if options.compile:
        network.compile()
    return Setup(
        recipe, train_set, val_set, spec, module, model, options, batch_size, device, start
    )


def prepare_once(
    tiles: str | Path,
    model: ModelOptions,
    options: TrainOptions,
    *,
    recipe: Recipe | None = None,
    pretrained: bool,
) -> Setup:
    """Call `prepare`; of several processes only the first raises the original error.

    Raises:
        GeosegError: As `prepare`.
        RepeatedError: In the other processes, so that the error is not printed several times.
    """
    try:
        return prepare(tiles, model, options, recipe=recipe, pretrained=pretrained)
    except GeosegError as error:
        if is_first():
            raise
        raise RepeatedError(str(error)) from error


def build_loaders(
    setup: Setup, sampler: DrawSampler, folder: Path
) -> tuple[DataLoader[Sample], DataLoader[Sample]]:
    """Return the training and the validation loader.

    Args:
        setup: The setup of the run.
        sampler: Order of the training tiles.
        folder: For the files of the mosaic, if it does not fit into memory.
    """
    options, train_set, device = setup.options, setup.train_set, setup.device
    mosaic = None
    if setup.recipe.windows:
        allowed = None if options.max_memory_gb is None else options.max_memory_gb * 1e9
        mosaic = build_mosaic(train_set, folder, memory_bytes=allowed, processes=options.devices)
    return (
        build_train_loader(train_set, mosaic, sampler, options, device),
        build_val_loader(setup.val_set, sampler, setup.batch_size, device),
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
    areas = None if val_set.info.exclusive else ValidationAreas(val_set)
    share = train_set.building_share
    return Segmenter(
        network,
        val_set.info,
        options,
        building_share=share,
        pretrained=pretrained,
        areas=areas,
        places=val_set.places,
    )


PIXEL_RECIPE = Recipe(
    task="pixels",
    datasets=_load_tiles,
    outputs=lambda info: info.outputs,
    learner=_segment,
    finish=finish,
    windows=True,
)


def _choose_recipe(model: ModelOptions, recipe: Recipe | None) -> Recipe:
    """The given recipe, or the one for pixels, if it is for networks such as this one."""
    chosen, task = recipe or PIXEL_RECIPE, task_of(model.arch)
    if chosen.task != task:
        raise ConfigError(
            f"model.arch: {model.arch} predicts {task}, but the recipe trains networks that "
            f"predict {chosen.task}; pass the recipe for {task}"
        )
    return chosen


def _describe(info: TilesInfo, model: ModelOptions, recipe: Recipe) -> ModelSpec:
    """Return the model's header without what training adds."""
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
        places=info.place_bands,
        gsd_m=info.gsd_m,
        classes=info.classes,
        colours=info.colours,
        background=info.background,
        exclusive=info.exclusive,
        outputs=recipe.outputs(info),
        size=info.size,
        overlap=info.size // 4,
    )
