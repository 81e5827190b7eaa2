"""Which device computes, and in how many bits."""

from __future__ import annotations

import os

import torch

from geoseg.errors import ConfigError
from geoseg.jobs.workers import WORKER_VARIABLE


def choose_device(device: str) -> torch.device:
    """The device that a name means.

    Raises:
        ConfigError: If a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if device == "gpu" and not has_gpu:
        raise ConfigError("device: no CUDA GPU is visible; use --device cpu, or see nvidia-smi")
    if not has_gpu or device == "cpu":
        return torch.device("cpu")
    worker = os.environ.get(WORKER_VARIABLE, "0")
    number = int(worker) if worker.isdecimal() else 0
    return torch.device("cuda", number % torch.cuda.device_count())


def count_gpus(device: str) -> int:
    """GPUs that may compute where a device of this name is asked for."""
    return 0 if device == "cpu" else torch.cuda.device_count()


def computes_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 rather than imitate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def lacks_memory(error: RuntimeError) -> bool:
    """Whether torch failed because a device, or the machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
