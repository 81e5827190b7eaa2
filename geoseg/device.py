"""Which device computes, and in how many bits."""

from __future__ import annotations

import torch

from geoseg.errors import ConfigError


def choose_device(device: str) -> torch.device:
    """The device that a name means.

    Raises:
        ConfigError: If a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if device == "gpu" and not has_gpu:
        raise ConfigError("device: no CUDA GPU is visible; use device=cpu, or see nvidia-smi")
    return torch.device("cuda" if has_gpu and device != "cpu" else "cpu")


def computes_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 rather than imitate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())
