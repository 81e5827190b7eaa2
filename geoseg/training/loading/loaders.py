"""How tiles come to the device in time: who loads them, in which order, in what batches."""

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
    TileSampler,
    UniformSampler,
)

# A folder of few tiles is passed so often per epoch that validating does not dominate.
_LEAST_STEPS = 25

# Beside a GPU: windows are only copied, but small networks on a large GPU take hundreds a second.
_MOST_WORKERS = 4

# Batches that each worker has ready.
_AHEAD = 4

# Forked workers share the memory of the mosaic; others would each get a copy. They only copy
# arrays: GDAL is not safe in a process that was forked while it was in use.
_SHARING_MEMORY = ("fork", "spawn")
_OPENING_FILES = ("forkserver", "spawn")


def window_side(options: TrainOptions, size: int) -> int:
    """Side of the windows that training is given, for tiles of `size`.

    One and a half tiles where augmentation turns or bends them, so that what comes into view is
    ground and no mirror image.
    """
    moves = options.augment is not None and options.augment.leaves_grid
    return size + 2 * round(size / 4) if options.mosaic and moves else size


def build_sampler(
    tiles: TileDataset, options: TrainOptions, batch_size: int, *, rank: int = 0, world: int = 1
) -> DrawSampler:
    """The order of tiles that the options ask for.

    Args:
        tiles: The training tiles.
        options: How to train.
        batch_size: Tiles per step of one rank.
        rank: Number of this process, from 0.
        world: Processes that share each step.
    """
    count, info = len(tiles), tiles.info
    batch = min(batch_size, max(1, count // world))
    moves = options.mosaic and options.augment is not None
    given: dict[str, Any] = {
        "passes": -(-_LEAST_STEPS * batch * world // count),
        "jitter_px": (info.size - info.overlap) // 2 if moves else 0,
        "batch_size": batch,
        "rank": rank,
        "world": world,
        "seed": options.seed,
    }
    if options.sampling == "hard":
        return HardSampler(count, **given)
    if options.sampling == "balanced":
        pixels = np.array(tiles.tiles.class_pixels.tolist())
        return BalancedSampler(pixels, exclusive=info.exclusive, **given)
    return UniformSampler(count, **given)


def build_train_loader(
    tiles: TileDataset,
    ground: Mosaic | None,
    sampler: DrawSampler,
    options: TrainOptions,
    device: torch.device,
) -> DataLoader[Sample]:
    """Batches of windows of ground, or of whole tiles where there is none."""
    settings: dict[str, Any] = {"drop_last": True, "pin_memory": device.type == "cuda"}
    if ground is None:
        settings |= _describe_workers(options.workers or 0, _OPENING_FILES)
        return DataLoader(tiles, sampler.batch_size, sampler=TileSampler(sampler), **settings)
    settings |= _describe_workers(_count_workers(options, device), _SHARING_MEMORY)
    windows = MosaicDataset(ground, window_side(options, tiles.info.size))
    # The data set gives whole batches.
    collate = cast(Callable[[list[Sample]], Any], _as_it_is)
    return DataLoader(windows, sampler.batch_size, sampler=sampler, collate_fn=collate, **settings)


def build_val_loader(
    tiles: TileDataset, sampler: DrawSampler, batch_size: int, device: torch.device
) -> DataLoader[Sample]:
    """Batches of whole tiles, in their own order; of several ranks each has its share of them."""
    own = range(sampler.rank, len(tiles), sampler.world)
    # Without worker processes: tiles are decoded once, by threads, and then kept in memory.
    return DataLoader(tiles, batch_size, sampler=own, pin_memory=device.type == "cuda")


class LossesOfTiles(Callback):
    """Tells a sampler how hard each tile was, once per epoch, and keeps what it knows.

    Args:
        sampler: The sampler that learns.
    """

    def __init__(self, sampler: HardSampler) -> None:
        self.sampler = sampler
        self._seen: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Sample,
        batch_idx: int,
    ) -> None:
        """Takes note, without waiting for the device."""
        self._seen.append((batch["tile"], cast(Tensor, pl_module.tile_losses)))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tells it before the checkpoint is written."""
        if self._seen:
            columns = [torch.cat(column) for column in zip(*self._seen, strict=True)]
            whole = [cast(Tensor, pl_module.all_gather(column)) for column in columns]
            # Step by step, as one process would have seen them.
            shape = trainer.world_size, len(self._seen), -1
            tiles, losses = (c.reshape(shape).transpose(0, 1).flatten().cpu() for c in whole)
            self.sampler.learn(tiles.numpy(), losses.float().numpy())
            self._seen = []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.sampler.load_state_dict(state)


def words_of_worker(error: GeosegError) -> GeosegError:
    """An error as it was raised in a process that loads; torch puts its traceback before it."""
    last = str(error).strip().splitlines()[-1]
    name = f"{type(error).__name__}: "
    return type(error)(last.partition(name)[2] or last)


def _count_workers(options: TrainOptions, device: torch.device) -> int:
    """Return how many processes cut windows out of the mosaic."""
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
        "prefetch_factor": _AHEAD,
        "multiprocessing_context": next(name for name in start_methods if name in available),
    }


def _as_it_is(batch: Iterable[Any]) -> Any:
    return batch
