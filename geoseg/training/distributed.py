"""Processes that train together: who started them, and what the first makes of what all have."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from geoseg.errors import ConfigError
from geoseg.options import TrainOptions

Own = TypeVar("Own")
Made = TypeVar("Made")


def is_first() -> bool:
    """Whether this process is the one that speaks, as far as its environment says."""
    return bool(cast("int", getattr(rank_zero_only, "rank", 0)) == 0)


def count_started() -> tuple[int, int] | None:
    """Processes per machine, and machines, if torchrun or srun started this process and others."""
    if dist.is_available() and dist.is_torchelastic_launched():
        each = int(os.environ["LOCAL_WORLD_SIZE"])
        return each, int(os.environ["WORLD_SIZE"]) // each
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks == 1:
        return None
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    return tasks // nodes, nodes


def started_by_srun() -> bool:
    """Whether srun started the processes, and not torchrun."""
    return count_started() is not None and not dist.is_torchelastic_launched()


def adopt_started(options: TrainOptions) -> TrainOptions:
    """Options that count the processes which torchrun or srun started, if one of them did.

    Raises:
        ConfigError: If the options count others.
    """
    started = count_started()
    if started is None:
        return options
    if (options.devices, options.nodes) not in ((1, 1), started):
        raise ConfigError(
            f"train.devices: {options.devices} on {options.nodes} machines, but torchrun or srun "
            f"started {started[0]} on {started[1]}; leave train.devices and train.nodes out"
        )
    return options.model_copy(update={"devices": started[0], "nodes": started[1]})


def check_processes(options: TrainOptions, val_tiles: int, device: torch.device) -> None:
    """Refuses more processes than there is something to do for."""
    processes = options.devices * options.nodes
    if processes == 1:
        return
    if device.type == "cuda" and options.devices > torch.cuda.device_count():
        raise ConfigError(
            f"train.devices: {options.devices}, but this machine has {torch.cuda.device_count()} "
            "GPUs; take as many, or train.device=cpu"
        )
    if processes > val_tiles:
        raise ConfigError(
            f"train.devices: {processes} processes cannot share {val_tiles} validation tiles; take "
            "fewer"
        )
    if options.batch_size == "auto":
        raise ConfigError(
            "train.batch_size: auto is for one device; name the tiles per step of each device"
        )


def count_processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def reduce_on_first(own: Own, make: Callable[[list[Own]], Made]) -> Made:
    """What the first process makes of what all of them have, told to all.

    Args:
        own: What this process has.
        make: Is given that of every process, by rank; it is called in the first process alone.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return make([own])
    first = dist.get_rank() == 0
    parts: list[Own] | None = cast("list[Own]", [None] * dist.get_world_size()) if first else None
    dist.gather_object(own, parts)
    answer = [make(parts) if parts is not None else None]
    dist.broadcast_object_list(answer)
    return cast("Made", answer[0])


def leave_group() -> None:
    """Leave the group of processes that Lightning has started for a run."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def take_from_first(tensors: list[Tensor]) -> None:
    """Fills tensors with those of the first process."""
    if dist.is_available() and dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, 0)
