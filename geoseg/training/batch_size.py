"""How many tiles a training step takes at once, where the device's memory decides."""

from __future__ import annotations

import copy

import torch

from geoseg.errors import MemoryLimitError
from geoseg.networks.device import lacks_memory
from geoseg.networks.model_file import ModelSpec
from geoseg.options import TrainOptions
from geoseg.training.learner import Learner
from geoseg.training.loop import describe_hardware

# A CPU is busy with few tiles, and its memory is the machine's.
_ON_CPU = 8

# More tiles per step make fewer steps of as many tiles, so a step takes no more than this share
# of them, and no more than these.
_LEAST_STEPS_PER_PASS = 8
_MOST = 128

# Of the device's memory: what else lies there, and what the allocator cannot use, needs the rest.
_SHARE = 0.8


def find_batch_size(module: Learner, spec: ModelSpec, device: torch.device, *, most: int) -> int:
    """The largest power of two whose training step fits into the device's memory.

    Memory is measured at two and four tiles, and grows with their number.

    Args:
        module: The network that is to be trained.
        spec: Its header, which knows bands and tile size.
        device: What computes.
        most: Tiles to train on.

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
    """What lies in memory all the time besides weights and gradients: moments and an average."""
    options = module.options
    copies = 2 if options.optimizer == "adamw" else int(options.momentum > 0)
    copies += bool(options.ema or options.swa)
    return copies * sum(weight.nbytes for weight in module.network.parameters())


def no_room_for(tiles: int, device: torch.device) -> MemoryLimitError:
    """What to say where a step of so many tiles does not fit."""
    where = "the GPU's memory" if device.type == "cuda" else "memory"
    return MemoryLimitError(
        f"train.batch_size: a step of {tiles} tiles does not fit into {where}; take fewer, and "
        "train.accumulate=2 or more for steps of as many, or smaller tiles, or a smaller network"
    )


def _measure(module: Learner, spec: ModelSpec, device: torch.device, tiles: int) -> int:
    """Bytes that a forward and backward pass of some tiles takes at the most."""
    network = copy.deepcopy(module.network).to(device).train()  # whose statistics may change
    image = torch.zeros(tiles, len(spec.bands), spec.size, spec.size, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    with _autocast(module.options, device):
        said = network(image.contiguous(memory_format=torch.channels_last))
    total = sum(part.float().sum() for part in (said if isinstance(said, tuple) else (said,)))
    total.backward()
    peak: int = torch.cuda.max_memory_allocated(device)
    return peak


def _autocast(options: TrainOptions, device: torch.device) -> torch.autocast:
    """As the trainer will compute."""
    precision = describe_hardware(options, device)["precision"]
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision != "32-true")


def _power_of_two(number: int) -> int:
    """The largest power of two that is not greater."""
    return 1 << (number.bit_length() - 1)
