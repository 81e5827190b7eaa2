"""Samplers and data loaders for training and validation."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from geoseg.errors import GeosegError
from geoseg.options import TrainOptions
from geoseg.training.dataset import Sample, TileDataset
from geoseg.training.loading.mosaic import Mosaic, MosaicDataset
from geoseg.training.loading.sampling import (
    BalancedSampler,
    DrawSampler,
    HardSampler,
    PlaceSampler,
    TileSampler,
    UniformSampler,
)

# Small data sets repeat until an epoch has this many steps, so that validation does not dominate.
_LEAST_STEPS = 25

# Default number of worker processes with a GPU. Windows are only copied, but a small network on a
# large GPU consumes hundreds of them per second.
_MOST_WORKERS = 4

# Batches that each worker prepares ahead.
_PREFETCH = 4

# Forked workers share the memory of the mosaic; others would each get a copy. They only copy
# arrays: GDAL is not safe in a process that was forked while it was in use.
_SHARING_MEMORY = ("fork", "spawn")
_OPENING_FILES = ("forkserver", "spawn")


def window_side(options: TrainOptions, size: int) -> int:
    """Return the side of training windows for tiles of `size`.

    Windows are one and a half tiles wide where augmentation rotates or deforms them, so that real
    pixels come into view at the tile's corners instead of mirrored ones.
    """
    moves = options.augment is not None and options.augment.leaves_grid
    return size + 2 * round(size / 4) if options.mosaic and moves else size


def build_sampler(
    tiles: TileDataset, options: TrainOptions, batch_size: int, *, rank: int = 0, world: int = 1
) -> DrawSampler:
    """Build the sampler that the options choose.

    Args:
        tiles: The training tiles.
        options: How to train.
        batch_size: Tiles per step of one process.
        rank: Number of this process, from 0.
        world: Number of processes that share each step.
    """
    count, info = len(tiles), tiles.info
    batch = min(batch_size, max(1, count // world))
    moves = options.mosaic and options.augment is not None
    settings: dict[str, Any] = {
        "passes": -(-_LEAST_STEPS * batch * world // count),
        "jitter_px": (info.size - info.overlap) // 2 if moves else 0,
        "batch_size": batch,
        "rank": rank,
        "world": world,
        "seed": options.seed,
    }
    if options.sampling == "hard":
        return HardSampler(count, **settings)
    if options.sampling == "balanced":
        pixels = np.array(tiles.tiles.class_pixels.tolist())
        return BalancedSampler(pixels, exclusive=info.exclusive, **settings)
    if options.sampling == "places":
        valid = tiles.tiles.valid_fraction.to_numpy()  # of tiles of one size
        return PlaceSampler(tiles.places.of_tile, valid, **settings)
    return UniformSampler(count, **settings)


def build_train_loader(
    tiles: TileDataset,
    mosaic: Mosaic | None,
    sampler: DrawSampler,
    options: TrainOptions,
    device: torch.device,
) -> DataLoader[Sample]:
    """Build the loader of training batches: windows of a mosaic, or whole tiles without one."""
    settings: dict[str, Any] = {"drop_last": True, "pin_memory": device.type == "cuda"}
    if mosaic is None:
        settings |= _describe_workers(options.workers or 0, _OPENING_FILES)
        return DataLoader(tiles, sampler.batch_size, sampler=TileSampler(sampler), **settings)
    settings |= _describe_workers(_count_workers(options, device), _SHARING_MEMORY)
    windows = MosaicDataset(mosaic, window_side(options, tiles.info.size))
    # The dataset returns complete batches, so there is nothing to collate.
    collate = cast(Callable[[list[Sample]], Any], _return_batch)
    return DataLoader(windows, sampler.batch_size, sampler=sampler, collate_fn=collate, **settings)


def build_val_loader(
    tiles: TileDataset, sampler: DrawSampler, batch_size: int, device: torch.device
) -> DataLoader[Sample]:
    """Build the loader of validation batches; each of n processes gets every n-th tile."""
    own = range(sampler.rank, len(tiles), sampler.world)
    # Without worker processes: tiles are decoded once, by threads, and then kept in memory.
    return DataLoader(tiles, batch_size, sampler=own, pin_memory=device.type == "cuda")


class TileLossRecorder(Callback):
    """Passes the loss of each tile to a `HardSampler` after each epoch, and stores its state.

    Args:
        sampler: The sampler to update.
    """

    def __init__(self, sampler: HardSampler) -> None:
        self.sampler = sampler
        self._recorded: list[tuple[Tensor, Tensor]] = []

    @property
    def state_key(self) -> str:
        """The key in checkpoints, which runs of earlier versions have."""
        return "LossesOfTiles"

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Sample,
        batch_idx: int,
    ) -> None:
        """Record the losses of a batch, without waiting for the device."""
        self._recorded.append((batch["tile"], cast(Tensor, pl_module.tile_losses)))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Update the sampler before the checkpoint is written."""
        if self._recorded:
            columns = [torch.cat(column) for column in zip(*self._recorded, strict=True)]
            gathered = [cast(Tensor, pl_module.all_gather(column)) for column in columns]
            # Ordered by step, as one process alone would have recorded them.
            shape = trainer.world_size, len(self._recorded), -1
            tiles, losses = (c.reshape(shape).transpose(0, 1).flatten().cpu() for c in gathered)
            self.sampler.update(tiles.numpy(), losses.float().numpy())
            self._recorded = []

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.sampler.load_state_dict(state)


def unwrap_worker_error(error: GeosegError) -> GeosegError:
    """Return an error of a loader's worker process without the traceback that torch prepends."""
    last = str(error).strip().splitlines()[-1]
    name = f"{type(error).__name__}: "
    return type(error)(last.partition(name)[2] or last)


def _count_workers(options: TrainOptions, device: torch.device) -> int:
    """Return the number of processes that cut windows out of the mosaic."""
    if options.workers is not None:
        return options.workers
    # On a CPU the cores are busy with training, and copying windows takes little time.
    spare = max(1, (os.cpu_count() or 1) - 1)
    return min(_MOST_WORKERS, spare) if device.type == "cuda" else 0


def _describe_workers(count: int, start_methods: Sequence[str]) -> dict[str, Any]:
    """Return a loader's arguments for its processes, started by the first method available."""
    if not count:
        return {"num_workers": 0}
    available = multiprocessing.get_all_start_methods()
    return {
        "num_workers": count,
        "persistent_workers": True,
        "prefetch_factor": _PREFETCH,
        "multiprocessing_context": next(name for name in start_methods if name in available),
    }


def _return_batch(batch: Iterable[Any]) -> Any:
    return batch
