"""Choice of the computing device and of its number format."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from geoseg.errors import ConfigError
from geoseg.jobs.local_processes import WORKER_VARIABLE

# torch is imported inside the functions: commands that end with an error before any computation
# should not wait for it.
if TYPE_CHECKING:
    import torch


def choose_device(device: str) -> torch.device:
    """Return the device for the name `auto`, `cpu` or `gpu`.

    Raises:
        ConfigError: If the name is `gpu` and there is no GPU.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if device == "gpu" and not has_gpu:
        raise ConfigError("device: no CUDA GPU is visible; use --device cpu, or see nvidia-smi")
    if not has_gpu or device == "cpu":
        return torch.device("cpu")
    # Worker processes on one machine share its GPUs in turn.
    worker = os.environ.get(WORKER_VARIABLE, "0")
    number = int(worker) if worker.isdecimal() else 0
    return torch.device("cuda", number % torch.cuda.device_count())


def count_gpus(device: str) -> int:
    """Return how many GPUs may be used for a device name."""
    import torch

    return 0 if device == "cpu" else torch.cuda.device_count()


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16, so that it is not emulated."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    # Earlier versions of torch have no public function for this.
    is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(is_supported())


def lacks_memory(error: Exception) -> bool:
    """Whether torch failed because the device or the machine has no free memory."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
