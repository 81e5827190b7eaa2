"""Largest batch size that fits into the memory of a GPU."""

from __future__ import annotations

import copy

import torch

from geoseg.errors import MemoryLimitError
from geoseg.networks.device import lacks_memory
from geoseg.networks.model_file import ModelSpec
from geoseg.options import TrainOptions
from geoseg.training.learner import Learner
from geoseg.training.loop import describe_hardware

# Larger batches are not faster on a CPU, which shares its memory with other programs.
_ON_CPU = 8

# Larger batches mean fewer steps per epoch, so the batch size is limited by the steps of a pass
# over the tiles, and by a maximum.
_LEAST_STEPS_PER_PASS = 8
_MOST = 128

# Share of the device's memory that is used. Other programs and fragmentation need the rest.
_SHARE = 0.8


def find_batch_size(module: Learner, spec: ModelSpec, device: torch.device, *, most: int) -> int:
    """Return the largest power of two whose training step fits into the device's memory.

    Memory is measured with two and four tiles, and extrapolated linearly.

    Args:
        module: The network to train.
        spec: Its header, for bands and tile size.
        device: The device.
        most: Number of training tiles.

    Raises:
        MemoryLimitError: If not even four tiles fit.
    """
    limit = max(2, min(_MOST, most // _LEAST_STEPS_PER_PASS))
    if device.type != "cuda":
        return min(_ON_CPU, limit)
    try:
        few, more = (_measure(module, spec, device, tiles) for tiles in (2, 4))
    except RuntimeError as error:
        if lacks_memory(error):
            raise no_room_for(4, device) from error
        raise
    each = max(1, (more - few) // 2)
    total = torch.cuda.get_device_properties(device).total_memory
    kept = few - 2 * each + kept_bytes(module)
    fitting = int((_SHARE * total - kept) // each)
    return _power_of_two(min(limit, max(2, fitting)))


def kept_bytes(module: Learner) -> int:
    """Return the bytes of the optimizer's state and of averaged weights."""
    options = module.options
    copies = 2 if options.optimizer == "adamw" else int(options.momentum > 0)
    copies += bool(options.ema or options.swa)
    return copies * sum(weight.nbytes for weight in module.network.parameters())


def no_room_for(tiles: int, device: torch.device) -> MemoryLimitError:
    """Return the error for a step of so many tiles that does not fit."""
    where = "the GPU's memory" if device.type == "cuda" else "memory"
    return MemoryLimitError(
        f"train.batch_size: a step of {tiles} tiles does not fit into {where}; use fewer, with "
        "train.accumulate=2 or more to keep the step size, or smaller tiles or a smaller network"
    )


def _measure(module: Learner, spec: ModelSpec, device: torch.device, tiles: int) -> int:
    """Return the peak memory of a forward and backward pass, in bytes."""
    network = (
        copy.deepcopy(module.network).to(device).train()
    )  # a copy, as this changes batch statistics
    image = torch.zeros(tiles, len(spec.bands), spec.size, spec.size, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    with _autocast(module.options, device):
        output = network(image.contiguous(memory_format=torch.channels_last))
    total = sum(part.float().sum() for part in (output if isinstance(output, tuple) else (output,)))
    total.backward()
    peak: int = torch.cuda.max_memory_allocated(device)
    return peak


def _autocast(options: TrainOptions, device: torch.device) -> torch.autocast:
    """Return the autocast context that the trainer will use."""
    precision = describe_hardware(options, device)["precision"]
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision != "32-true")


def _power_of_two(number: int) -> int:
    """Return the largest power of two up to a number."""
    return 1 << (number.bit_length() - 1)
