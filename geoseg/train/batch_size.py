"""How many tiles a training step takes at once, where the device's memory decides."""

from __future__ import annotations

import copy

import torch

from geoseg.device import computes_bf16
from geoseg.learner import Learner
from geoseg.model_file import ModelSpec

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
    """
    limit = max(2, min(_MOST, most // _LEAST_STEPS_PER_PASS))
    if device.type != "cuda":
        return min(_ON_CPU, limit)
    few, more = (_measure(module, spec, device, tiles) for tiles in (2, 4))
    each = max(1, (more - few) // 2)
    total = torch.cuda.get_device_properties(device).total_memory
    fitting = int((_SHARE * total - (few - 2 * each)) // each)
    return _power_of_two(min(limit, max(2, fitting)))


def _measure(module: Learner, spec: ModelSpec, device: torch.device, tiles: int) -> int:
    """Bytes that a forward and backward pass of some tiles takes at the most."""
    network = copy.deepcopy(module.network).to(device).train()  # whose statistics may change
    image = torch.zeros(tiles, len(spec.bands), spec.size, spec.size, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=computes_bf16(device)):
        said = network(image.contiguous(memory_format=torch.channels_last))
    total = sum(part.float().sum() for part in (said if isinstance(said, tuple) else (said,)))
    total.backward()
    peak: int = torch.cuda.max_memory_allocated(device)
    return peak


def _power_of_two(number: int) -> int:
    """The largest power of two that is not greater."""
    return 1 << (number.bit_length() - 1)
