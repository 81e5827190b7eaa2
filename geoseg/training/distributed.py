"""Distributed training: processes of a run, and values reduced over them."""

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

Value = TypeVar("Value")
Reduced = TypeVar("Reduced")


def is_first() -> bool:
    """Return whether this is the process that reports and writes."""
    # Known from the environment, before processes are connected.
    return bool(cast("int", getattr(rank_zero_only, "rank", 0)) == 0)


def count_started() -> tuple[int, int] | None:
    """Return the processes per machine and the machines that torchrun or srun started.

    None if this process was started alone.
    """
    if dist.is_available() and dist.is_torchelastic_launched():
        each = int(os.environ["LOCAL_WORLD_SIZE"])
        return each, int(os.environ["WORLD_SIZE"]) // each
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks == 1:
        return None
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    return tasks // nodes, nodes


def started_by_srun() -> bool:
    """Return whether srun, not torchrun, started the processes."""
    return count_started() is not None and not dist.is_torchelastic_launched()


def adopt_started(options: TrainOptions) -> TrainOptions:
    """Return options with the number of processes that torchrun or srun started, if any.

    Raises:
        ConfigError: If the options name another number.
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
    """Refuse a number of processes that cannot train together.

    Raises:
        ConfigError: If there are fewer GPUs or validation tiles than processes, or the batch size
            is to be found automatically.
    """
    processes = options.devices * options.nodes
    if processes == 1:
        return
    if device.type == "cuda" and options.devices > torch.cuda.device_count():
        raise ConfigError(
            f"train.devices: {options.devices}, but this machine has {torch.cuda.device_count()} "
            "GPUs; use at most as many, or train.device=cpu"
        )
    if processes > val_tiles:
        raise ConfigError(
            f"train.devices: {processes} processes cannot share {val_tiles} validation tiles; use "
            "fewer"
        )
    if options.batch_size == "auto":
        raise ConfigError(
            "train.batch_size: auto works on one device only; set the tiles per step and device"
        )


def count_processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def reduce_on_first(value: Value, reduce: Callable[[list[Value]], Reduced]) -> Reduced:
    """Reduce the values of all processes on the first, and return the result on all.

    Args:
        value: The value of this process.
        reduce: Takes the values of all processes, by rank; called only on the first process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return reduce([value])
    first = dist.get_rank() == 0
    size = dist.get_world_size()
    values: list[Value] | None = cast("list[Value]", [None] * size) if first else None
    dist.gather_object(value, values)
    result = [reduce(values) if values is not None else None]
    dist.broadcast_object_list(result)
    return cast("Reduced", result[0])


def broadcast_from_first(tensors: list[Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    if dist.is_available() and dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def leave_group() -> None:
    """Disconnect from the processes of a finished run."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
